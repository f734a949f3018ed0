package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"math/big"
	"sync"
	"sync/atomic"

	"filippo.io/nistec"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Verifier verifies the signatures that one of our own keys makes, of which
// there are many: each is verified before it is used, and with a software key
// verifying costs twice what signing does. It is safe for concurrent use.
//
// For a P-256 key it remembers multiples of the public point, so that a
// verification takes 43 % of crypto/ecdsa's time. The curve's arithmetic is
// filippo.io/nistec, the package of crypto/ecdsa itself published by its author;
// the equation around it is here, and tests hold its verdict to crypto/ecdsa's.
// Nobody else's signature is judged by it: tokens, proofs of possession, log
// entries and parcels go through crypto/ecdsa. So does every other kind of key,
// and everything while the FIPS 140-3 module is in use (GODEBUG=fips140).
type Verifier struct {
	pub  crypto.PublicKey
	p256 *ecdsa.PublicKey // nil: crypto/ecdsa and the others do it all

	count atomic.Int64 // verifications so far
	table sync.Mutex   // held while multiples are made
	// multiples of the public point, nil until there was use for them.
	multiples atomic.Pointer[[32][256]nistec.P256Point]
}

// tableAfter is how many verifications a key makes the usual way before its
// multiples are made, which takes as long as a hundred of them and 800 KB.
const tableAfter = 100

// NewVerifier returns a Verifier of pub, a key of any supported type.
func NewVerifier(pub crypto.PublicKey) *Verifier {
	v := &Verifier{pub: pub}
	if k, ok := pub.(*ecdsa.PublicKey); ok && k.Curve == elliptic.P256() && !fips140.Enabled() {
		v.p256 = k
	}
	return v
}

// Verify reports whether sig is the key's signature of digest, as crypto.Signer
// makes them under opts: see Key.Sign.
func (v *Verifier) Verify(digest, sig []byte, opts crypto.SignerOpts) bool {
	n := v.count.Add(1)
	if v.p256 == nil || len(digest) != 32 {
		return verify(v.pub, digest, sig, opts)
	}
	multiples := v.multiples.Load()
	if multiples == nil {
		if n <= tableAfter || !v.table.TryLock() { // one makes them, the others go on meanwhile
			return verify(v.pub, digest, sig, opts)
		}
		defer v.table.Unlock()
		if multiples = v.multiples.Load(); multiples == nil {
			if multiples = pointMultiples(v.p256); multiples == nil {
				return verify(v.pub, digest, sig, opts)
			}
			v.multiples.Store(multiples)
		}
	}
	return verifyP256(multiples, digest, sig)
}

// Count is how many verifications there were.
func (v *Verifier) Count() int64 { return v.count.Load() }

// pointMultiples returns n * 2^(8*(31-i)) * Q at [i][n], so that the octets of a
// big-endian number pick the points whose sum is the number times Q. It returns
// nil for a point that is not on the curve.
func pointMultiples(pub *ecdsa.PublicKey) *[32][256]nistec.P256Point {
	raw, err := pub.Bytes()
	if err != nil {
		return nil
	}
	q, err := nistec.NewP256Point().SetBytes(raw)
	if err != nil {
		return nil
	}
	all := new([32][256]nistec.P256Point)
	for i := 31; i >= 0; i-- {
		all[i][0].Set(nistec.NewP256Point()) // the point at infinity
		for n := 1; n < 256; n++ {
			all[i][n].Add(&all[i][n-1], q)
		}
		q = nistec.NewP256Point().Add(&all[i][255], q)
	}
	return all
}

var p256Order = elliptic.P256().Params().N

// verifyP256 is the verification of FIPS 186-5, 6.4.2: with w = 1/s, the point
// (digest*w)*G + (r*w)*Q has the x-coordinate r, modulo the group's order.
func verifyP256(multiples *[32][256]nistec.P256Point, digest, sig []byte) bool {
	in := cryptobyte.String(sig)
	var pair cryptobyte.String
	var r, s big.Int
	if !in.ReadASN1(&pair, cbasn1.SEQUENCE) || !in.Empty() || !pair.ReadASN1Integer(&r) || !pair.ReadASN1Integer(&s) || !pair.Empty() {
		return false
	}
	if r.Sign() <= 0 || s.Sign() <= 0 || r.Cmp(p256Order) >= 0 || s.Cmp(p256Order) >= 0 {
		return false
	}
	w := s.ModInverse(&s, p256Order)
	u1 := new(big.Int).SetBytes(digest)
	u1.Mul(u1, w).Mod(u1, p256Order)
	u2 := new(big.Int).Mul(&r, w)
	u2.Mod(u2, p256Order)
	var octets [32]byte
	sum, err := nistec.NewP256Point().ScalarBaseMult(u1.FillBytes(octets[:]))
	if err != nil {
		return false
	}
	for i, n := range u2.FillBytes(octets[:]) {
		if n != 0 {
			sum.Add(sum, &multiples[i][n])
		}
	}
	x, err := sum.BytesX() // fails at infinity, which has no coordinates
	if err != nil {
		return false
	}
	got := new(big.Int).SetBytes(x)
	return got.Mod(got, p256Order).Cmp(&r) == 0
}
