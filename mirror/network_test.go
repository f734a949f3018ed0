package mirror

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.internal/mirror/generate"
)

// quietNetwork is a network whose pauses are counted instead of slept; the clock moves on by them.
func quietNetwork(t testing.TB, a Access) (n *Network, paused func() []time.Duration) {
	t.Helper()
	n, err := NewNetwork(a)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var pauses []time.Duration
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	n.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return at }
	n.sleep = func(ctx context.Context, d time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		pauses, at = append(pauses, d), at.Add(d)
		return ctx.Err()
	}
	return n, func() []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		out := pauses
		pauses = nil
		return out
	}
}

func testRemote(t testing.TB, location string, a Access) (*remote, func() []time.Duration) {
	t.Helper()
	u, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	n, paused := quietNetwork(t, a)
	return &remote{base: u, network: n}, paused
}

// TestNetworkIsPoliteAndBounded covers what a server may do to a client: fail for a while, be busy, send too much, break off,
// redirect to another host, ask for a login.
func TestNetworkIsPoliteAndBounded(t *testing.T) {
	var hits, inFlight, most atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Error("another host was asked") }))
	defer other.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/log/shaky", func(w http.ResponseWriter, r *http.Request) {
		if hits.Add(1) < 4 {
			w.WriteHeader(503)
			return
		}
		if r.UserAgent() != userAgent+" (ops@example.org)" {
			t.Error(r.UserAgent())
		}
		w.Write([]byte("at last"))
	})
	busy := func(header string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if hits.Add(1) < 2 {
				w.Header().Set("Retry-After", header)
				w.WriteHeader(429)
				return
			}
			w.Write([]byte("thanks"))
		}
	}
	mux.HandleFunc("/log/busy", busy("120"))
	mux.HandleFunc("/log/dated", busy("Fri, 20 Nov 2026 12:04:00 GMT"))
	mux.HandleFunc("/log/closed", busy("86400"))
	for name, code := range map[string]int{"down": 500, "denied": 403, "absent": 404, "gone": 410, "disabled": 501} {
		mux.HandleFunc("/log/"+name, func(w http.ResponseWriter, r *http.Request) { hits.Add(1); w.WriteHeader(code) })
	}
	mux.HandleFunc("/log/long", func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<20)) })
	mux.HandleFunc("/log/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL+"/x", http.StatusFound) })
	mux.HandleFunc("/log/near", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "shaky", http.StatusFound) })
	mux.HandleFunc("/log/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "round", http.StatusFound) })
	mux.HandleFunc("/log/short", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Write([]byte("x"))
	})
	meet := make(chan struct{}, 40)
	mux.HandleFunc("/log/slow", func(w http.ResponseWriter, r *http.Request) {
		for n := inFlight.Add(1); ; {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		meet <- struct{}{}
		for len(meet) < 3 { // until three were here at once
			time.Sleep(time.Millisecond)
		}
		inFlight.Add(-1)
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	r, paused := testRemote(t, srv.URL+"/log/", Access{Contact: "ops@example.org", AtOnce: 3})
	ctx := context.Background()
	read := func(name string) (string, error) {
		hits.Store(0)
		b, err := r.read(ctx, name, 100, nil)
		return string(b), err
	}
	if b, err := read("shaky"); err != nil || b != "at last" {
		t.Fatal(b, err)
	}
	for i, p := range paused() {
		if base := FirstPause << i; p < base/2 || p > base*3/2 {
			t.Errorf("pause %d is %s, around %s is expected", i, p, base)
		}
	}
	if b, err := read("near"); err != nil || b != "at last" {
		t.Error(b, err)
	}
	paused()
	for name, least := range map[string]time.Duration{"busy": 2 * time.Minute, "dated": 90 * time.Second} {
		if b, err := read(name); err != nil || b != "thanks" {
			t.Error(name, b, err)
		}
		if p := paused(); len(p) != 1 || p[0] < least {
			t.Errorf("%s: Retry-After was not obeyed: %v", name, p)
		}
	}
	if _, err := read("closed"); !errors.Is(err, ErrRemote) || hits.Load() != 1 || !strings.Contains(err.Error(), "24h") {
		t.Errorf("%v after %d tries", err, hits.Load())
	}
	for name, tries := range map[string]int32{"down": attempts, "denied": 1, "disabled": 1} {
		if _, err := read(name); !errors.Is(err, ErrRemote) || hits.Load() != tries {
			t.Errorf("%s: %v after %d tries", name, err, hits.Load())
		}
	}
	for _, name := range []string{"long", "away", "round", "short"} {
		if _, err := read(name); !errors.Is(err, ErrRemote) || ExitCode(err) != 3 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"absent", "gone"} {
		if _, err := read(name); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() { r.read(ctx, "slow", 100, nil) })
	}
	all.Wait()
	if most.Load() != 3 {
		t.Errorf("%d requests at once instead of 3", most.Load())
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := r.read(stopped, "down", 100, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestRate asks ten times at two a second: the pauses add up to nine halves of a second, whoever asks.
func TestRate(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer srv.Close()
	r, paused := testRemote(t, srv.URL, Access{Rate: 2, AtOnce: 1})
	for range 10 {
		if _, err := r.read(t.Context(), "x", 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	var sum time.Duration
	p := paused()
	for _, d := range p {
		sum += d
	}
	if len(p) != 9 || sum != 4500*time.Millisecond {
		t.Fatalf("%v, together %s", p, sum)
	}
}

// TestProxy pulls a log whose host exists for the proxy alone.
func TestProxy(t *testing.T) {
	g, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300}})
	var through atomic.Int32
	files := http.FileServer(http.Dir(g.Dir))
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "log.invalid" { // the absolute form, which only a proxy is asked in
			t.Errorf("the proxy was asked for %s", r.URL)
		}
		through.Add(1)
		files.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	c.Source = "http://log.invalid/"
	l := newLab(t, c)
	l.ec.Network, _ = quietNetwork(t, Access{Proxy: "direct"})
	l.reopen()
	if _, err := l.out.Pull(t.Context()); ExitCode(err) != 3 {
		t.Fatal("a host that is not there was read without the proxy", err)
	}
	l.ec.Network, _ = quietNetwork(t, Access{Proxy: proxy.URL})
	l.reopen()
	l.pull()
	if through.Load() == 0 {
		t.Fatal("the proxy was not used")
	}
	l.ec.Logs[0].Source = g.Dir
	l.ec.Network, _ = quietNetwork(t, Access{Proxy: "http://127.0.0.1:1"})
	l.reopen()
	if _, err := l.out.Pull(t.Context()); !errors.Is(err, ErrNothing) {
		t.Fatal("a folder was read through the proxy", err)
	}
}

// TestUnchangedCheckpoint counts what is carried of a checkpoint that does not change, and what a damaged answer leaves behind.
func TestUnchangedCheckpoint(t *testing.T) {
	g, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300, 700}})
	var sent, unchanged atomic.Int32
	var damage atomic.Bool
	files := http.FileServer(http.Dir(g.Dir))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/checkpoint" {
			files.ServeHTTP(w, r)
			return
		}
		tag := fmt.Sprintf("\"%d\"", shown(t, g.Dir))
		w.Header().Set("ETag", tag)
		switch {
		case r.Header.Get("If-None-Match") == tag:
			unchanged.Add(1)
			w.WriteHeader(http.StatusNotModified)
		case damage.Load():
			w.Write([]byte("not a note\n"))
		default:
			sent.Add(1)
			files.ServeHTTP(w, r)
		}
	}))
	defer srv.Close()
	c.Source = srv.URL
	l := newLab(t, c)
	l.pull()
	for range 2 {
		if _, err := l.out.Pull(t.Context()); !errors.Is(err, ErrNothing) {
			t.Fatal(err)
		}
	}
	if sent.Load() != 1 || unchanged.Load() != 2 {
		t.Fatalf("sent %d times, unchanged %d times", sent.Load(), unchanged.Load())
	}
	show(t, g, 700)
	damage.Store(true)
	if _, err := l.out.Pull(t.Context()); ExitCode(err) != 31 {
		t.Fatal(err)
	}
	damage.Store(false)
	l.pull()
	l.load(l.export(0))
}

// TestPrivateRoot reads a server whose certificate only the configured root explains.
func TestPrivateRoot(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("hello")) }))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	srv.StartTLS()
	defer srv.Close()
	r, paused := testRemote(t, srv.URL, Access{})
	if _, err := r.read(t.Context(), "x", 10, nil); !errors.Is(err, ErrRemote) || len(paused()) > 0 {
		t.Fatal("a foreign certificate was believed, or asked for again", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	r, _ = testRemote(t, srv.URL, Access{Roots: pool})
	if b, err := r.read(t.Context(), "x", 10, nil); err != nil || string(b) != "hello" {
		t.Fatal(err)
	}
}

func TestAccessIsChecked(t *testing.T) {
	for _, a := range []Access{
		{Proxy: "nonsense"}, {Proxy: "ftp://host"}, {Proxy: "http://user:secret@host"}, {Rate: -1}, {AtOnce: -1}, {AtOnce: 65}, {Contact: "a)b"}, {Contact: "a\nb"},
	} {
		if _, err := NewNetwork(a); !errors.Is(err, ErrConfig) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v", a, err)
		}
	}
}
