// Package hsmtest is the conformance test of hsm.Token. Every kind of token
// runs it against the real thing; a kind that passes can stand behind any key
// URI of the product.
//
// It guarantees, of a token that passes: keys are made once and found again,
// never replaced and never guessed between; every signature of every algorithm
// and hash is the key's, over the digest given, also from many goroutines at
// once; weak hashes and digests of a wrong length never reach the token; no
// secret shows in a description or an error; an ended context and a closed token
// are hsm.ErrUnavailable.
//
// # A module of your own
//
// The maker or the owner of a PKCS#11 module runs it against a token like this
// (the token must be initialized; keys called redoubt-conformance-* are made in
// it and removed again):
//
//	REDOUBT_TEST_PKCS11_MODULE=/opt/vendor/lib/libvendor.so \
//	REDOUBT_TEST_PKCS11_TOKEN=label \
//	REDOUBT_TEST_PKCS11_PIN_FILE=/path/to/pin \
//	go test -count=1 -v -run '^TestModule$' ./hsm/pkcs11
//
// The PIN file holds one line and has mode 0600. Further variables:
// REDOUBT_TEST_PKCS11_SERIAL where two tokens have one label,
// REDOUBT_TEST_PKCS11_PARAMETERS for modules that take parameters at
// C_Initialize, REDOUBT_TEST_PKCS11_ALLOW_IMPORTED=1 for tokens that do not say
// CKA_LOCAL of keys they made, and whatever the module itself wants (its
// configuration file). The algorithms tested are those the token lists
// (C_GetMechanismList, C_GetMechanismInfo); the first lines printed name them.
// Without the first variable the test runs on SoftHSM.
//
// A kind of token that is no PKCS#11 module implements hsm.Token and calls Run.
package hsmtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// Kind describes the token kind under test.
type Kind struct {
	// Open opens the token under test. Each call within one Run opens the same
	// storage, so that a key made through one is found through the next. The
	// caller closes what it opened.
	Open func(t testing.TB) hsm.Token
	// URI returns the key URI for a name of letters, digits and dashes. It must
	// hold no secret that Info may not show, unless Secret names it.
	URI func(name string) string
	// Secret, when set, must appear nowhere in Info or in any error.
	Secret string
	// Algorithms the token can do; nil means all of hsm.Algorithms.
	Algorithms []hsm.Algorithm
	// Ambiguous, when set, prepares two keys that one URI matches and returns it.
	Ambiguous func(t testing.TB) string
}

// Run runs every conformance test as a subtest.
func Run(t *testing.T, k Kind) {
	if k.Algorithms == nil {
		k.Algorithms = hsm.Algorithms()
	}
	t.Run("Algorithms", k.algorithms)
	t.Run("Reopen", k.reopen)
	t.Run("Exists", k.exists)
	t.Run("NotFound", k.notFound)
	t.Run("WrongURI", k.wrongURI)
	t.Run("Unsupported", k.unsupported)
	t.Run("Digest", k.digest)
	t.Run("Certificate", k.certificate)
	t.Run("Concurrent", k.concurrent)
	t.Run("GenerateRace", k.generateRace)
	t.Run("Context", k.context)
	t.Run("Close", k.close)
	if k.Ambiguous != nil {
		t.Run("Ambiguous", k.ambiguous)
	}
}

// open opens the token and closes it at the end of the test.
func (k Kind) open(t *testing.T) hsm.Token {
	tok := k.Open(t)
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Errorf("closing token: %v", err)
		}
	})
	return tok
}

// generate makes a key or ends the test.
func (k Kind) generate(t *testing.T, tok hsm.Token, name string, alg hsm.Algorithm) *hsm.Key {
	t.Helper()
	key, err := tok.Generate(t.Context(), k.URI(name), alg)
	if err != nil {
		t.Fatalf("generating %s: %v", alg, err)
	}
	return key
}

// failsWith checks an error and that it shows no secret.
func (k Kind) failsWith(t *testing.T, err, want error, what string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
	if err != nil && k.Secret != "" && strings.Contains(err.Error(), k.Secret) {
		t.Errorf("%s: the error shows the secret", what)
	}
}

// verify checks a signature with the standard library alone.
func verify(pub crypto.PublicKey, digest, sig []byte, opts crypto.SignerOpts) error {
	ok := false
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(pub, digest, sig)
	case ed25519.PublicKey:
		ok = ed25519.Verify(pub, digest, sig)
	case *rsa.PublicKey:
		if o, pss := opts.(*rsa.PSSOptions); pss {
			return rsa.VerifyPSS(pub, o.Hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.VerifyPKCS1v15(pub, opts.HashFunc(), digest, sig)
	}
	if !ok {
		return errors.New("signature does not verify")
	}
	return nil
}

// Every algorithm: generate, describe, sign with each hash, verify outside.
func (k Kind) algorithms(t *testing.T) {
	tok := k.open(t)
	d256, d384, d512 := sha256.Sum256([]byte("m")), sha512.Sum384([]byte("m")), sha512.Sum512([]byte("m"))
	for _, alg := range k.Algorithms {
		key := k.generate(t, tok, "alg-"+string(alg), alg)
		if got, err := hsm.AlgorithmOf(key.Public()); err != nil || got != alg {
			t.Errorf("%s: public key is %s, %v", alg, got, err)
		}
		info := key.Info()
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if info.Algorithm != alg || info.Kind == "" || info.URI == "" || info.Fingerprint != fmt.Sprintf("%x", sha256.Sum256(spki)) {
			t.Errorf("%s: incomplete info %+v", alg, info)
		}
		if len(info.Evidence) == 0 || len(info.Attributes) == 0 {
			t.Errorf("%s: info without evidence or attributes", alg)
		}
		if b, err := json.Marshal(info); err != nil || k.Secret != "" && bytes.Contains(b, []byte(k.Secret)) {
			t.Errorf("%s: info shows the secret, or %v", alg, err)
		}
		if err := key.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		type try struct {
			digest []byte
			opts   crypto.SignerOpts
		}
		tries := []try{{d256[:], crypto.SHA256}, {d384[:], crypto.SHA384}, {d512[:], crypto.SHA512}}
		switch alg {
		case hsm.Ed25519:
			tries = []try{{[]byte("a message of any length"), crypto.Hash(0)}, {nil, &ed25519.Options{}}}
		case hsm.RSA3072, hsm.RSA4096:
			for _, c := range tries {
				tries = append(tries, try{c.digest, &rsa.PSSOptions{Hash: c.opts.HashFunc(), SaltLength: rsa.PSSSaltLengthEqualsHash}})
			}
			tries = append(tries, try{d256[:], &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: rsa.PSSSaltLengthAuto}})
		}
		for i, c := range tries {
			sig, err := key.Sign(rand.Reader, c.digest, c.opts)
			if err != nil {
				t.Errorf("%s, case %d: %v", alg, i, err)
				continue
			}
			if err := verify(key.Public(), c.digest, sig, c.opts); err != nil {
				t.Errorf("%s, case %d: %v", alg, i, err)
			}
			if _, err := key.Unverified().Sign(rand.Reader, c.digest, c.opts); err != nil {
				t.Errorf("%s, case %d, unverified: %v", alg, i, err)
			}
		}
	}
}

// A key outlives the token value that made it.
func (k Kind) reopen(t *testing.T) {
	first := k.Open(t)
	made := k.generate(t, first, "reopen", k.usual())
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	found, err := k.open(t).Signer(t.Context(), k.URI("reopen"))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := made.Info().Fingerprint, found.Info().Fingerprint; a != b {
		t.Errorf("made %s, found %s", a, b)
	}
	if err := found.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// Generate never replaces a key.
func (k Kind) exists(t *testing.T) {
	tok, alg := k.open(t), k.usual()
	made := k.generate(t, tok, "exists", alg)
	_, err := tok.Generate(t.Context(), k.URI("exists"), alg)
	k.failsWith(t, err, hsm.ErrExists, "second Generate")
	still, err := tok.Signer(t.Context(), k.URI("exists"))
	if err != nil {
		t.Fatal(err)
	}
	if made.Info().Fingerprint != still.Info().Fingerprint {
		t.Error("a refused Generate changed the key")
	}
}

// A key that is not there is ErrNotFound, and looking does not make it.
func (k Kind) notFound(t *testing.T) {
	tok := k.open(t)
	for range 2 {
		_, err := tok.Signer(t.Context(), k.URI("absent"))
		k.failsWith(t, err, hsm.ErrNotFound, "Signer of an absent key")
	}
}

// URIs of other kinds and malformed ones are refused by both methods.
func (k Kind) wrongURI(t *testing.T) {
	tok := k.open(t)
	for _, uri := range []string{"", "x", "file:///etc/passwd", "tpm:0x81010001", "hashivault://name", k.URI("a")[:3], "\x00", strings.Repeat("a", 1<<16)} {
		if _, err := tok.Signer(t.Context(), uri); err == nil {
			t.Errorf("Signer took %q", uri)
		}
		if _, err := tok.Generate(t.Context(), uri, hsm.ECDSAP256); err == nil {
			t.Errorf("Generate took %q", uri)
		}
	}
}

// Algorithms outside the list are refused before anything is made.
func (k Kind) unsupported(t *testing.T) {
	tok := k.open(t)
	for _, alg := range []hsm.Algorithm{"", "rsa-1024", "ecdsa-p224", "ECDSA-P256"} {
		_, err := tok.Generate(t.Context(), k.URI("unsupported"), alg)
		k.failsWith(t, err, hsm.ErrUnsupported, fmt.Sprintf("Generate(%q)", alg))
	}
	_, err := tok.Signer(t.Context(), k.URI("unsupported"))
	k.failsWith(t, err, hsm.ErrNotFound, "Signer after refused Generate")
}

// Digests of a wrong length or a weak hash never reach the token.
func (k Kind) digest(t *testing.T) {
	alg := k.usual()
	key := k.generate(t, k.open(t), "digest", alg)
	sum := sha256.Sum256([]byte("m"))
	weak := sum[:crypto.SHA1.Size()]
	for name, c := range map[string]struct {
		digest []byte
		opts   crypto.SignerOpts
	}{
		"five octets":         {[]byte("12345"), crypto.SHA256},
		"one octet short":     {sum[:31], crypto.SHA256},
		"one octet long":      {append(sum[:len(sum):len(sum)], 0), crypto.SHA256},
		"named another hash":  {sum[:], crypto.SHA384},
		"empty":               {nil, crypto.SHA256},
		"no hash named":       {sum[:], crypto.Hash(0)},
		"no options":          {sum[:], nil},
		"SHA-1":               {weak, crypto.SHA1},
		"MD5 with SHA-1":      {make([]byte, 36), crypto.MD5SHA1},
		"PSS with other salt": {sum[:], &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: 7}},
	} {
		if sig, err := key.Sign(rand.Reader, c.digest, c.opts); err == nil {
			t.Errorf("%s: signed (%d octets)", name, len(sig))
		}
	}
}

// x509 accepts the key as an authority, the use that matters most.
func (k Kind) certificate(t *testing.T) {
	key := k.generate(t, k.open(t), "certificate", k.usual())
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "conformance"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<31, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	for _, signer := range []crypto.Signer{key, key.Unverified()} {
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.CheckSignatureFrom(cert); err != nil {
			t.Error(err)
		}
	}
}

// Many goroutines sign with several keys of one token, and each signature is
// of its own digest: a mixed-up session would show here.
func (k Kind) concurrent(t *testing.T) {
	tok, alg := k.open(t), k.usual()
	keys := []*hsm.Key{k.generate(t, tok, "concurrent-a", alg), k.generate(t, tok, "concurrent-b", alg)}
	var wg sync.WaitGroup
	for g := range 24 {
		wg.Go(func() {
			for i := range 8 {
				key := keys[(g+i)%len(keys)]
				sum := sha256.Sum256(fmt.Appendf(nil, "%d/%d", g, i))
				sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
				if err == nil {
					err = verify(key.Public(), sum[:], sig, crypto.SHA256)
				}
				if err != nil {
					t.Errorf("goroutine %d: %v", g, err)
					return
				}
			}
		})
	}
	for g := range 4 { // look-ups beside signatures
		wg.Go(func() {
			if _, err := tok.Signer(t.Context(), k.URI([]string{"concurrent-a", "concurrent-b"}[g%2])); err != nil {
				t.Errorf("look-up: %v", err)
			}
		})
	}
	wg.Wait()
}

// Of several that generate one name at once, exactly one makes the key.
func (k Kind) generateRace(t *testing.T) {
	tok, alg := k.open(t), k.usual()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var made []*hsm.Key
	for range 4 {
		wg.Go(func() {
			key, err := tok.Generate(t.Context(), k.URI("race"), alg)
			if err != nil {
				k.failsWith(t, err, hsm.ErrExists, "losing Generate")
				return
			}
			mu.Lock()
			made = append(made, key)
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(made) != 1 {
		t.Fatalf("%d callers made the key", len(made))
	}
	found, err := tok.Signer(t.Context(), k.URI("race"))
	if err != nil {
		t.Fatal(err)
	}
	if found.Info().Fingerprint != made[0].Info().Fingerprint {
		t.Error("found another key than was made")
	}
}

// An ended context ends the call with ErrUnavailable and makes nothing.
func (k Kind) context(t *testing.T) {
	tok, alg := k.open(t), k.usual()
	key := k.generate(t, tok, "context", alg)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	sum := sha256.Sum256([]byte("m"))
	_, err := key.SignContext(ctx, sum[:], crypto.SHA256)
	k.failsWith(t, err, hsm.ErrUnavailable, "SignContext")
	_, err = tok.Generate(ctx, k.URI("context-never"), alg)
	k.failsWith(t, err, hsm.ErrUnavailable, "Generate")
	_, err = tok.Signer(t.Context(), k.URI("context-never"))
	k.failsWith(t, err, hsm.ErrNotFound, "Signer after an ended Generate")
}

// After Close, nothing signs, and Close again is harmless.
func (k Kind) close(t *testing.T) {
	tok, alg := k.Open(t), k.usual()
	key := k.generate(t, tok, "close", alg)
	for range 2 {
		if err := tok.Close(); err != nil {
			t.Fatal(err)
		}
	}
	k.failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable, "Check")
	_, err := tok.Signer(t.Context(), k.URI("close"))
	k.failsWith(t, err, hsm.ErrUnavailable, "Signer")
	_, err = tok.Generate(t.Context(), k.URI("close-new"), alg)
	k.failsWith(t, err, hsm.ErrUnavailable, "Generate")
}

// A URI that matches two keys is refused, never guessed.
func (k Kind) ambiguous(t *testing.T) {
	uri := k.Ambiguous(t)
	_, err := k.open(t).Signer(t.Context(), uri)
	k.failsWith(t, err, hsm.ErrAmbiguous, "Signer")
}

// usual is the algorithm of the tests that need just one, over SHA-256.
func (k Kind) usual() hsm.Algorithm {
	if slices.Contains(k.Algorithms, hsm.ECDSAP256) {
		return hsm.ECDSAP256
	}
	return k.Algorithms[0]
}
