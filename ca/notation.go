package ca

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/identity"
	"redoubt.internal/ca/lint"
	"redoubt.internal/ca/subject"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
)

// NotationRequest asks for a certificate of the profile notation: a signer with
// a subject DN and no OpenID Connect identity, as the Notary Project's tools
// match it (its signature-specification.md, "Certificate Requirements").
type NotationRequest struct {
	// CSR is a PKCS #10 request, PEM or DER. Only its key is used; its own
	// signature is the proof of possession, and its subject means nothing.
	CSR []byte
	// Subject is what the certificate will say: one country, state, organization
	// and common name, and perhaps one organizational unit.
	Subject pkix.Name
	// Lifetime of the certificate, at most lint.MaxNotationValidity.
	Lifetime time.Duration
	// Actor asks for it, for the audit log.
	Actor string
	// Spend, if set, runs in the transaction of the intent: what permits this one
	// certificate and no second.
	Spend func(tx store.Tx) error
}

// ErrSubject: the subject is not one that the profile notation has.
var ErrSubject = errors.New("subject not accepted")

// IssueNotation turns one request into one certificate of the profile notation.
// Who may ask, and for whose name, the caller has settled. The steps are those of
// Issue, without a transparency log: a certificate that bears no SCT, no
// alternative name and no issuer is none that a client of Sigstore accepts.
func (a *Authority) IssueNotation(ctx context.Context, r NotationRequest) (*Issued, error) {
	// 1. Is the name one that the profile has, and is it denied?
	subject, who, err := NotationSubject(r.Subject)
	if err != nil {
		return nil, err
	}
	if e := a.denied().Match(denied.Notation, who, a.refusals.now()); e != nil {
		return nil, fmt.Errorf("%w: %s", ErrDenied, e)
	}
	// 2. Does the requester hold the key? Then lay the certificate out and lint it
	//    under a throwaway signature.
	spki, err := NotationKey(r.CSR)
	if err != nil {
		return nil, err
	}
	notBefore, notAfter, err := a.validityOf(r.Lifetime)
	if err != nil {
		return nil, err
	}
	notBefore, notAfter = a.backdate(notBefore, notAfter)
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	named := identity.Principal{Issuer: denied.Notation, Subject: who, SAN: identity.SAN{Value: who}}
	tbs, err := a.lint(template{named, subject, spki, serial, notBefore, notAfter})
	if err != nil {
		return nil, err
	}
	// 3. The intent, durable before the key is touched.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.profile.Timeout)
	defer cancel()
	event := describe(tbs)
	event.Actor, event.Outcome = r.Actor, audit.Intent
	event.Detail["profile"] = lint.Notation.String()
	delete(event.Detail, "token")
	_, err = a.audit.Add(ctx, event, func(tx store.Tx) error {
		if r.Spend != nil {
			if err := r.Spend(tx); err != nil {
				return err
			}
		}
		return putIntent(tx, tbs, &a.turns)
	})
	if err != nil {
		return nil, unavailable(ErrRecord, err)
	}
	// 4. The certificate: signed, read back, and recorded before it is handed out.
	leaf, err := a.sign(tbs)
	if err != nil {
		return nil, a.fail(ctx, event, unavailable(ErrSigning, err))
	}
	if err := a.readBack(tbs, leaf); err != nil {
		return nil, a.fail(ctx, event, err)
	}
	event.Outcome, event.Time = audit.Success, time.Time{}
	event.Detail = map[string]string{"certificate_sha256": hexSum(leaf), "profile": lint.Notation.String()}
	if _, err = a.audit.Add(ctx, event, func(tx store.Tx) error { return putCertificate(tx, tbs, leaf) }); err != nil {
		return nil, unavailable(ErrRecord, err)
	}
	return &Issued{Leaf: leaf, Chain: a.rawChain, Serial: serialHex(serial), Principal: named, NotBefore: notBefore, NotAfter: notAfter}, nil
}

// notationBackdate is how much before its issuing a certificate begins: verifiers take a timestamp for as early as its authority's accuracy allows,
// and a signer may sign at once.
const notationBackdate = time.Minute

// backdate moves a life to begin earlier, as far as the chain was valid then.
func (a *Authority) backdate(notBefore, notAfter time.Time) (from, to time.Time) {
	from = notBefore.Add(-notationBackdate)
	for _, c := range a.chain {
		if from.Before(c.NotBefore) {
			from = c.NotBefore.UTC()
		}
	}
	return from, notAfter.Add(from.Sub(notBefore))
}

// NotationSubject is a subject as DER and as it is written everywhere: RFC 2253,
// the common name first.
func NotationSubject(n pkix.Name) (der []byte, text string, err error) {
	rdns := n.ToRDNSequence()
	if der, err = asn1.Marshal(rdns); err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrSubject, err)
	}
	if why := subject.Check(rdns); why != "" {
		return nil, "", fmt.Errorf("%w: %s", ErrSubject, why)
	}
	return der, rdns.String(), nil
}

// NotationKey is the public key of a CSR whose signature proves possession, as a
// SubjectPublicKeyInfo, if the profile notation certifies keys of its kind.
func NotationKey(csr []byte) (spki []byte, err error) {
	if len(csr) == 0 {
		return nil, fmt.Errorf("%w: no signing request", ErrRequest)
	}
	pub, err := csrKey(csr)
	if err != nil {
		return nil, err
	}
	if err := checkNotationKey(pub); err != nil {
		return nil, err
	}
	if spki, err = x509.MarshalPKIXPublicKey(pub); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return spki, nil
}

// checkNotationKey refuses what the Notary Project has no algorithm for
// (signature-specification.md, "Algorithm Selection").
func checkNotationKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return fmt.Errorf("%w: Notation knows no Ed25519; RSA of 2048, 3072 or 4096 bits, ECDSA on P-256, P-384 or P-521", ErrKey)
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n != 2048 && n != 3072 && n != 4096 {
			return fmt.Errorf("%w: Notation knows RSA of 2048, 3072 and 4096 bits, this key has %d", ErrKey, n)
		}
	}
	return nil
}

// namedCertificate encodes the profile notation: the subject, digitalSignature
// and codeSigning, key identifiers, and nothing else.
func (a *Authority) namedCertificate(t template) ([]byte, error) {
	return a.tbs(t, func(*cryptobyte.Builder) {})
}
