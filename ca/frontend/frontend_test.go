package frontend

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

var start = time.Now().Truncate(time.Second)

func testRoot(t *testing.T, permitted Names) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root, err := Root(key, "corp.internal", permitted, start)
	if err != nil {
		t.Fatal(err)
	}
	return root, key
}

var site = Names{DNS: []string{"corp.internal"}, IP: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP("::1")}}

// TestNamesOfTheSiteAlone: the root vouches for the site's names and for nothing else, in the eyes of Go's verifier.
func TestNamesOfTheSiteAlone(t *testing.T) {
	root, key := testRoot(t, site)
	noAddress, noAddressKey := testRoot(t, Names{DNS: []string{"corp.internal"}})
	for _, c := range []struct {
		names Names
		want  error
	}{
		{Names{DNS: []string{"fulcio.corp.internal", "*.corp.internal", "corp.internal"}, IP: []net.IP{net.ParseIP("127.0.0.1")}}, nil},
		{Names{IP: []net.IP{net.ParseIP("::1")}}, nil},
		{Names{DNS: []string{"example.com"}}, ErrName},
		{Names{DNS: []string{"fulcio.corp.internal", "corp.internal.example.com"}}, ErrName},
		{Names{DNS: []string{"xcorp.internal"}}, ErrName},
		{Names{IP: []net.IP{net.ParseIP("127.0.0.2")}}, ErrName},
		{Names{IP: []net.IP{net.ParseIP("2001:db8::1")}}, ErrName},
		{Names{}, ErrName},
	} {
		if _, err := Issue(root, key, c.names, Life, start); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.names, err, c.want)
		}
	}
	for _, ip := range []string{"127.0.0.1", "::1"} {
		if _, err := Issue(noAddress, noAddressKey, Names{IP: []net.IP{net.ParseIP(ip)}}, Life, start); !errors.Is(err, ErrName) {
			t.Errorf("%s by a root without addresses: %v", ip, err)
		}
	}
	if _, err := Root(key, "corp.internal", Names{IP: site.IP}, start); !errors.Is(err, ErrName) {
		t.Errorf("a root for every domain: %v", err)
	}
}

func TestLifeIsBounded(t *testing.T) {
	root, key := testRoot(t, site)
	names := Names{DNS: []string{"fulcio.corp.internal"}}
	for _, c := range []struct {
		life time.Duration
		at   time.Time
		want error
	}{
		{Life, start, nil}, {MinLife, start, nil}, {MaxLife, start, nil}, {MinLife - 1, start, ErrLife}, {MaxLife + 1, start, ErrLife}, {0, start, ErrLife}, {-Life, start, ErrLife},
		{Life, root.NotAfter.Add(-Life), nil}, {Life, root.NotAfter.Add(-Life + time.Second), ErrLife},
	} {
		if _, err := Issue(root, key, names, c.life, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s at %s: %v, want %v", c.life, c.at, err, c.want)
		}
	}
	_, other := testRoot(t, site)
	if _, err := Issue(root, other, names, Life, start); !errors.Is(err, ErrRoot) {
		t.Errorf("another key: %v", err)
	}
	c, err := Issue(root, key, names, Life, start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Issue(c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey), names, MinLife, start); !errors.Is(err, ErrRoot) {
		t.Errorf("a leaf as root: %v", err)
	}
	if at := RenewAt(c.Leaf); at.Before(start.Add(59*24*time.Hour)) || at.After(start.Add(61*24*time.Hour)) {
		t.Errorf("renewal at %s", at)
	}
	again, err := Issue(root, key, names, Life, start)
	if err != nil || again.Leaf.SerialNumber.Cmp(c.Leaf.SerialNumber) == 0 || again.Leaf.PublicKey.(*ecdsa.PublicKey).Equal(c.Leaf.PublicKey) {
		t.Error("two certificates share a serial number or a key")
	}
}

// TestHandshake: a client that has the root talks to the server, one that has another root of the same name does not.
func TestHandshake(t *testing.T) {
	root, key := testRoot(t, site)
	foreign, _ := testRoot(t, site)
	c, err := Issue(root, key, Names{IP: site.IP[:1]}, Life, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*c}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") }))
	for ca, ok := range map[*x509.Certificate]bool{root: true, foreign: false} {
		pool := x509.NewCertPool()
		pool.AddCert(ca)
		client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
		r, err := client.Get("https://" + l.Addr().String())
		if (err == nil) != ok {
			t.Errorf("trusted: %v, %v", ok, err)
		}
		if err == nil {
			r.Body.Close()
		}
	}
}
