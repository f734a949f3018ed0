package ceremony

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/ca/lint"
	"redoubt.internal/hsm"
)

var (
	oidEKU          = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidTimeStamping = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}
)

// makeTemplate turns a request and its profile into what is signed. parent is
// nil for the root.
func makeTemplate(c certificate, csr *x509.CertificateRequest, parent *x509.Certificate, notBefore time.Time) (*x509.Certificate, error) {
	profile, err := signingProfile(c)
	if err != nil {
		return nil, err
	}
	ku, eku, unknown := profile.Usages()
	if len(unknown) > 0 {
		return nil, fmt.Errorf("cfssl does not know the usages %q", unknown)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	ski, err := keyID(csr.PublicKey)
	if err != nil {
		return nil, err
	}
	notBefore = notBefore.UTC().Truncate(time.Second)
	tmpl := &x509.Certificate{
		SerialNumber: serial, RawSubject: csr.RawSubject, NotBefore: notBefore, NotAfter: notBefore.Add(profile.Expiry),
		KeyUsage: ku, ExtKeyUsage: eku, SubjectKeyId: ski,
		BasicConstraintsValid: profile.CAConstraint.IsCA, IsCA: profile.CAConstraint.IsCA,
		MaxPathLen: profile.CAConstraint.MaxPathLen, MaxPathLenZero: profile.CAConstraint.MaxPathLenZero,
	}
	if parent == nil {
		tmpl.AuthorityKeyId = ski // names its own key, so that it is complete before it is self-signed
	}
	if c.profile == lint.TSALeaf { // crypto/x509 writes no critical extendedKeyUsage
		value, err := asn1.Marshal([]asn1.ObjectIdentifier{oidTimeStamping})
		if err != nil {
			return nil, fmt.Errorf("encoding extendedKeyUsage: %w", err)
		}
		tmpl.ExtKeyUsage = nil
		tmpl.ExtraExtensions = []pkix.Extension{{Id: oidEKU, Critical: true, Value: value}}
	}
	if parent != nil && tmpl.NotAfter.After(parent.NotAfter) {
		tmpl.NotAfter = parent.NotAfter
	}
	if parent != nil && tmpl.NotBefore.Before(parent.NotBefore) {
		tmpl.NotBefore = parent.NotBefore
	}
	return tmpl, nil
}

// Rehearse carries the certificates of a plan out with throwaway keys in memory
// and lints them, so that a plan whose certificates would be refused is found
// before any key is made. It touches no token.
func Rehearse(plan Plan, now time.Time) error {
	if err := plan.Validate(); err != nil {
		return err
	}
	algorithms := map[string]hsm.Algorithm{}
	for _, k := range plan.roles() {
		algorithms[k.role] = k.Algorithm
	}
	keys, certs := map[string]crypto.Signer{}, map[string]*x509.Certificate{}
	for _, c := range plan.certificates() {
		var err error
		if keys[c.role], err = throwawayKey(algorithms[c.role]); err != nil {
			return err
		}
		_, csr, err := makeRequest(keys[c.role], c, plan)
		if err != nil {
			return fmt.Errorf("%s certificate: %w", c.role, err)
		}
		parent := certs[c.issuer]
		tmpl, err := makeTemplate(c, csr, parent, now.Add(-plan.backdate()))
		if err != nil {
			return fmt.Errorf("%s certificate: %w", c.role, err)
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, first(parent, tmpl), csr.PublicKey, keys[c.issuer])
		if err != nil {
			return fmt.Errorf("signing %s certificate: %w", c.role, err)
		}
		if err := lint.Check(der, c.profile); err != nil {
			return fmt.Errorf("%s certificate: %w", c.role, err)
		}
		if certs[c.role], err = x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("parsing %s certificate: %w", c.role, err)
		}
	}
	return nil
}

// signLinted signs tmpl with throwaway, a key of the signer's type, lints the
// result, signs with the real key, and refuses when the two differ in anything
// but the signature.
func signLinted(tmpl, parent *x509.Certificate, subject, signer *hsm.Key, throwaway crypto.Signer, profile lint.Profile) ([]byte, error) {
	rehearsalParent, realParent := tmpl, tmpl
	if parent != nil {
		// crypto/x509 compares the parent's key with the signer's when it is set.
		copied := *parent
		copied.PublicKey = nil
		rehearsalParent, realParent = &copied, parent
	}
	rehearsal, err := x509.CreateCertificate(rand.Reader, tmpl, rehearsalParent, subject.Public(), throwaway)
	if err != nil {
		return nil, fmt.Errorf("rehearsing the signature: %w", err)
	}
	if err := lint.Check(rehearsal, profile); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, realParent, subject.Public(), signer.Unverified())
	if err != nil {
		return nil, fmt.Errorf("signing the certificate: %w", err)
	}
	linted, err := tbs(rehearsal)
	if err != nil {
		return nil, err
	}
	signed, err := tbs(der)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(linted, signed) {
		return nil, errors.New("what was signed is not what was linted")
	}
	return der, nil
}

// tbs returns the to-be-signed part of a DER certificate.
func tbs(der []byte) ([]byte, error) {
	in := cryptobyte.String(der)
	var cert, part cryptobyte.String
	if !in.ReadASN1(&cert, cbasn1.SEQUENCE) || !cert.ReadASN1Element(&part, cbasn1.SEQUENCE) {
		return nil, errors.New("certificate is not DER")
	}
	return part, nil
}

// throwawayKey makes a key in memory that signs rehearsals.
func throwawayKey(alg hsm.Algorithm) (crypto.Signer, error) {
	switch alg {
	case hsm.ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case hsm.ECDSAP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case hsm.RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case hsm.RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case hsm.Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("throwaway key of type %q: %w", alg, hsm.ErrUnsupported)
}

// newSerial returns 159 random bits with the highest set: positive, 20 octets.
func newSerial() (*big.Int, error) {
	b := make([]byte, 20)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("making serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}

// keyID is the subject key identifier of RFC 7093, 2, method 1: the leftmost
// 160 bits of the SHA-256 of the subjectPublicKey's octets.
func keyID(pub crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	in := cryptobyte.String(spki)
	var seq cryptobyte.String
	var bits asn1.BitString
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.SkipASN1(cbasn1.SEQUENCE) || !seq.ReadASN1BitString(&bits) {
		return nil, errors.New("public key is not a SubjectPublicKeyInfo")
	}
	sum := sha256.Sum256(bits.RightAlign())
	return sum[:20], nil
}
