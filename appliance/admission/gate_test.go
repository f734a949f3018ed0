package admission

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/mirror/images"
)

// TestSigned: what the policy allows passes, by the digest; what it does not is refused, and says why.
func TestSigned(t *testing.T) {
	l := newLab(t, nil)
	signed := l.signed("app/web", "1")
	l.push("app/web", "unsigned")
	l.signed("other/web", "1")
	tagged := l.host + "/app/web:1"
	a := l.create(MutatePath, "apps", tagged, tagged)
	l.allowed(a)
	var ops []patchOperation
	if err := json.Unmarshal(a.Response.Patch, &ops); err != nil || len(ops) != 4 || a.Response.PatchType != "JSONPatch" || ops[3].Value != tagged+"@"+signed || ops[3].Path != "/spec/containers/1/image" {
		t.Fatalf("patch %s, %v", a.Response.Patch, err)
	}
	if a.Response.AuditAnnotations["decision"] != "allowed" || !strings.Contains(a.Response.AuditAnnotations["images"], `rule "ours"`) {
		t.Errorf("annotations %v", a.Response.AuditAnnotations)
	}
	// The second look, by digest, asks nobody.
	before := l.asked.Load()
	a = l.create(ValidatePath, "apps", tagged+"@"+signed)
	l.allowed(a)
	if l.asked.Load() != before || a.Response.Patch != nil {
		t.Errorf("%d requests for a digest that was judged, patch %s", l.asked.Load()-before, a.Response.Patch)
	}
	l.refused(l.create(ValidatePath, "apps", tagged), "named by a tag alone")
	l.refused(l.create(MutatePath, "apps", l.host+"/app/web:unsigned"), "the policy does not allow it")
	l.refused(l.create(MutatePath, "apps", tagged, l.host+"/app/web:unsigned"), `containers "c1"`)
	l.refused(l.create(MutatePath, "apps", l.host+"/other/web:1"), "no rule")
	l.refused(l.create(MutatePath, "apps", l.host+"/app/web:none"), "registry")
	for path, image := range map[string]string{"another registry": "docker.io/library/nginx:1", "no registry": "nginx", "a name alone": "library/nginx:1", "no name": "://", "a wrong digest": tagged + "@sha256:00"} {
		before := l.asked.Load()
		if a := l.create(MutatePath, "apps", image); a.Response.Allowed || l.asked.Load() != before {
			t.Errorf("%s: allowed %v, %d requests", path, a.Response.Allowed, l.asked.Load()-before)
		}
	}
}

// TestUnchanged: an update is asked about what is new in it alone.
func TestUnchanged(t *testing.T) {
	l := newLab(t, nil)
	signed := l.host + "/app/web@" + l.signed("app/web", "1")
	old := pod("elsewhere.internal/running:1")
	update := func(now json.RawMessage) answer { return l.ask(MutatePath, review("UPDATE", pods, "apps", now, old)) }
	l.allowed(update(old))
	l.refused(update(pod("elsewhere.internal/running:2")), "registry")
	l.refused(update(pod("elsewhere.internal/running:1", "elsewhere.internal/running:1")), "registry")
	l.allowed(update(pod("elsewhere.internal/running:1", signed)))
	debug := strings.Replace(string(old), `"spec":{`, `"spec":{"ephemeralContainers":[{"name":"d","image":"elsewhere.internal/debug:1"}],`, 1)
	l.refused(update(json.RawMessage(debug)), `ephemeralContainers "d"`)
	l.allowed(l.ask(ValidatePath, review("DELETE", pods, "apps", nil, old)))
}

// TestModes: a refusal is one in enforce alone; the others pass and say so where they should.
func TestModes(t *testing.T) {
	l := newLab(t, func(c *Config, _ **People) { c.Modes = map[string]Mode{"soft": Warn, "quiet": Audit} })
	signed := l.signed("app/web", "1")
	bad := "elsewhere.internal/x:1"
	l.refused(l.create(MutatePath, "hard", bad), "registry")
	a := l.create(MutatePath, "soft", bad, l.host+"/app/web:1")
	l.allowed(a)
	if len(a.Response.Warnings) != 1 || !strings.Contains(a.Response.Warnings[0], "would refuse") || !strings.Contains(string(a.Response.Patch), signed) || strings.Contains(string(a.Response.Patch), bad) {
		t.Errorf("warn: %q, %s", a.Response.Warnings, a.Response.Patch)
	}
	a = l.create(MutatePath, "quiet", bad)
	l.allowed(a)
	if len(a.Response.Warnings) != 0 || a.Response.AuditAnnotations["decision"] != "audited" || !strings.Contains(a.Response.AuditAnnotations["refused"], "registry") {
		t.Errorf("audit: %q, %v", a.Response.Warnings, a.Response.AuditAnnotations)
	}
	for name, mode := range map[string]Mode{"a word": "off", "case": "Warn"} {
		if _, err := New(Config{Dir: t.TempDir(), Logger: l.gate.c.Logger, Registries: []images.Access{{Host: l.host}}, Mode: mode}, l.rules(), nil); err == nil {
			t.Errorf("%s: mode %q", name, mode)
		}
	}
}

// TestErrorsRefuse: every way in which a review can go wrong ends in a refusal.
func TestErrorsRefuse(t *testing.T) {
	l := newLab(t, nil)
	l.gate.c.Timeout = 3 * time.Second
	fresh := func() string { return l.host + "/app/web@" + l.signed("app/web", "1") }
	cached := fresh()
	l.allowed(l.create(ValidatePath, "apps", cached))
	sick := func(f func(http.ResponseWriter, *http.Request) bool) {
		if f == nil {
			l.sick.Store(nil)
			return
		}
		l.sick.Store(&f)
	}
	hang := make(chan struct{})
	defer close(hang)
	swapped := l.push("app/web", "swap")
	many := verifytest.Encode(t, map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": repeat(10_000)})
	for name, f := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"down": func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true },
		"cut":  func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
		"hangs": func(_ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
			return true
		},
		"swaps the image": func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/sha256:") {
				w.Header().Set("Content-Type", manifestType)
				w.Write(swapped)
				return true
			}
			return false
		},
		"offers 10,000 signatures": func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/referrers/") {
				w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
				w.Write(many)
				return true
			}
			return false
		},
		"endless": func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/referrers/") {
				w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
				w.Write(append([]byte(`{"x":"`), make([]byte, images.MaxManifest+1)...))
				return true
			}
			return false
		},
		"sends elsewhere": func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "https://elsewhere.internal/", http.StatusTemporaryRedirect)
			return true
		},
		"wants a login elsewhere": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Bearer realm="https://elsewhere.internal/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			sick(nil)
			image := fresh()
			l.gate.cache.clear()
			l.allowed(l.create(ValidatePath, "apps", cached))
			sick(f)
			defer sick(nil)
			a := l.create(ValidatePath, "apps", image)
			if a.Response.Allowed {
				t.Error("an image that could not be judged was allowed")
			}
			t.Log(a.Response.Status.Message)
			l.allowed(l.create(ValidatePath, "apps", cached)) // what was judged stands
		})
	}
	sick(nil)
	t.Run("too many images", func(t *testing.T) {
		var all []string
		for i := range MaxImages + 1 {
			all = append(all, fmt.Sprintf("%s/app/web:%d", l.host, i))
		}
		l.refused(l.create(MutatePath, "apps", all...), "33 different images")
	})
	t.Run("too large", func(t *testing.T) {
		body := review("CREATE", pods, strings.Repeat("x", 10), pod(cached), nil)
		if a := l.ask(ValidatePath, append(body, make([]byte, MaxBody)...)); a.Status != http.StatusRequestEntityTooLarge {
			t.Errorf("%d", a.Status)
		}
		if a := l.ask(ValidatePath, []byte("{}")); a.Status != http.StatusBadRequest {
			t.Errorf("%d", a.Status)
		}
	})
	t.Run("receipts cannot be kept", func(t *testing.T) {
		image := fresh()
		was := l.gate.receipts.dir
		l.gate.receipts.dir += "/missing"
		defer func() { l.gate.receipts.dir = was }()
		if a := l.create(ValidatePath, "apps", image); a.Response.Allowed {
			t.Error("admitted without a receipt")
		}
	})
}

func repeat(n int) (all []any) {
	for i := range n {
		all = append(all, map[string]any{"mediaType": manifestType, "digest": fmt.Sprintf("sha256:%064x", i), "size": 500, "artifactType": bundleMedia})
	}
	return all
}

// TestOwn: what the gate itself runs from passes by digest, in its namespace alone, and asks nobody.
func TestOwn(t *testing.T) {
	own := "sha256:" + strings.Repeat("ab", 32)
	l := newLab(t, func(c *Config, _ **People) { c.OwnNamespace, c.OwnDigests = "redoubt-admission", []string{own} })
	before := l.asked.Load()
	l.allowed(l.create(ValidatePath, "redoubt-admission", "anywhere.internal/redoubt@"+own))
	l.refused(l.create(ValidatePath, "apps", "anywhere.internal/redoubt@"+own), "registry")
	l.refused(l.create(ValidatePath, "redoubt-admission", "anywhere.internal/redoubt:1"), "registry")
	if l.asked.Load() != before {
		t.Error("the registry was asked")
	}
}

// TestStale: when trust is too old nothing new is admitted; what was admitted before still is, until the grace ends.
func TestStale(t *testing.T) {
	l := newLab(t, nil)
	known, unknown := l.host+"/app/web@"+l.signed("app/web", "1"), l.host+"/app/web@"+l.signed("app/web", "2")
	l.allowed(l.create(ValidatePath, "apps", known))
	l.pass(25 * time.Hour)
	a := l.create(ValidatePath, "apps", known)
	l.allowed(a)
	if len(a.Response.Warnings) != 1 || !strings.Contains(a.Response.Warnings[0], "receipt") {
		t.Errorf("not shown as stale: %q", a.Response.Warnings)
	}
	l.refused(l.create(ValidatePath, "apps", unknown), "older than it may be")
	l.pass(28 * 24 * time.Hour)
	l.allowed(l.create(ValidatePath, "apps", known))
	// Another rule decides: its receipt no longer counts.
	l.file("policy.yaml", []byte(strings.Replace(fmt.Sprintf(rules, l.host), "name: ours", "name: renamed", 1)))
	stale, err := loadRules(l.dir+"/policy.yaml", nil, l.now)
	if err != nil {
		t.Fatal(err)
	}
	was := l.gate.rules.Load()
	l.gate.Use(stale)
	l.refused(l.create(ValidatePath, "apps", known), "no longer decides")
	l.gate.Use(was)
	l.pass(3 * 24 * time.Hour)
	l.refused(l.create(ValidatePath, "apps", known), "the grace")
	// Newer trust comes: everything is as before.
	l.file("policy.yaml", fmt.Appendf(nil, rules, l.host))
	l.gate.Use(l.rules())
	a = l.create(ValidatePath, "apps", known, unknown)
	l.allowed(a)
	if len(a.Response.Warnings) != 0 {
		t.Errorf("still shown as stale: %q", a.Response.Warnings)
	}
}

// TestObserved: the log proof of every bundle that verified is left to the mirror.
func TestObserved(t *testing.T) {
	l := newLab(t, nil)
	l.allowed(l.create(MutatePath, "apps", l.host+"/app/web@"+l.signed("app/web", "1")))
	l.own.Identity = "mallory@corp.internal" // known to the root, and not allowed
	l.refused(l.create(MutatePath, "apps", l.host+"/app/web@"+l.signed("app/web", "2")), "policy")
	files, err := os.ReadDir(l.gate.c.Spool)
	if err != nil || len(files) != 2 {
		t.Errorf("%d proofs were left, %v", len(files), err)
	}
}
