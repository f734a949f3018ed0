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
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	zlint "github.com/zmap/zlint/v3/lint"
)

var (
	now     = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	caKey   = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	leafKey = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func serial() *big.Int {
	b := make([]byte, 20)
	_, _ = rand.Read(b)
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

func ext(oid asn1.ObjectIdentifier, value []byte) pkix.Extension {
	return pkix.Extension{Id: oid, Value: value}
}

func utf8DER(s string) []byte { return must(asn1.MarshalWithParams(s, "utf8")) }

func sctExt(scts ...[]byte) pkix.Extension {
	var list []byte
	for _, s := range scts {
		list = append(append(list, byte(len(s)>>8), byte(len(s))), s...)
	}
	list = append([]byte{byte(len(list) >> 8), byte(len(list))}, list...)
	return ext(oidSCTList, must(asn1.Marshal(list)))
}

func issuers() []pkix.Extension {
	return []pkix.Extension{
		ext(oidIssuerV1, []byte("https://oidc.corp.internal")),
		ext(oidIssuerV2, utf8DER("https://oidc.corp.internal")),
		ext(oidTokenSub, utf8DER("user:1")),
	}
}

// template returns a well-formed certificate template of each profile.
func template(p Profile) *x509.Certificate {
	name := func(cn string) pkix.Name {
		return pkix.Name{CommonName: cn, Organization: []string{"corp.internal"}}
	}
	t := &x509.Certificate{SerialNumber: serial(), NotBefore: now, NotAfter: now.AddDate(10, 0, 0), BasicConstraintsValid: true}
	switch p {
	case Root:
		t.Subject, t.IsCA, t.MaxPathLen = name("root"), true, 1
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	case Cross:
		t.Subject, t.IsCA, t.MaxPathLen = name("other root"), true, 1
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	case Issuing, TSAIntermediate:
		t.Subject, t.IsCA, t.MaxPathLenZero = name("issuing"), true, true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		if p == TSAIntermediate {
			t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}
		}
	case TSALeaf:
		t.Subject, t.BasicConstraintsValid = name("tsa"), false
		t.KeyUsage = x509.KeyUsageDigitalSignature
		t.SubjectKeyId = []byte{1, 2, 3}
		t.ExtraExtensions = []pkix.Extension{{Id: oidEKU, Critical: true, Value: must(asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}))}}
	case Precertificate, Leaf:
		t.NotAfter, t.BasicConstraintsValid = now.Add(10*time.Minute), false
		t.KeyUsage = x509.KeyUsageDigitalSignature
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		t.EmailAddresses = []string{"dev@corp.internal"}
		t.SubjectKeyId = []byte{1, 2, 3}
		t.ExtraExtensions = issuers()
		if p == Precertificate {
			t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oidPoison, Critical: true, Value: asn1NullDER})
		} else {
			t.ExtraExtensions = append(t.ExtraExtensions, sctExt(make([]byte, 118)))
		}
	}
	return t
}

// build signs t as a certificate of profile p for key pub.
func build(t testing.TB, p Profile, tmpl *x509.Certificate, pub crypto.PublicKey) []byte {
	t.Helper()
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: "parent", Organization: []string{"corp.internal"}}, SubjectKeyId: []byte{9, 9}}
	if p == Root {
		parent, pub = tmpl, caKey.Public()
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, caKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestAcceptsEveryProfile(t *testing.T) {
	for _, p := range []Profile{Root, Issuing, TSAIntermediate, TSALeaf, Precertificate, Leaf, Cross} {
		if err := Check(build(t, p, template(p), leafKey.Public()), p); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for name, pub := range map[string]crypto.PublicKey{
		"p384": must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).Public(),
		"p521": must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)).Public(),
		"rsa":  must(rsa.GenerateKey(rand.Reader, 2048)).Public(),
		"ed":   ed.Public(),
	} {
		if err := Check(build(t, Leaf, template(Leaf), pub), Leaf); err != nil {
			t.Errorf("leaf for %s: %v", name, err)
		}
	}
}

func TestAcceptsNamesOfIsolatedNetworks(t *testing.T) {
	for _, u := range []string{
		"spiffe://corp/ns/prod/sa/signer",
		"https://gitlab:8443/group/project//.gitlab-ci.yml@refs/heads/main",
		"https://kubernetes.io/namespaces/build/serviceaccounts/signer",
	} {
		tmpl := template(Leaf)
		tmpl.EmailAddresses, tmpl.URIs = nil, []*url.URL{must(url.Parse(u))}
		if err := Check(build(t, Leaf, tmpl, leafKey.Public()), Leaf); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
	tmpl := template(Leaf)
	tmpl.EmailAddresses = nil
	other := must(asn1.Marshal([]asn1.RawValue{{Class: 2, Tag: 0, IsCompound: true, Bytes: append(must(asn1.Marshal(oidUserName)),
		must(asn1.Marshal(asn1.RawValue{Class: 2, Tag: 0, IsCompound: true, Bytes: utf8DER("dev!corp.internal")}))...)}}))
	tmpl.ExtraExtensions = append([]pkix.Extension{{Id: oidSAN, Critical: true, Value: other}}, tmpl.ExtraExtensions...)
	if err := Check(build(t, Leaf, tmpl, leafKey.Public()), Leaf); err != nil {
		t.Errorf("user name: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	swap := func(oid asn1.ObjectIdentifier, with ...pkix.Extension) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			var out []pkix.Extension
			for _, e := range c.ExtraExtensions {
				if !e.Id.Equal(oid) {
					out = append(out, e)
				} else {
					out = append(out, with...)
				}
			}
			c.ExtraExtensions = out
		}
	}
	cases := []struct {
		profile Profile
		lint    string
		change  func(*x509.Certificate)
	}{
		{Leaf, "redoubt_leaf_validity", func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }},
		{Leaf, "redoubt_validity", func(c *x509.Certificate) { c.NotAfter = c.NotBefore }},
		{Leaf, "redoubt_leaf_subject", func(c *x509.Certificate) { c.Subject.CommonName = "dev" }},
		{Leaf, "redoubt_san_critical", func(c *x509.Certificate) { c.EmailAddresses = nil; c.Subject.CommonName = "x" }},
		{Leaf, "redoubt_san", func(c *x509.Certificate) { c.EmailAddresses = append(c.EmailAddresses, "two@corp.internal") }},
		{Leaf, "redoubt_san", func(c *x509.Certificate) { c.EmailAddresses, c.DNSNames = nil, []string{"corp.internal"} }},
		{Leaf, "redoubt_san", func(c *x509.Certificate) { c.EmailAddresses, c.IPAddresses = nil, []net.IP{{10, 0, 0, 1}} }},
		{Leaf, "redoubt_eku", func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageTimeStamping) }},
		{Leaf, "redoubt_eku", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
		{Leaf, "redoubt_eku", func(c *x509.Certificate) { c.ExtKeyUsage = nil }},
		{Leaf, "redoubt_key_usage", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyAgreement }},
		{Leaf, "redoubt_not_ca", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }},
		{Leaf, "redoubt_serial", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) }},
		{Leaf, "e_serial_number_longer_than_20_octets", func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 159) }},
		{Leaf, "redoubt_issuer", swap(oidIssuerV1)},
		{Leaf, "redoubt_issuer", swap(oidIssuerV2)},
		{Leaf, "redoubt_issuer_value", swap(oidIssuerV2, ext(oidIssuerV2, utf8DER("https://other")))},
		{Leaf, "redoubt_issuer_value", swap(oidIssuerV2, ext(oidIssuerV2, []byte("https://oidc.corp.internal")))},
		{Leaf, "redoubt_token_subject", swap(oidTokenSub)},
		{Leaf, "redoubt_critical_extension", swap(oidTokenSub, pkix.Extension{Id: oidTokenSub, Critical: true, Value: utf8DER("x")})},
		{Leaf, "redoubt_sct", swap(oidSCTList)},
		{Leaf, "redoubt_sct", swap(oidSCTList, sctExt())},
		{Leaf, "e_empty_sct_list", swap(oidSCTList, sctExt())},
		{Leaf, "redoubt_sct", swap(oidSCTList, ext(oidSCTList, []byte{4, 2, 0, 9}))},
		{Leaf, "redoubt_sct_last", func(c *x509.Certificate) {
			e := c.ExtraExtensions
			c.ExtraExtensions = append([]pkix.Extension{e[len(e)-1]}, e[:len(e)-1]...)
		}},
		{Leaf, "redoubt_poison", swap(oidSCTList, pkix.Extension{Id: oidPoison, Critical: true, Value: asn1NullDER}, sctExt(make([]byte, 118)))},
		{Leaf, "e_ext_san_rfc822_format_invalid", func(c *x509.Certificate) { c.EmailAddresses = []string{"<dev@corp.internal>"} }},
		{Precertificate, "redoubt_poison", swap(oidPoison)},
		{Precertificate, "redoubt_poison", swap(oidPoison, ext(oidPoison, asn1NullDER))},
		{Precertificate, "e_precert_with_sct_list", swap(oidPoison, pkix.Extension{Id: oidPoison, Critical: true, Value: asn1NullDER}, sctExt(make([]byte, 118)))},
		{Leaf, "redoubt_unexpected_extension", swap(oidTokenSub, ext(oidTokenSub, utf8DER("x")), ext(asn1.ObjectIdentifier{2, 5, 29, 32}, []byte{0x30, 0x06, 0x30, 0x04, 0x06, 0x02, 0x2a, 0x03}))},
		{TSALeaf, "redoubt_unexpected_extension", func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, ext(oidIssuerV1, []byte("x")))
		}},
		{Issuing, "redoubt_unexpected_extension", func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, ext(oidIssuerV1, []byte("x")))
		}},
		{Root, "redoubt_key_usage", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature }},
		{Root, "redoubt_eku", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }},
		{Root, "redoubt_ca_subject", func(c *x509.Certificate) { c.Subject.Organization = nil }},
		{Issuing, "redoubt_pathlen", func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 1, false }},
		{Issuing, "redoubt_pathlen", func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = -1, false }},
		{Issuing, "redoubt_basic_constraints", func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }},
		{Issuing, "redoubt_eku", func(c *x509.Certificate) { c.ExtKeyUsage = nil }},
		{Issuing, "redoubt_key_usage", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }},
		{Issuing, "redoubt_ca_san", func(c *x509.Certificate) { c.DNSNames = []string{"ca.corp.internal"} }},
		{Issuing, "e_subject_common_name_max_length", func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("x", 65) }},
		{Cross, "redoubt_pathlen", func(c *x509.Certificate) { c.MaxPathLen = 2 }},
		{Cross, "redoubt_pathlen", func(c *x509.Certificate) { c.MaxPathLen = -1 }},
		{Cross, "redoubt_intermediate_subject", func(c *x509.Certificate) { c.Subject.CommonName = "parent" }},
		{Cross, "redoubt_eku", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }},
		{TSAIntermediate, "redoubt_eku", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }},
		{TSALeaf, "redoubt_tsa_eku_critical", func(c *x509.Certificate) {
			c.ExtraExtensions, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}
		}},
		{TSALeaf, "redoubt_tsa_subject", func(c *x509.Certificate) { c.Subject = pkix.Name{} }},
		{TSALeaf, "redoubt_ct_extension", func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, sctExt(make([]byte, 118))) }},
	}
	for _, c := range cases {
		tmpl := template(c.profile)
		c.change(tmpl)
		err := Check(build(t, c.profile, tmpl, leafKey.Public()), c.profile)
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, ErrRefused) {
			t.Errorf("%s, want %s: got %v", c.profile, c.lint, err)
			continue
		}
		found := false
		for _, f := range e.Findings {
			found = found || f.Lint == c.lint
		}
		if !found {
			t.Errorf("%s: %s not among %v", c.profile, c.lint, err)
		}
	}
}

func TestRefusesOtherProfile(t *testing.T) {
	all := []Profile{Root, Issuing, TSAIntermediate, TSALeaf, Precertificate, Leaf, Cross}
	for _, is := range all {
		der := build(t, is, template(is), leafKey.Public())
		for _, as := range all {
			if err := Check(der, as); (err == nil) != (is == as) {
				t.Errorf("%s linted as %s: %v", is, as, err)
			}
		}
	}
}

func TestRefusesWeakKeysAndGarbage(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	var weak *rsa.PrivateKey
	fips140.WithoutEnforcement(func() { weak = must(rsa.GenerateKey(rand.Reader, 1024)) })
	if err := Check(build(t, Leaf, template(Leaf), weak.Public()), Leaf); !errors.Is(err, ErrRefused) {
		t.Errorf("RSA-1024: %v", err)
	}
	for _, der := range [][]byte{nil, {}, {0x30}, make([]byte, maxDER+1)} {
		if err := Check(der, Leaf); err == nil {
			t.Errorf("accepted %d octets of garbage", len(der))
		}
	}
	if err := Check(build(t, Leaf, template(Leaf), leafKey.Public()), Profile(99)); err == nil {
		t.Error("accepted an unknown profile")
	}
}

func TestExclusionsAreNamedAndRemoved(t *testing.T) {
	for name := range Excluded(Leaf) {
		applied := must(Applied(Leaf))
		for _, a := range applied {
			if a == name {
				t.Errorf("%s is excluded and applied", name)
			}
		}
		if len(applied) < 90 {
			t.Errorf("only %d lints applied", len(applied))
		}
	}
}

// sameAsZlint holds each lint's run to zlint's own Execute.
func sameAsZlint(t *testing.T, der []byte, p Profile) {
	var (
		cert *zx509.Certificate
		err  error
	)
	fips140.WithoutEnforcement(func() { cert, err = zx509.ParseCertificate(der) })
	if err != nil {
		return
	}
	for _, r := range must(lints())[p] {
		got, want := r.run(cert), r.Execute(cert, zlint.Configuration{})
		if got.Status != want.Status { // details may list map keys in any order
			t.Errorf("%s on %s: %s %q, zlint's %s %q", r.Name, p, got.Status, got.Details, want.Status, want.Details)
		}
	}
}

// Running the lints ourselves changes no result, whatever the certificate: each
// kind under the lints of each other kind, and with every octet changed.
func TestRunsAsZlint(t *testing.T) {
	for _, p := range []Profile{Root, Issuing, TSAIntermediate, TSALeaf, Precertificate, Leaf, Cross} {
		der := build(t, p, template(p), leafKey.Public())
		for _, other := range []Profile{Root, TSALeaf, Precertificate, Leaf} {
			sameAsZlint(t, der, other)
		}
		for i := range der {
			changed := bytes.Clone(der)
			changed[i] ^= 1 << (i % 8)
			sameAsZlint(t, changed, p)
		}
	}
}

func BenchmarkCheckPrecertificate(b *testing.B) { benchmark(b, Precertificate) }
func BenchmarkCheckLeaf(b *testing.B)           { benchmark(b, Leaf) }

func benchmark(b *testing.B, p Profile) {
	der := build(b, p, template(p), leafKey.Public())
	if err := Check(der, p); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = Check(der, p)
	}
}

func FuzzCheck(f *testing.F) {
	for _, p := range []Profile{Root, Issuing, TSAIntermediate, TSALeaf, Precertificate, Leaf} {
		f.Add(build(f, p, template(p), leafKey.Public()), uint8(p))
	}
	f.Fuzz(func(t *testing.T, der []byte, p uint8) {
		sameAsZlint(t, der, Profile(p))
		sameAsLongWay(t, der)
		if err := Check(der, Profile(p)); err == nil {
			if _, perr := x509.ParseCertificate(der); perr != nil {
				t.Fatalf("accepted what does not parse: %v", perr)
			}
		}
	})
}
