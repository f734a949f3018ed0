package verify

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/root"

	"redoubt.internal/appliance/verify/verifytest"
)

// FuzzVerifyBundle: whatever the bytes, a verdict is reached without a panic,
// and a yes says what the seed it came from said.
func FuzzVerifyBundle(f *testing.F) {
	d := verifytest.New(f, "corp.internal")
	seeds := []sample{sampleOf(d, d.SignMessage(1, "artifact")), sampleOf(d, d.SignMessage(2, "artifact")), sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate)), keySample(d, d.SignMessage(1, "artifact")), sampleOf(d, chained(d, false, nil))}
	v, err := New(Config{Roots: []Root{{Name: "root", JSON: d.Root()}}})
	if err != nil {
		f.Fatal(err)
	}
	said := map[string]bool{}
	for i, s := range seeds {
		res, err := v.Verify(context.Background(), s.request())
		if err != nil {
			f.Fatal(err)
		}
		said[meaning(f, res)] = true
		f.Add(s.bundle, i == 3)
	}
	for _, s := range []string{`{}`, `{"version":1,"verification_material":{"certificate":"AA==","transparency_entries":[{}]},"envelope":{"statement":"e30=","signature":"AA=="}}`, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{},"messageSignature":{}}`, `{"dsseEnvelope":{"signatures":[{}]}}`} {
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, bundle []byte, key bool) {
		s := seeds[0]
		if key {
			s = seeds[3]
		}
		s.bundle = bundle
		res, err := v.Verify(context.Background(), s.request())
		if err == nil {
			got := meaning(t, res)
			for want := range said {
				if sameMeaning(want, got) {
					return
				}
			}
			t.Fatalf("accepted %q\nas %s", bundle, got)
		}
		if code := ExitCode(err); res != nil || code < 10 || code == 70 {
			t.Fatalf("exit %d: %v", code, err)
		}
	})
}

// FuzzTrustedRoot: what we take, sigstore-go takes; nothing panics.
func FuzzTrustedRoot(f *testing.F) {
	f.Add(verifytest.New(f, "corp.internal").Root())
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[{"baseUrl":"x"}]}`))
	f.Add([]byte(`{"certificateAuthorities":[{"certChain":{"certificates":[{}]}}],"timestampAuthorities":[{}],"ctlogs":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRoot(Root{Name: "r", JSON: data})
		if err != nil {
			if ExitCode(err) != 26 {
				t.Fatalf("exit %d: %v", ExitCode(err), err)
			}
			return
		}
		if _, err := root.NewTrustedRootFromJSON(data); err != nil {
			t.Fatalf("sigstore-go refuses: %v", err)
		}
		if r.TrustedRoot == nil {
			t.Fatal("nothing parsed")
		}
	})
}

// FuzzTimestampToken reads tokens alone.
func FuzzTimestampToken(f *testing.F) {
	d := verifytest.New(f, "corp.internal")
	f.Add(d.Token([]byte("sig"), d.Now, true))
	f.Add(d.Token([]byte("sig"), d.Now, false))
	f.Fuzz(func(t *testing.T, der []byte) {
		if tok, err := parseToken(der); err == nil && tok.signer == (signerID{}) {
			t.Fatal("a token without a signer")
		}
	})
}

// FuzzParseKey: whatever stands in a file of --key, it is one public key of the algorithms that are taken, or malformed; what was read can be asked for.
func FuzzParseKey(f *testing.F) {
	for _, k := range keysOfEveryKind(f) {
		f.Add(k)
		f.Add(append(bytes.Clone(k), k...))                                            // two keys
		f.Add(bytes.ReplaceAll(k, []byte("PUBLIC KEY"), []byte("CERTIFICATE")))        // another label
		f.Add(bytes.ReplaceAll(k, []byte("PUBLIC KEY-----"), []byte("PUBLIC KEY---"))) // cut
		f.Add(append([]byte("comment\n"), k...))
	}
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nProc-Type: 4,ENCRYPTED\n\nMAA=\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n" + strings.Repeat("MIAB", 4000) + "\n-----END PUBLIC KEY-----\n"))
	f.Add(bytes.Repeat([]byte("-----BEGIN "), 6000))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := ParseKey(data)
		if err != nil {
			if k != nil || !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v, %v", k, err)
			}
			return
		}
		der, err := x509.MarshalPKIXPublicKey(k.Public)
		if err != nil {
			t.Fatalf("read, and cannot be written: %v", err)
		}
		again, err := ParseKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		if err != nil || !again.Public.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.Public) {
			t.Fatalf("another key when it is written and read again: %v", err)
		}
		if _, err := (Policy{Key: k}).compile(); err != nil {
			t.Fatalf("no verifier of it: %v", err)
		}
	})
}

// keysOfEveryKind are public keys in PEM, those that are taken and those that are not.
func keysOfEveryKind(t testing.TB) (all [][]byte) {
	t.Helper()
	for _, c := range []elliptic.Curve{elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, publicPEM(t, k.Public()))
	}
	edKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	modulus := new(big.Int).SetBit(big.NewInt(1), 2047, 1) // odd, of 2048 bits; nothing is signed by it
	for _, n := range []*big.Int{modulus, new(big.Int).Rsh(modulus, 1024), new(big.Int).Lsh(modulus, 15000)} {
		all = append(all, publicPEM(t, &rsa.PublicKey{N: n, E: 65537}))
	}
	all = append(all, publicPEM(t, &rsa.PublicKey{N: modulus, E: 1}))
	const x25519 = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00" // RFC 8410 4; not made by crypto/ecdh, which the strict FIPS mode forbids
	dhKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte(x25519 + strings.Repeat("\x09", 32))})
	return append(all, publicPEM(t, edKey), dhKey)
}
