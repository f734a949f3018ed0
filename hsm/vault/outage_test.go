package vault

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// recovers signs until it works again; a server that is back must be noticed soon.
func recovers(t testing.TB, key *hsm.Key) {
	t.Helper()
	began := time.Now()
	for sign(key) != nil {
		if time.Since(began) > 30*time.Second { // what is promised is 5 s; a busy machine is given more
			t.Fatalf("no signature %s after the return: %v", time.Since(began), sign(key))
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("signs again after %s", time.Since(began).Round(time.Millisecond))
}

// Sealed while serving, and unsealed: the token is kept, nobody logs in again.
func TestSealedWhileServing(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		tok := p.open(t, p.config(t))
		key := generate(t, tok, "k", hsm.ECDSAP256)
		grant := tok.live.Load().grant.token
		p.seal(t)
		for range 3 {
			failsWith(t, sign(key), hsm.ErrUnavailable, "sealed", p.front.url, p.mount)
		}
		_, err := connected(p.configWith(tok.cfg.TokenFile))
		failsWith(t, err, hsm.ErrUnavailable, "sealed")
		p.unseal(t)
		recovers(t, key)
		if got := tok.live.Load().grant.token; got != grant {
			t.Error("another token is in use")
		}
	})
}

func (p *peer) configWith(tokenFile string) Config {
	return Config{Address: p.front.url, CAFile: p.front.caFile, Mount: p.mount, Auth: AuthToken, TokenFile: tokenFile}
}

// Every kind of bad answer is an error of the call, bounded and named, and heals.
func TestBadAnswers(t *testing.T) {
	t.Parallel()
	var decoy atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { decoy.Add(1) }))
	defer elsewhere.Close()
	release := make(chan struct{})
	defer close(release)
	status := func(code int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
			return true
		}
	}
	answers := map[string]struct {
		act  func(http.ResponseWriter, *http.Request) bool
		says string
	}{
		"cut": {cut, "does not serve"},
		"hung": {func(_ http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body) // before that, the end of the connection is not noticed
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return true
		}, "deadline"},
		"standby that redirects": {func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}, "which is not followed"},
		"standby":        {status(http.StatusServiceUnavailable, `{"errors":["Vault is in standby"]}`), "standby"},
		"over its quota": {status(http.StatusTooManyRequests, `{"errors":["request path: rate limit quota exceeded"]}`), "quota"},
		"fault":          {status(http.StatusInternalServerError, `{"errors":["internal error"]}`), "status 500"},
		"gateway":        {status(http.StatusBadGateway, `<html>bad gateway</html>`), "status 502"},
		"no JSON":        {status(http.StatusOK, `<html>welcome</html>`), "not what Vault sends"},
		"empty":          {status(http.StatusOK, `{}`), "not one of version 1"},
		"no content":     {status(http.StatusNoContent, ``), "not one of version 1"},
		"other version":  {status(http.StatusOK, `{"data":{"signature":"vault:v2:AAAA"}}`), "not one of version 1"},
		"endless": {func(w http.ResponseWriter, r *http.Request) bool {
			for range 64 {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					break
				}
			}
			return true
		}, "longer than"},
	}
	eachPeer(t, func(t *testing.T, p *peer) {
		c := p.config(t)
		c.Timeout = DefaultTimeout
		tok := p.open(t, c)
		key := generate(t, tok, "k", hsm.ECDSAP256)
		for name, answer := range answers {
			t.Run(name, func(t *testing.T) {
				p.front.do(answer.act)
				began := time.Now()
				err := sign(key)
				t.Logf("answered within %s", time.Since(began).Round(time.Millisecond)) // 2 s are promised
				failsWith(t, err, hsm.ErrUnavailable, answer.says, p.front.url, p.mount)
				p.front.do(nil)
				recovers(t, key)
			})
		}
		if decoy.Load() > 0 {
			t.Error("a redirect was followed")
		}
	})
}

// Many outages under load leave nothing behind: no goroutine, no descriptor.
func TestTortureOutages(t *testing.T) {
	outages := 12
	if os.Getenv("REDOUBT_TORTURE") != "" {
		outages = 500
	}
	eachPeer(t, func(t *testing.T, p *peer) {
		tok := p.open(t, p.config(t))
		key := generate(t, tok, "k", hsm.ECDSAP256)
		recovers(t, key)
		goroutines, descriptors := settled(t, p, tok)
		var stop atomic.Bool
		var signed, failed atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				sum := sha256.Sum256([]byte("m"))
				for !stop.Load() {
					switch _, err := key.Sign(nil, sum[:], crypto.SHA256); {
					case err == nil:
						signed.Add(1)
					case errors.Is(err, hsm.ErrUnavailable):
						failed.Add(1)
						time.Sleep(time.Millisecond)
					default:
						t.Error(err)
						return
					}
				}
			})
		}
		acts := []func(http.ResponseWriter, *http.Request) bool{cut, func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"errors":["Vault is sealed"]}`))
			return true
		}}
		for i := range outages {
			before := failed.Load()
			p.front.do(acts[i%len(acts)])
			for failed.Load() == before && !t.Failed() {
				time.Sleep(time.Millisecond)
			}
			before = signed.Load()
			p.front.do(nil)
			for signed.Load() < before+8 && !t.Failed() {
				time.Sleep(time.Millisecond)
			}
		}
		stop.Store(true)
		wg.Wait()
		g, d := settled(t, p, tok)
		t.Logf("%d outages, %d signatures, %d refusals; goroutines %d then %d, descriptors %d then %d", outages, signed.Load(), failed.Load(), goroutines, g, descriptors, d)
		if g > goroutines+4 || d > descriptors+4 {
			t.Errorf("left behind: goroutines %d then %d, descriptors %d then %d", goroutines, g, descriptors, d)
		}
	})
}

// settled counts goroutines and descriptors once idle connections are closed.
func settled(t testing.TB, p *peer, tok *Token) (goroutines, descriptors int) {
	t.Helper()
	last, steady := -1, 0
	for range 100 {
		tok.wire.dropIdle()
		p.front.idle()
		time.Sleep(50 * time.Millisecond)
		entries, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		goroutines, descriptors = runtime.NumGoroutine(), len(entries)
		if goroutines+descriptors == last {
			steady++
		} else {
			steady = 0
		}
		if steady == 5 {
			break
		}
		last = goroutines + descriptors
	}
	return goroutines, descriptors
}

// Nothing of the environment sends a request elsewhere or changes it.
func TestEnvironmentIsNotFollowed(t *testing.T) {
	decoy, contacted := decoyListener(t)
	eachPeer(t, func(t *testing.T, p *peer) {
		c := p.config(t)
		for name, value := range map[string]string{
			"VAULT_ADDR": "http://" + decoy, "VAULT_AGENT_ADDR": "http://" + decoy, "BAO_ADDR": "http://" + decoy, "VAULT_PROXY_ADDR": "http://" + decoy,
			"VAULT_HTTP_PROXY": "http://" + decoy, "HTTP_PROXY": "http://" + decoy, "HTTPS_PROXY": "http://" + decoy, "ALL_PROXY": "http://" + decoy,
			"http_proxy": "http://" + decoy, "https_proxy": "http://" + decoy, "NO_PROXY": "", "VAULT_SRV_LOOKUP": "true", "VAULT_SKIP_VERIFY": "true",
			"VAULT_TOKEN": "hvs.of-the-environment", "BAO_TOKEN": "hvs.of-the-environment", "VAULT_NAMESPACE": "of-the-environment",
			"VAULT_HEADERS": `{"X-Of-The-Environment":"true"}`, "TRANSIT_SECRET_ENGINE_PATH": "elsewhere", "VAULT_KEY_PREFIX": "elsewhere",
		} {
			t.Setenv(name, value)
		}
		var spoiled atomic.Value
		p.front.do(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(jsonText(t, r.Header), "f-The-Environment") || strings.Contains(jsonText(t, r.Header), "of-the-environment") {
				spoiled.Store(r.Method + " " + r.URL.Path)
			}
			return false
		})
		tok := p.open(t, c)
		check(t, sign(generate(t, tok, "k", hsm.ECDSAP256)))
		if what := spoiled.Load(); what != nil {
			t.Errorf("%v carries a value of the environment", what)
		}
		// The system's or the environment's idea of trust does not count either.
		c.CAFile = secretFile(t, string(pemOf(otherCertificate(t))))
		_, err := connected(c)
		failsWith(t, err, hsm.ErrUnavailable, "certificate")
	})
	if contacted() {
		t.Error("the decoy was contacted")
	}
}

// decoyListener counts whoever connects.
func decoyListener(t *testing.T) (address string, contacted func() bool) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	var n atomic.Int64
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			conn.Close()
		}
	}()
	return l.Addr().String(), func() bool { return n.Load() > 0 }
}

// The dialer itself knows one address.
func TestDialsOneAddress(t *testing.T) {
	w, err := newWire(Config{Address: "http://127.0.0.1:1", Timeout: time.Second})
	check(t, err)
	if w.transport.Proxy != nil { // the standard one never shows on loopback, which it excepts
		t.Error("the transport asks for a proxy")
	}
	if _, err := w.transport.DialContext(t.Context(), "tcp", "127.0.0.1:2"); err == nil || !strings.Contains(err.Error(), "refused: the configured server is 127.0.0.1:1") {
		t.Errorf("dialling elsewhere: %v", err)
	}
}

// The kernel's view: a process that opens the token and signs connects to one
// address.
func TestSystemCallsShowOneAddress(t *testing.T) {
	if os.Getenv("REDOUBT_VAULT_CHILD") != "" {
		c := Config{Address: os.Getenv("CHILD_ADDRESS"), CAFile: os.Getenv("CHILD_CA"), Mount: os.Getenv("CHILD_MOUNT"), Auth: AuthToken, TokenFile: os.Getenv("CHILD_TOKEN")}
		tok, err := connected(c)
		check(t, err)
		check(t, sign(generate(t, tok, "traced", hsm.ECDSAP256)))
		check(t, tok.Close())
		return
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("%v; .ci/packages test installs it", err)
	}
	eachPeer(t, func(t *testing.T, p *peer) {
		c := p.config(t)
		out := t.TempDir() + "/trace"
		cmd := exec.Command(strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", out, "/proc/self/exe", "-test.run", "^TestSystemCallsShowOneAddress$")
		self, err := os.Executable()
		check(t, err)
		cmd.Args[len(cmd.Args)-3] = self
		cmd.Env = append(os.Environ(), "REDOUBT_VAULT_CHILD=1", "CHILD_ADDRESS="+c.Address, "CHILD_CA="+c.CAFile, "CHILD_MOUNT="+c.Mount, "CHILD_TOKEN="+c.TokenFile,
			"HTTPS_PROXY=http://127.0.0.1:9", "VAULT_ADDR=http://127.0.0.1:9")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		trace, err := os.ReadFile(out)
		check(t, err)
		_, port, _ := strings.Cut(strings.TrimPrefix(c.Address, "https://"), ":")
		ours := regexp.MustCompile(`sin_port=htons\(` + port + `\), sin_addr=inet_addr\("127\.0\.0\.1"\)`)
		n := 0
		for line := range strings.Lines(string(trace)) {
			if !strings.Contains(line, "sa_family=") {
				continue
			}
			if n++; !ours.MatchString(line) {
				t.Errorf("another address: %s", line)
			}
		}
		if n == 0 {
			t.Errorf("the trace shows no connection:\n%s", trace)
		}
	})
}
