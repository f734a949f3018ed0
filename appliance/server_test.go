package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// served is a server in this process, on a copied state directory.
type served struct {
	in   *instance
	cfg  *Config
	stop context.CancelFunc // what SIGTERM does

	server *server
}

// serveState serves a fresh state directory until the test ends, then recomputes every log.
func serveState(t *testing.T, change func(*Config)) *served {
	t.Helper()
	from, err := stateTemplate()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	if err := copyState(filepath.Join(from, "state"), dir); err != nil {
		t.Fatal(err)
	}
	return serveDir(t, layout{dir}, change)
}

// serveDir is serveState for a state directory that is there.
func serveDir(t *testing.T, at layout, change func(*Config)) *served {
	t.Helper()
	dir := at.root
	cfg, err := loadConfig(layout{dir}.config())
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(cfg)
	}
	logger := slog.New(slog.DiscardHandler)
	in, err := openInstance(t.Context(), cfg, logger)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ready, done := filepath.Join(t.TempDir(), "ready"), make(chan error, 1)
	s := &server{in: in, cfg: cfg, logger: logger, configPath: layout{dir}.config()}
	go func() { done <- s.run(ctx, ready) }()
	t.Cleanup(func() {
		results, err := logFsck.run(context.Background(), s.instance(), "test", struct{}{})
		if err != nil {
			t.Error(err)
		}
		for _, r := range results {
			if len(r.Problems) > 0 {
				t.Errorf("the %s log: %v", r.Log, r.Problems)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
		s.instance().close()
	})
	for {
		if _, err := os.Stat(ready); err == nil {
			return &served{in, cfg, stop, s}
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("serve ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// routes are the paths that take a body, with the service that does.
var routes = []struct{ service, method, path, kind string }{
	{"fulcio", "POST", "/api/v2/signingCert", "application/json"},
	{"fulcio", "POST", "/api/v1/signingCert", "application/json"},
	{"rekor", "POST", "/api/v1/log/entries", "application/json"},
	{"rekor", "POST", "/api/v1/log/entries/retrieve", "application/json"},
	{"rekor", "POST", "/api/v1/index/retrieve", "application/json"},
	{"rekor", "POST", "/api/v2/log/entries", "application/json"},
	{"tsa", "POST", "/api/v1/timestamp", "application/timestamp-query"},
	{"tsa", "POST", "/api/v1/timestamp", "application/json"},
	{"ct", "POST", "/ct/v1/add-pre-chain", "application/json"},
	{"tuf", "GET", "/timestamp.json", "application/json"},
	{"oidc", "GET", "/.well-known/openid-configuration", "application/json"},
	{"console", "GET", "/", "text/html"},
	{"mirror", "GET", "/", "application/json"},
	{"metrics", "GET", "/metrics", "text/plain"},
	{"fulcio", "GET", "/api/v2/trustBundle", "application/json"},
	{"rekor", "GET", "/api/v1/log", "application/json"},
	{"rekor", "GET", "/api/v2/checkpoint", "text/plain"},
	{"ct", "GET", "/ct/v1/get-sth", "application/json"},
}

// TestOversizedBodies sends 5 MiB to every route, announced and not: each is refused with 4xx (or, where a GET has no use for a
// body, answered without it), nothing is a 500 and no log grows.
func TestOversizedBodies(t *testing.T) {
	s := serveState(t, nil)
	before := s.in.auditLog.Head().Size
	big := bytes.Repeat([]byte(`{"a":[`), 5<<20/6)
	for _, r := range routes {
		for _, announced := range []bool{true, false} {
			var body io.Reader = bytes.NewReader(big)
			if !announced {
				body = io.MultiReader(body) // hides the length: chunked
			}
			request, err := http.NewRequestWithContext(t.Context(), r.method, s.cfg.Services.all()[r.service].URL+r.path, body)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", r.kind)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				if announced && strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "broken pipe") {
					continue // refused while we were still sending
				}
				t.Errorf("%s %s%s: %v", r.method, r.service, r.path, err)
				continue
			}
			response.Body.Close()
			refused := response.StatusCode >= 400 && response.StatusCode < 500
			if !refused && (r.method == "POST" || response.StatusCode != http.StatusOK || announced) {
				t.Errorf("%s %s%s (announced %t): %s", r.method, r.service, r.path, announced, response.Status)
			}
		}
	}
	for _, l := range s.in.logs() {
		if l.role != roleAudit && l.log.Head().Size != 0 {
			t.Errorf("the %s log has %d entries", l.role, l.log.Head().Size)
		}
	}
	if after := s.in.auditLog.Head().Size; after != before {
		t.Errorf("the audit log went from %d to %d", before, after)
	}
}

// TestSlowHeaders: a client that dribbles its headers is cut off, others are served meanwhile.
func TestSlowHeaders(t *testing.T) {
	t.Parallel()
	s := serveState(t, func(c *Config) { c.Limits.HeaderTimeout = Duration(300 * time.Millisecond) })
	for name, svc := range s.cfg.Services.all() {
		conn, err := net.Dial("tcp", svc.Listen)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
			t.Fatal(err)
		}
		response, err := http.Get(svc.URL + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s /healthz: %s", name, response.Status)
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("%s: the connection was not closed: %v", name, err)
		}
	}
}

// TestHugeHeaders: headers beyond the limit are 431.
func TestHugeHeaders(t *testing.T) {
	s := serveState(t, nil)
	request, err := http.NewRequestWithContext(t.Context(), "GET", s.cfg.Services.Rekor.URL+"/api/v1/log", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Big", strings.Repeat("a", 1<<20))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Error(response.Status)
	}
}

// TestDrain: when the server is told to stop, a request under way is answered, and nobody new is let in.
func TestDrain(t *testing.T) {
	s := serveState(t, nil)
	address := s.cfg.Services.Rekor.Listen
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const body = `{"kind":"nosuch","apiVersion":"0.0.1","spec":{}}`
	if _, err := fmt.Fprintf(conn, "POST /api/v1/log/entries HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body)); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	if line, err := reader.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q %v", line, err) // the handler reads the body: the request is under way
	}
	if _, err := reader.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.stop()
	for {
		other, err := net.Dial("tcp", address)
		if err != nil {
			break // the listener is closed
		}
		other.Close()
		time.Sleep(time.Millisecond)
	}
	if _, err := io.WriteString(conn, body); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("the request under way got %s", response.Status)
	}
}

// certify asks for a certificate with token and returns the status.
func (s *served) certify(t *testing.T, token string, proof []byte, spki []byte) (int, string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"credentials": map[string]string{"oidcIdentityToken": token},
		"publicKeyRequest": map[string]any{
			"publicKey":         map[string]string{"algorithm": "ECDSA", "content": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))},
			"proofOfPossession": base64.StdEncoding.EncodeToString(proof),
		}})
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(s.cfg.Services.Fulcio.URL+"/api/v2/signingCert", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// TestBadTokens: what is not a fresh token of a configured issuer for us is 400, says why, gives no certificate and leaves the
// token's text nowhere.
func TestBadTokens(t *testing.T) {
	s := serveState(t, nil)
	mint := func(a tokenArgs) string {
		r, err := mintToken.run(t.Context(), s.in, "test", a)
		if err != nil {
			t.Fatal(err)
		}
		return r.Token
	}
	segment := func(v string) string { return base64.RawURLEncoding.EncodeToString([]byte(v)) }
	good := mint(tokenArgs{Email: "dev@corp.internal"})
	parts := strings.Split(good, ".")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("dev@corp.internal"))
	proof, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	claims := fmt.Sprintf(`{"iss":%q,"aud":"sigstore","sub":"x","email":"dev@corp.internal","email_verified":true,"exp":%d}`, s.cfg.Services.OIDC.URL, time.Now().Add(time.Hour).Unix())
	for name, token := range map[string]string{
		"none":           segment(`{"alg":"none"}`) + "." + segment(claims) + ".",
		"unsigned":       parts[0] + "." + parts[1] + ".",
		"other claims":   parts[0] + "." + segment(claims) + "." + parts[2],
		"wrong audience": mint(tokenArgs{Email: "dev@corp.internal", Audience: "another"}),
		"wrong issuer":   segment(`{"alg":"RS256"}`) + "." + segment(`{"iss":"https://elsewhere.example","aud":"sigstore","exp":9999999999}`) + "." + parts[2],
		"unverified":     mint(tokenArgs{Email: "dev@corp.internal", Extra: map[string]any{"email_verified": false}}),
		"dots":           strings.Repeat(".", 1<<20),
		"empty":          "",
		"text":           "not a token",
	} {
		t.Run(name, func(t *testing.T) {
			before := s.in.ctLog.Head().Size
			status, text := s.certify(t, token, proof, spki)
			if status != http.StatusBadRequest && !(name == "dots" && status == http.StatusRequestEntityTooLarge) {
				t.Errorf("%d %.300s", status, text)
			}
			if len(token) > 20 && strings.Contains(text, token[:min(len(token), 200)]) {
				t.Errorf("the answer repeats the token")
			}
			if s.in.ctLog.Head().Size != before {
				t.Error("a precertificate was logged")
			}
		})
	}
	t.Run("another key's proof", func(t *testing.T) {
		other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		wrong, err := ecdsa.SignASN1(rand.Reader, other, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		if status, text := s.certify(t, good, wrong, spki); status != http.StatusBadRequest {
			t.Errorf("%d %s", status, text)
		}
	})
	if status, text := s.certify(t, good, proof, spki); status != http.StatusOK {
		t.Errorf("the good token: %d %s", status, text)
	}
}

// TestMetricLabelsAreFinite: six hundred invented paths and methods add no series.
func TestMetricLabelsAreFinite(t *testing.T) {
	s := serveState(t, nil)
	series := func() int {
		response, err := http.Get(s.cfg.Services.Metrics.URL + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), "\nredoubt_http_requests_total{")
	}
	u, err := url.Parse(s.cfg.Services.Rekor.URL)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path string) {
		request := &http.Request{Method: method, URL: u.JoinPath(path), Header: http.Header{}, Host: u.Host}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	for _, method := range []string{"GET", "BREW"} {
		ask(method, "/first")
	}
	before := series()
	for i := range 300 {
		ask("GET", fmt.Sprintf("/invented/%d", i))
		ask(fmt.Sprintf("BREW%d", i), "/invented")
	}
	if after := series(); after > before+1 { // the metrics page itself
		t.Errorf("%d series became %d", before, after)
	}
}
