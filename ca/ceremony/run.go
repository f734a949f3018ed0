package ceremony

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"redoubt.internal/ca/approval"
	"redoubt.internal/hsm"
)

// all is the ceremony in its order, which planned lists.
func (r *run) all(ctx context.Context) error {
	for _, p := range planned(&r.plan, r.body.Opening.Part) {
		if err := r.step(p.name, func() error { return r.do(ctx, p) }); err != nil {
			return err
		}
	}
	// the record, signed and read back as a stranger would
	return r.seal()
}

// do carries out one step.
func (r *run) do(ctx context.Context, p plannedStep) (err error) {
	switch p.act {
	case actAbsent:
		return r.absent(ctx)
	case actRehearse:
		return Rehearse(r.plan, r.Now())
	case actAuthority:
		return r.openAuthority(ctx)
	case actGenerate:
		return r.generate(ctx, p.key)
	case actRequest:
		return r.request(p.cert)
	case actIssue:
		return r.issue(p.cert)
	case actReopen:
		return r.reopen(ctx, p.key)
	case actTakeKey:
		return r.takeKey(p.key)
	case actTakeCertificate:
		return r.takeCertificate(p.cert)
	case actCheckKeys:
		return r.checkKeys(ctx)
	case actBackup:
		b := r.plan.Backup
		r.product.Backup = &BackupRecord{b.Profile, b.Holders, b.Place, r.BackupStatement}
		return nil
	case actTrust:
		r.product.Trust = trustChanges(&r.plan, r.certs, r.chain())
		return nil
	case actRegister:
		return r.changeRegister()
	}
	return fmt.Errorf("step %q is not known", p.name)
}

// chain is the authority's chain: the plan's, or in a rehearsal the stand-in's.
func (r *run) chain() []*x509.Certificate {
	if c := r.certs[RoleAuthority]; c != nil && r.StandIn != nil {
		return []*x509.Certificate{c}
	}
	if r.issued != nil {
		return r.issued.authority
	}
	return r.plan.chain()
}

// seal signs the body and reads the transcript back.
func (r *run) seal() error {
	r.body.Finished = stamp(r.Now())
	t := &Transcript{Body: r.body, Signatures: []Signature{}}
	if role := sealer(&r.plan, r.body.Opening.Part); role != "" {
		key := r.keys[role]
		sig, err := approval.SignStatement(Format, t.Body, key)
		if err != nil {
			return fmt.Errorf("signing the transcript: %w", err)
		}
		t.Signatures = append(t.Signatures, Signature{role, key.Info().Fingerprint, sig})
	}
	data, err := t.Encode()
	if err != nil {
		return err
	}
	if r.transcript, err = Verify(data); err != nil {
		return fmt.Errorf("verifying the new transcript: %w", err)
	}
	return nil
}

// step runs fn and records its name, start, length and product, linked to the step before.
func (r *run) step(name string, fn func() error) error {
	if r.Progress != nil {
		r.Progress(name)
	}
	r.product = Step{}
	start := r.Now()
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	previous, err := r.body.head()
	if err != nil {
		return err
	}
	s := r.product
	s.Number, s.Previous, s.Name, s.Started = len(r.body.Steps)+1, previous, name, stamp(start)
	s.Milliseconds = max(0, r.Now().Sub(start).Milliseconds())
	r.body.Steps = append(r.body.Steps, s)
	return nil
}

// head is the digest the next step names.
func (b *Body) head() (string, error) {
	if n := len(b.Steps); n > 0 {
		return link(b.Steps[n-1])
	}
	return link(b.Opening)
}

// uri is where a role's key is: as the plan says, or its stand-in.
func (r *run) uri(role, uri string) string {
	if r.StandIn != nil {
		return r.StandIn(role, uri)
	}
	return uri
}

// absent fails with ErrKeyExists when any key of the plan is there.
func (r *run) absent(ctx context.Context) error {
	for _, k := range here(&r.plan, r.body.Opening.Part) {
		uri := r.uri(k.role, k.URI)
		token, err := r.Open(ctx, uri)
		if err != nil {
			return fmt.Errorf("opening the token of the %s key: %w", k.role, err)
		}
		switch _, err := token.Signer(ctx, uri); {
		case errors.Is(err, hsm.ErrNotFound):
		case err == nil, errors.Is(err, hsm.ErrAmbiguous), errors.Is(err, hsm.ErrInsecureKey):
			return fmt.Errorf("%s key %s: %w", k.role, uri, ErrKeyExists)
		default:
			return fmt.Errorf("looking for the %s key: %w", k.role, err)
		}
	}
	return nil
}

// generate makes one role's key and records what the token says of it.
func (r *run) generate(ctx context.Context, k roleKey) error {
	uri := r.uri(k.role, k.URI)
	token, err := r.Open(ctx, uri)
	if err != nil {
		return fmt.Errorf("opening the token: %w", err)
	}
	key, err := token.Generate(ctx, uri, k.Algorithm)
	if err != nil {
		return err
	}
	r.product.Key, err = r.keep(ctx, k.role, key)
	return err
}

// keep holds on to a role's key and describes it for the record, with its token's attestation where it makes one.
func (r *run) keep(ctx context.Context, role string, key *hsm.Key) (*KeyRecord, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	r.keys[role], r.publics[role] = key, key.Public()
	record := &KeyRecord{
		Role: role, Info: key.Info(), Created: stamp(r.Now()),
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})),
	}
	switch a, err := key.Attest(ctx, AttestationNonce(r.body.Opening.PlanDigest, role)); {
	case err == nil:
		record.Attestation = &a
	case !errors.Is(err, hsm.ErrUnsupported):
		return nil, fmt.Errorf("having the token attest the key: %w", err)
	}
	return record, nil
}

// checkKeys proves that each key can sign.
func (r *run) checkKeys(ctx context.Context) error {
	for role, key := range r.keys {
		if err := key.Check(ctx); err != nil {
			return fmt.Errorf("%s key: %w", role, err)
		}
	}
	return nil
}

// first returns a unless it is nil.
func first(a, b *x509.Certificate) *x509.Certificate {
	if a != nil {
		return a
	}
	return b
}

// stamp cuts a time to what the transcript shows: UTC, milliseconds.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
