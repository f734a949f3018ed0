package ct_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/log/ct"
)

func (r *rig) issuer(chain ...*x509.Certificate) (*ct.Issuer, error) {
	var der [][]byte
	for _, c := range chain {
		der = append(der, c.Raw)
	}
	return r.ct.Issuer(der)
}

// TestIssuerAddsTheSameEntry holds the way of the authority in this process to add-pre-chain, for each kind of issuing key: the same
// precertificate is the same entry, whichever way it came first.
func TestIssuerAddsTheSameEntry(t *testing.T) {
	r := newRig(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(0)
	for name, key := range map[string]crypto.Signer{"P-256": generate(t, elliptic.P256()), "P-384": generate(t, elliptic.P384()), "RSA": rsaKey, "Ed25519": ed} {
		issuing := r.make(&x509.Certificate{
			Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLenZero: true,
		}, r.root, key.Public(), r.rootKey)
		issuer, err := r.issuer(issuing, r.root)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, own := range []bool{true, false} {
			pre := r.make(&x509.Certificate{EmailAddresses: []string{"dev@corp.example"}, ExtraExtensions: []pkix.Extension{poison}}, issuing, generate(t, elliptic.P256()).Public(), key)
			ways := []func() (ct.SCT, error){
				func() (ct.SCT, error) { return issuer.Add(t.Context(), pre.Raw) },
				func() (ct.SCT, error) {
					return r.ct.AddPreChain(t.Context(), [][]byte{pre.Raw, issuing.Raw, r.root.Raw})
				},
			}
			if !own {
				ways[0], ways[1] = ways[1], ways[0]
			}
			first, err := ways[0]()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			entry, err := r.merkle.Entry(t.Context(), size)
			if err != nil {
				t.Fatal(err)
			}
			leaf, extra, err := ct.NewSubmission(pre, []*x509.Certificate{issuing, r.root})
			if err != nil || !bytes.Equal(entry.Leaf[10:], leaf[10:]) || !bytes.Equal(entry.Extra, extra) {
				t.Fatalf("%s: another entry (%v)", name, err)
			}
			size++
			second, err := ways[1]()
			if err != nil || second.Timestamp != first.Timestamp || r.merkle.Head().Size != size {
				t.Fatalf("%s: the other way gave %+v, %v, log of %d", name, second, err, r.merkle.Head().Size)
			}
		}
	}
}

// TestIssuerRefuses shows that nothing unverified enters: every changed octet, and every precertificate that is none.
func TestIssuerRefuses(t *testing.T) {
	r := newRig(t)
	issuer, err := r.issuer(r.ca, r.root)
	if err != nil {
		t.Fatal(err)
	}
	oid := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	other := newPKI(t)
	bad := map[string][]byte{
		"empty":                nil,
		"no certificate":       []byte("x"),
		"bytes after":          append(r.precert(nil).Raw, 0),
		"of another authority": other.precert(nil).Raw,
		"no poison":            r.precert(func(c *x509.Certificate) { c.ExtraExtensions = nil }).Raw,
		"poison not critical":  r.precert(func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = false }).Raw,
		"poison with a value":  r.precert(func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{4, 0} }).Raw,
		"timestamps": r.precert(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oid, Value: []byte{4, 0}})
		}).Raw,
		"the authority itself":  r.ca.Raw,
		"signed by the root":    r.make(&x509.Certificate{ExtraExtensions: []pkix.Extension{poison}}, r.root, r.caKey.Public(), r.rootKey).Raw,
		"signed by another key": r.make(&x509.Certificate{ExtraExtensions: []pkix.Extension{poison}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Minute)}, &x509.Certificate{RawSubject: r.ca.RawSubject}, r.caKey.Public(), other.caKey).Raw,
		"larger than the log's": r.precert(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 17<<10)})
		}).Raw,
		"another outer algorithm": nil,
	}
	good := r.precert(nil)
	bad["another outer algorithm"] = bytes.Replace(good.Raw, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03}, 2)
	two := poisonedTwice(r, good)
	bad["two poisons"] = two
	for i := range good.Raw {
		one := bytes.Clone(good.Raw)
		one[i] ^= 1
		bad["octet"] = one
		if _, err := issuer.Add(t.Context(), one); !errors.Is(err, ct.ErrChain) {
			t.Fatalf("octet %d changed: %v", i, err)
		}
	}
	for name, der := range bad {
		if _, err := issuer.Add(t.Context(), der); !errors.Is(err, ct.ErrChain) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := r.merkle.Head().Size; n != 0 {
		t.Fatalf("%d entries", n)
	}
	if _, err := issuer.Add(t.Context(), good.Raw); err != nil {
		t.Fatal(err)
	}
	for name, chain := range map[string][]*x509.Certificate{
		"none": nil, "another root": {r.ca, other.root}, "upside down": {r.root, r.ca}, "no authority": {good, r.ca, r.root},
		"another's": {other.ca, other.root}, "too many": {r.ca, r.ca, r.ca, r.ca, r.ca, r.root},
	} {
		if _, err := r.issuer(chain...); !errors.Is(err, ct.ErrChain) {
			t.Errorf("chain %s: %v", name, err)
		}
	}
}

// poisonedTwice signs pre anew with its poison repeated, which crypto/x509 would not.
func poisonedTwice(r *rig, pre *x509.Certificate) []byte {
	one := []byte{0x30, 0x13, 0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xd6, 0x79, 0x02, 0x04, 0x03, 0x01, 0x01, 0xff, 0x04, 0x02, 0x05, 0x00}
	in := cryptobyte.String(pre.RawTBSCertificate)
	var tbs, head, wrapped, list cryptobyte.String
	explicit := cbasn1.Tag(3).ContextSpecific().Constructed()
	if !bytes.Contains(in, one) || !in.ReadASN1(&tbs, cbasn1.SEQUENCE) {
		r.t.Fatal("no precertificate")
	}
	for !tbs.PeekASN1Tag(explicit) {
		var part cryptobyte.String
		var tag cbasn1.Tag
		tbs.ReadAnyASN1Element(&part, &tag)
		head = append(head, part...)
	}
	tbs.ReadASN1(&wrapped, explicit)
	wrapped.ReadASN1(&list, cbasn1.SEQUENCE)
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(head)
		b.AddASN1(explicit, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(append(bytes.Clone(list), one...)) })
		})
	})
	raw := b.BytesOrPanic()
	digest := crypto.SHA256.New()
	digest.Write(raw)
	sig, err := r.caKey.Sign(rand.Reader, digest.Sum(nil), crypto.SHA256)
	if err != nil {
		r.t.Fatal(err)
	}
	var out cryptobyte.Builder
	out.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(raw)
		b.AddBytes([]byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02})
		b.AddASN1BitString(sig)
	})
	return out.BytesOrPanic()
}
