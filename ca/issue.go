package ca

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"redoubt.internal/ca/identity"
	"redoubt.internal/hsm"
	"redoubt.internal/log"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
)

// action is the audit action of issuing.
const action = "certificate.issue"

// Issue turns one request into one certificate. The numbers are those of
// docs/cycle.md. A crash may fall between any two steps; what it leaves behind
// is said at the step.
func (a *Authority) Issue(ctx context.Context, r Request) (*Issued, error) {
	// 1. Who asks, and is that one denied? Keys are pinned or cached; nothing is
	//    written yet.
	who, err := a.identity.Verify(ctx, r.Token)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrToken, err)
		a.refuse(ctx, nil, err)
		return nil, err
	}
	token := who // whom the token names; from here on who has the name that certificates and records have
	if who, err = a.nameOf(token); err != nil {
		return nil, err
	}
	for _, name := range []string{token.SAN.Value, who.SAN.Value} {
		if e := a.denied().Match(who.Issuer, name, a.refusals.now()); e != nil {
			err = fmt.Errorf("%w: %s", ErrDenied, e)
			a.refuse(ctx, &who, err)
			return nil, err
		}
	}

	// 2. Does the requester hold the key, and is it one we certify? Then the
	//    certificate is laid out and linted under a throwaway signature: tbs is the
	//    only thing the issuing key can sign, and it can sign it once.
	pub, err := provenKey(r, who.Name)
	if err != nil {
		a.refuse(ctx, &who, err)
		return nil, err
	}
	notBefore, notAfter, err := a.validity()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if who, err = a.assign(ctx, token); err != nil { // a crash after it leaves a pseudonym that signs later
		return nil, err
	}
	tbs, err := a.lint(template{who, nil, spki, serial, notBefore, notAfter})
	if err != nil {
		if errors.Is(a.CheckIdentity(who), ErrToken) { // with a key that is beyond doubt: the token's claims are the fault
			err = fmt.Errorf("%w: no certificate can carry %s %q: %w", ErrToken, who.SAN.Type, clip(who.SAN.Value), err)
		} else {
			a.logger.ErrorContext(ctx, "certificate refused by lint", "identity", who.SAN.Value, "error", err)
		}
		a.refuse(ctx, &who, err)
		return nil, err
	}

	// 3. The intent, with the serial and the very bytes to be signed, in one
	//    transaction, durable before the key is touched. A crash from here on leaves
	//    an intent without an outcome: a serial that was perhaps signed and never
	//    handed out. Nobody waits for the client any more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.profile.Timeout)
	defer cancel()
	event := describe(tbs)
	event.Outcome = audit.Intent
	_, err = a.audit.Add(ctx, event, func(tx store.Tx) error { return putIntent(tx, tbs, &a.turns) })
	if err != nil {
		if errors.Is(err, ErrTokenUsed) {
			a.refuse(ctx, &who, err)
			return nil, err
		}
		return nil, unavailable(ErrRecord, err)
	}

	// 4. The precertificate: signed, logged, promised. A crash after the log's
	//    commit leaves a logged precertificate whose certificate nobody has.
	pre, err := a.sign(tbs)
	if err != nil {
		return nil, a.fail(ctx, event, unavailable(ErrSigning, err))
	}
	sct, err := a.ct.Add(ctx, pre)
	if err != nil {
		return nil, a.fail(ctx, event, unavailable(ErrCT, err))
	}

	// 5. The certificate: the SCT embedded last, the rest byte for byte the
	//    precertificate, signed, verified, and recorded with its outcome before it is
	//    handed out. What could not be recorded is not handed out.
	final, err := embed(tbs, sct)
	if err != nil {
		return nil, a.fail(ctx, event, fmt.Errorf("%w: %w", ErrLint, err))
	}
	leaf, err := a.sign(final)
	if err != nil {
		return nil, a.fail(ctx, event, unavailable(ErrSigning, err))
	}
	if err := a.readBack(final, leaf); err != nil {
		return nil, a.fail(ctx, event, err)
	}
	event.Outcome, event.Time = audit.Success, time.Time{}
	event.Detail = map[string]string{"certificate_sha256": hexSum(leaf)}
	_, err = a.audit.Add(ctx, event, func(tx store.Tx) error { return putCertificate(tx, tbs, leaf) })
	if err != nil {
		return nil, unavailable(ErrRecord, err)
	}
	return &Issued{
		Leaf: leaf, Chain: a.rawChain, SCT: sct, Serial: serialHex(serial),
		Principal: who, NotBefore: notBefore, NotAfter: notAfter,
	}, nil
}

// validity takes a time and bounds it by every certificate of the chain.
func (a *Authority) validity() (notBefore, notAfter time.Time, err error) {
	return a.validityOf(a.profile.Lifetime)
}

// validityOf is validity for a certificate of that life.
func (a *Authority) validityOf(life time.Duration) (notBefore, notAfter time.Time, err error) {
	if notBefore, err = a.clock.stamp(); err != nil {
		return notBefore, notAfter, err
	}
	notAfter = notBefore.Add(life)
	for _, c := range a.chain {
		if notBefore.Before(c.NotBefore) || !notBefore.Before(c.NotAfter) {
			return notBefore, notAfter, fmt.Errorf("%w: %q is valid from %s to %s", ErrExpired, c.Subject, c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
		}
		if notAfter.After(c.NotAfter) {
			notAfter = c.NotAfter.UTC()
		}
	}
	return notBefore, notAfter, nil
}

// fail records that an intent came to nothing. The record is a courtesy to the
// reader of the audit log, so its own failure changes nothing.
func (a *Authority) fail(ctx context.Context, e audit.Event, cause error) error {
	e.Outcome, e.Time = audit.Failed, time.Time{}
	e.Detail = map[string]string{"reason": clip(cause.Error())}
	if _, err := a.audit.Add(ctx, e, nil); err != nil {
		a.logger.ErrorContext(ctx, "recording failed issuance", "serial", e.Object, "error", err)
	}
	a.logger.ErrorContext(ctx, "issuance failed", "serial", e.Object, "error", cause)
	return cause
}

// unavailable wraps err in sentinel, and in ErrUnavailable when what failed may
// heal by itself or by an operator, so that the answer can say so.
func unavailable(sentinel, err error) error {
	for _, t := range []error{hsm.ErrUnavailable, hsm.ErrBadPIN, log.ErrReadOnly, log.ErrClosed, log.ErrSigning, store.ErrFull, context.DeadlineExceeded} {
		if errors.Is(err, t) {
			return fmt.Errorf("%w: %w: %w", ErrUnavailable, sentinel, err)
		}
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// CheckIdentity says whether a certificate can carry who: it lints one that
// lives for a minute and holds the issuing key itself, and signs nothing.
// Errors: ErrToken for the names and extensions of who.
func (a *Authority) CheckIdentity(who identity.Principal) error {
	serial, err := newSerial()
	if err != nil {
		return err
	}
	from := a.chain[0].NotBefore.UTC()
	if _, err := a.lint(template{who, nil, a.chain[0].RawSubjectPublicKeyInfo, serial, from, from.Add(time.Minute)}); err != nil {
		return fmt.Errorf("%w: %w", ErrToken, err)
	}
	return nil
}
