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

// subject is what a certificate speaks for: a request, or for cross
// certificates the certificate that is there already.
type subject struct {
	raw  []byte // RDN sequence
	pub  crypto.PublicKey
	ski  []byte
	text string // PEM of where it comes from
}

func requestSubject(text string) (subject, error) {
	csr, err := parseRequest([]byte(text))
	if err != nil {
		return subject{}, err
	}
	ski, err := keyID(csr.PublicKey)
	return subject{csr.RawSubject, csr.PublicKey, ski, text}, err
}

func certificateSubject(cert *x509.Certificate) subject {
	return subject{cert.RawSubject, cert.PublicKey, cert.SubjectKeyId, string(pemOf(cert))}
}

// makeTemplate turns a subject and its profile into what is signed. parent is
// nil for a root.
func makeTemplate(c certificate, sub subject, parent *x509.Certificate, notBefore time.Time) (*x509.Certificate, error) {
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
	notBefore = notBefore.UTC().Truncate(time.Second)
	tmpl := &x509.Certificate{
		SerialNumber: serial, RawSubject: sub.raw, NotBefore: notBefore, NotAfter: notBefore.Add(profile.Expiry),
		KeyUsage: ku, ExtKeyUsage: eku, SubjectKeyId: sub.ski,
		BasicConstraintsValid: profile.CAConstraint.IsCA, IsCA: profile.CAConstraint.IsCA,
		MaxPathLen: profile.CAConstraint.MaxPathLen, MaxPathLenZero: profile.CAConstraint.MaxPathLenZero,
	}
	if parent == nil {
		tmpl.AuthorityKeyId = sub.ski // names its own key, so that it is complete before it is self-signed
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
	keys, certs := map[string]crypto.Signer{}, map[string]*x509.Certificate{}
	var err error
	for _, k := range plan.roles() {
		if keys[k.role], err = throwawayKey(k.Algorithm); err != nil {
			return err
		}
	}
	if chain := plan.chain(); chain != nil {
		if keys[RoleAuthority], certs[RoleAuthority], err = standIn(chain[0]); err != nil {
			return err
		}
	}
	if s := plan.subject(); s != nil {
		certs[RoleSubject] = s
	}
	for _, c := range plan.certificates() {
		var sub subject
		if c.of != c.role {
			sub = certificateSubject(certs[c.of])
		} else {
			text, err := makeRequest(keys[c.role], c, plan)
			if err != nil {
				return fmt.Errorf("%s certificate: %w", c.role, err)
			}
			if sub, err = requestSubject(text); err != nil {
				return fmt.Errorf("%s certificate: %w", c.role, err)
			}
		}
		parent := certs[c.issuer]
		tmpl, err := makeTemplate(c, sub, parent, now.Add(-plan.backdate()))
		if err != nil {
			return fmt.Errorf("%s certificate: %w", c.role, err)
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, first(parent, tmpl), sub.pub, keys[c.issuer])
		if err != nil {
			return fmt.Errorf("signing %s certificate: %w", c.role, err)
		}
		if err := lint.Check(der, c.profile); err != nil {
			return fmt.Errorf("%s certificate: %w", c.role, err)
		}
		if certs[c.role], err = x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("parsing %s certificate: %w", c.role, err)
		}
		if err := checkPath(chainOf(&plan, certs, []*x509.Certificate{certs[RoleAuthority]}, c.role), certs[c.role].NotBefore); err != nil {
			return fmt.Errorf("%s certificate: %w", c.role, err)
		}
	}
	return nil
}

// standIn makes a key of the algorithm of a certificate's, and a self-signed
// certificate like it.
func standIn(like *x509.Certificate) (crypto.Signer, *x509.Certificate, error) {
	alg, err := hsm.AlgorithmOf(like.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	key, err := throwawayKey(alg)
	if err != nil {
		return nil, nil, err
	}
	cert, err := standInCertificate(like, key)
	return key, cert, err
}

// standInCertificate is self-signed by key and says what like says.
func standInCertificate(like *x509.Certificate, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	ski, err := keyID(key.Public())
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, RawSubject: like.RawSubject, NotBefore: like.NotBefore, NotAfter: like.NotAfter,
		KeyUsage: like.KeyUsage, ExtKeyUsage: like.ExtKeyUsage, SubjectKeyId: ski, AuthorityKeyId: ski,
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: like.MaxPathLen, MaxPathLenZero: like.MaxPathLenZero,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the stand-in's certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// checkPath verifies a chain, its own certificate first and a self-signed one
// last, as a client would at that time: signatures, lives, path lengths, usages.
func checkPath(chain []*x509.Certificate, at time.Time) error {
	if len(chain) == 0 {
		return errors.New("no chain")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	usage := x509.ExtKeyUsageAny
	if len(chain[0].ExtKeyUsage) == 1 {
		usage = chain[0].ExtKeyUsage[0]
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return fmt.Errorf("verifying its chain: %w", err)
	}
	return nil
}

// signLinted signs tmpl with throwaway, a key of the signer's type, lints the
// result, signs with the real key, and refuses when the two differ in anything
// but the signature.
func signLinted(tmpl, parent *x509.Certificate, subject crypto.PublicKey, signer *hsm.Key, throwaway crypto.Signer, profile lint.Profile) ([]byte, error) {
	rehearsalParent, realParent := tmpl, tmpl
	if parent != nil {
		// crypto/x509 compares the parent's key with the signer's when it is set.
		copied := *parent
		copied.PublicKey = nil
		rehearsalParent, realParent = &copied, parent
	}
	rehearsal, err := x509.CreateCertificate(rand.Reader, tmpl, rehearsalParent, subject, throwaway)
	if err != nil {
		return nil, fmt.Errorf("rehearsing the signature: %w", err)
	}
	if err := lint.Check(rehearsal, profile); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, realParent, subject, signer.Unverified())
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
