package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	fulcio "github.com/sigstore/fulcio/pkg/config"

	"redoubt.internal/ca/identity"
)

// TestReloadTakesIssuers: SIGHUP's reload accepts a new issuer with pinned keys, drops it again, and keeps what runs when the file
// is wrong. No request is ever made to the issuer: it does not exist.
func TestReloadTakesIssuers(t *testing.T) {
	s := serveState(t, nil)
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const issuerURL, email = "https://login.corp.internal", "ann@corp.internal"
	issuer, err := identity.NewIssuer(identity.IssuerConfig{URL: issuerURL, Signer: issuerKey})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(email))
	proof, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	ask := func(want int) {
		t.Helper()
		token, err := issuer.Mint(identity.Claims{Email: email})
		if err != nil {
			t.Fatal(err)
		}
		if status, text := s.certify(t, token, proof, spki); status != want {
			t.Errorf("%d, want %d: %.300s", status, want, text)
		}
	}
	path := layout{s.cfg.Dir}.config()
	reload := func(change func(*Config)) string {
		t.Helper()
		cfg, err := loadConfig(path)
		if err != nil {
			t.Fatal(err)
		}
		change(cfg)
		cfg.Dir = ""
		if err := writeConfig(layout{s.cfg.Dir}, cfg); err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		(&server{in: s.in, cfg: s.cfg, logger: slog.New(slog.NewTextHandler(&said, nil)), configPath: path, background: t.Context()}).hangup()
		return said.String()
	}
	ask(http.StatusBadRequest)
	said := reload(func(c *Config) {
		c.OIDCIssuers = map[string]identity.IssuerRules{issuerURL: {JWKS: identity.JWKS{Inline: issuer.JWKS()},
			OIDCIssuer: fulcio.OIDCIssuer{ClientID: "sigstore", Type: "email"}}}
		c.Log.Artifact[0].TreeID++
	})
	if !strings.Contains(said, "restart needed for") || !strings.Contains(said, "[log]") {
		t.Errorf("reload said %s", said)
	}
	ask(http.StatusOK)
	said = reload(func(c *Config) { c.OIDCIssuers["http://user@bad"] = identity.IssuerRules{} })
	if !strings.Contains(said, "the running configuration stays") {
		t.Errorf("reload said %s", said)
	}
	ask(http.StatusOK)
	said = reload(func(c *Config) { c.OIDCIssuers = nil })
	if !strings.Contains(said, "msg=reloaded") {
		t.Errorf("reload said %s", said)
	}
	ask(http.StatusBadRequest)
}
