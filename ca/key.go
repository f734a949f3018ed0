package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
)

// maxKeyText bounds a public key, a proof or a CSR in bytes. The largest honest
// one, a CSR of a 4096-bit key in PEM with a few extensions, is under 4 KiB.
const maxKeyText = 16 << 10

// provenKey returns the public key of a request after its owner proved to hold
// the private half: by a signature over name, or by a CSR's own signature.
func provenKey(r Request, name string) (crypto.PublicKey, error) {
	switch {
	case len(r.CSR) > 0 && (len(r.PublicKey) > 0 || len(r.Proof) > 0):
		return nil, fmt.Errorf("%w: give a public key with a proof, or a signing request, not both", ErrRequest)
	case len(r.CSR) > 0:
		return csrKey(r.CSR)
	}
	pub, err := parseKey(r.PublicKey)
	if err != nil {
		return nil, err
	}
	return pub, checkProof(pub, []byte(name), r.Proof)
}

// parseKey reads a SubjectPublicKeyInfo and applies the key policy.
func parseKey(text []byte) (crypto.PublicKey, error) {
	if len(text) == 0 {
		return nil, fmt.Errorf("%w: no public key and no signing request", ErrRequest)
	}
	der, kind, err := decodePEM(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	var pub crypto.PublicKey
	switch kind {
	case "", "PUBLIC KEY":
		pub, err = x509.ParsePKIXPublicKey(der)
	case "RSA PUBLIC KEY":
		pub, err = x509.ParsePKCS1PublicKey(der)
	default:
		return nil, fmt.Errorf("%w: PEM block is a %.40q", ErrKey, kind)
	}
	if err != nil { // also an EC point that is not on its curve
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return pub, checkKey(pub)
}

// csrSignatures are the algorithms a CSR may be signed with (Fulcio
// pkg/server/grpc_server.go).
var csrSignatures = []x509.SignatureAlgorithm{
	x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512,
	x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.PureEd25519,
}

// csrKey reads a CSR, applies the key policy and verifies the CSR's signature.
func csrKey(text []byte) (crypto.PublicKey, error) {
	der, kind, err := decodePEM(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	if !slices.Contains([]string{"", "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"}, kind) {
		return nil, fmt.Errorf("%w: PEM block is a %.40q", ErrCSR, kind)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if !slices.Contains(csrSignatures, csr.SignatureAlgorithm) {
		return nil, fmt.Errorf("%w: signature algorithm %s", ErrCSR, csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	return csr.PublicKey, nil
}

// decodePEM returns the content of the one PEM block of text and its type, or
// text itself and "" when it is DER.
func decodePEM(text []byte) (der []byte, kind string, err error) {
	if len(text) > maxKeyText {
		return nil, "", fmt.Errorf("%d bytes, limit %d", len(text), maxKeyText)
	}
	trimmed := bytes.TrimSpace(text)
	if !bytes.HasPrefix(trimmed, []byte("-----BEGIN")) {
		return text, "", nil
	}
	block, rest := pem.Decode(trimmed)
	if block == nil {
		return nil, "", errors.New("malformed PEM")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, "", errors.New("something follows the PEM block")
	}
	return block.Bytes, block.Type, nil
}

// checkProof verifies sig by pub over msg, with the hash that belongs to the
// key (sigstore/pkg/signature, default algorithms).
func checkProof(pub crypto.PublicKey, msg, sig []byte) error {
	if len(sig) == 0 || len(sig) > maxKeyText {
		return fmt.Errorf("%w: proof of %d bytes", ErrProof, len(sig))
	}
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		var digest []byte
		switch k.Curve {
		case elliptic.P256():
			d := sha256.Sum256(msg)
			digest = d[:]
		case elliptic.P384():
			d := sha512.Sum384(msg)
			digest = d[:]
		default:
			d := sha512.Sum512(msg)
			digest = d[:]
		}
		ok = ecdsa.VerifyASN1(k, digest, sig)
	case *rsa.PublicKey:
		d := sha256.Sum256(msg)
		ok = rsa.VerifyPKCS1v15(k, crypto.SHA256, d[:], sig) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, msg, sig)
	}
	if !ok {
		return fmt.Errorf("%w: the signature over the token's identity is not by this key", ErrProof)
	}
	return nil
}

// checkKey is the key policy: ECDSA on P-256, P-384 or P-521, Ed25519, RSA of
// 2048 to 4096 bits without known weaknesses.
func checkKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return fmt.Errorf("%w: curve %s", ErrKey, k.Curve.Params().Name)
		}
		if _, err := k.ECDH(); err != nil { // refuses a point off the curve or at infinity
			return fmt.Errorf("%w: the point is not on the curve", ErrKey)
		}
		return nil
	case ed25519.PublicKey:
		return checkEd25519(k)
	case *rsa.PublicKey:
		if err := checkRSA(k); err != nil {
			return fmt.Errorf("%w: %w", ErrKey, err)
		}
		return nil
	}
	return fmt.Errorf("%w: type %T", ErrKey, pub)
}

// checkEd25519 refuses the points of small order: any signature verifies under
// some of them (RFC 8032 leaves them out of no check). They are those whose y
// is 0, 1, -1 or one of the two of order eight, with either sign bit.
func checkEd25519(k ed25519.PublicKey) error {
	if len(k) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: Ed25519 key of %d bytes", ErrKey, len(k))
	}
	y := bytes.Clone(k)
	y[31] &= 0x7f
	for _, small := range smallOrder {
		if bytes.Equal(y, small[:]) {
			return fmt.Errorf("%w: Ed25519 point of small order", ErrKey)
		}
	}
	return nil
}

// smallOrder holds the y coordinates, little-endian, of the points of order 1,
// 2, 4 and 8 of edwards25519, canonical and not.
var smallOrder = [][32]byte{
	{},
	{1},
	{0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
	{0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a},
	primeMinus(1), primeMinus(0), primeMinus(-1),
}

// primeMinus is 2^255-19-n, little-endian.
func primeMinus(n int64) (out [32]byte) {
	p := new(big.Int).Lsh(big.NewInt(1), 255)
	p.Sub(p, big.NewInt(19+n)).FillBytes(out[:])
	slices.Reverse(out[:])
	return out
}

// checkRSA refuses sizes outside 2048 to 4096 bits, exponents other than odd
// ones of at least 65537, and moduli that are easily factored: small factors,
// close primes (Fermat) and the ROCA structure (CVE-2017-15361).
func checkRSA(k *rsa.PublicKey) error {
	if n := k.N.BitLen(); n < 2048 || n > 4096 || n%8 != 0 {
		return fmt.Errorf("RSA key of %d bits", n)
	}
	if k.E < 65537 || k.E%2 == 0 {
		return fmt.Errorf("RSA exponent %d", k.E)
	}
	var m big.Int
	for _, p := range smallPrimes() {
		if m.Mod(k.N, big.NewInt(p)).Sign() == 0 {
			return fmt.Errorf("RSA modulus divisible by %d", p)
		}
	}
	if roca(k.N) {
		return errors.New("RSA modulus made by a flawed generator (ROCA)")
	}
	if fermat(k.N, 100) {
		return errors.New("RSA primes too close together")
	}
	return nil
}

// smallPrimes are the odd primes below 752, and 2.
var smallPrimes = sync.OnceValue(func() []int64 { return primesBelow(752) })

func primesBelow(n int64) []int64 {
	var out []int64
	for c := int64(2); c < n; c++ {
		if big.NewInt(c).ProbablyPrime(0) {
			out = append(out, c)
		}
	}
	return out
}

// roca reports whether n is a power of 65537 modulo each of the first odd
// primes, as moduli of the flawed generator are, and others with a chance of
// about 2^-27 (Nemec et al., "The Return of Coppersmith's Attack", section 2.2).
func roca(n *big.Int) bool {
	var m big.Int
	for _, p := range smallPrimes()[1:39] {
		r := m.Mod(n, big.NewInt(p)).Int64()
		power, found := int64(1), false
		for range p {
			if power == r {
				found = true
				break
			}
			power = power * 65537 % p
		}
		if !found {
			return false
		}
	}
	return true
}

// fermat reports whether n has two factors so close that rounds steps of
// Fermat's method find them.
func fermat(n *big.Int, rounds int) bool {
	a := new(big.Int).Sqrt(n)
	one := big.NewInt(1)
	if new(big.Int).Mul(a, a).Cmp(n) == 0 {
		return true
	}
	a.Add(a, one)
	b2, b := new(big.Int), new(big.Int)
	for range rounds {
		b2.Mul(a, a)
		b2.Sub(b2, n)
		if b.Sqrt(b2); new(big.Int).Mul(b, b).Cmp(b2) == 0 {
			return true
		}
		a.Add(a, one)
	}
	return false
}
