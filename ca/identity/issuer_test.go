package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/sigstore/fulcio/pkg/config"

	"redoubt.internal/ca/identity"
)

// TestIssuerMints: a token of either kind of key is read back by the verifier that pins the issuer's keys, and one of an RSA key has
// the form cosign takes on its command line.
func TestIssuerMints(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		key  crypto.Signer
		alg  jose.SignatureAlgorithm
	}{{"rsa", small, jose.RS256}, {"p256", curve, jose.ES256}} {
		t.Run(test.name, func(t *testing.T) {
			issuer, err := identity.NewIssuer(identity.IssuerConfig{URL: "https://oidc.corp.example", Signer: test.key, Now: func() time.Time { return testNow }})
			if err != nil {
				t.Fatal(err)
			}
			token, err := issuer.Mint(identity.Claims{Email: "dev@corp.example"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{test.alg}); err != nil {
				t.Errorf("not a %s token: %v", test.alg, err)
			}
			c := testConfig(t)
			c.OIDCIssuers[issuer.URL()] = identity.IssuerRules{OIDCIssuer: config.OIDCIssuer{ClientID: "sigstore", Type: "email"}, JWKS: identity.JWKS{Inline: issuer.JWKS()}}
			if _, err := newVerifier(t, c).Verify(t.Context(), token); err != nil {
				t.Errorf("reading the token back: %v", err)
			}
		})
	}
}

func TestIssuerRefusesKeys(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wide, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{edwards, wide, nil} {
		if _, err := identity.NewIssuer(identity.IssuerConfig{URL: "https://oidc.corp.example", Signer: key}); err == nil {
			t.Errorf("a key of type %T was taken", key)
		}
	}
}
