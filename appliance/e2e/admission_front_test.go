//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.internal/ca/approval"
)

// A front is what a Service of Kubernetes is to the API server: connections to one address go to the first of several servers that is there.
type front struct {
	address string
	mu      sync.Mutex
	servers []string
	open    map[net.Conn]bool
}

func newFront(t *testing.T, address string, servers ...string) *front {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{address: listener.Addr().String(), servers: servers, open: map[net.Conn]bool{}}
	t.Cleanup(func() { listener.Close(); f.to() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go f.pass(conn)
		}
	}()
	return f
}

// to sends what comes from now on to these servers; what is open is cut.
func (f *front) to(servers ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.servers = servers
	for conn := range f.open {
		conn.Close()
	}
}

// also has further servers stand behind it, and cuts nothing.
func (f *front) also(servers ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.servers = slices.Concat(f.servers, servers)
}

// next are the servers in the order in which one connection tries them.
func (f *front) next() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.servers)
}

func (f *front) hold(conn net.Conn, open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if open {
		f.open[conn] = true
	} else {
		delete(f.open, conn)
	}
}

func (f *front) pass(conn net.Conn) {
	defer conn.Close()
	f.hold(conn, true)
	defer f.hold(conn, false)
	for _, server := range f.next() {
		to, err := net.Dial("tcp", server)
		if err != nil {
			continue
		}
		defer to.Close()
		go func() { io.Copy(to, conn); to.Close() }()
		io.Copy(conn, to)
		return
	}
}

// crew are the people of a cluster who let something in against its policy.
type crew struct {
	among approval.Operators
	keys  map[string]*ecdsa.PrivateKey
}

func newCrew(t *testing.T, names ...string) *crew {
	t.Helper()
	c := &crew{among: approval.Operators{Threshold: 2}, keys: map[string]*ecdsa.PrivateKey{}}
	for _, name := range names {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		operator, err := approval.NewOperator(name, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		c.keys[name], c.among.Members = key, append(c.among.Members, operator)
	}
	return c
}

// yaml lists them as a gate's configuration does.
func (c *crew) yaml() string {
	var all []string
	for _, m := range c.among.Members {
		all = append(all, fmt.Sprintf("{name: %s, publicKey: %q}", m.Name, m.PublicKey))
	}
	return strings.Join(all, ", ")
}

// approve puts an act and its approvals into a folder, as `redoubt approve sign` writes them.
func (c *crew) approve(t *testing.T, dir, name string, act approval.Act, now time.Time, by ...string) {
	t.Helper()
	write := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, who := range by {
		a, err := approval.Sign(act, who, c.keys[who], now)
		if err != nil {
			t.Fatal(err)
		}
		text, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		write(name+"."+who+".json", text)
	}
	write(name+".act", []byte(act.Text()))
}

// An evilRegistry is the real one behind somebody who changes its answers.
type evilRegistry struct {
	host string
	// act, when set, answers in place of the registry; false leaves it to that.
	act atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

func newEvilRegistry(t *testing.T, behind string) *evilRegistry {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	e := &evilRegistry{host: "localhost:" + port}
	real := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: behind})
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if act := e.act.Load(); act != nil && (*act)(w, q) {
			return
		}
		real.ServeHTTP(w, q)
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return e
}

// does has the registry misbehave until the end of the test.
func (e *evilRegistry) does(t *testing.T, act func(http.ResponseWriter, *http.Request) bool) {
	e.act.Store(&act)
	t.Cleanup(func() { e.act.Store(nil) })
}
