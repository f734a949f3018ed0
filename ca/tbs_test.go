package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"testing"
	"time"

	cttypes "github.com/google/certificate-transparency-go"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/sigstore/fulcio/pkg/certificate"

	"redoubt.internal/ca/identity"
	"redoubt.internal/log/ct"
)

// countingKey counts signatures.
type countingKey struct {
	crypto.Signer
	n int
}

func (k *countingKey) Sign(r io.Reader, d []byte, o crypto.SignerOpts) ([]byte, error) {
	k.n++
	return k.Signer.Sign(r, d, o)
}

// bareAuthority can lint and sign, and nothing else.
func bareAuthority(t *testing.T) (*Authority, *countingKey) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"Example"}, CommonName: "CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte{1, 2, 3},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	key := &countingKey{Signer: k}
	a := &Authority{chain: []*x509.Certificate{cert}, signer: key}
	if a.throwaway, a.hash, err = throwawayLike(k.Public()); err != nil {
		t.Fatal(err)
	}
	parent := *cert
	parent.PublicKey = a.throwaway.Public()
	a.lintParent = &parent
	return a, key
}

// goodTemplate is a template that passes lint.
func goodTemplate(t *testing.T, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	ext, err := certificate.Extensions{Issuer: "https://login.corp.example", Subject: "u-1"}.Render()
	if err != nil {
		t.Fatal(err)
	}
	serial, err := newSerial()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	out, err := precertTemplate(identity.Principal{SAN: identity.SAN{Type: identity.SANEmail, Value: "dev@corp.example"}, Extensions: ext}, pub, serial, now, now.Add(10*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func clientKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestLintStopsEveryFault breaks the template in each way the profile forbids:
// lint must stop it, and without lint's value there is nothing to sign.
func TestLintStopsEveryFault(t *testing.T) {
	a, key := bareAuthority(t)
	pub := clientKey(t).Public()
	drop := func(id asn1.ObjectIdentifier) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			var kept []pkix.Extension
			for _, e := range c.ExtraExtensions {
				if !e.Id.Equal(id) {
					kept = append(kept, e)
				}
			}
			c.ExtraExtensions = kept
		}
	}
	for name, fault := range map[string]func(*x509.Certificate){
		"eleven minutes":        func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(11 * time.Minute) },
		"ends before it begins": func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(-time.Minute) },
		"a subject":             func(c *x509.Certificate) { c.Subject.CommonName = "dev" },
		"no name":               func(c *x509.Certificate) { c.EmailAddresses = nil },
		"two names":             func(c *x509.Certificate) { c.DNSNames = []string{"corp.example"} },
		"another usage":         func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) },
		"key encipherment":      func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment },
		"an authority":          func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true },
		"short serial":          func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) },
		"no key identifier":     func(c *x509.Certificate) { c.SubjectKeyId = nil },
		"no issuer, old":        drop(certificate.OIDIssuer),
		"no issuer, new":        drop(certificate.OIDIssuerV2),
		"no subject extension":  drop(certificate.OIDTokenSubject),
		"no poison":             drop(oidPoison),
	} {
		t.Run(name, func(t *testing.T) {
			template := goodTemplate(t, pub)
			fault(template)
			s, err := a.lint(template, pub)
			if !errors.Is(err, ErrLint) || s != nil {
				t.Fatalf("%v, %v", s, err)
			}
		})
	}
	if _, err := a.lint(goodTemplate(t, pub), pub); err != nil {
		t.Fatalf("the faultless template: %v", err)
	}
	if key.n != 0 {
		t.Fatalf("lint used the issuing key %d times", key.n)
	}
}

// TestSignableOnce shows that linted bytes are signed as they are, and once, and
// that a certificate comes only after its precertificate.
func TestSignableOnce(t *testing.T) {
	a, key := bareAuthority(t)
	pub := clientKey(t).Public()
	s, err := a.lint(goodTemplate(t, pub), pub)
	if err != nil {
		t.Fatal(err)
	}
	sct := ct.SCT{Signature: cttypes.DigitallySigned{Signature: []byte{1}}}
	if _, err := embed(s, sct); err == nil {
		t.Fatal("a certificate before its precertificate")
	}
	der, err := a.sign(s)
	if err != nil {
		t.Fatal(err)
	}
	pre, err := x509.ParseCertificate(der)
	if err != nil || !bytes.Equal(pre.RawTBSCertificate, s.tbs) || !bytes.Equal(pre.RawTBSCertificate, s.cert.RawTBSCertificate) {
		t.Fatalf("other bytes were signed than linted (%v)", err)
	}
	if err := pre.CheckSignatureFrom(a.chain[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := a.sign(s); !errors.Is(err, ErrSigning) || key.n != 1 {
		t.Fatalf("signed twice: %v", err)
	}
	final, err := embed(s, sct)
	if err != nil {
		t.Fatal(err)
	}
	// certificate-transparency-go makes the same bytes of both (RFC 6962, 3.2).
	a1, err1 := ctx509.RemoveCTPoison(s.tbs)
	a2, err2 := ctx509.RemoveSCTList(final.tbs)
	if err1 != nil || err2 != nil || !bytes.Equal(a1, a2) {
		t.Fatalf("precertificate and certificate differ: %v %v", err1, err2)
	}
}

// TestCorrespond changes a certificate in each field: none passes for the one
// its precertificate promised.
func TestCorrespond(t *testing.T) {
	a, _ := bareAuthority(t)
	pub := clientKey(t).Public()
	s, err := a.lint(goodTemplate(t, pub), pub)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.sign(s); err != nil {
		t.Fatal(err)
	}
	final, err := embed(s, ct.SCT{Signature: cttypes.DigitallySigned{Signature: []byte{1}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := correspond(s.cert, final.cert); err != nil {
		t.Fatal(err)
	}
	exts := final.cert.Extensions
	n := len(exts)
	for name, change := range map[string]func(*x509.Certificate){
		"serial":            func(c *x509.Certificate) { c.SerialNumber = big.NewInt(5) },
		"notBefore":         func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(time.Second) },
		"notAfter":          func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) },
		"issuer":            func(c *x509.Certificate) { c.RawIssuer = []byte{0x30, 0} },
		"subject":           func(c *x509.Certificate) { c.RawSubject = []byte{0x30, 1} },
		"key":               func(c *x509.Certificate) { c.RawSubjectPublicKeyInfo = []byte{0x30, 0} },
		"algorithm":         func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 },
		"extension missing": func(c *x509.Certificate) { c.Extensions = append(append([]pkix.Extension{}, exts[:2]...), exts[3:]...) },
		"extension more":    func(c *x509.Certificate) { c.Extensions = append(append([]pkix.Extension{}, exts[0]), exts...) },
		"extensions swapped": func(c *x509.Certificate) {
			c.Extensions = append([]pkix.Extension{exts[1], exts[0]}, exts[2:]...)
		},
		"SCT not last": func(c *x509.Certificate) {
			c.Extensions = append([]pkix.Extension{exts[n-1]}, exts[:n-1]...)
		},
		"value": func(c *x509.Certificate) {
			c.Extensions = append([]pkix.Extension{}, exts...)
			c.Extensions[3].Value = append([]byte{}, c.Extensions[3].Value...)
			c.Extensions[3].Value[0] ^= 1
		},
		"criticality": func(c *x509.Certificate) {
			c.Extensions = append([]pkix.Extension{}, exts...)
			c.Extensions[3].Critical = !c.Extensions[3].Critical
		},
		"no SCT": func(c *x509.Certificate) { c.Extensions = exts[:n-1] },
	} {
		t.Run(name, func(t *testing.T) {
			c := *final.cert
			change(&c)
			if err := correspond(s.cert, &c); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

// FuzzKey feeds arbitrary public keys, proofs and signing requests.
func FuzzKey(f *testing.F) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		f.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(spki, []byte("proof"), []byte(nil))
	f.Add([]byte(nil), []byte(nil), csr)
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"), []byte{0x30, 0}, []byte(nil))
	f.Add([]byte(nil), []byte(nil), []byte("-----BEGIN CERTIFICATE REQUEST-----\nAA==\n-----END CERTIFICATE REQUEST-----\n"))
	known := []error{ErrRequest, ErrKey, ErrCSR, ErrProof}
	f.Fuzz(func(t *testing.T, pub, proof, csr []byte) {
		_, err := provenKey(Request{PublicKey: pub, Proof: proof, CSR: csr}, "dev@corp.example")
		if err == nil {
			return // a CSR proves itself
		}
		for _, e := range known {
			if errors.Is(err, e) {
				return
			}
		}
		t.Fatalf("untyped error %v", err)
	})
}
