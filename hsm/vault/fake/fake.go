// Package fake is an in-process stand-in for a Vault server, for tests.
//
// It is not Vault. It exists because the real server takes a quarter of an hour to
// build, so that not every run can have one. What it copies are the answers of Vault
// 1.21.1 this product depends on, odd ones included: a signature over a "digest" of
// five octets, a signature of the latest version when none is named, 500 below
// min_encryption_version, success for a creation over a key of another type, a
// namespace header that is ignored, renewal that succeeds while the lease shrinks,
// 403 for an ended token and for a policy that says no alike, 503 while sealed. The
// tests of hsm/vault run every one of them against the fake and against the real
// server where its binary is, so that the two cannot drift apart.
//
// Keys are in memory and made by crypto/*. Policies are read by one regular
// expression. Nothing here is fit for anything but tests.
package fake

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Server is one fake Vault, unsealed, with a root token and nothing mounted.
type Server struct {
	// URL is https://127.0.0.1:PORT, CAFile the certificate it answers with.
	URL, CAFile string
	// RootToken may do everything; UnsealKey unseals.
	RootToken, UnsealKey string
	// Namespaces makes it honour X-Vault-Namespace as the enterprise edition and
	// OpenBao do: the listed ones exist. nil ignores the header, as Vault's community
	// edition does. Set before the first request.
	Namespaces []string

	http *httptest.Server

	mu       sync.Mutex
	sealed   bool
	tokens   map[string]*token
	policies map[string][]rule
	mounts   map[string]string // path to type: transit, approle, cert, kubernetes
	keys     map[string]*key   // mount/name
	roles    map[string]*role  // auth path/name
}

type token struct {
	policies  []string
	ttl       time.Duration // 0: root, no end
	expires   time.Time
	last      time.Time // no renewal goes beyond
	renewable bool
}

type rule struct {
	prefix string
	exact  bool
}

type role struct {
	id          string         // AppRole role id
	secrets     map[string]int // AppRole secret ids and the uses left, -1 unlimited
	uses        int
	certificate *x509.Certificate // cert
	accounts    []string          // kubernetes
	policies    []string
	ttl, max    time.Duration
}

// Start serves a fake for the life of the test.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// New serves a fake until Close; dir takes the certificate it answers with.
func New(dir string) (*Server, error) {
	s := &Server{RootToken: "hvs.root-" + rand.Text(), UnsealKey: rand.Text(), tokens: map[string]*token{}, policies: map[string][]rule{},
		mounts: map[string]string{}, keys: map[string]*key{}, roles: map[string]*role{}}
	s.tokens[s.RootToken] = &token{policies: []string{"root"}}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.http.StartTLS()
	s.URL, s.CAFile = s.http.URL, filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(s.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw}), 0o644); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the server.
func (s *Server) Close() {
	s.http.CloseClientConnections()
	s.http.Close()
}

// Write is what an administrator with the root token does over the API; it returns
// the data of the answer.
func (s *Server) Write(path string, body map[string]any) (map[string]any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.answer(&request{Request: &http.Request{Method: http.MethodPost, Header: http.Header{}}, path: path, body: body, bearer: s.RootToken})
	if a.status >= 300 {
		return nil, fmt.Errorf("%s: status %d: %v", path, a.status, a.body["errors"])
	}
	data, _ := a.body["data"].(map[string]any)
	return data, nil
}

// Site mounts a Transit engine and an AppRole that may use it, writes the secret id
// into dir, and returns the parameters of a token URI for them.
func (s *Server) Site(dir string) (parameters string, err error) {
	var id, secret map[string]any
	for _, w := range []struct {
		path string
		body map[string]any
		to   *map[string]any
	}{
		{"sys/mounts/transit", map[string]any{"type": "transit"}, nil},
		{"sys/auth/approle", map[string]any{"type": "approle"}, nil},
		{"sys/policies/acl/redoubt", map[string]any{"policy": `path "transit/*" { capabilities = ["create", "read", "update"] }`}, nil},
		{"auth/approle/role/redoubt", map[string]any{"token_policies": "redoubt"}, nil},
		{"auth/approle/role/redoubt/role-id", nil, &id},
		{"auth/approle/role/redoubt/secret-id", nil, &secret},
	} {
		data, err := s.Write(w.path, w.body)
		if err != nil {
			return "", err
		}
		if w.to != nil {
			*w.to = data
		}
	}
	file := filepath.Join(dir, "secret-id")
	if err := os.WriteFile(file, []byte(fmt.Sprint(secret["secret_id"])+"\n"), 0o600); err != nil {
		return "", err
	}
	return "address=" + s.URL + "&ca-file=" + s.CAFile + "&auth=approle&role-id=" + fmt.Sprint(id["role_id"]) + "&secret-id-file=" + file, nil
}

// A request on its way through the fake.
type request struct {
	*http.Request
	path   string // below /v1/
	body   map[string]any
	bearer string
}

func (r *request) text(name string) string { s, _ := r.body[name].(string); return s }

func (r *request) yes(name string) bool { b, _ := r.body[name].(bool); return b }

// span reads a duration: "4s", or seconds.
func (r *request) span(name string) time.Duration {
	if n, ok := r.body[name].(float64); ok {
		return time.Duration(n) * time.Second
	}
	d, _ := time.ParseDuration(r.text(name))
	return d
}

func (r *request) list(name string) (out []string) {
	if s, ok := r.body[name].(string); ok {
		return strings.Split(s, ",")
	}
	items, _ := r.body[name].([]any)
	for _, i := range items {
		if s, ok := i.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// An answer: data, auth or errors, as Vault wraps them.
type answer struct {
	status int
	body   map[string]any
}

func fail(status int, errors ...string) answer {
	if errors == nil {
		errors = []string{}
	}
	return answer{status, map[string]any{"errors": errors}}
}

func data(d map[string]any) answer { return answer{http.StatusOK, map[string]any{"data": d}} }

var nothing = answer{status: http.StatusNoContent}

func (s *Server) serve(w http.ResponseWriter, hr *http.Request) {
	r := &request{Request: hr, path: strings.TrimPrefix(hr.URL.Path, "/v1/"), bearer: hr.Header.Get("X-Vault-Token")}
	raw, err := io.ReadAll(http.MaxBytesReader(w, hr.Body, 32<<20))
	a := fail(http.StatusBadRequest, "failed to parse JSON input")
	if err == nil && (len(raw) == 0 || json.Unmarshal(raw, &r.body) == nil) {
		s.mu.Lock()
		a = s.answer(r)
		s.mu.Unlock()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	if a.body != nil {
		_ = json.NewEncoder(w).Encode(a.body)
	}
}

// answer decides in Vault's order: seal, namespace, token, policy, handler.
func (s *Server) answer(r *request) answer {
	switch {
	case r.path == "sys/health":
		status := http.StatusOK
		if s.sealed {
			status = http.StatusServiceUnavailable
		}
		return answer{status, map[string]any{"initialized": true, "sealed": s.sealed, "standby": false, "version": "1.21.1-fake", "cluster_name": "fake", "cluster_id": "0"}}
	case r.path == "sys/unseal":
		s.sealed = s.sealed && r.text("key") != s.UnsealKey
		return answer{http.StatusOK, map[string]any{"sealed": s.sealed}}
	case s.sealed:
		return fail(http.StatusServiceUnavailable, "Vault is sealed")
	}
	if ns := strings.Trim(r.Header.Get("X-Vault-Namespace"), "/"); ns != "" && s.Namespaces != nil && !contains(s.Namespaces, ns) {
		return fail(http.StatusNotFound, "namespace not found")
	}
	if strings.HasPrefix(r.path, "auth/") && strings.HasSuffix(r.path, "/login") {
		return s.login(r)
	}
	t := s.tokens[r.bearer]
	if t == nil || t.ttl > 0 && time.Now().After(t.expires) {
		return fail(http.StatusForbidden, "permission denied", "invalid token")
	}
	if !s.allowed(t, r.path) {
		return fail(http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
	}
	switch head, rest, _ := strings.Cut(r.path, "/"); head {
	case "sys":
		return s.system(r, rest)
	case "auth":
		return s.auth(r, t, rest)
	default:
		if s.mounts[head] != "transit" {
			return fail(http.StatusNotFound, `no handler for route "`+r.path+`". route entry not found.`)
		}
		return s.transit(r, head, rest)
	}
}

// allowed reads policies as prefixes; the default policy lets a token see to itself.
func (s *Server) allowed(t *token, path string) bool {
	if contains(t.policies, "root") || strings.HasPrefix(path, "auth/token/") && strings.HasSuffix(path, "-self") {
		return true
	}
	for _, p := range t.policies {
		for _, rule := range s.policies[p] {
			if path == rule.prefix || !rule.exact && strings.HasPrefix(path, rule.prefix) {
				return true
			}
		}
	}
	return false
}

var pathLine = regexp.MustCompile(`path\s+"([^"]+)"`)

func (s *Server) system(r *request, path string) answer {
	switch {
	case path == "seal":
		s.sealed = true
	case strings.HasPrefix(path, "mounts/"):
		s.mounts[strings.TrimPrefix(path, "mounts/")] = r.text("type")
	case strings.HasPrefix(path, "auth/"):
		s.mounts[path] = r.text("type")
	case strings.HasPrefix(path, "policies/acl/"):
		var rules []rule
		for _, m := range pathLine.FindAllStringSubmatch(r.text("policy"), -1) {
			prefix, glob := strings.CutSuffix(m[1], "*")
			rules = append(rules, rule{prefix, !glob})
		}
		s.policies[strings.TrimPrefix(path, "policies/acl/")] = rules
	default:
		return fail(http.StatusNotFound, "unsupported path")
	}
	return nothing
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
