package ceremony

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha512" // SHA-384 of P-384 signatures
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"redoubt.internal/ca/lint"
	"redoubt.internal/hsm"
	"redoubt.internal/log/strictjson"
)

// ErrTranscript: the transcript is malformed, altered or contradicts itself.
var ErrTranscript = errors.New("ceremony transcript refused")

// maxTranscript bounds what Verify reads.
const maxTranscript = 4 << 20

// Verify reads a transcript and re-checks, offline and without any key, that it
// is signed by the root it names, that the plan in it is the one it was made
// from, that every key and certificate of the plan is there and no other, that
// requests, certificates and keys belong together, that the certificates chain
// and still pass lint, and that times run forward. It says nothing about
// whether the root is the one you expect: compare its fingerprint.
func Verify(data []byte) (*Transcript, error) {
	t, err := verifyAll(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTranscript, err)
	}
	return t, nil
}

func verifyAll(data []byte) (*Transcript, error) {
	if len(data) > maxTranscript {
		return nil, fmt.Errorf("%d octets, limit %d", len(data), maxTranscript)
	}
	var raw struct {
		Body      json.RawMessage `json:"body"`
		Signature []byte          `json:"signature"`
	}
	if err := strict(data, &raw); err != nil {
		return nil, fmt.Errorf("parsing: %w", err)
	}
	t := &Transcript{Signature: raw.Signature, certs: map[string]*x509.Certificate{}}
	if err := strict(raw.Body, &t.Body); err != nil {
		return nil, fmt.Errorf("parsing body: %w", err)
	}
	if t.Body.Format != Format {
		return nil, fmt.Errorf("format %q, expected %q", t.Body.Format, Format)
	}
	if hexSum([]byte(t.Body.Plan)) != t.Body.PlanDigest {
		return nil, errors.New("the plan does not have the recorded digest")
	}
	plan, err := ParsePlan([]byte(t.Body.Plan))
	if err != nil {
		return nil, err
	}
	if plan.Domain != t.Body.Domain {
		return nil, fmt.Errorf("domain %q, the plan's is %q", t.Body.Domain, plan.Domain)
	}
	keys, err := t.checkKeys(plan)
	if err != nil {
		return nil, err
	}
	if err := checkSignature(raw.Body, keys[RoleRoot], t.Signature); err != nil {
		return nil, err
	}
	if err := t.checkCertificates(plan, keys); err != nil {
		return nil, err
	}
	return t, t.checkTimes()
}

// strict decodes exactly one JSON value: no unknown, repeated or differently
// spelt names.
func strict(data []byte, v any) error {
	return strictjson.Decode(data, strictjson.Limits{Bytes: maxTranscript}, v)
}

// checkKeys compares the recorded keys with the plan and returns them by role.
func (t *Transcript) checkKeys(plan Plan) (map[string]crypto.PublicKey, error) {
	roles := plan.roles()
	if len(t.Body.Keys) != len(roles) {
		return nil, fmt.Errorf("%d keys, the plan has %d", len(t.Body.Keys), len(roles))
	}
	keys, seen := map[string]crypto.PublicKey{}, map[string]string{}
	for i, want := range roles {
		k := t.Body.Keys[i]
		if k.Role != want.role {
			return nil, fmt.Errorf("key %d is of role %q, the plan's is %q", i, k.Role, want.role)
		}
		der, err := onePEM(k.PublicKey, "PUBLIC KEY")
		if err != nil {
			return nil, fmt.Errorf("%s key: %w", k.Role, err)
		}
		pub, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return nil, fmt.Errorf("%s key: %w", k.Role, err)
		}
		if alg, err := hsm.AlgorithmOf(pub); err != nil || alg != want.Algorithm || k.Info.Algorithm != alg {
			return nil, fmt.Errorf("%s key is %q, the plan's is %q", k.Role, alg, want.Algorithm)
		}
		if k.Info.Fingerprint != hexSum(der) {
			return nil, fmt.Errorf("%s key does not have the recorded fingerprint", k.Role)
		}
		if other, ok := seen[k.Info.Fingerprint]; ok {
			return nil, fmt.Errorf("%s and %s have one key", other, k.Role)
		}
		keys[k.Role], seen[k.Info.Fingerprint] = pub, k.Role
	}
	return keys, nil
}

// checkSignature verifies the root's signature over the body as it was read.
func checkSignature(body []byte, root crypto.PublicKey, sig []byte) error {
	digest, opts, err := signedDigest(body, root)
	if err != nil {
		return err
	}
	ok := false
	switch pub := root.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(pub, digest, sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(pub, opts.HashFunc(), digest, sig) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(pub, digest, sig)
	}
	if !ok {
		return errors.New("the root key's signature does not verify")
	}
	return nil
}

// checkCertificates re-checks requests, certificates, chains and lint.
func (t *Transcript) checkCertificates(plan Plan, keys map[string]crypto.PublicKey) error {
	wanted := plan.certificates()
	if len(t.Body.Certificates) != len(wanted) {
		return fmt.Errorf("%d certificates, the plan has %d", len(t.Body.Certificates), len(wanted))
	}
	for i, want := range wanted {
		rec := t.Body.Certificates[i]
		if rec.Role != want.role || rec.Issuer != want.issuer || rec.Lint.Profile != want.profile.String() {
			return fmt.Errorf("certificate %d is %s by %s as %s, the plan's is %s by %s as %s", i, rec.Role, rec.Issuer, rec.Lint.Profile, want.role, want.issuer, want.profile)
		}
		cert, err := t.checkCertificate(rec, want, plan, keys[want.role])
		if err != nil {
			return fmt.Errorf("%s certificate: %w", rec.Role, err)
		}
		t.certs[rec.Role] = cert
	}
	return nil
}

// checkCertificate re-checks one certificate; its issuer's was checked before.
func (t *Transcript) checkCertificate(rec CertificateRecord, want certificate, plan Plan, key crypto.PublicKey) (*x509.Certificate, error) {
	der, err := onePEM(rec.PEM, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	if hexSum(der) != rec.Fingerprint {
		return nil, errors.New("it does not have the recorded fingerprint")
	}
	if err := lint.Check(der, want.profile); err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing: %w", err)
	}
	csr, err := parseRequest([]byte(rec.Request))
	if err != nil {
		return nil, err
	}
	pub, ok := key.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(cert.PublicKey) || !pub.Equal(csr.PublicKey) {
		return nil, errors.New("certificate, request and key do not belong together")
	}
	if !bytes.Equal(csr.RawSubject, cert.RawSubject) || cert.Subject.CommonName != want.CommonName || len(cert.Subject.Organization) != 1 || cert.Subject.Organization[0] != plan.Organization {
		return nil, errors.New("its subject is not the plan's")
	}
	parent := first(t.certs[want.issuer], cert)
	if err := cert.CheckSignatureFrom(parent); err != nil {
		return nil, fmt.Errorf("verifying its signature: %w", err)
	}
	if cert.NotBefore.Before(parent.NotBefore) || cert.NotAfter.After(parent.NotAfter) {
		return nil, errors.New("it is valid outside its issuer's time")
	}
	if cert.NotAfter.Sub(cert.NotBefore) > time.Duration(want.Days)*24*time.Hour {
		return nil, fmt.Errorf("it is valid for more than the plan's %d days", want.Days)
	}
	if now := t.Body.Finished; now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return nil, errors.New("it was not valid when the ceremony ended")
	}
	return cert, nil
}

// checkTimes refuses a record whose times do not lie within the ceremony.
func (t *Transcript) checkTimes() error {
	b := &t.Body
	if b.Finished.Before(b.Started) {
		return errors.New("the ceremony ends before it starts")
	}
	within := func(at time.Time) bool { return !at.Before(b.Started) && !at.After(b.Finished) }
	last := b.Started
	for _, s := range b.Steps {
		if !within(s.Started) || s.Started.Before(last) || s.Milliseconds < 0 {
			return fmt.Errorf("step %q lies outside its time", s.Name)
		}
		last = s.Started
	}
	for _, k := range b.Keys {
		if !within(k.Created) {
			return fmt.Errorf("%s key was made outside the ceremony", k.Role)
		}
	}
	return nil
}
