package admission

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"redoubt.internal/ca/frontend"
)

// TestCertificates: certificates and roots are renewed in time, across restarts, and a client that got the bundle before a root changed
// takes what comes after.
func TestCertificates(t *testing.T) {
	l := newLab(t, nil)
	names := frontend.Names{DNS: []string{"redoubt-admission.redoubt-admission.svc"}, IP: []net.IP{net.ParseIP("127.0.0.1")}}
	open := func(names frontend.Names) *Certificates {
		t.Helper()
		c, err := l.gate.Certificates(context.Background(), TLS{Names: names}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	bundle := func() *x509.CertPool {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(l.gate.c.Dir, "tls", "ca-bundle.pem"))
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(text) {
			t.Fatalf("bundle: %v", err)
		}
		return pool
	}
	shown := func(c *Certificates) *tls.Certificate {
		t.Helper()
		cert, err := c.TLSConfig().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	takes := func(pool *x509.CertPool, c *Certificates) error {
		_, err := shown(c).Leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: l.now(), DNSName: names.DNS[0]})
		return err
	}
	c := open(names)
	first, firstBundle := shown(c), bundle()
	if err := takes(firstBundle, c); err != nil {
		t.Fatal(err)
	}
	again := open(names)
	if err := takes(firstBundle, again); err != nil || shown(again).Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) == 0 {
		t.Errorf("after a restart: %v", err)
	}
	// Leaves.
	l.pass(leafLife * 3 / 4)
	if err := c.Renew(context.Background()); err != nil || shown(c).Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) == 0 {
		t.Errorf("not renewed: %v", err)
	}
	// The next root is trusted years before it signs.
	l.pass(frontend.RootLife * 7 / 10)
	if err := c.Renew(context.Background()); err != nil {
		t.Fatal(err)
	}
	both := bundle()
	if err := takes(firstBundle, c); err != nil {
		t.Errorf("the first root no longer signs though it could: %v", err)
	}
	l.pass(frontend.RootLife * 3 / 10)
	if err := c.Renew(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := takes(both, c); err != nil {
		t.Errorf("who got the bundle years ago does not take the next root: %v", err)
	}
	if err := takes(firstBundle, c); err == nil {
		t.Error("the first root is at its end and signs on")
	}
	// An expired certificate is not shown.
	l.pass(leafLife + time.Hour)
	if _, err := c.TLSConfig().GetCertificate(nil); err == nil {
		t.Error("an expired certificate is shown")
	}
	// Other names: a root for them.
	other := open(frontend.Names{DNS: []string{"gate.corp.internal"}})
	if _, err := shown(other).Leaf.Verify(x509.VerifyOptions{Roots: bundle(), CurrentTime: l.now(), DNSName: "gate.corp.internal"}); err != nil {
		t.Error(err)
	}
	file := filepath.Join(l.gate.c.Dir, "tls", authorityKey)
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if err := os.WriteFile(file, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.gate.Certificates(context.Background(), TLS{Names: names}, nil); err == nil {
		t.Error("a damaged file was replaced without a word")
	}
	none := &Certificates{now: l.now}
	if _, err := none.TLSConfig().GetCertificate(nil); err == nil {
		t.Errorf("%v", err)
	}
}
