package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	cttypes "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/sigstore/fulcio/pkg/certificate"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/ca/identity"
	"redoubt.internal/ca/lint"
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
	return bareAuthorityFor(t, clientKey(t))
}

func bareAuthorityFor(t *testing.T, k crypto.Signer) (*Authority, *countingKey) {
	t.Helper()
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
	if err := a.prepareLint(k.Public()); err != nil {
		t.Fatal(err)
	}
	return a, key
}

// goodTemplate is a template that passes lint.
func goodTemplate(t *testing.T, pub crypto.PublicKey) template {
	t.Helper()
	ext, err := certificate.Extensions{Issuer: "https://login.corp.example", Subject: "u-1"}.Render()
	if err != nil {
		t.Fatal(err)
	}
	serial, err := newSerial()
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	return template{
		who:  identity.Principal{SAN: identity.SAN{Type: identity.SANEmail, Value: "dev@corp.example"}, Extensions: ext},
		spki: spki, serial: serial, notBefore: now, notAfter: now.Add(10 * time.Minute),
	}
}

// stdlib is the same template for crypto/x509.
func stdlib(t *testing.T, in template) *x509.Certificate {
	t.Helper()
	ski, err := keyID(in.spki)
	if err != nil {
		t.Fatal(err)
	}
	out := &x509.Certificate{
		SerialNumber: in.serial, NotBefore: in.notBefore, NotAfter: in.notAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, SubjectKeyId: ski,
	}
	switch in.who.SAN.Type {
	case identity.SANEmail:
		out.EmailAddresses = []string{in.who.SAN.Value}
	case identity.SANURI:
		u, err := url.Parse(in.who.SAN.Value)
		if err != nil {
			t.Fatal(err)
		}
		out.URIs = []*url.URL{u}
	case identity.SANUserName:
		ext, err := cryptoutils.MarshalOtherNameSAN(in.who.SAN.Value, true)
		if err != nil {
			t.Fatal(err)
		}
		out.ExtraExtensions = append(out.ExtraExtensions, *ext)
	}
	out.ExtraExtensions = append(out.ExtraExtensions, in.who.Extensions...)
	out.ExtraExtensions = append(out.ExtraExtensions, pkix.Extension{Id: oidPoison, Critical: true, Value: asn1.NullBytes})
	return out
}

// encode lets crypto/x509 encode a template under a's name.
func encode(t *testing.T, a *Authority, template *x509.Certificate, pub crypto.PublicKey) []byte {
	t.Helper()
	out, err := x509.CreateCertificate(rand.Reader, template, a.chain[0], pub, a.signer.(*countingKey).Signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(out)
	if err != nil {
		t.Fatal(err)
	}
	return c.RawTBSCertificate
}

// TestSameBytesAsStandardLibrary holds our encoder to crypto/x509: the same
// template gives the same to-be-signed bytes, for every kind of name, key and
// issuing key, on both sides of the year 2050.
func TestSameBytesAsStandardLibrary(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := []crypto.Signer{clientKey(t), p384, rsaKey, ed}
	all, err := certificate.Extensions{
		Issuer: "https://ci.corp.example", Subject: "job 7", GithubWorkflowSHA: "abc", BuildSignerURI: "https://ci.corp.example/é",
		SourceRepositoryURI: strings.Repeat("r", 300), DeploymentEnvironment: "prod",
	}.Render()
	if err != nil {
		t.Fatal(err)
	}
	for _, issuing := range keys {
		a, _ := bareAuthorityFor(t, issuing)
		for _, client := range keys {
			for _, san := range []identity.SAN{{Type: identity.SANEmail, Value: "dev@corp.example"}, {Type: identity.SANURI, Value: "https://users.corp.example/a?b=c#d"}, {Type: identity.SANURI, Value: "spiffe://corp.example/" + strings.Repeat("x", 200)}, {Type: identity.SANUserName, Value: "alice!corp.example"}} {
				in := goodTemplate(t, client.Public())
				in.who.SAN, in.who.Extensions = san, all
				for _, year := range []int{2026, 2049, 2050, 2107} {
					in.notBefore = time.Date(year, 12, 31, 23, 55, 1, 0, time.UTC)
					in.notAfter = in.notBefore.Add(10 * time.Minute)
					want := encode(t, a, stdlib(t, in), client.Public())
					if got, err := a.precertificate(in); err != nil || !bytes.Equal(got, want) {
						t.Fatalf("%T for %T, %s, %d: %v\n got %x\nwant %x", issuing, client, san.Value, year, err, got, want)
					}
				}
			}
		}
	}
}

// TestPrecertificateRefusesNames holds names that cannot be carried away from
// the encoder, whatever the caller checked.
func TestPrecertificateRefusesNames(t *testing.T) {
	a, _ := bareAuthority(t)
	for _, san := range []identity.SAN{
		{}, {Type: "dns", Value: "corp.example"}, {Type: identity.SANEmail}, {Type: identity.SANEmail, Value: "d\u00e9v@corp.example"},
		{Type: identity.SANEmail, Value: "dev@corp.example\x00"}, {Type: identity.SANURI, Value: "no scheme"}, {Type: identity.SANURI, Value: "https://a b"},
	} {
		in := goodTemplate(t, clientKey(t).Public())
		in.who.SAN = san
		if s, err := a.lint(in); !errors.Is(err, ErrLint) || s != nil {
			t.Errorf("%+v: %v", san, err)
		}
	}
}

// TestCheckIdentity tells names that no certificate can carry from others; those are the requester's fault.
func TestCheckIdentity(t *testing.T) {
	a, key := bareAuthority(t)
	in := goodTemplate(t, clientKey(t).Public())
	if err := a.CheckIdentity(in.who); err != nil {
		t.Errorf("a good identity: %v", err)
	}
	for _, san := range []identity.SAN{{Type: identity.SANURI, Value: "plain"}, {Type: identity.SANURI, Value: "https://a b"}, {Type: identity.SANEmail, Value: "no address"}} {
		in.who.SAN = san
		if err := a.CheckIdentity(in.who); !errors.Is(err, ErrToken) {
			t.Errorf("%+v: %v", san, err)
		}
	}
	if key.n != 0 {
		t.Errorf("the issuing key was used %d times", key.n)
	}
}

func clientKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestLintStopsEveryFault breaks the certificate in each way the profile forbids,
// encoded by crypto/x509: the check must stop it, and without the check's value
// there is nothing to sign.
func TestLintStopsEveryFault(t *testing.T) {
	a, key := bareAuthority(t)
	pub := clientKey(t).Public()
	drop := func(id asn1.ObjectIdentifier) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = slices.DeleteFunc(c.ExtraExtensions, func(e pkix.Extension) bool { return e.Id.Equal(id) })
		}
	}
	in := goodTemplate(t, pub)
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
			c := stdlib(t, in)
			fault(c)
			s, err := a.check(in, encode(t, a, c, pub), lint.Precertificate)
			if !errors.Is(err, ErrLint) || s != nil {
				t.Fatalf("%v, %v", s, err)
			}
		})
	}
	if _, err := a.lint(in); err != nil {
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
	s, err := a.lint(goodTemplate(t, clientKey(t).Public()))
	if err != nil {
		t.Fatal(err)
	}
	linted, err := x509.ParseCertificate(s.shell)
	if err != nil {
		t.Fatal(err)
	}
	if err := linted.CheckSignatureFrom(a.chain[0]); err == nil {
		t.Fatal("what was linted verifies under the authority")
	}
	sct := ct.SCT{Timestamp: 5, Signature: cttypes.DigitallySigned{Signature: []byte{1}}}
	if _, err := embed(s, sct); err == nil {
		t.Fatal("a certificate before its precertificate")
	}
	out, err := a.sign(s)
	if err != nil {
		t.Fatal(err)
	}
	pre, err := x509.ParseCertificate(out)
	if err != nil || !bytes.Equal(pre.RawTBSCertificate, s.tbs) || !bytes.Equal(pre.RawTBSCertificate, linted.RawTBSCertificate) {
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
	leaf, err := a.sign(final)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.readBack(final, leaf); err != nil {
		t.Fatal(err)
	}
	whole, err := x509.ParseCertificate(leaf)
	if err != nil || whole.CheckSignatureFrom(a.chain[0]) != nil {
		t.Fatalf("the certificate: %v", err)
	}
	if err := a.readBack(s, leaf); !errors.Is(err, ErrSigning) {
		t.Fatalf("another certificate than was to be signed passed: %v", err)
	}
	if err := lint.Check(leaf, lint.Leaf); err != nil {
		t.Fatalf("the certificate after embedding: %v", err)
	}
	for i := range leaf {
		bad := bytes.Clone(leaf)
		bad[i] ^= 1
		if err := a.readBack(final, bad); !errors.Is(err, ErrSigning) {
			t.Fatalf("octet %d is faulty and passed: %v", i, err)
		}
	}
	if err := a.readBack(final, append(leaf, 0)); !errors.Is(err, ErrSigning) {
		t.Fatalf("an octet too many passed: %v", err)
	}
}

// TestSCTEncoding holds our SCT list to certificate-transparency-go's encoder.
func TestSCTEncoding(t *testing.T) {
	for _, sct := range []ct.SCT{
		{Timestamp: 1, Signature: cttypes.DigitallySigned{Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA}, Signature: bytes.Repeat([]byte{7}, 71)}},
		{LogID: cttypes.LogID{KeyID: [32]byte{1, 2, 3}}, Timestamp: 1 << 60, Extensions: []byte{0, 0, 5, 1, 2, 3, 4, 5}, Signature: cttypes.DigitallySigned{Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.RSA}, Signature: bytes.Repeat([]byte{7}, 256)}},
	} {
		one, err := cttls.Marshal(sct)
		if err != nil {
			t.Fatal(err)
		}
		list, err := cttls.Marshal(ctx509.SignedCertificateTimestampList{SCTList: []ctx509.SerializedSCT{{Val: one}}})
		if err != nil {
			t.Fatal(err)
		}
		want, err := asn1.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := sctList(sct); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v\n got %x\nwant %x", err, got, want)
		}
	}
}

// TestCorrespond flips every bit of a certificate's to-be-signed bytes, and
// moves its extensions about: none passes for the one its precertificate
// promised, except within the SCT list itself.
func TestCorrespond(t *testing.T) {
	a, _ := bareAuthority(t)
	s, err := a.lint(goodTemplate(t, clientKey(t).Public()))
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
	if err := correspond(s.tbs, final.tbs); err != nil {
		t.Fatal(err)
	}
	head, exts, err := split(final.tbs)
	if err != nil {
		t.Fatal(err)
	}
	free := len(exts[len(exts)-1].raw) - 12 // of the list all but its tag, length and name
	for i := range len(final.tbs) - free {
		for bit := range 8 {
			bad := bytes.Clone(final.tbs)
			bad[i] ^= 1 << bit
			if correspond(s.tbs, bad) == nil {
				t.Fatalf("byte %d, bit %d: accepted", i, bit)
			}
		}
	}
	build := func(exts []extension) []byte {
		return der(func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(head)
				b.AddASN1(cbasn1.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						for _, e := range exts {
							b.AddBytes(e.raw)
						}
					})
				})
			})
		})
	}
	n := len(exts)
	if err := correspond(s.tbs, build(exts)); err != nil {
		t.Fatalf("the same again: %v", err)
	}
	for name, list := range map[string][]extension{
		"one missing":     append(slices.Clone(exts[:2]), exts[3:]...),
		"one more":        append(slices.Clone(exts[:1]), exts...),
		"two swapped":     append([]extension{exts[1], exts[0]}, exts[2:]...),
		"SCT list first":  append([]extension{exts[n-1]}, exts[:n-1]...),
		"SCT list absent": exts[:n-1],
		"SCT list twice":  append(slices.Clone(exts), exts[n-1]),
		"none":            nil,
	} {
		if correspond(s.tbs, build(list)) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if correspond(final.tbs, final.tbs) == nil || correspond(s.tbs, s.tbs) == nil {
		t.Error("a certificate corresponds to itself")
	}
}

// FuzzSplit takes arbitrary bytes for a to-be-signed certificate.
func FuzzSplit(f *testing.F) {
	f.Add([]byte{0x30, 0})
	f.Add([]byte{0x30, 4, 0xa3, 2, 0x30, 0})
	f.Fuzz(func(t *testing.T, tbs []byte) {
		head, exts, err := split(tbs)
		if err != nil {
			return
		}
		total := len(head)
		for _, e := range exts {
			total += len(e.raw)
		}
		if total > len(tbs) {
			t.Fatal("more came out than went in")
		}
	})
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
