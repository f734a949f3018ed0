package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"
)

// TestSignedAsJose holds the check of a signature to go-jose's: what it signs
// under each algorithm verifies here and there, under that algorithm and that
// key alone, and no changed, longer or shorter signature does in either.
func TestSignedAsJose(t *testing.T) {
	ec := func(c elliptic.Curve) crypto.Signer {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, p384, p521 := ec(elliptic.P256()), ec(elliptic.P384()), ec(elliptic.P521())
	keys := map[string]crypto.Signer{"ES256": p256, "ES384": p384, "ES512": p521, "EdDSA": ed}
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"} {
		keys[alg] = rsaKey
	}
	if len(keys) != len(defaultAlgorithms) {
		t.Fatal("an algorithm is missing here")
	}
	for alg, key := range keys {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		jws, err := signer.Sign([]byte(`{"iss":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		input := raw[:strings.LastIndexByte(raw, '.')]
		sig := jws.Signatures[0].Signature
		theirs := func(sig []byte) bool {
			parsed, err := jose.ParseSignedCompact(input+"."+base64.RawURLEncoding.EncodeToString(sig), []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
			if err != nil {
				return false
			}
			_, err = parsed.Verify(key.Public())
			return err == nil
		}
		if !signed(key.Public(), alg, input, sig) || !theirs(sig) {
			t.Fatalf("%s: a good signature is refused", alg)
		}
		bad := map[string][]byte{"none": {}, "longer": append(slices.Clone(sig), 0), "shorter": sig[:len(sig)-1], "with a zero before": append([]byte{0}, sig...), "zero": make([]byte, len(sig))}
		for i := range sig {
			one := slices.Clone(sig)
			one[i] ^= 1
			bad[fmt.Sprint("octet ", i)] = one
		}
		for name, sig := range bad {
			if ours := signed(key.Public(), alg, input, sig); ours || theirs(sig) {
				t.Errorf("%s: signature changed (%s): %v, go-jose %v", alg, name, ours, theirs(sig))
			}
		}
		if signed(key.Public(), alg, input+"A", sig) {
			t.Errorf("%s: verifies over something else", alg)
		}
		for other, k := range keys {
			if other != alg && (signed(k.Public(), alg, input, sig) && k != key || signed(key.Public(), other, input, sig)) {
				t.Errorf("%s verifies as %s", alg, other)
			}
		}
	}
	for _, alg := range []string{"", "none", "HS256", "ES", "S256", "SS256", "RS1", "es256", "ES2560"} {
		if signed(rsaKey.Public(), alg, "x", make([]byte, 256)) || signed(p256.Public(), alg, "x", make([]byte, 64)) {
			t.Errorf("%q: verifies", alg)
		}
	}
}
