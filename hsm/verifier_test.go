package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"sync"
	"testing"

	"filippo.io/nistec"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

func encodeSignature(r, s *big.Int) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1BigInt(r); b.AddASN1BigInt(s) })
	return b.BytesOrPanic()
}

// p256Key is the key of private number d modulo the order, which is not 0.
func p256Key(t testing.TB, d *big.Int) *ecdsa.PrivateKey {
	t.Helper()
	n := new(big.Int).Mod(d, p256Order)
	if n.Sign() == 0 {
		n.SetInt64(1)
	}
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), n.FillBytes(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// warm returns a Verifier that has its multiples.
func warm(t testing.TB, pub *ecdsa.PublicKey) *Verifier {
	t.Helper()
	v := NewVerifier(pub)
	v.p256 = pub // also while the FIPS 140-3 module is in use, when NewVerifier leaves it out
	v.count.Store(tableAfter)
	v.Verify(make([]byte, 32), nil, crypto.SHA256)
	if v.multiples.Load() == nil {
		t.Fatal("no multiples were made")
	}
	return v
}

// same holds one verdict to crypto/ecdsa's and returns it.
func same(t testing.TB, v *Verifier, what string, digest, sig []byte) bool {
	t.Helper()
	got, want := v.Verify(digest, sig, crypto.SHA256), ecdsa.VerifyASN1(v.p256, digest, sig)
	if got != want {
		t.Fatalf("%s: %v, crypto/ecdsa says %v: key %x, digest %x, signature %x", what, got, want, v.p256, digest, sig)
	}
	return got
}

// TestVerifierAsStandardLibrary holds the equation to crypto/ecdsa: signatures
// of many keys, each with every bit changed, and the encodings and numbers that
// verifiers got wrong before.
func TestVerifierAsStandardLibrary(t *testing.T) {
	one, n := big.NewInt(1), p256Order
	half := new(big.Int).Rsh(n, 1)
	for _, d := range []*big.Int{one, big.NewInt(2), big.NewInt(256), new(big.Int).Sub(n, one), half, new(big.Int).Lsh(one, 248), new(big.Int).SetBytes(bytes.Repeat([]byte{0xa5}, 32))} {
		k := p256Key(t, d)
		v := warm(t, &k.PublicKey)
		digest := sha256.Sum256(d.Bytes())
		sig, err := ecdsa.SignASN1(rand.Reader, k, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		if !same(t, v, "good", digest[:], sig) {
			t.Fatal("a good signature is refused")
		}
		for i := range sig {
			for bit := range 8 {
				bad := bytes.Clone(sig)
				bad[i] ^= 1 << bit
				same(t, v, "changed", digest[:], bad)
			}
		}
		for i := range digest {
			bad := digest
			bad[i] ^= 1
			if same(t, v, "another digest", bad[:], sig) {
				t.Fatal("verifies another digest")
			}
		}
		var pair cryptobyte.String
		in := cryptobyte.String(sig)
		var r, s big.Int
		in.ReadASN1(&pair, cbasn1.SEQUENCE)
		pair.ReadASN1Integer(&r)
		pair.ReadASN1Integer(&s)
		zero, minus := new(big.Int), new(big.Int).Neg(&s)
		numbers := []*big.Int{zero, one, minus, &r, &s, n, half, new(big.Int).Sub(n, one), new(big.Int).Add(n, one), new(big.Int).Add(&r, n), new(big.Int).Add(&s, n), new(big.Int).Sub(n, &s), new(big.Int).Sub(n, &r), elliptic.P256().Params().P, new(big.Int).Lsh(one, 256), new(big.Int).Lsh(one, 2048)}
		digests := [][]byte{digest[:], make([]byte, 32), bytes.Repeat([]byte{0xff}, 32), n.Bytes(), r.FillBytes(make([]byte, 32)),
			new(big.Int).Sub(n, &r).FillBytes(make([]byte, 32))} // the last gives the point at infinity for the key 1
		for _, a := range numbers {
			for _, b := range numbers {
				for _, dg := range digests {
					same(t, v, "odd numbers", dg, encodeSignature(a, b))
				}
			}
		}
		long := append([]byte{0x30, 0x81}, sig[1:]...)
		for name, bad := range map[string][]byte{
			"nothing": nil, "cut": sig[:len(sig)-1], "longer": append(bytes.Clone(sig), 0), "long form": long, "no sequence": sig[2:], "indefinite": append([]byte{0x30, 0x80}, append(bytes.Clone(sig[2:]), 0, 0)...),
			"three numbers": append(append([]byte{0x30, sig[1] + 3}, sig[2:]...), 2, 1, 1), "raw": append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...),
		} {
			if same(t, v, name, digest[:], bad) {
				t.Errorf("%s: verifies", name)
			}
		}
	}
}

// TestVerifierReducesX verifies a signature whose point has an x-coordinate
// beyond the group's order, of which there is one in 2^32: r is x less the order.
// With both multipliers 1 the key is that point less the generator.
func TestVerifierReducesX(t *testing.T) {
	var point *nistec.P256Point
	r := new(big.Int)
	for point == nil {
		r.Add(r, big.NewInt(1))
		x := new(big.Int).Add(p256Order, r)
		point, _ = nistec.NewP256Point().SetBytes(append([]byte{2}, x.FillBytes(make([]byte, 32))...))
	}
	minusOne, err := nistec.NewP256Point().ScalarBaseMult(new(big.Int).Sub(p256Order, big.NewInt(1)).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point.Add(point, minusOne).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !same(t, warm(t, pub), "x beyond the order", r.FillBytes(make([]byte, 32)), encodeSignature(r, r)) {
		t.Fatal("a good signature is refused")
	}
}

// TestVerifierKinds lets every kind of key verify, cold and in use by many at
// once, and refuses another key's signature.
func TestVerifierKinds(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	for _, key := range []crypto.Signer{p256Key(t, big.NewInt(77)), p384, rsaKey, ed} {
		opts := crypto.SignerOpts(crypto.SHA256)
		if _, ok := key.(ed25519.PrivateKey); ok {
			opts = crypto.Hash(0)
		}
		sig, err := key.Sign(rand.Reader, digest[:], opts)
		if err != nil {
			t.Fatal(err)
		}
		v := NewVerifier(key.Public())
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range tableAfter {
					if !v.Verify(digest[:], sig, opts) || v.Verify(digest[:], sig[1:], opts) {
						t.Errorf("%T: a good signature is refused, or a bad one verifies", key)
						return
					}
				}
			})
		}
		wg.Wait()
		if (v.multiples.Load() != nil) != (v.p256 != nil) {
			t.Errorf("%T: multiples after %d verifications: %v", key, v.Count(), v.multiples.Load() != nil)
		}
		if NewVerifier(p256Key(t, big.NewInt(78)).Public()).Verify(digest[:], sig, crypto.SHA256) {
			t.Errorf("%T: verifies under another key", key)
		}
	}
	// SHA-384 of a P-256 key goes the usual way.
	k := p256Key(t, big.NewInt(79))
	long := bytes.Repeat([]byte{7}, 48)
	sig, err := ecdsa.SignASN1(rand.Reader, k, long)
	if err != nil || !warm(t, &k.PublicKey).Verify(long, sig, crypto.SHA384) {
		t.Errorf("a digest of 48 octets: %v", err)
	}
}

// TestVerifierInFIPSMode: the equation is not part of the module.
func TestVerifierInFIPSMode(t *testing.T) {
	if v := NewVerifier(p256Key(t, big.NewInt(80)).Public()); (v.p256 == nil) != fips140.Enabled() {
		t.Errorf("FIPS 140-3 module in use: %v; own equation in use: %v", fips140.Enabled(), v.p256 != nil)
	}
}

// FuzzVerifier holds every verdict to crypto/ecdsa's.
func FuzzVerifier(f *testing.F) {
	k := p256Key(f, big.NewInt(5))
	digest := sha256.Sum256([]byte("x"))
	sig, err := ecdsa.SignASN1(rand.Reader, k, digest[:])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(digest[:], sig)
	f.Add(make([]byte, 32), encodeSignature(big.NewInt(1), big.NewInt(1)))
	v := warm(f, &k.PublicKey)
	f.Fuzz(func(t *testing.T, digest, sig []byte) {
		if len(digest) != 32 {
			d := sha256.Sum256(digest)
			digest = d[:]
		}
		same(t, v, "fuzzed", digest, sig)
		// A signature made of the fuzzed octets, so that good ones are met too.
		if good, err := ecdsa.SignASN1(rand.Reader, k, digest); err != nil || !same(t, v, "signed", digest, good) {
			t.Fatalf("a good signature is refused (%v)", err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	k := p256Key(b, new(big.Int).SetBytes(bytes.Repeat([]byte{0x5a}, 32)))
	digest := sha256.Sum256([]byte("x"))
	sig, err := ecdsa.SignASN1(rand.Reader, k, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	v := warm(b, &k.PublicKey)
	b.Run("crypto/ecdsa", func(b *testing.B) {
		for b.Loop() {
			ecdsa.VerifyASN1(&k.PublicKey, digest[:], sig)
		}
	})
	b.Run("multiples", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !v.Verify(digest[:], sig, crypto.SHA256) {
				b.Fatal("refused")
			}
		}
	})
	b.Run("making multiples", func(b *testing.B) {
		for b.Loop() {
			pointMultiples(&k.PublicKey)
		}
	})
}
