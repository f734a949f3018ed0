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

// TestIssuerFormerKeys: through an overlap tokens of the former key are read beside those of the new one, afterwards no more.
func TestIssuerFormerKeys(t *testing.T) {
	now := func() time.Time { return testNow }
	keys := make([]*ecdsa.PrivateKey, 2)
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	mint := func(c identity.IssuerConfig) (*identity.Issuer, string) {
		c.URL, c.Now = "https://oidc.corp.example", now
		issuer, err := identity.NewIssuer(c)
		if err != nil {
			t.Fatal(err)
		}
		token, err := issuer.Mint(identity.Claims{Email: "dev@corp.example"})
		if err != nil {
			t.Fatal(err)
		}
		return issuer, token
	}
	_, old := mint(identity.IssuerConfig{Signer: keys[0]})
	overlap, fresh := mint(identity.IssuerConfig{Signer: keys[1], Former: []crypto.PublicKey{keys[0].Public()}})
	after, _ := mint(identity.IssuerConfig{Signer: keys[1]})
	for _, test := range []struct {
		issuer   *identity.Issuer
		old, new bool
	}{{overlap, true, true}, {after, false, true}} {
		c := testConfig(t)
		c.OIDCIssuers[test.issuer.URL()] = identity.IssuerRules{OIDCIssuer: config.OIDCIssuer{ClientID: "sigstore", Type: "email"}, JWKS: identity.JWKS{Inline: test.issuer.JWKS()}}
		v := newVerifier(t, c)
		if _, err := v.Verify(t.Context(), old); (err == nil) != test.old {
			t.Errorf("token of the former key: %v, want it taken: %v", err, test.old)
		}
		if _, err := v.Verify(t.Context(), fresh); (err == nil) != test.new {
			t.Errorf("token of the new key: %v, want it taken: %v", err, test.new)
		}
	}
}
