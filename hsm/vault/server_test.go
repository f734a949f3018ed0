package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"redoubt.internal/hsm/vault/fake"
)

// vaultBinary is the name the build puts the server under.
const vaultBinary = "vault-v1.21.1"

// A peer is a server the tests run against, the fake or the real one, behind a
// front that can misbehave.
type peer struct {
	real        bool
	url, caFile string
	root        string
	admin       *api.Client // straight to the server
	unsealKey   string
	front       *front
	mount       string // a Transit engine of this test's own
}

// A front stands between the product and a server and can be told to fail.
type front struct {
	url, caFile string
	hits        atomic.Int64
	idle        func()                                                            // closes its own idle connections
	act         atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool] // true: answered
	log         sync.Map                                                          // "METHOD path" seen
}

// do makes the front answer itself where f returns true; nil passes all on.
func (f *front) do(act func(w http.ResponseWriter, r *http.Request) bool) {
	if act == nil {
		f.act.Store(nil)
		return
	}
	f.act.Store(&act)
}

// eachPeer runs a test against the fake, and against the real server where its
// binary is. A trap that is tested on one only would let the fake drift.
func eachPeer(t *testing.T, test func(t *testing.T, p *peer)) {
	t.Run("fake", func(t *testing.T) {
		s := fake.Start(t)
		test(t, newPeer(t, &peer{url: s.URL, caFile: s.CAFile, root: s.RootToken, unsealKey: s.UnsealKey}))
	})
	if _, err := findVault(); err == nil {
		t.Run("vault", func(t *testing.T) {
			p := *realVault(t)
			test(t, newPeer(t, &p))
		})
	}
}

// TestRealServer says, once, whether every test here also ran on the real server. In
// the group that is about it, a server that was not built is a failure; one that was
// not ready in time is counted with its reason.
func TestRealServer(t *testing.T) {
	dir, err := findVault()
	if err == nil {
		realVault(t)
		return
	}
	for line := range strings.Lines(os.Getenv("REDOUBT_E2E_MISSING")) {
		if reason, ok := strings.CutPrefix(strings.TrimSpace(line), vaultBinary+" "); ok {
			t.Skipf("%s was not ready: %s", vaultBinary, reason)
		}
	}
	if os.Getenv("REDOUBT_E2E_GROUP") == "servers" {
		t.Fatalf("%s is not in %s; `.ci/clients build servers` builds it", vaultBinary, dir)
	}
	t.Skipf("NOTHING HERE WAS TESTED AGAINST THE REAL SERVER, the fake stood in: %s is not in %s; `.ci/clients build servers` builds it (a quarter of an hour)", vaultBinary, dir)
}

var mounts atomic.Int64

// newPeer gives the test a front, an engine and an administrator of its own.
func newPeer(t testing.TB, p *peer) *peer {
	t.Helper()
	config := api.DefaultConfig()
	config.Address, config.MaxRetries = p.url, 0
	check(t, config.ConfigureTLS(&api.TLSConfig{CACert: p.caFile}))
	var err error
	p.admin, err = api.NewClient(config)
	check(t, err)
	p.admin.SetToken(p.root)
	p.mount = fmt.Sprintf("transit-%d", mounts.Add(1))
	p.write(t, "sys/mounts/"+p.mount, map[string]any{"type": "transit"})
	p.write(t, "sys/policies/acl/"+p.mount, map[string]any{"policy": fmt.Sprintf("path %q { capabilities = [\"create\", \"read\", \"update\"] }", p.mount+"/*")})

	target, err := url.Parse(p.url)
	check(t, err)
	pem, err := os.ReadFile(p.caFile)
	check(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	f := &front{caFile: filepath.Join(t.TempDir(), "front.pem")}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 8}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				t.Logf("front: %s %s: %v", r.Method, r.URL.Path, err)
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	f.idle = transport.CloseIdleConnections
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.hits.Add(1)
		f.log.Store(r.Method+" "+r.URL.Path, true)
		if act := f.act.Load(); act != nil && (*act)(w, r) {
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close(); transport.CloseIdleConnections() })
	f.url = s.URL
	check(t, os.WriteFile(f.caFile, pemOf(s.Certificate()), 0o600))
	p.front = f
	return p
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func (p *peer) write(t testing.TB, path string, body map[string]any) *api.Secret {
	t.Helper()
	s, err := p.admin.Logical().Write(path, body)
	if err != nil {
		t.Fatalf("administrator: %s: %v", path, err)
	}
	return s
}

func (p *peer) read(t testing.TB, path string) *api.Secret {
	t.Helper()
	s, err := p.admin.Logical().Read(path)
	if err != nil || s == nil {
		t.Fatalf("administrator: %s: %v", path, err)
	}
	return s
}

// token makes a token with the test's policy and writes it to a file.
func (p *peer) token(t testing.TB, options map[string]any) (token, file string) {
	t.Helper()
	body := map[string]any{"policies": []string{p.mount}}
	for k, v := range options {
		body[k] = v
	}
	token = p.write(t, "auth/token/create", body).Auth.ClientToken
	return token, secretFile(t, token)
}

func secretFile(t testing.TB, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(file, []byte(content+"\n"), 0o600))
	return file
}

// config is a token login through the front, with the patience of a busy machine.
func (p *peer) config(t testing.TB) Config {
	t.Helper()
	_, file := p.token(t, nil)
	return Config{Address: p.front.url, CAFile: p.front.caFile, Mount: p.mount, Auth: AuthToken, TokenFile: file, Timeout: 20 * time.Second}
}

// connected opens the token and logs in, as the first key does.
func connected(c Config) (*Token, error) {
	tok, err := Open(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := tok.connect(ctx); err != nil {
		_ = tok.Close()
		return nil, fmt.Errorf("opening %s: %w", tok.where, err)
	}
	return tok, nil
}

func (p *peer) open(t testing.TB, c Config) *Token {
	t.Helper()
	tok, err := connected(c)
	check(t, err)
	t.Cleanup(func() { check(t, tok.Close()) })
	return tok
}

func (p *peer) seal(t testing.TB) { p.write(t, "sys/seal", nil) }

func (p *peer) unseal(t testing.TB) {
	t.Helper()
	p.write(t, "sys/unseal", map[string]any{"key": p.unsealKey})
	for range 200 { // the engines are loaded after the answer
		if s, err := p.admin.Logical().Read("auth/token/lookup-self"); err == nil && s != nil {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatal("the server did not come back after unsealing")
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The real server is started once and serves the tests of this package in turn.
var (
	realOnce sync.Once
	realPeer *peer
	realWhy  error // why there is none
	realStop func()
)

func TestMain(m *testing.M) {
	code := m.Run()
	if realStop != nil {
		realStop()
	}
	os.Exit(code)
}

// findVault returns the folder the real server should stand in, and whether it does.
func findVault() (dir string, err error) {
	if dir = os.Getenv("REDOUBT_E2E_CLIENTS"); dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(cache, "redoubt", "e2e", "bin")
	}
	_, err = os.Stat(filepath.Join(dir, vaultBinary))
	return dir, err
}

// realVault returns the running real server.
func realVault(t *testing.T) *peer {
	t.Helper()
	dir, err := findVault()
	check(t, err)
	realOnce.Do(func() { realPeer, realStop, realWhy = startVault(filepath.Join(dir, vaultBinary)) })
	if realWhy != nil {
		t.Fatalf("starting %s: %v", vaultBinary, realWhy)
	}
	return realPeer
}

// startVault runs the server with TLS and storage in memory, initialised and
// unsealed.
func startVault(binary string) (*peer, func(), error) {
	dir, err := os.MkdirTemp("", "redoubt-vault-")
	if err != nil {
		return nil, nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	address := listener.Addr().String()
	listener.Close()
	tlsServer := httptest.NewTLSServer(nil) // for its certificate of 127.0.0.1
	certificate := tlsServer.TLS.Certificates[0]
	tlsServer.Close()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	config := fmt.Sprintf(`
storage "inmem" {}
listener "tcp" {
  address = %q
  tls_cert_file = %q
  tls_key_file = %q
}
disable_mlock = true
api_addr = "https://%s"
log_level = "warn"
`, address, filepath.Join(dir, "ca.pem"), filepath.Join(dir, "key.pem"), address)
	for name, content := range map[string][]byte{
		"vault.hcl": []byte(config),
		"ca.pem":    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}),
		"key.pem":   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, nil, err
		}
	}
	var said bytes.Buffer
	command := exec.Command(binary, "server", "-config", filepath.Join(dir, "vault.hcl"))
	command.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	command.Stdout, command.Stderr = &said, &said
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that is cut short leaves no server
	if err := command.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		_ = os.RemoveAll(dir)
	}
	p := &peer{real: true, url: "https://" + address, caFile: filepath.Join(dir, "ca.pem")}
	if err := p.initialise(); err != nil {
		stop()
		return nil, nil, fmt.Errorf("%w\n%s", err, said.String())
	}
	return p, stop, nil
}

func (p *peer) initialise() error {
	config := api.DefaultConfig()
	config.Address, config.MaxRetries = p.url, 0
	if err := config.ConfigureTLS(&api.TLSConfig{CACert: p.caFile}); err != nil {
		return err
	}
	client, err := api.NewClient(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var made *api.InitResponse
	for made == nil {
		if made, err = client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1}); err != nil {
			if ctx.Err() != nil {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	p.unsealKey, p.root = made.Keys[0], made.RootToken
	if _, err := client.Sys().UnsealWithContext(ctx, p.unsealKey); err != nil {
		return err
	}
	client.SetToken(p.root)
	for {
		if _, err = client.Auth().Token().LookupSelfWithContext(ctx); err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// jsonText is v as JSON.
func jsonText(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	check(t, err)
	return string(b)
}
