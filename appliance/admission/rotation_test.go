package admission

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.internal/ca/frontend"
)

// webhook is a client that trusts what the webhook configurations say at the time, as an API server does.
type webhook struct {
	t    *testing.T
	o    *objects
	name string
	now  func() time.Time // the API server's clock
}

// configurations puts the two of them into an API server.
func (o *objects) configurations() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, kind := range []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations"} {
		o.held[configuration+kind+"/redoubt-admission"] = map[string]any{"metadata": map[string]any{"name": "redoubt-admission"},
			"webhooks": []any{map[string]any{"name": "w", "clientConfig": map[string]any{}}}}
	}
}

// roots are those that the configurations trust, which are the same in both.
func (w *webhook) roots() (*x509.CertPool, int) {
	w.t.Helper()
	var bundles [2]string
	for i, kind := range []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations"} {
		var held struct {
			Webhooks []struct {
				ClientConfig struct {
					CABundle []byte `json:"caBundle"`
				} `json:"clientConfig"`
			} `json:"webhooks"`
		}
		if err := json.Unmarshal([]byte(w.o.object(configuration+kind+"/redoubt-admission")), &held); err != nil {
			w.t.Fatal(err)
		}
		bundles[i] = string(held.Webhooks[0].ClientConfig.CABundle)
	}
	pool := x509.NewCertPool()
	if bundles[0] != bundles[1] || !pool.AppendCertsFromPEM([]byte(bundles[0])) {
		w.t.Fatalf("the configurations trust %q and %q", bundles[0], bundles[1])
	}
	return pool, strings.Count(bundles[0], "BEGIN")
}

// connect shakes hands with a gate and returns the certificate it shows.
func (w *webhook) connect(c *Certificates) (*x509.Certificate, error) {
	w.t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", c.TLSConfig())
	if err != nil {
		w.t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	go server.Serve(listener)
	defer server.Close()
	pool, _ := w.roots()
	conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{RootCAs: pool, ServerName: w.name, Time: w.now})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// TestRotation: two replicas by one clock, an API server by another. What has expired by the API server's clock is not taken; a certificate and then the root are
// renewed before they end, by either replica first, and no handshake fails on the way.
func TestRotation(t *testing.T) {
	o := newObjects(t)
	o.configurations()
	l := newLab(t, nil)
	real := l.now()
	names := frontend.Names{DNS: []string{"redoubt-admission.redoubt-admission.svc"}, IP: []net.IP{net.ParseIP("127.0.0.1")}}
	var ahead atomic.Int64
	cluster := o.cluster()
	open := func() *Certificates {
		t.Helper()
		config := l.gate.c
		config.Dir = t.TempDir()
		config.Now = func() time.Time { return real.Add(time.Duration(ahead.Load())) }
		g, err := New(config, l.gate.rules.Load(), nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := g.Certificates(context.Background(), TLS{Names: names, Namespace: ownNamespace, Secret: "redoubt-admission-tls", Configuration: "redoubt-admission"}, &cluster)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	ahead.Store(int64(-9*year - 10*day))
	both := []*Certificates{open(), open()}
	w := &webhook{t, o, names.DNS[0], func() time.Time { return real }}
	for _, c := range both {
		if _, err := w.connect(c); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Fatalf("a certificate of nine years ago: %v", err)
		}
	}
	old, _ := w.roots()
	at := func(then time.Duration, first int) {
		t.Helper()
		ahead.Store(int64(then))
		for i := range both {
			if err := both[(first+i)%2].Renew(context.Background()); err != nil {
				t.Fatal(err)
			}
			if then != 0 {
				continue
			}
			for _, c := range both { // also while the other has not renewed
				if _, err := w.connect(c); err != nil {
					t.Fatalf("%s ago: %v", -then, err)
				}
			}
		}
		if pool, n := w.roots(); pool == nil || n > 2 {
			t.Fatalf("%d roots", n)
		}
	}
	at(-2*year, 0)
	if _, n := w.roots(); n != 2 {
		t.Fatalf("%d roots are trusted two years before the first one's end draws near, want 2", n)
	}
	at(-29*day, 1)
	before, err := w.connect(both[0])
	if err != nil {
		t.Fatal(err)
	}
	at(0, 0)
	for _, c := range both {
		after, err := w.connect(c)
		if err != nil || after.SerialNumber.Cmp(before.SerialNumber) == 0 || string(after.AuthorityKeyId) == string(before.AuthorityKeyId) {
			t.Errorf("not by the next root: %v", err)
		}
	}
	// The control: who trusts the first root alone takes none of them.
	shown, err := both[0].TLSConfig().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shown.Leaf.Verify(x509.VerifyOptions{Roots: old, CurrentTime: real, DNSName: names.DNS[0]}); err == nil {
		t.Error("the first root vouches for what the next one signed")
	}
	// Whoever empties the configurations has them filled again.
	o.configurations()
	if err := both[1].Renew(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, n := w.roots(); n != 2 {
		t.Errorf("%d roots", n)
	}
}
