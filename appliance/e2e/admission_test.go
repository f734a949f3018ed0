//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServersAdmission: a real API server on a real etcd asks the gate about images in Debian's registry that stock cosign signed.
func TestServersAdmission(t *testing.T) {
	g := newGated(t)
	web := g.registry + "/app/web"
	signed := g.signed(t, "app/web", "1")
	g.push(t, "app/web", "unsigned")
	t.Run("signed", func(t *testing.T) {
		g.allowed(t, "signed", web+":1", signed)
		g.allowed(t, "pinned", web+"@"+signed, signed)
	})
	t.Run("refused", func(t *testing.T) {
		g.refused(t, "unsigned", web+":unsigned", "redoubt: containers \"c\": image \""+web+":unsigned\": the policy does not allow it")
		g.refused(t, "elsewhere", "docker.io/library/nginx:1", "its registry is none of those this cluster may use")
		g.refused(t, "no-rule", g.registry+"/other/web:1", "registry")
		g.refused(t, "no-image", web+":none", "registry")
	})
	t.Run("every kind", func(t *testing.T) { everyKind(t, g, web, signed) })
	t.Run("ephemeral containers", func(t *testing.T) {
		add := func(image string) (int, string) {
			code, answer, _ := g.ask(http.MethodPatch, "/api/v1/namespaces/apps/pods/pinned/ephemeralcontainers", "application/strategic-merge-patch+json",
				fmt.Appendf(nil, `{"spec":{"ephemeralContainers":[{"name":"debug","image":%q}]}}`, image))
			return code, string(answer)
		}
		if code, answer := add(web + ":unsigned"); code/100 == 2 || !strings.Contains(message(answer), `ephemeralContainers "debug"`) {
			t.Errorf("unsigned: %d %s", code, message(answer))
		}
		if code, answer := add(web + ":1"); code != http.StatusOK || !strings.Contains(answer, `"image":"`+web+":1@"+signed+`"`) {
			t.Errorf("signed: %d %s", code, message(answer))
		}
	})
	t.Run("attested", func(t *testing.T) {
		predicate := g.lab.session(t).write(t, "predicate.json", `{"tests":"green"}`)
		image := g.registry + "/attested/web@" + g.push(t, "attested/web", "1")
		g.refused(t, "not-attested", image, "0 of 1 needed")
		g.cosign(t, "attest", "--predicate", predicate, "--type", "custom", image)
		_, digest, _ := strings.Cut(image, "@")
		g.allowed(t, "attested", image, digest)
	})
	t.Run("pull secrets", func(t *testing.T) { pullSecrets(t, g, signed) })
	t.Run("modes", func(t *testing.T) {
		if code, answer, warnings := g.pod(t, "soft", "unsigned", web+":unsigned"); code != http.StatusCreated || !strings.Contains(strings.Join(warnings, "\n"), "redoubt would refuse this") {
			t.Errorf("warn: %d %s, warnings %q", code, message(answer), warnings)
		}
		if code, answer, warnings := g.pod(t, "quiet", "unsigned", web+":unsigned"); code != http.StatusCreated || strings.Contains(strings.Join(warnings, "\n"), "redoubt") {
			t.Errorf("audit: %d %s, warnings %q", code, message(answer), warnings)
		}
	})
	t.Run("told", func(t *testing.T) {
		wait(t, "the event of a refusal", func() bool {
			_, answer, _ := g.ask(http.MethodGet, "/api/v1/namespaces/apps/events", "", nil)
			return bytes.Contains(answer, []byte(`"reason":"ImageRefused"`)) && bytes.Contains(answer, []byte("the policy does not allow it"))
		})
		wait(t, "the API server's audit log", func() bool {
			log, _ := os.ReadFile(filepath.Join(g.dir, "audit.log"))
			for _, word := range []string{`"allow.redoubt.internal/decision":"audited"`, `"pin.redoubt.internal/decision":"refused"`, `"pin.redoubt.internal/decision":"allowed"`, `"pin.redoubt.internal/refused":"containers`} {
				if !bytes.Contains(log, []byte(word)) {
					return false
				}
			}
			return true
		})
		for path, word := range map[string]string{"/metrics": `redoubt_admission_reviews_total{decision="refused"}`, "/results": `"result":"fail"`} {
			if !strings.Contains(g.page(t, g.metrics+path), word) {
				t.Errorf("%s does not say %s", path, word)
			}
		}
	})
	t.Run("inventory", func(t *testing.T) { takeInventory(t, g, web, signed) })
	t.Run("too many images", func(t *testing.T) { tooMany(t, g, web, signed) })
	t.Run("subresources", func(t *testing.T) { subresources(t, g, web, signed) })
	t.Run("a hostile registry", func(t *testing.T) { hostile(t, g) })
	t.Run("policy reports", func(t *testing.T) { policyReports(t, g, web) })
	t.Run("too large", func(t *testing.T) {
		object := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"large"},"spec":{"containers":[{"name":"c","image":%q,"env":[{"name":"X","value":%q}]}]}}`, web+"@"+signed, strings.Repeat("x", 3<<20-4096))
		if code, answer, _ := g.create(t, "Pod", "apps", object); code/100 == 2 || !strings.Contains(message(answer), "larger than") {
			t.Errorf("%d %.300s", code, message(answer))
		}
	})
	t.Run("the authority is put back", func(t *testing.T) {
		path := place(t, "MutatingWebhookConfiguration", "") + "/redoubt-admission"
		g.ask(http.MethodPatch, path, "application/json-patch+json", []byte(`[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]`))
		g.kill(t, "gate")
		g.startGate(t)
		_, answer, _ := g.ask(http.MethodGet, path, "", nil)
		if !bytes.Contains(answer, []byte(`"caBundle"`)) {
			t.Errorf("%s", answer)
		}
		wait(t, "a pod once more", func() bool {
			code, _, _ := g.pod(t, "apps", "healed", web+":1")
			return code == http.StatusCreated
		})
	})
	// From here on the appliance is gone: the gate decides by what it has.
	uncached := g.signed(t, "app/web", "late")
	g.lab.stop(t)
	t.Run("the registry is down", func(t *testing.T) {
		g.kill(t, "registry")
		g.allowed(t, "cached", web+"@"+signed, signed)
		g.refused(t, "uncached", web+"@"+uncached, "did not answer")
		g.refused(t, "tag", web+":1", "did not answer")
		g.startRegistry(t)
	})
	t.Run("the gate is down", func(t *testing.T) {
		g.kill(t, "gate")
		g.refused(t, "gate-down", web+"@"+signed, "failed calling webhook")
		coldStart(t, g, web, signed)
	})
}

// coldStart: everything is off; what comes first is refused, the gate's own pods alone come up, and with them everything else.
func coldStart(t *testing.T, g *gated, web, signed string) {
	g.kill(t, "kube-apiserver", "etcd", "registry")
	g.start(t)
	wait(t, "a refusal for want of the gate", func() bool {
		code, answer, _ := g.pod(t, "apps", "cold", web+"@"+signed)
		return code/100 != 2 && strings.Contains(message(answer), "failed calling webhook")
	})
	if code, answer, _ := g.pod(t, "redoubt-admission", "gate-0", g.registry+"/redoubt@"+g.own); code != http.StatusCreated {
		t.Errorf("the gate's own pod: %d %s", code, message(answer))
	}
	for name, image := range map[string]string{"by-tag": g.registry + "/redoubt:1", "another": web + "@" + signed} {
		if code, _, _ := g.pod(t, "redoubt-admission", name, image); code/100 == 2 {
			t.Errorf("%s passed in the gate's namespace while the gate was away", image)
		}
	}
	g.startRegistry(t)
	g.startGate(t)
	wait(t, "the first pod", func() bool {
		code, _, _ := g.pod(t, "apps", "warm", web+"@"+signed)
		return code == http.StatusCreated
	})
	g.refused(t, "warm-unsigned", web+":unsigned", "the policy does not allow it")
}
