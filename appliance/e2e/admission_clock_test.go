//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.internal/appliance/admission"
	"redoubt.internal/ca/frontend"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/images"
)

// A clocked gate is the product's gate inside this process, because a process of its own cannot be told another time: one clock is that of its
// certificates, the other that of its trust. The API server's clock is the machine's.
type clocked struct {
	gate          *admission.Gate
	certificates  *admission.Certificates
	rules         func(*freshness.State) *admission.Rules
	tlsAt, ruleAt atomic.Int64 // nanoseconds ahead
	web           *http.Server
	address       string
	issuer        atomic.Pointer[string] // of the certificate shown last
}

func (c *clocked) tlsNow() time.Time  { return time.Now().Add(time.Duration(c.tlsAt.Load())) }
func (c *clocked) ruleNow() time.Time { return time.Now().Add(time.Duration(c.ruleAt.Load())) }

const year = 365 * 24 * time.Hour

// newClocked starts a gate by the policy of g, with its certificates' clock ahead.
func newClocked(t *testing.T, g *gated, ahead time.Duration) *clocked {
	t.Helper()
	c := &clocked{}
	c.tlsAt.Store(int64(ahead))
	log, err := os.OpenFile(filepath.Join(g.dir, "clocked.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	config := admission.Config{Registries: []images.Access{{Host: g.registry}}, Logger: slog.New(slog.NewTextHandler(log, nil)), Timeout: 5 * time.Second, Dir: t.TempDir(), Now: c.ruleNow, OwnName: "redoubt-admission", OwnNamespace: "redoubt-admission"}
	policy := filepath.Join(g.dir, "gate", "policy.yaml")
	c.rules = func(known *freshness.State) *admission.Rules {
		t.Helper()
		rules, err := admission.ParseRules(must(os.ReadFile(policy)), policy, nil, known, c.ruleNow)
		if err != nil {
			t.Fatal(err)
		}
		return rules
	}
	people := &admission.People{Approvers: g.people.among, Domain: domain, Dir: filepath.Join(g.dir, "gate", "approvals")}
	if c.gate, err = admission.New(config, c.rules(nil), people); err != nil {
		t.Fatal(err)
	}
	cluster := admission.Cluster{URL: g.url, CAFile: g.ca, Token: gateToken}
	if err := c.gate.InCluster(cluster, false); err != nil {
		t.Fatal(err)
	}
	config.Now, config.Dir = c.tlsNow, t.TempDir()
	shower, err := admission.New(config, c.rules(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	names := frontend.Names{DNS: []string{"redoubt-admission.redoubt-admission.svc"}, IP: []net.IP{net.ParseIP("127.0.0.1")}}
	if c.certificates, err = shower.Certificates(context.Background(), admission.TLS{Names: names, Namespace: "redoubt-admission", Secret: "redoubt-admission-tls", Configuration: "redoubt-admission"}, &cluster); err != nil {
		t.Fatal(err)
	}
	c.serve(t)
	return c
}

func (c *clocked) serve(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	config := c.certificates.TLSConfig()
	show := config.GetCertificate
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		shown, err := show(hello)
		if err == nil {
			issuer := shown.Leaf.NotAfter.String() + fmt.Sprintf(" %x", shown.Leaf.AuthorityKeyId)
			c.issuer.Store(&issuer)
		}
		return shown, err
	}
	c.web = &http.Server{Handler: c.gate.Handler(), ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	go c.web.Serve(tls.NewListener(listener, config))
	t.Cleanup(func() { c.web.Close() })
}

// renew sets the clock of the certificates and makes what is due by it.
func (c *clocked) renew(t *testing.T, ahead time.Duration) {
	t.Helper()
	c.tlsAt.Store(int64(ahead))
	if err := c.certificates.Renew(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// bundles are how many roots each webhook configuration trusts.
func (g *gated) bundles(t *testing.T) (counts []int) {
	t.Helper()
	for _, kind := range []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"} {
		var held struct {
			Webhooks []struct {
				ClientConfig struct {
					CABundle string `json:"caBundle"`
				} `json:"clientConfig"`
			} `json:"webhooks"`
		}
		_, answer, _ := g.ask(http.MethodGet, place(t, kind, "")+"/redoubt-admission", "", nil)
		if err := json.Unmarshal(answer, &held); err != nil || len(held.Webhooks) != 1 {
			t.Fatalf("%s", answer)
		}
		pem, err := base64.StdEncoding.DecodeString(held.Webhooks[0].ClientConfig.CABundle)
		if err != nil {
			t.Fatal(err)
		}
		counts = append(counts, bytes.Count(pem, []byte("BEGIN CERTIFICATE")))
	}
	return counts
}

// TestServersAdmissionClock: certificates and trust end by the clock. The API server takes no webhook whose certificate has expired, certificates and
// their roots are renewed without a request that fails, and trust that is too old refuses, with the grace that there is.
func TestServersAdmissionClock(t *testing.T) {
	g := newGated(t)
	g.kill(t, "gate")
	web := g.registry + "/app/web"
	signed, never := g.signed(t, "app/web", "1"), g.signed(t, "app/web", "2")
	g.push(t, "app/web", "unsigned")
	t.Run("certificates", func(t *testing.T) { certificatesByClock(t, g, web, signed) })
	t.Run("trust", func(t *testing.T) { trustByClock(t, g, web, signed, never) })
}

// forgetRoots removes the Secret, so that the next gate makes a root by its own clock.
func (g *gated) forgetRoots(t *testing.T) {
	t.Helper()
	if code, answer, _ := g.ask(http.MethodDelete, place(t, "Secret", "redoubt-admission")+"/redoubt-admission-tls", "", nil); code/100 != 2 {
		t.Fatalf("%d %s", code, answer)
	}
}

func certificatesByClock(t *testing.T, g *gated, web, signed string) {
	// A gate of nine years ago; its first root ends in less than a year, when the next one signs.
	g.forgetRoots(t)
	c := newClocked(t, g, -9*year-10*24*time.Hour)
	g.front.to(c.address)
	t.Run("expired", func(t *testing.T) {
		g.settled(t, web+"@"+signed, "certificate has expired")
		g.refused(t, "expired-own", web+":unsigned", "certificate has expired")
	})
	// Seven years later the next root is made and trusted; a month ago the first one still signs.
	c.renew(t, -2*year)
	c.renew(t, -29*24*time.Hour)
	g.front.to(c.address)
	g.settled(t, web+"@"+signed, "")
	first := *c.issuer.Load()
	if n := g.bundles(t); n[0] != 2 || n[1] != 2 {
		t.Fatalf("%v roots are trusted, want 2", n)
	}
	t.Run("renewed without a request that fails", func(t *testing.T) {
		stop := make(chan struct{})
		var work sync.WaitGroup
		var made, refused atomic.Int64
		for worker := range 2 {
			work.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					if code, answer, _ := g.create(t, "Pod", "apps", fmt.Sprintf(podJSON, fmt.Sprintf("renew-%d-%d", worker, i), web+"@"+signed)); code == http.StatusCreated {
						made.Add(1)
					} else {
						refused.Add(1)
						t.Errorf("a request failed: %d %s", code, message(answer))
					}
				}
			})
		}
		wait(t, "requests before", func() bool { return made.Load() > 20 })
		c.renew(t, 0)
		before := made.Load()
		wait(t, "requests after", func() bool { return made.Load() > before+20 })
		close(stop)
		work.Wait()
		if refused.Load() > 0 {
			t.Errorf("%d of %d requests failed", refused.Load(), made.Load())
		}
		g.behind(t, c.address) // the API server's next connection meets the new certificate
		g.allowed(t, "renewed", web+"@"+signed, signed)
		t.Logf("%d requests, %d failed; the certificate was %s and is %s", made.Load(), refused.Load(), first, *c.issuer.Load())
	})
	if _, was, _ := strings.Cut(first, "+0000"); strings.HasSuffix(*c.issuer.Load(), was) {
		t.Error("the first root signs on")
	}
	t.Run("the gate shows none that has ended", func(t *testing.T) {
		c.tlsAt.Store(int64(31 * 24 * time.Hour))
		g.front.to(c.address)
		g.refused(t, "ended", web+"@"+signed, "failed calling webhook")
		c.tlsAt.Store(0)
		g.behind(t, c.address)
		g.allowed(t, "ended-not", web+"@"+signed, signed)
	})
	t.Run("a root that is not in the configuration", func(t *testing.T) { // the control of the bundles
		g.forgetRoots(t)
		other := newClocked(t, g, 0)
		g.trustOthers(t)
		g.front.to(other.address)
		g.settled(t, web+"@"+signed, "certificate signed by unknown authority")
		other.renew(t, 0)
		g.settled(t, web+"@"+signed, "")
	})
}

// trustOthers has the webhook configurations trust what is none of the gate's roots.
func (g *gated) trustOthers(t *testing.T) {
	t.Helper()
	ca := base64.StdEncoding.EncodeToString(must(os.ReadFile(g.ca)))
	for _, kind := range []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"} {
		code, answer, _ := g.ask(http.MethodPatch, place(t, kind, "")+"/redoubt-admission", "application/json-patch+json", fmt.Appendf(nil, `[{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":%q}]`, ca))
		if code/100 != 2 {
			t.Fatalf("%d %s", code, answer)
		}
	}
}

// settled waits until a pod of the image is refused with a reason, or made where that is "": a change of a webhook configuration takes a moment.
func (g *gated) settled(t *testing.T, image, reason string) {
	t.Helper()
	wait(t, "a pod: "+reason, func() bool {
		code, answer, _ := g.create(t, "Pod", "apps", strings.Replace(fmt.Sprintf(podJSON, "settled-", image), `"name"`, `"generateName"`, 1))
		return reason == "" && code == http.StatusCreated || reason != "" && code/100 != 2 && strings.Contains(message(answer), reason)
	})
}

func trustByClock(t *testing.T, g *gated, web, signed, never string) {
	g.forgetRoots(t)
	c := newClocked(t, g, 0)
	g.front.to(c.address)
	g.settled(t, web+"@"+signed, "")
	day := int64(24 * time.Hour)
	warned := func(name, want string) {
		t.Helper()
		code, answer, warnings := g.pod(t, "apps", name, web+"@"+signed)
		if code != http.StatusCreated || !strings.Contains(strings.Join(warnings, "\n"), want) {
			t.Errorf("%d %s, warnings %q", code, message(answer), warnings)
		}
	}
	t.Run("stale", func(t *testing.T) {
		c.ruleAt.Store(2 * day)
		warned("stale", "admitted by the receipt of an earlier admission")
		g.refused(t, "stale-new", web+"@"+never, "nothing new is admitted, and this digest was not admitted here before")
		g.refused(t, "stale-unsigned", web+":unsigned", "the policy does not allow it")
	})
	t.Run("the grace is 30 days", func(t *testing.T) {
		c.ruleAt.Store(29 * day)
		warned("grace", "refused from")
		c.ruleAt.Store(31 * day)
		g.refused(t, "grace-over", web+"@"+signed, "the grace for what was admitted before ended")
	})
	t.Run("extended by two, to an end date", func(t *testing.T) {
		now := c.ruleNow()
		end := now.Add(3 * 24 * time.Hour).Truncate(time.Second)
		act, err := admission.Exemption{Kind: admission.ExtendGrace, Reason: "the courier is ill", From: now, Until: end}.Act(domain)
		if err != nil {
			t.Fatal(err)
		}
		approve := func(by ...string) {
			g.people.approve(t, filepath.Join(g.dir, "gate", "approvals"), "grace", act, now, by...)
			c.ruleAt.Add(int64(time.Minute)) // the folder is read anew
		}
		approve("alice")
		g.refused(t, "extended-by-one", web+"@"+signed, "the grace for what was admitted before ended")
		approve("alice", "bob")
		warned("extended", "refused from "+end.UTC().Format(time.RFC3339))
		g.refused(t, "extended-new", web+"@"+never, "nothing new is admitted")
		c.ruleAt.Add(4 * day)
		g.refused(t, "extended-over", web+"@"+signed, "the grace for what was admitted before ended")
	})
	t.Run("newer trust", func(t *testing.T) {
		now := c.ruleNow()
		if err := os.Chtimes(filepath.Join(g.dir, "gate", "trusted_root.json"), now, now); err != nil {
			t.Fatal(err)
		}
		c.gate.Use(c.rules(nil))
		g.allowed(t, "newer-trust", web+"@"+never, never)
	})
	t.Run("a log that is stale", func(t *testing.T) { logByClock(t, g, c, web) })
	c.ruleAt.Store(0)
	now := time.Now()
	if err := os.Chtimes(filepath.Join(g.dir, "gate", "trusted_root.json"), now, now); err != nil {
		t.Fatal(err)
	}
}

// logByClock: what a mirror says of the logs counts, too.
func logByClock(t *testing.T, g *gated, c *clocked, web string) {
	var root struct {
		Logs []struct {
			URL string `json:"baseUrl"`
			ID  struct {
				Key []byte `json:"keyId"`
			} `json:"logId"`
		} `json:"tlogs"`
	}
	if err := json.Unmarshal(must(os.ReadFile(g.lab.in("trusted_root.json"))), &root); err != nil {
		t.Fatal(err)
	}
	fresh := g.signed(t, "app/web", "log")
	known := func(age time.Duration) *freshness.State {
		var f freshness.State
		f.Time, f.Note = c.ruleNow(), []byte(age.String())
		for _, l := range root.Logs {
			f.Logs = append(f.Logs, freshness.Log{Origin: strings.TrimPrefix(l.URL, "https://"), LogID: fmt.Sprintf("%x", l.ID.Key), Size: 1000, Observed: c.ruleNow().Add(-age), Limits: freshness.Limits{Warn: 3600, DenyNew: 7200, DenyAll: 7200}})
		}
		return &f
	}
	c.gate.Use(c.rules(known(24 * time.Hour)))
	g.refused(t, "log-stale", web+"@"+fresh, "older than it may be")
	c.gate.Use(c.rules(known(time.Minute)))
	g.allowed(t, "log-fresh", web+"@"+fresh, fresh)
}
