package ct_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"testing"
	"time"

	cttypes "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/log/ct"
)

// precerts are precertificates of many shapes, the poison at every place.
func precerts(p *pki) map[string]*x509.Certificate {
	other := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: []byte{0x0c, 1, 'x'}}
	long := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 9}, Value: bytes.Repeat([]byte{5}, 300)}
	out := map[string]*x509.Certificate{
		"plain":        p.precert(nil),
		"poison first": p.precert(func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{poison, other} }),
		"poison last":  p.precert(func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{other, poison} }),
		"long":         p.precert(func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{long, poison, other} }),
		"subject":      p.precert(func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "é", Organization: []string{"Corp"}} }),
		"uri": p.precert(func(c *x509.Certificate) {
			c.EmailAddresses, c.URIs = nil, []*url.URL{{Scheme: "https", Host: "corp.example", Path: "/x"}}
		}),
		"p384": p.make(&x509.Certificate{ExtraExtensions: []pkix.Extension{poison}}, p.ca, generate(p.t, elliptic.P384()).Public(), p.caKey),
		"2050": p.precert(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now(), time.Date(2061, 1, 1, 0, 0, 0, 0, time.UTC)
		}),
	}
	return out
}

// The octets that are hashed, signed and served are those of the reference library.
func TestEncodingsEqualTheLibrary(t *testing.T) {
	p := newPKI(t)
	issuers := []*x509.Certificate{p.ca, p.root}
	for name, pre := range precerts(p) {
		tbs, err := ctx509.BuildPrecertTBS(pre.RawTBSCertificate, nil)
		if err != nil {
			t.Fatal(name, err)
		}
		leaf := cttypes.MerkleTreeLeaf{
			Version: cttypes.V1, LeafType: cttypes.TimestampedEntryLeafType,
			TimestampedEntry: &cttypes.TimestampedEntry{EntryType: cttypes.PrecertLogEntryType, PrecertEntry: &cttypes.PreCert{
				IssuerKeyHash: sha256.Sum256(p.ca.RawSubjectPublicKeyInfo), TBSCertificate: tbs,
			}},
		}
		wantLeaf, err1 := cttls.Marshal(leaf)
		wantInput, err2 := cttypes.SerializeSCTSignatureInput(ct.SCT{SCTVersion: cttypes.V1}, cttypes.LogEntry{Leaf: leaf})
		wantExtra, err3 := cttls.Marshal(cttypes.PrecertChainEntry{
			PreCertificate:   cttypes.ASN1Cert{Data: pre.Raw},
			CertificateChain: []cttypes.ASN1Cert{{Data: p.ca.Raw}, {Data: p.root.Raw}},
		})
		if err1 != nil || err2 != nil || err3 != nil {
			t.Fatal(name, err1, err2, err3)
		}
		gotLeaf, gotExtra, err := ct.NewSubmission(pre, issuers)
		if err != nil {
			t.Fatal(name, err)
		}
		if !bytes.Equal(gotLeaf, wantLeaf) {
			t.Errorf("%s: leaf\n%x, the library's\n%x", name, gotLeaf, wantLeaf)
		}
		if !bytes.Equal(gotLeaf, wantInput) {
			t.Errorf("%s: the leaf is not what the library signs", name)
		}
		if !bytes.Equal(gotExtra, wantExtra) {
			t.Errorf("%s: chain differs from the library's", name)
		}
	}
}

// What the library would silently encode anew is refused.
func TestWithoutPoisonRefuses(t *testing.T) {
	good := newPKI(t).precert(nil).RawTBSCertificate
	notAfter := bytes.LastIndex(good, []byte{0x17, 13})
	ku := bytes.Index(good, []byte{0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff}) // keyUsage, critical
	if notAfter < 0 || ku < 0 {
		t.Fatal("the sample has another shape")
	}
	for name, tbs := range map[string][]byte{
		"empty":                  {},
		"cut off":                good[:len(good)-1],
		"trailing":               append(bytes.Clone(good), 0),
		"FALSE spelt out":        replaceAt(good, ku+5, 0),
		"TRUE as 1":              replaceAt(good, ku+5, 1),
		"time with an offset":    replaceAt(good, notAfter+14, 'z'),
		"no poison":              bytes.Replace(good, []byte{0xd6, 0x79, 2, 4, 3}, []byte{0xd6, 0x79, 2, 4, 9}, 1),
		"not a sequence outside": replaceAt(good, 0, 0x31),
	} {
		if out, err := ct.WithoutPoison(tbs); err == nil {
			t.Errorf("%s: accepted as %x", name, out)
		}
	}
}

func replaceAt(b []byte, i int, v byte) []byte {
	b = bytes.Clone(b)
	b[i] = v
	return b
}

// FuzzWithoutPoison holds withoutPoison to the reference library: whatever it accepts of a certificate that parses, the library makes the
// same octets of.
func FuzzWithoutPoison(f *testing.F) {
	for _, c := range precerts(newPKI(f)) {
		f.Add(c.RawTBSCertificate)
	}
	f.Fuzz(func(t *testing.T, tbs []byte) {
		got, err := ct.WithoutPoison(tbs)
		if err != nil {
			return
		}
		if _, err := x509.ParseCertificate(shell(tbs)); err != nil {
			return
		}
		want, err := ctx509.BuildPrecertTBS(tbs, nil)
		if err != nil {
			t.Fatalf("accepted %x, which the library refuses: %v", tbs, err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%x\nbecame %x,\nthe library's is %x", tbs, got, want)
		}
	})
}

// shell is a certificate around tbs with the algorithm tbs names and no real signature.
func shell(tbs []byte) []byte {
	in := cryptobyte.String(tbs)
	var body, alg cryptobyte.String
	in.ReadASN1(&body, cbasn1.SEQUENCE)
	body.SkipOptionalASN1(cbasn1.Tag(0).ContextSpecific().Constructed())
	body.SkipASN1(cbasn1.INTEGER)
	body.ReadASN1Element(&alg, cbasn1.SEQUENCE)
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(alg)
		b.AddASN1BitString([]byte{1})
	})
	return b.BytesOrPanic()
}
