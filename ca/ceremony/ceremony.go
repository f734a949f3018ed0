// Package ceremony makes the keys of a deployment and the certificates over
// them, from one plan and into one signed transcript.
//
// It guarantees:
//   - the plan is the only input: what is not in it is not made;
//   - nothing is made when any key of the plan exists already, so a second run
//     cannot replace what clients trust;
//   - every certificate is linted (ca/lint) over a throwaway key of the same
//     type before the real key signs, and what is signed is octet by octet what
//     was linted;
//   - the transcript holds the plan, the public keys, what the tokens claim of
//     each key, the requests and the certificates; it is signed by the root key
//     and Verify re-checks all of it offline, without the keys.
//
// It does not guarantee that a token is hardware (see hsm.Info.Software), and
// it does not undo: keys made before a failing step stay in their tokens and
// the error names them.
//
// cfssl is used here and nowhere else: for certificate requests, profiles and
// the readable description of certificates (cfssl.go, docs/adr/0004). The
// certificates themselves are made by crypto/x509. Start at Run.
package ceremony

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"redoubt.internal/ca/lint"
	"redoubt.internal/hsm"
)

// ErrKeyExists: a key of the plan is already in its token; nothing was made.
var ErrKeyExists = errors.New("a key of the plan exists already")

// Run carries out the plan: it checks that no key of it exists, makes every
// role's key in its token, issues the certificates and signs the transcript.
// open returns the token of a key URI and stays its owner; now is the clock
// (nil: time.Now); progress, if not nil, is told each step before it starts.
// On an error keys made so far remain; the error lists them.
func Run(ctx context.Context, plan Plan, open func(ctx context.Context, uri string) (hsm.Token, error), now func() time.Time, progress func(step string)) (*Transcript, error) {
	if err := plan.Validate(); err != nil {
		return nil, err
	}
	if now == nil {
		now = time.Now
	}
	base, wall := now(), now
	now = func() time.Time { return base.Add(wall().Sub(base)) } // a step of the wall clock does not turn the record round
	text := plan.source()
	r := &run{
		plan: plan, open: open, now: now, progress: progress,
		keys: map[string]*hsm.Key{}, throwaway: map[hsm.Algorithm]crypto.Signer{}, certs: map[string]*x509.Certificate{},
		body: Body{Format: Format, Plan: string(text), PlanDigest: hexSum(text), Domain: plan.Domain, Started: stamp(now())},
	}
	if err := r.all(ctx); err != nil {
		if len(r.body.Keys) > 0 {
			var made []string
			for _, k := range r.body.Keys {
				made = append(made, k.Role+" "+k.Info.URI)
			}
			err = fmt.Errorf("%w; keys made before that remain: %s", err, strings.Join(made, ", "))
		}
		return nil, err
	}
	return r.transcript, nil
}

// run is the state of one ceremony.
type run struct {
	plan     Plan
	open     func(ctx context.Context, uri string) (hsm.Token, error)
	now      func() time.Time
	progress func(string)

	keys       map[string]*hsm.Key
	throwaway  map[hsm.Algorithm]crypto.Signer // sign rehearsals only
	certs      map[string]*x509.Certificate
	body       Body
	transcript *Transcript
}

// all is the ceremony in its order.
func (r *run) all(ctx context.Context) error {
	// 1 nothing of the plan exists yet, and its certificates would pass
	if err := r.step("checking that no key exists", func() error { return r.absent(ctx) }); err != nil {
		return err
	}
	if err := r.step("rehearsing the certificates", func() error { return Rehearse(r.plan, r.now()) }); err != nil {
		return err
	}
	// 2 every key, in its token
	for _, k := range r.plan.roles() {
		if err := r.step(fmt.Sprintf("generating %s key (%s)", k.role, k.Algorithm), func() error { return r.generate(ctx, k) }); err != nil {
			return err
		}
	}
	// 3 the certificates, parents first
	for _, c := range r.plan.certificates() {
		if err := r.step(fmt.Sprintf("issuing %s certificate", c.role), func() error { return r.issue(c) }); err != nil {
			return err
		}
	}
	// 4 every key signs once more, now that all exist
	if err := r.step("checking every key", func() error { return r.checkKeys(ctx) }); err != nil {
		return err
	}
	// 5 the record, signed by the root and read back as a stranger would
	r.body.Finished = stamp(r.now())
	t, err := sealTranscript(r.body, r.keys[RoleRoot])
	if err != nil {
		return err
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

// step runs fn and records its name, start and length.
func (r *run) step(name string, fn func() error) error {
	if r.progress != nil {
		r.progress(name)
	}
	start := r.now()
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.body.Steps = append(r.body.Steps, Step{Name: name, Started: stamp(start), Milliseconds: max(0, r.now().Sub(start).Milliseconds())})
	return nil
}

// absent fails with ErrKeyExists when any key of the plan is there.
func (r *run) absent(ctx context.Context) error {
	for _, k := range r.plan.roles() {
		token, err := r.open(ctx, k.URI)
		if err != nil {
			return fmt.Errorf("opening the token of the %s key: %w", k.role, err)
		}
		switch _, err := token.Signer(ctx, k.URI); {
		case errors.Is(err, hsm.ErrNotFound):
		case err == nil, errors.Is(err, hsm.ErrAmbiguous), errors.Is(err, hsm.ErrInsecureKey):
			return fmt.Errorf("%s key %s: %w", k.role, k.URI, ErrKeyExists)
		default:
			return fmt.Errorf("looking for the %s key: %w", k.role, err)
		}
	}
	return nil
}

// generate makes one role's key and records what the token says of it.
func (r *run) generate(ctx context.Context, k roleKey) error {
	token, err := r.open(ctx, k.URI)
	if err != nil {
		return fmt.Errorf("opening the token: %w", err)
	}
	key, err := token.Generate(ctx, k.URI, k.Algorithm)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encoding public key: %w", err)
	}
	r.keys[k.role] = key
	r.body.Keys = append(r.body.Keys, KeyRecord{
		Role: k.role, Info: key.Info(), Created: stamp(r.now()),
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})),
	})
	return nil
}

// checkKeys proves that each key can sign.
func (r *run) checkKeys(ctx context.Context) error {
	for _, k := range r.plan.roles() {
		if err := r.keys[k.role].Check(ctx); err != nil {
			return fmt.Errorf("%s key: %w", k.role, err)
		}
	}
	return nil
}

// issue makes one certificate: request by cfssl, template from its profile,
// lint over a throwaway key, signature, correspondence.
func (r *run) issue(c certificate) error {
	key, signer := r.keys[c.role], r.keys[c.issuer]
	csrPEM, csr, err := makeRequest(key, c, r.plan)
	if err != nil {
		return err
	}
	parent := r.certs[c.issuer]
	tmpl, err := makeTemplate(c, csr, parent, r.now().Add(-r.plan.backdate()))
	if err != nil {
		return err
	}
	alg := signer.Info().Algorithm
	if r.throwaway[alg] == nil {
		if r.throwaway[alg], err = throwawayKey(alg); err != nil {
			return err
		}
	}
	der, err := signLinted(tmpl, parent, key, signer, r.throwaway[alg], c.profile)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("parsing the new certificate: %w", err)
	}
	if err := cert.CheckSignatureFrom(first(parent, cert)); err != nil {
		return fmt.Errorf("verifying the new certificate: %w", err)
	}
	applied, err := lint.Applied(c.profile)
	if err != nil {
		return err
	}
	r.certs[c.role] = cert
	r.body.Certificates = append(r.body.Certificates, CertificateRecord{
		Role: c.role, Issuer: c.issuer, Request: string(csrPEM),
		PEM:         string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Fingerprint: hexSum(der),
		Description: describe(cert),
		Lint:        LintRecord{Profile: c.profile.String(), Applied: len(applied), Excluded: lint.Excluded(c.profile), Result: "pass"},
	})
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
