package hsm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// DefaultTimeout bounds one signature made through crypto.Signer, which carries
// no context. A network HSM answers in milliseconds; half a minute is a fault.
const DefaultTimeout = 30 * time.Second

// Key is a private key inside a token, usable as a crypto.Signer. It is
// immutable and safe for concurrent use.
type Key struct {
	info     Info
	pub      crypto.PublicKey
	verifier *Verifier // of pub
	sign     func(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
	timeout  time.Duration
	trust    bool                                                         // hand signatures out without verifying them, see Unverified
	attest   func(ctx context.Context, nonce []byte) (Attestation, error) // nil: the token cannot
}

// NewKey builds the Key of a token kind. sign makes one raw signature in the
// encoding of crypto.Signer (ECDSA: ASN.1 DER; RSA: big-endian octets; Ed25519:
// 64 octets) and honours its context. NewKey refuses a public key of an
// unsupported type or size, or one that differs from info.Algorithm when that
// is set, and fills info.Algorithm and info.Fingerprint.
func NewKey(info Info, pub crypto.PublicKey, sign func(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)) (*Key, error) {
	alg, err := AlgorithmOf(pub)
	if err != nil {
		return nil, err
	}
	if info.Algorithm != "" && info.Algorithm != alg {
		return nil, fmt.Errorf("key is %s, expected %s: %w", alg, info.Algorithm, ErrUnsupported)
	}
	if sign == nil {
		return nil, errors.New("key without a sign function")
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	sum := sha256.Sum256(spki)
	info.Algorithm, info.Fingerprint = alg, hex.EncodeToString(sum[:])
	return &Key{info: info, pub: pub, verifier: NewVerifier(pub), sign: sign, timeout: DefaultTimeout}, nil
}

// AlgorithmOf returns the Algorithm of a public key, ErrUnsupported when it is
// none Redoubt uses.
func AlgorithmOf(pub crypto.PublicKey) (Algorithm, error) {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return ECDSAP256, nil
		case elliptic.P384():
			return ECDSAP384, nil
		}
		return "", fmt.Errorf("elliptic curve %s: %w", pub.Curve.Params().Name, ErrUnsupported)
	case *rsa.PublicKey:
		switch n := pub.N.BitLen(); n {
		case 3072:
			return RSA3072, nil
		case 4096:
			return RSA4096, nil
		default:
			return "", fmt.Errorf("RSA key of %d bits: %w", n, ErrUnsupported)
		}
	case ed25519.PublicKey:
		return Ed25519, nil
	}
	return "", fmt.Errorf("public key of type %T: %w", pub, ErrUnsupported)
}

// Public returns the public key: *ecdsa.PublicKey, *rsa.PublicKey or
// ed25519.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.pub }

// Info describes the key. The caller owns the copy.
func (k *Key) Info() Info {
	info := k.info
	info.TokenState = maps.Clone(info.TokenState)
	info.Attributes = maps.Clone(info.Attributes)
	info.Evidence = slices.Clone(info.Evidence)
	info.TokenAlgorithms = slices.Clone(info.TokenAlgorithms)
	return info
}

// Sign implements crypto.Signer. digest is the hash named by opts.HashFunc()
// (SHA-256, SHA-384 or SHA-512); for Ed25519 it is the message and HashFunc is
// zero. RSA signs PKCS#1 v1.5 unless opts is *rsa.PSSOptions. The randomness is
// the token's; the reader is ignored. The key's timeout bounds the call.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(context.Background(), digest, opts)
}

// SignContext is Sign bounded by ctx as well as by the key's timeout.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := checkOpts(k.info.Algorithm, digest, opts); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil { // nobody waits: the token, which might be quick enough, is not asked
		return nil, fmt.Errorf("signing with %s: %w: %w", k.info.URI, ErrUnavailable, err)
	}
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	sig, err := k.sign(ctx, digest, opts)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, ErrUnavailable) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return nil, fmt.Errorf("signing with %s: %w", k.info.URI, err)
	}
	if !k.trust && !k.verifier.Verify(digest, sig, opts) {
		return nil, fmt.Errorf("signing with %s: %w", k.info.URI, ErrBadSignature)
	}
	return sig, nil
}

// Verified is how many of the key's signatures were verified here so far.
func (k *Key) Verified() int64 { return k.verifier.Count() }

// WithTimeout returns the same key with another bound per signature; d <= 0
// means DefaultTimeout.
func (k *Key) WithTimeout(d time.Duration) *Key {
	c := *k
	if c.timeout = d; d <= 0 {
		c.timeout = DefaultTimeout
	}
	return &c
}

// Unverified returns the same key without the second verification. Only for
// callers that verify each signature themselves before using it, as
// x509.CreateCertificate does; everyone else uses the key itself.
func (k *Key) Unverified() *Key {
	c := *k
	c.trust = true
	return &c
}

// Check proves that the token can sign now, by signing and verifying a random
// challenge that no protocol of Redoubt could mistake for its own. Opening a
// session proves nothing: a token whose storage is gone still opens sessions.
func (k *Key) Check(ctx context.Context) error {
	challenge := make([]byte, 0, 64)
	challenge = append(challenge, "redoubt.internal/hsm key check v1\n"...)
	challenge = append(challenge, rand.Text()...)
	c := *k
	c.trust = false
	opts, digest := crypto.SignerOpts(crypto.Hash(0)), challenge
	if k.info.Algorithm != Ed25519 {
		sum := sha256.Sum256(challenge)
		opts, digest = crypto.SHA256, sum[:]
	}
	if _, err := c.SignContext(ctx, digest, opts); err != nil {
		return fmt.Errorf("checking key: %w", err)
	}
	return nil
}

// checkOpts refuses what would make a weak or an unverifiable signature before
// the token sees it: some tokens sign a digest of any length.
func checkOpts(alg Algorithm, digest []byte, opts crypto.SignerOpts) error {
	if opts == nil {
		return fmt.Errorf("signature without options: %w", ErrUnsupported)
	}
	h := opts.HashFunc()
	pss, isPSS := opts.(*rsa.PSSOptions)
	if isPSS && alg != RSA3072 && alg != RSA4096 {
		return fmt.Errorf("PSS with a key of type %s: %w", alg, ErrUnsupported)
	}
	if alg == Ed25519 {
		if h != 0 {
			return fmt.Errorf("Ed25519 over a %s digest (it signs messages): %w", h, ErrUnsupported)
		}
		if o, ok := opts.(*ed25519.Options); ok && o.Context != "" {
			return fmt.Errorf("Ed25519 with a context: %w", ErrUnsupported)
		}
		return nil
	}
	switch h {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	case 0:
		return fmt.Errorf("%s over a digest of unnamed hash: %w", alg, ErrUnsupported)
	default:
		return fmt.Errorf("%s over a %s digest: %w", alg, h, ErrUnsupported)
	}
	if len(digest) != h.Size() {
		return fmt.Errorf("digest of %d octets, %s has %d", len(digest), h, h.Size())
	}
	if isPSS && pss.SaltLength != rsa.PSSSaltLengthAuto && pss.SaltLength != rsa.PSSSaltLengthEqualsHash && pss.SaltLength != h.Size() {
		return fmt.Errorf("PSS with a salt of %d octets (only the hash length): %w", pss.SaltLength, ErrUnsupported)
	}
	return nil
}

// verify reports whether sig is pub's signature of digest under opts.
func verify(pub crypto.PublicKey, digest, sig []byte, opts crypto.SignerOpts) bool {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(pub, digest, sig)
	case *rsa.PublicKey:
		if _, ok := opts.(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(pub, opts.HashFunc(), digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(pub, opts.HashFunc(), digest, sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(pub, digest, sig)
	}
	return false
}
