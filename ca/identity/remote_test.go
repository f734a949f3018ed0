package identity_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sigstore/fulcio/pkg/config"

	"redoubt.internal/ca/identity"
)

// provider is an OpenID provider over TLS whose answers a test may change.
type provider struct {
	*httptest.Server
	fetches  atomic.Int64
	mu       sync.Mutex
	keys     []string                    // names of test keys published
	override map[string]http.HandlerFunc // by path
}

func newProvider(t testing.TB, keys ...string) *provider {
	t.Helper()
	p := &provider{keys: keys, override: map[string]http.HandlerFunc{}}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.fetches.Add(1)
		p.mu.Lock()
		h, published := p.override[r.URL.Path], p.keys
		p.mu.Unlock()
		switch {
		case h != nil:
			h(w, r)
		case r.URL.Path == "/.well-known/openid-configuration":
			_, _ = w.Write([]byte(mustJSON(t, map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"}})))
		case r.URL.Path == "/keys":
			_, _ = w.Write(jwks(t, published...).Inline)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// rules configure p as an email issuer whose keys are fetched.
func (p *provider) rules() identity.IssuerRules {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
	return identity.IssuerRules{OIDCIssuer: config.OIDCIssuer{ClientID: "sigstore", Type: "email", CACert: string(ca)}}
}

func (p *provider) token(t testing.TB, key, alg string) string {
	return mint(t, key, alg, claimSet(map[string]any{"iss": p.URL}))
}

func remoteVerifier(t testing.TB, p *provider, now *atomic.Int64, edit func(*identity.IssuerRules)) *identity.Verifier {
	t.Helper()
	r := p.rules()
	if edit != nil {
		edit(&r)
	}
	return newVerifier(t, identity.Config{
		OIDCIssuers: map[string]identity.IssuerRules{p.URL: r},
		Now:         func() time.Time { return testNow.Add(time.Duration(now.Load())) },
	})
}

// long is a token that lives for days, so that keys age before it does.
func (p *provider) long(t testing.TB, key, alg string) string {
	return mint(t, key, alg, claimSet(map[string]any{"iss": p.URL, "exp": testNow.Add(96 * time.Hour).Unix()}))
}

// TestDiscovery fetches lazily, once, again for a new key, and again when old.
func TestDiscovery(t *testing.T) {
	var now atomic.Int64
	p := newProvider(t, "p256")
	v := remoteVerifier(t, p, &now, nil)
	if p.fetches.Load() != 0 {
		t.Fatal("fetched before the first token")
	}
	for range 3 {
		if _, err := v.Verify(t.Context(), p.long(t, "p256", "ES256")); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.fetches.Load(); n != 2 {
		t.Fatalf("%d requests for three tokens, want discovery and keys", n)
	}
	p.set(func() { p.keys = []string{"p384"} })
	if _, err := v.Verify(t.Context(), p.long(t, "p384", "ES384")); !errors.Is(err, identity.ErrToken) {
		t.Fatalf("within the pause: %v", err)
	}
	if n := p.fetches.Load(); n != 2 {
		t.Fatalf("%d requests within the pause", n)
	}
	now.Store(int64(11 * time.Second))
	if _, err := v.Verify(t.Context(), p.long(t, "p384", "ES384")); err != nil {
		t.Fatalf("a new key: %v", err)
	}
	if _, err := v.Verify(t.Context(), p.long(t, "p256", "ES256")); !errors.Is(err, identity.ErrToken) {
		t.Fatalf("a key that was withdrawn: %v", err)
	}
}

// TestWithdrawnKey shows that a key the issuer withdrew ends with its freshness
// even when nobody presents a new one.
func TestWithdrawnKey(t *testing.T) {
	var now atomic.Int64
	p := newProvider(t, "p256", "p384")
	v := remoteVerifier(t, p, &now, nil)
	old := p.long(t, "p256", "ES256")
	if _, err := v.Verify(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	p.set(func() { p.keys = []string{"p384"} })
	now.Store(int64(61 * time.Minute))
	if _, err := v.Verify(t.Context(), old); !errors.Is(err, identity.ErrToken) {
		t.Fatalf("an hour later: %v", err)
	}
}

// TestIssuerAway: the start does not wait, keys serve for a day, then no more;
// an issuer that comes back is used again.
func TestIssuerAway(t *testing.T) {
	var now atomic.Int64
	p := newProvider(t, "p256")
	away := func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "away", http.StatusBadGateway) }
	p.set(func() { p.override["/.well-known/openid-configuration"] = away })
	v := remoteVerifier(t, p, &now, nil)
	raw := p.long(t, "p256", "ES256")
	if _, err := v.Verify(t.Context(), raw); !errors.Is(err, identity.ErrIssuerUnreachable) || errors.Is(err, identity.ErrToken) {
		t.Fatalf("issuer away: %v", err)
	}
	p.set(func() { clear(p.override) })
	now.Store(int64(11 * time.Second))
	if _, err := v.Verify(t.Context(), raw); err != nil {
		t.Fatalf("issuer back: %v", err)
	}
	p.set(func() { p.override["/.well-known/openid-configuration"] = away })
	now.Store(int64(20 * time.Hour))
	if _, err := v.Verify(t.Context(), raw); err != nil {
		t.Fatalf("within a day: %v", err)
	}
	now.Store(int64(30 * time.Hour))
	if _, err := v.Verify(t.Context(), raw); !errors.Is(err, identity.ErrIssuerUnreachable) {
		t.Fatalf("after a day: %v", err)
	}
}

// TestFence: no request leaves for a host the configuration does not name, and
// no answer is read beyond its bound.
func TestFence(t *testing.T) {
	const known = "/.well-known/openid-configuration"
	elsewhere := newProvider(t, "p256", "foreign")
	metadata := func(p *provider, jwksURI string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(mustJSON(t, map[string]any{"issuer": p.URL, "jwks_uri": jwksURI})))
		}
	}
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	for name, setup := range map[string]func(p *provider){
		"discovery redirected":       func(p *provider) { p.override[known] = redirect(elsewhere.URL + known) },
		"keys redirected":            func(p *provider) { p.override["/keys"] = redirect(elsewhere.URL + "/keys") },
		"jwks_uri elsewhere":         func(p *provider) { p.override[known] = metadata(p, elsewhere.URL+"/keys") },
		"jwks_uri by another scheme": func(p *provider) { p.override[known] = metadata(p, "http"+strings.TrimPrefix(p.URL, "https")+"/keys") },
		"jwks_uri with a user": func(p *provider) {
			p.override[known] = metadata(p, strings.Replace(p.URL, "https://", "https://u@", 1)+"/keys")
		},
		"jwks_uri with our host as user": func(p *provider) {
			p.override[known] = metadata(p, "https://"+strings.TrimPrefix(p.URL, "https://")+"@"+strings.TrimPrefix(elsewhere.URL, "https://")+"/keys")
		},
		"jwks_uri of another port": func(p *provider) { p.override[known] = metadata(p, "https://127.0.0.1:1/keys") },
		"jwks_uri a file":          func(p *provider) { p.override[known] = metadata(p, "file:///etc/passwd") },
		"jwks_uri empty":           func(p *provider) { p.override[known] = metadata(p, "") },
		"issuer differs": func(p *provider) {
			p.override[known] = func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(mustJSON(t, map[string]any{"issuer": p.URL + "/", "jwks_uri": p.URL + "/keys"})))
			}
		},
		"redirects without end": func(p *provider) { p.override[known] = redirect(p.URL + known) },
		"discovery endless": func(p *provider) {
			p.override[known] = func(w http.ResponseWriter, _ *http.Request) { endless(w) }
		},
		"keys endless": func(p *provider) {
			p.override["/keys"] = func(w http.ResponseWriter, _ *http.Request) { endless(w) }
		},
		"keys missing": func(p *provider) { p.override["/keys"] = http.NotFound },
		"keys not JSON": func(p *provider) {
			p.override["/keys"] = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }
		},
		"keys shared secrets only": func(p *provider) {
			p.override["/keys"] = func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"p256"}]}`))
			}
		},
		"keys by the thousand": func(p *provider) {
			p.override["/keys"] = func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(`{"keys":[` + strings.TrimSuffix(strings.Repeat("{},", 1000), ",") + `]}`))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var now atomic.Int64
			p := newProvider(t, "p256")
			setup(p)
			v := remoteVerifier(t, p, &now, nil)
			before := elsewhere.fetches.Load()
			if got, err := v.Verify(t.Context(), p.token(t, "p256", "ES256")); !errors.Is(err, identity.ErrIssuerUnreachable) {
				t.Fatalf("%+v, %v", got, err)
			} else {
				t.Log(err)
			}
			if n := elsewhere.fetches.Load() - before; n != 0 {
				t.Fatalf("%d requests reached another host", n)
			}
		})
	}
}

// endless writes until the client leaves, at most 16 MiB.
func endless(w http.ResponseWriter) {
	block := []byte(strings.Repeat(" ", 64<<10))
	for range 256 {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// TestNamedKeyHost allows what the configuration names.
func TestNamedKeyHost(t *testing.T) {
	var now atomic.Int64
	p := newProvider(t)
	keys := newProvider(t, "p256")
	p.set(func() {
		p.override["/.well-known/openid-configuration"] = func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(mustJSON(t, map[string]any{"issuer": p.URL, "jwks_uri": keys.URL + "/keys"})))
		}
	})
	u, err := url.Parse(keys.URL)
	if err != nil {
		t.Fatal(err)
	}
	v := remoteVerifier(t, p, &now, func(r *identity.IssuerRules) {
		r.JWKSHosts = []string{u.Host}
		r.CACert += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: keys.Certificate().Raw}))
	})
	if _, err := v.Verify(t.Context(), p.token(t, "p256", "ES256")); err != nil {
		t.Fatal(err)
	}
}

// TestWaitingEnds: a request does not wait for an issuer longer than its client
// does, and the fetch it began serves others.
func TestWaitingEnds(t *testing.T) {
	var now atomic.Int64
	p := newProvider(t, "p256")
	hold := make(chan struct{})
	p.set(func() {
		p.override["/keys"] = func(w http.ResponseWriter, _ *http.Request) {
			<-hold
			_, _ = w.Write(jwks(t, "p256").Inline)
		}
	})
	v := remoteVerifier(t, p, &now, nil)
	first := make(chan error, 1)
	go func() {
		_, err := v.Verify(context.WithoutCancel(t.Context()), p.token(t, "p256", "ES256"))
		first <- err
	}()
	for p.fetches.Load() < 2 { // until the first request holds the turn
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Verify(ctx, p.token(t, "p256", "ES256")); !errors.Is(err, identity.ErrIssuerUnreachable) || !errors.Is(err, context.Canceled) {
		t.Fatalf("a client that left: %v", err)
	}
	close(hold)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
}

// TestPinnedNeverFetches: with pinned keys a verifier opens no connection, even
// to an issuer that exists.
func TestPinnedNeverFetches(t *testing.T) {
	p := newProvider(t, "p256")
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, jwks(t, "p256").Inline, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, pin := range map[string]identity.JWKS{"inline": jwks(t, "p256"), "file": {File: file}, "relative file": {File: "keys.json"}} {
		r := p.rules()
		r.JWKS = pin
		v := newVerifier(t, identity.Config{OIDCIssuers: map[string]identity.IssuerRules{p.URL: r}, Dir: filepath.Dir(file), Now: func() time.Time { return testNow }})
		if _, err := v.Verify(t.Context(), p.token(t, "p256", "ES256")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := v.Verify(t.Context(), p.token(t, "p384", "ES384")); !errors.Is(err, identity.ErrToken) {
			t.Fatalf("%s, unknown key: %v", name, err)
		}
	}
	if n := p.fetches.Load(); n != 0 {
		t.Fatalf("%d requests", n)
	}
}

// TestBuiltInIssuer serves the built-in issuer and verifies its tokens by
// discovery, as any client would.
func TestBuiltInIssuer(t *testing.T) {
	var handler http.Handler
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	defer s.Close()
	for _, path := range []string{"", "/dex", "/a/b/"} {
		i, err := identity.NewIssuer(identity.IssuerConfig{URL: s.URL + path, Signer: testKeys()["p256"]})
		if err != nil {
			t.Fatal(err)
		}
		handler = i.Handler()
		for _, pinned := range []bool{false, true} {
			rules := identity.IssuerRules{OIDCIssuer: config.OIDCIssuer{ClientID: "sigstore", Type: "email"}}
			if pinned {
				rules.JWKS.Inline = i.JWKS()
			}
			v := newVerifier(t, identity.Config{OIDCIssuers: map[string]identity.IssuerRules{i.URL(): rules}})
			raw, err := i.Mint(identity.Claims{Subject: "u-1", Email: "dev@corp.example", Extra: map[string]any{"groups": []string{"release"}}})
			if err != nil {
				t.Fatal(err)
			}
			got, err := v.Verify(t.Context(), raw)
			if err != nil || got.Name != "dev@corp.example" || got.Subject != "u-1" || got.JTI == "" || got.Issuer != s.URL+path {
				t.Fatalf("%q pinned %v: %+v, %v", path, pinned, got, err)
			}
			again, err := i.Mint(identity.Claims{Email: "dev@corp.example"})
			if err != nil {
				t.Fatal(err)
			}
			if other, err := v.Verify(t.Context(), again); err != nil || other.TokenID == got.TokenID || other.JTI == got.JTI {
				t.Fatalf("two tokens share an identifier: %+v, %v", other, err)
			}
		}
		req := httptest.NewRequest(http.MethodPost, s.URL+strings.TrimSuffix(path, "/")+"/keys", nil)
		w := httptest.NewRecorder()
		if handler.ServeHTTP(w, req); w.Code != http.StatusMethodNotAllowed {
			t.Fatalf("POST keys: %d", w.Code)
		}
	}
}

func TestBuiltInIssuerRefuses(t *testing.T) {
	i, err := identity.NewIssuer(identity.IssuerConfig{URL: "https://oidc.corp.example", Signer: testKeys()["p256"]})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]identity.Claims{
		"nobody":    {},
		"a year":    {Subject: "u", TTL: 365 * 24 * time.Hour},
		"no time":   {Subject: "u", TTL: -time.Second},
		"issuer":    {Subject: "u", Extra: map[string]any{"iss": "https://evil.example"}},
		"no expiry": {Subject: "u", Extra: map[string]any{"exp": 1 << 40}},
		"not JSON":  {Subject: "u", Extra: map[string]any{"f": func() {}}},
	} {
		if raw, err := i.Mint(c); err == nil {
			t.Errorf("%s: minted %s", name, raw)
		}
	}
	for name, c := range map[string]identity.IssuerConfig{
		"no key":    {URL: "https://oidc.corp.example"},
		"P-384":     {URL: "https://oidc.corp.example", Signer: testKeys()["p384"]},
		"Ed25519":   {URL: "https://oidc.corp.example", Signer: testKeys()["ed"]},
		"no URL":    {Signer: testKeys()["p256"]},
		"a query":   {URL: "https://oidc.corp.example?x", Signer: testKeys()["p256"]},
		"a file":    {URL: "file:///etc", Signer: testKeys()["p256"]},
		"host only": {URL: "oidc.corp.example", Signer: testKeys()["p256"]},
	} {
		if _, err := identity.NewIssuer(c); !errors.Is(err, identity.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// fulcioYAML has the shape of Fulcio's own configuration file, with its anchors.
const fulcioYAML = `
define:
  - &forge "forge-workflow"
oidc-issuers:
  https://accounts.corp.example:
    issuer-url: https://accounts.corp.example
    client-id: sigstore
    type: email
    contact: team@corp.example
    description: "corporate login"
  https://dex.corp.example/auth:
    issuer-url: https://dex.corp.example/auth
    client-id: sigstore
    type: email
    issuer-claim: $.federated_claims.connector_id
  https://images.corp.example:
    issuer-url: https://images.corp.example
    client-id: sigstore
    type: chainguard-identity
  https://forge.corp.example:
    issuer-url: https://forge.corp.example
    client-id: sigstore
    type: ci-provider
    ci-provider: *forge
meta-issuers:
  https://*.oic.clusters.example/*/*/:
    client-id: sigstore
    type: kubernetes
  https://forge.corp.example/*:
    client-id: sigstore
    type: ci-provider
    ci-provider: *forge
ci-issuer-metadata:
  *forge:
    default-template-values:
      url: "https://forge.corp.example"
    extension-templates:
      github-workflow-trigger: "event_name"
      build-signer-uri: "{{ .url }}/{{ .job_workflow_ref }}"
      source-repository-ref: refs/{{if eq .ref_type "branch"}}heads/{{ else }}tags/{{end}}{{ .ref }}
    subject-alternative-name-template: "{{ .url }}/{{ .job_workflow_ref }}"
`

func TestFulcioConfiguration(t *testing.T) {
	c, err := identity.ParseConfig([]byte(fulcioYAML))
	if err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, c)
	if f := v.Fulcio(); len(f.OIDCIssuers) != 4 || len(f.MetaIssuers) != 2 || f.CIIssuerMetadata["forge-workflow"].ExtensionTemplates.BuildSignerURI == "" {
		t.Fatalf("%+v", f)
	}
}

// TestPinnedYAML reads each form of jwks.
func TestPinnedYAML(t *testing.T) {
	doc := string(jwks(t, "p256").Inline)
	var m map[string]any
	if err := json.Unmarshal([]byte(doc), &m); err != nil {
		t.Fatal(err)
	}
	key := m["keys"].([]any)[0].(map[string]any)
	base := "oidc-issuers:\n  " + mailIssuer + ":\n    client-id: sigstore\n    type: email\n    jwks: "
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, form := range map[string]string{
		"string":  "'" + doc + "'",
		"block":   "|\n      " + doc,
		"mapping": fmt.Sprintf("\n      keys:\n        - {kty: EC, crv: P-256, kid: p256, x: %q, y: %q}", key["x"], key["y"]),
		"flow":    doc,
		"file":    file,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := identity.ParseConfig([]byte(base + form + "\n"))
			if err != nil {
				t.Fatal(err)
			}
			c.Now = func() time.Time { return testNow }
			if _, err := newVerifier(t, c).Verify(t.Context(), mint(t, "p256", "ES256", claimSet(nil))); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestConfigRefused shows the configurations that do not start, and that the
// error names the place.
func TestConfigRefused(t *testing.T) {
	issuer := func(more string) string {
		return "oidc-issuers:\n  https://login.corp.example:\n    client-id: sigstore\n" + more
	}
	meta := func(pattern string) string {
		return "meta-issuers:\n  " + pattern + ":\n    client-id: sigstore\n    type: kubernetes\n"
	}
	private := mustJSON(t, map[string]any{"keys": []any{map[string]any{"kty": "EC", "crv": "P-256", "x": jwk(t, "p256")["x"], "y": jwk(t, "p256")["y"], "d": "AAAA"}}})
	for name, c := range map[string]struct{ doc, want string }{
		"unknown key":           {issuer("    type: email\n    clientid: x\n"), "line 5"},
		"unknown block":         {"oidc-isuers: {}\n", "line 1"},
		"issuer twice":          {issuer("    type: email\n") + "  https://login.corp.example:\n    client-id: other\n", "already defined"},
		"no type":               {issuer(""), "type"},
		"unknown type":          {issuer("    type: mail\n"), "mail"},
		"no client-id":          {"oidc-issuers:\n  https://login.corp.example:\n    type: email\n", "client-id"},
		"issuer-url differs":    {issuer("    type: email\n    issuer-url: https://other.example\n"), "issuer-url"},
		"issuer no URL":         {"oidc-issuers:\n  login:\n    client-id: sigstore\n    type: email\n", "URL"},
		"issuer with a query":   {"oidc-issuers:\n  https://login.corp.example?x=1:\n    client-id: sigstore\n    type: email\n", "query"},
		"issuer with a user":    {"oidc-issuers:\n  https://a@login.corp.example:\n    client-id: sigstore\n    type: email\n", "user"},
		"http without pins":     {"oidc-issuers:\n  http://login.corp.example:\n    client-id: sigstore\n    type: email\n", "https"},
		"algorithm none":        {issuer("    type: email\n    algorithms: [none]\n"), "none"},
		"algorithm HS256":       {issuer("    type: email\n    algorithms: [ES256, HS256]\n"), "HS256"},
		"token-uses negative":   {issuer("    type: email\n    token-uses: -1\n"), "token-uses"},
		"issuer-claim for uri":  {issuer("    type: uri\n    subject-domain: https://corp.example\n    issuer-claim: $.x\n"), "issuer-claim"},
		"uri without domain":    {issuer("    type: uri\n"), "subject-domain"},
		"uri of another domain": {issuer("    type: uri\n    subject-domain: https://evil.example\n"), "no domain"},
		"uri of another scheme": {issuer("    type: uri\n    subject-domain: http://corp.example\n"), "scheme"},
		"username with scheme":  {issuer("    type: username\n    subject-domain: https://corp.example\n"), "without scheme"},
		"username elsewhere":    {issuer("    type: username\n    subject-domain: evil.example\n"), "no domain"},
		"spiffe without domain": {issuer("    type: spiffe\n"), "spiffe-trust-domain"},
		"spiffe bad domain":     {issuer("    type: spiffe\n    spiffe-trust-domain: A/B\n"), "spiffe-trust-domain"},
		"ci without metadata":   {issuer("    type: ci-provider\n    ci-provider: forge\n"), "ci-issuer-metadata"},
		"ci bad template":       {"ci-issuer-metadata:\n  forge:\n    subject-alternative-name-template: '{{ .x'\n", "forge"},
		"ci without name":       {"ci-issuer-metadata:\n  forge:\n    default-template-values: {}\n", "subject-alternative-name-template"},
		"ca-cert garbage":       {issuer("    type: email\n    ca-cert: x\n"), "ca-cert"},
		"meta without star":     {meta("https://oidc.corp.example/id"), "no *"},
		"meta star for host":    {meta("https://*"), "written out"},
		"meta star for domain":  {meta("https://oidc.*.example"), "written out"},
		"meta star for tld":     {meta("https://oidc.corp.*"), "written out"},
		"meta star in port":     {meta("https://oidc.corp.example:*/x"), ""},
		"meta spiffe":           {"meta-issuers:\n  https://*.spire.corp.example:\n    client-id: sigstore\n    type: spiffe\n    spiffe-trust-domain: corp.example\n", "spiffe"},
		"jwks empty":            {issuer("    type: email\n    jwks: ''\n"), "line 5"},
		"jwks a list":           {issuer("    type: email\n    jwks: [a]\n"), "line 5"},
		"jwks no keys":          {issuer("    type: email\n    jwks: '{\"keys\":[]}'\n"), "no usable"},
		"jwks not JSON":         {issuer("    type: email\n    jwks: '{keys'\n"), "login.corp.example"},
		"jwks private":          {issuer("    type: email\n    jwks: '" + private + "'\n"), "private"},
		"jwks shared secret":    {issuer("    type: email\n    jwks: '{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}'\n"), "private or shared"},
		"jwks file missing":     {issuer("    type: email\n    jwks: /nonexistent/keys.json\n"), "/nonexistent/keys.json"},
		"not YAML":              {":\n\t-", ""},
	} {
		t.Run(name, func(t *testing.T) {
			parsed, err := identity.ParseConfig([]byte(c.doc))
			if err == nil {
				_, err = identity.New(parsed)
			}
			if !errors.Is(err, identity.ErrConfig) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v does not name %q", err, c.want)
			}
		})
	}
}

// FuzzParseConfig: no panic, and what parses also starts or says why.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(fulcioYAML))
	f.Add([]byte("oidc-issuers:\n  https://login.corp.example:\n    client-id: sigstore\n    type: email\n    jwks: {keys: []}\n"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := identity.ParseConfig(doc)
		if err != nil {
			return
		}
		for name, i := range c.OIDCIssuers { // no files by fuzzing
			i.JWKS.File = ""
			c.OIDCIssuers[name] = i
		}
		for name, i := range c.MetaIssuers {
			i.JWKS.File = ""
			c.MetaIssuers[name] = i
		}
		if _, err := identity.New(c); err != nil && !errors.Is(err, identity.ErrConfig) {
			t.Fatalf("untyped error %v", err)
		}
	})
}
