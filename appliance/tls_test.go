package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// siteCertificate writes a self-signed certificate for names and its key, and returns a pool that trusts it.
func siteCertificate(t *testing.T, dir string, names ...string) (site TLS, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	site = TLS{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "tls.crt")}
	for path, block := range map[string]*pem.Block{site.Cert: {Type: "CERTIFICATE", Bytes: der}, site.Key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AddCert(certificate)
	return site, pool
}

// TestOneTLSPortForEveryHostName serves all services on one TLS port, told apart by host name.
func TestOneTLSPortForEveryHostName(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for _, s := range serviceNames {
		names = append(names, s+".corp.internal")
	}
	site, pool := siteCertificate(t, dir, append(names, "log.example.mirror.corp.internal", "rekor-2.corp.internal", "rekor-3.corp.internal", "rekor-4.corp.internal", "ct-2.corp.internal")...)
	address := ""
	s := serveState(t, func(c *Config) {
		address = c.Services.Fulcio.Listen
		c.TLS = site
		for name, svc := range c.Services.all() {
			if name != "metrics" && name != "oidc" {
				svc.Listen, svc.URL = address, "https://"+name+".corp.internal"
			}
		}
		if err := c.check(); err != nil {
			t.Fatal(err)
		}
	})
	get := func(host, path string, roots *x509.CertPool) (*http.Response, string) {
		t.Helper()
		transport := &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", address)
			}}
		response, err := (&http.Client{Transport: transport}).Get("https://" + host + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response, string(body)
	}
	for path, want := range map[string]string{
		"fulcio /api/v2/trustBundle": "BEGIN CERTIFICATE", "rekor /api/v1/log": "rootHash", "tsa /api/v1/timestamp/certchain": "BEGIN CERTIFICATE",
		"ct /ct/v1/get-sth": "sha256_root_hash", "tuf /timestamp.json": "timestamp", "console /": "corp.internal",
		"rekor-2 /api/v2/checkpoint": "rekor-2.corp.internal\n", "rekor /api/v2/checkpoint": "rekor-2.corp.internal\n", "rekor-2 /checkpoint": "rekor.corp.internal\n",
	} {
		service, path, _ := strings.Cut(path, " ")
		if r, body := get(service+".corp.internal", path, pool); r.StatusCode != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s%s: %s %.200s", service, path, r.Status, body)
		}
	}
	// Logs made later answer under their names too, without a new listener; those before stay under theirs.
	if r, _ := get("rekor-3.corp.internal", "/api/v1/log", pool); r.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("a log that is not there yet: %s", r.Status)
	}
	for _, role := range []string{"rekor", "rekor-2", "ct"} {
		if code, _ := redoubt(t, s.in.dir, "", "keys", "rotate", role); code != 0 {
			t.Fatalf("rotating %s: exit code %d", role, code)
		}
	}
	for at, want := range map[string]string{
		"rekor-3 /checkpoint": "rekor-3.corp.internal\n", "rekor-4 /api/v2/checkpoint": "rekor-4.corp.internal\n", "rekor-2 /api/v2/checkpoint": "rekor-2.corp.internal\n",
		"rekor /checkpoint": "rekor-3.corp.internal\n", "rekor /api/v2/checkpoint": "rekor-4.corp.internal\n", "rekor /logs/rekor/checkpoint": "rekor.corp.internal\n",
		"ct-2 /ct/v1/get-sth": "sha256_root_hash", "ct /ct/v1/get-sth": "sha256_root_hash",
	} {
		service, path, _ := strings.Cut(at, " ")
		if r, body := get(service+".corp.internal", path, pool); r.StatusCode != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("after the rotations %s%s: %s %.200s", service, path, r.Status, body)
		}
	}
	// A mirrored log's host reaches the mirror, which here carries none.
	if r, _ := get("log.example.mirror.corp.internal", "/checkpoint", pool); r.StatusCode != http.StatusNotFound {
		t.Errorf("the host of a mirrored log: %s", r.Status)
	}
	if r, _ := get("oidc.corp.internal", "/", pool); r.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("a host name nobody has: %s", r.Status)
	}
	material, err := s.server.instance().material()
	if err != nil || len(material.TLSRoots) != 1 || material.URLs.Rekor != "https://rekor.corp.internal" {
		t.Errorf("%+v %v", material.URLs, err)
	}
}

// TestDeepStateDirectory: a state directory whose path is longer than a socket address may be.
func TestDeepStateDirectory(t *testing.T) {
	from, err := stateTemplate()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep", 30), "state")
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copyState(filepath.Join(from, "state"), dir); err != nil {
		t.Fatal(err)
	}
	l := layout{dir}
	release, err := l.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	listener, err := listenSocket(l)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := dialSocket(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if info, err := os.Stat(l.socket()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}
