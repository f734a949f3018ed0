package lint

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
)

// sameAsLongWay holds the one shape to zcrypto's parser, field by field, and to
// the verdict of all lints. It reports whether der is of the shape.
func sameAsLongWay(t *testing.T, der []byte) bool {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return false
	}
	if findings, err := checkProfile(c, Precertificate); err != nil || len(findings) > 0 {
		return false
	}
	got := shaped(c)
	if got == nil {
		return false
	}
	var want *zx509.Certificate
	fips140.WithoutEnforcement(func() { want, err = zx509.ParseCertificate(der) }) // it fingerprints by MD5
	if err != nil {
		t.Fatalf("zcrypto refuses %x: %v", der, err)
	}
	want.FingerprintMD5, want.FingerprintSHA1, want.FingerprintSHA256, want.FingerprintNoCT = nil, nil, nil, nil
	want.SPKIFingerprint, want.SPKISubjectFingerprint, want.TBSCertificateFingerprint = nil, nil, nil
	g, w := reflect.ValueOf(*got), reflect.ValueOf(*want)
	for i := range g.NumField() {
		if f := g.Type().Field(i); f.IsExported() && !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			t.Fatalf("%s is %#v, zcrypto's %#v: %x", f.Name, g.Field(i), w.Field(i), der)
		}
	}
	findings, err := runZlint(der, Precertificate)
	if err != nil {
		t.Fatal(err)
	}
	if faultless(got) != (len(findings) == 0) {
		t.Fatalf("faultless %v, all lints find %v: %x", faultless(got), findings, der)
	}
	return true
}

// TestShape shows for every name, client key and issuing key of the shape that
// linting it the short way is linting it, also with every bit changed; and that
// a certificate of another shape goes the long way.
func TestShape(t *testing.T) {
	rsaKey := must(rsa.GenerateKey(rand.Reader, 3072))
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	p384, p521 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	parent := &x509.Certificate{SubjectKeyId: []byte{9, 9}}
	parent.Subject.CommonName, parent.Subject.Organization, parent.Subject.Country = "parent", []string{"Example"}, []string{"XX"}
	sign := func(tmpl *x509.Certificate, pub crypto.PublicKey, issuing crypto.Signer) []byte {
		return must(x509.CreateCertificate(rand.Reader, tmpl, parent, pub, issuing))
	}
	uri := func(s string) *x509.Certificate {
		c := template(Precertificate)
		c.EmailAddresses, c.URIs = nil, []*url.URL{must(url.Parse(s))}
		return c
	}
	for _, issuing := range []crypto.Signer{caKey, p384, rsaKey, ed} {
		for _, pub := range []crypto.PublicKey{leafKey.Public(), p384.Public(), p521.Public(), rsaKey.Public(), ed.Public()} {
			for _, tmpl := range []*x509.Certificate{template(Precertificate), uri("https://ci.example.test/a?b=c#d"), uri("spiffe://x/" + strings.Repeat("y", 300))} {
				if der := sign(tmpl, pub, issuing); !sameAsLongWay(t, der) || Check(der, Precertificate) != nil {
					t.Errorf("%T for %T, %v: not of the shape, or refused: %v", issuing, pub, tmpl.URIs, Check(der, Precertificate))
				}
			}
		}
	}
	der := sign(template(Precertificate), leafKey.Public(), caKey)
	for i := range der {
		for bit := range 8 {
			changed := bytes.Clone(der)
			changed[i] ^= 1 << bit
			sameAsLongWay(t, changed)
		}
	}
	late := template(Precertificate)
	late.NotBefore = time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
	late.NotAfter = late.NotBefore.Add(time.Minute)
	spelled := bytes.Replace(der, []byte{0x30, 0x13, 0x06, 0x03, 0x55, 0x1d, 0x25, 0x04}, []byte{0x30, 0x16, 0x06, 0x03, 0x55, 0x1d, 0x25, 0x01, 0x01, 0x00, 0x04}, 1)
	for name, der := range map[string][]byte{"a time of 2050": sign(late, leafKey.Public(), caKey), "a leaf": build(t, Leaf, template(Leaf), leafKey.Public()), "criticality spelled out": spelled} {
		if sameAsLongWay(t, der) {
			t.Errorf("%s: taken for the shape", name)
		}
	}
	if err := Check(sign(late, leafKey.Public(), caKey), Precertificate); err != nil {
		t.Errorf("the long way refuses a time of 2050: %v", err)
	}
}

// TestImpliedAreApplied shows that what is not run on the shape is run on every
// other certificate.
func TestImpliedAreApplied(t *testing.T) {
	names := map[string]bool{}
	for _, n := range must(Applied(Precertificate)) {
		names[n] = true
	}
	for n := range implied {
		if !names[n] {
			t.Errorf("%s is implied and not applied otherwise", n)
		}
	}
}
