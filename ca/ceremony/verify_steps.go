package ceremony

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"redoubt.internal/ca/lint"
	"redoubt.internal/hsm"
)

// note adds a sentence to what people are told.
func (c *checking) note(format string, args ...any) {
	c.t.checked = append(c.t.checked, fmt.Sprintf(format, args...))
}

// key re-checks the record of one key.
func (c *checking) key(p plannedStep, k *KeyRecord) error {
	if k.Role != p.key.role {
		return fmt.Errorf("the key is of role %q", k.Role)
	}
	pub, der, err := k.parse()
	if err != nil {
		return err
	}
	if alg, err := hsm.AlgorithmOf(pub); err != nil || alg != p.key.Algorithm || k.Info.Algorithm != alg {
		return fmt.Errorf("the key is %q, the plan's is %q", k.Info.Algorithm, p.key.Algorithm)
	}
	if k.Info.Fingerprint != hexSum(der) {
		return errors.New("the key does not have the recorded fingerprint")
	}
	if other, ok := c.prints[k.Info.Fingerprint]; ok {
		return fmt.Errorf("%s and %s have one key", other, k.Role)
	}
	c.prints[k.Info.Fingerprint], c.publics[k.Role] = k.Role, pub
	switch p.act {
	case actReopen:
		before, _ := c.t.requests.Key(k.Role)
		if before.Info.Fingerprint != k.Info.Fingerprint || !before.Created.Equal(k.Created) {
			return errors.New("it is not the key the requests were made for")
		}
	case actTakeKey:
		if before, _ := c.t.issued.Key(k.Role); !sameRecord(before, *k) {
			return errors.New("it is not the other side's record")
		}
	}
	return c.attestation(k)
}

// attestation re-checks that a token's statement is about this key and this ceremony, and has it verified where someone can.
func (c *checking) attestation(k *KeyRecord) error {
	if k.Attestation == nil {
		return nil
	}
	nonce := AttestationNonce(c.t.Body.Opening.PlanDigest, k.Role)
	if k.Attestation.Fingerprint != k.Info.Fingerprint || !bytes.Equal(k.Attestation.Nonce, nonce) {
		return errors.New("its attestation is of another key or another ceremony")
	}
	if c.Attestation == nil {
		c.note("%s key: attestation of format %s present, not checked here", k.Role, k.Attestation.Format)
		return nil
	}
	said, err := c.Attestation(*k.Attestation, nonce)
	if err != nil {
		return fmt.Errorf("verifying its attestation: %w", err)
	}
	c.note("%s key: %s", k.Role, said)
	return nil
}

// sameRecord compares records by their JSON.
func sameRecord(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// authority re-checks the existing key: the plan's chain, or in a rehearsal a stand-in that says the same.
func (c *checking) authority(a *AuthorityRecord) error {
	planned := c.t.plan.chain()
	chain, err := parseChain(a.Chain)
	if err != nil {
		return err
	}
	if c.t.Rehearsal() {
		like, is := planned[0], chain[0]
		likeAlg, err := hsm.AlgorithmOf(like.PublicKey)
		if err != nil {
			return err
		}
		isAlg, err := hsm.AlgorithmOf(is.PublicKey)
		if err != nil || len(chain) != 1 || isAlg != likeAlg || !bytes.Equal(is.RawSubject, like.RawSubject) || !is.NotBefore.Equal(like.NotBefore) ||
			!is.NotAfter.Equal(like.NotAfter) || is.MaxPathLen != like.MaxPathLen || is.MaxPathLenZero != like.MaxPathLenZero || samePublic(is.PublicKey, like.PublicKey) {
			return errors.New("the stand-in is not like the plan's authority")
		}
		if err := checkChain(chain); err != nil {
			return err
		}
	} else if a.Chain != c.t.plan.Authority.Chain {
		return errors.New("the chain is not the plan's")
	}
	print, err := fingerprint(chain[0].PublicKey)
	if err != nil || a.Info.Fingerprint != print {
		return ErrForeignKey
	}
	c.t.authority, c.publics[RoleAuthority], c.prints[print] = chain, chain[0].PublicKey, RoleAuthority
	return nil
}

// request re-checks one request: it proves possession of the recorded key.
func (c *checking) request(want certificate, r *RequestRecord) error {
	if r.Role != want.role {
		return fmt.Errorf("the request is of role %q", r.Role)
	}
	csr, err := parseRequest([]byte(r.PEM))
	if err != nil {
		return err
	}
	if !samePublic(c.publics[r.Role], csr.PublicKey) {
		return errors.New("the request is for another key")
	}
	return c.subject(want, csr.RawSubject)
}

// subject compares an encoded subject with the plan's.
func (c *checking) subject(want certificate, raw []byte) error {
	cert, err := parseName(raw)
	if err != nil {
		return err
	}
	if cert.CommonName != want.CommonName || !slices.Equal(cert.Organization, []string{c.t.plan.Organization}) {
		return errors.New("its subject is not the plan's")
	}
	return nil
}

// certificate re-checks one certificate; its issuer's was checked before.
func (c *checking) certificate(p plannedStep, rec *CertificateRecord) error {
	t, want := c.t, p.cert
	if rec.Role != want.role || rec.Issuer != want.issuer || rec.Lint.Profile != want.profile.String() {
		return fmt.Errorf("it is %s by %s as %s, the plan's is %s by %s as %s", rec.Role, rec.Issuer, rec.Lint.Profile, want.role, want.issuer, want.profile)
	}
	der, err := onePEM(rec.PEM, "CERTIFICATE")
	if err != nil {
		return err
	}
	if hexSum(der) != rec.Fingerprint {
		return errors.New("it does not have the recorded fingerprint")
	}
	if err := lint.Check(der, want.profile); err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("parsing: %w", err)
	}
	if err := c.speaksFor(want, rec, cert); err != nil {
		return err
	}
	parent := t.certs[want.issuer]
	if want.issuer == RoleAuthority {
		parent = t.authority[0]
	}
	parent = first(parent, cert)
	if err := cert.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("verifying its signature: %w", err)
	}
	if cert.NotBefore.Before(parent.NotBefore) || cert.NotAfter.After(parent.NotAfter) {
		return errors.New("it is valid outside its issuer's time")
	}
	if cert.NotAfter.Sub(cert.NotBefore) > time.Duration(want.Days)*24*time.Hour {
		return fmt.Errorf("it is valid for more than the plan's %d days", want.Days)
	}
	if now := t.Body.Finished; now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return errors.New("it was not valid when the ceremony ended")
	}
	if !sameRecord(rec.Description, describe(cert)) {
		return errors.New("its description is not the certificate's")
	}
	if p.act == actTakeCertificate && !slices.ContainsFunc(t.issued.Certificates(), func(other CertificateRecord) bool { return sameRecord(other, *rec) }) {
		return errors.New("it is not the other side's")
	}
	t.certs[rec.Role] = cert
	return nil
}

// speaksFor compares a certificate with the key and the name it is for.
func (c *checking) speaksFor(want certificate, rec *CertificateRecord, cert *x509.Certificate) error {
	t := c.t
	if want.of != want.role { // a cross certificate
		of := t.certs[want.of]
		switch want.of {
		case RoleAuthority:
			of = t.authority[0]
		case RoleSubject:
			of = t.plan.subject()
		}
		if rec.Request != string(pemOf(of)) || !samePublic(of.PublicKey, cert.PublicKey) || !bytes.Equal(of.RawSubject, cert.RawSubject) || !bytes.Equal(of.SubjectKeyId, cert.SubjectKeyId) {
			return fmt.Errorf("%w: it should speak for %s", ErrForeignKey, of.Subject)
		}
		return nil
	}
	csr, err := parseRequest([]byte(rec.Request))
	if err != nil {
		return err
	}
	if carried, ok := c.csrs[want.role]; ok && t.Body.Opening.Part == PartCertificates && carried != rec.Request {
		return errors.New("its request is not the one carried in")
	}
	pub := c.publics[want.role]
	if pub == nil && t.requests != nil { // the key is on the other side
		k, _ := t.requests.Key(want.role)
		if pub, _, err = k.parse(); err != nil {
			return err
		}
	}
	if !samePublic(pub, cert.PublicKey) || !samePublic(pub, csr.PublicKey) {
		return fmt.Errorf("%w: certificate, request and key do not belong together", ErrForeignKey)
	}
	if !bytes.Equal(csr.RawSubject, cert.RawSubject) {
		return errors.New("its subject is not the request's")
	}
	return c.subject(want, cert.RawSubject)
}
