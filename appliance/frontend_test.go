package main

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"redoubt.internal/ca/frontend"
	"redoubt.internal/hsm"
)

// frontState makes a production site without certificates of its own, whose clock is moved by the returned function.
func frontState(t *testing.T) (in *instance, later func(time.Duration)) {
	t.Helper()
	dir := layout{filepath.Join(t.TempDir(), "state")}
	request := initRequest{Dir: dir.root, Domain: "corp.internal", Profile: profileProduction, Keys: "soft:", AllowSoftware: true, Address: "127.0.0.1", FirstPort: 8441, Actor: "test"}
	if _, err := initialise(t.Context(), request, quiet(), io.Discard); err != nil {
		t.Fatal(err)
	}
	in, err := openState(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	in.now = func() time.Time { return at }
	in.front = new(frontEnd)
	return in, func(d time.Duration) { at = at.Add(d) }
}

const day = 24 * time.Hour

// TestFrontEndIsRenewed: at two thirds of its life, without a restart; while the key is away alarms grow, the old certificate is shown
// until it ends, and one command heals it.
func TestFrontEndIsRenewed(t *testing.T) {
	in, later := frontState(t)
	at := func() (*tls.Certificate, check) {
		t.Helper()
		c, err := in.front.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		checks := in.tlsChecks()
		if len(checks) != 1 {
			t.Fatalf("checks %v", checks)
		}
		return c, checks[0]
	}
	if c, err := in.front.certificate(nil); err == nil {
		t.Fatalf("something is shown before anything was made: %v", c.Leaf.Subject)
	}
	if checks := in.tlsChecks(); len(checks) != 1 || checks[0].OK {
		t.Fatalf("checks %v", checks)
	}
	look := func() error { return in.front.look(t.Context(), in) }
	if err := look(); err != nil {
		t.Fatal(err)
	}
	first, c := at()
	if !c.OK {
		t.Fatal(c)
	}
	later(59 * day)
	if err := look(); err != nil {
		t.Fatal(err)
	}
	if now, _ := at(); now != first {
		t.Fatal("renewed before two thirds of its life")
	}
	later(2 * day)
	if err := look(); err != nil {
		t.Fatal(err)
	}
	second, c := at()
	if second == first || !c.OK {
		t.Fatalf("not renewed at two thirds of its life: %v", c)
	}

	keys, away := in.dir.path("keys", "tls"), in.dir.path("keys", "gone")
	if err := os.Rename(keys, away); err != nil {
		t.Fatal(err)
	}
	later(61 * day)
	for _, step := range []struct {
		later       time.Duration
		ok, warning bool
		urgent      bool
	}{{0, false, true, false}, {15 * day, false, true, false}, {8 * day, false, true, true}, {7 * day, false, false, false}} {
		later(step.later)
		if look() == nil {
			t.Fatal("renewed without its root's key")
		}
		now, c := at()
		if now != second || c.OK != step.ok || c.Warning != step.warning || c.Urgent != step.urgent || c.Fix == "" {
			t.Errorf("%s before its end: %+v", second.Leaf.NotAfter.Sub(in.now()), c)
		}
	}
	if s, err := tlsShow.run(t.Context(), in, "test", struct{}{}); err != nil || s.Error == "" {
		t.Errorf("the failure is not told: %+v, %v", s, err)
	}
	if err := os.Rename(away, keys); err != nil {
		t.Fatal(err)
	}
	if _, err := tlsRenew.run(t.Context(), in, "test", struct{}{}); err != nil {
		t.Fatal(err)
	}
	if third, c := at(); third == second || !c.OK {
		t.Fatalf("one command did not heal it: %v", c)
	}
}

// TestFrontEndKeyStaysInMemory: no file of the state directory holds the key that the listeners sign with.
func TestFrontEndKeyStaysInMemory(t *testing.T) {
	in, _ := frontState(t)
	if err := in.front.renew(t.Context(), in, "test"); err != nil {
		t.Fatal(err)
	}
	c, _ := in.front.certificate(nil)
	if _, ok := c.PrivateKey.(*ecdsa.PrivateKey); !ok {
		t.Fatalf("%T", c.PrivateKey)
	}
	err := filepath.WalkDir(in.dir.root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "PRIVATE KEY" || block.Type == "EC PRIVATE KEY" {
				t.Errorf("%s holds a private key", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSiteKeyInToken: the site's own certificate, its key in a token; a certificate of another key is refused.
func TestSiteKeyInToken(t *testing.T) {
	in, _ := frontState(t)
	uri := keyURI(in.cfg.Keys.Token, "site")
	token, err := in.keys.token(uri)
	if err != nil {
		t.Fatal(err)
	}
	key, err := token.Generate(t.Context(), uri, hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	site, err := frontend.Root(key, "corp.internal", frontend.Names{DNS: []string{"corp.internal"}}, in.now())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "site.pem")
	if err := os.WriteFile(file, pemChain([]*x509.Certificate{site}), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := in.siteCertificate(t.Context(), TLS{Cert: file, Key: uri}); err != nil || !c.Leaf.Equal(site) {
		t.Fatal(err)
	}
	if _, err := in.siteCertificate(t.Context(), TLS{Cert: file, Key: in.cfg.Keys.Roles[roleTLS]}); err == nil {
		t.Error("a certificate of another key was taken")
	}
	if _, err := in.siteCertificate(t.Context(), TLS{Cert: file, Key: keyURI(in.cfg.Keys.Token, "absent")}); err == nil {
		t.Error("an absent key was taken")
	}
}
