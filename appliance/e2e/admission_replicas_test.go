//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/appliance/admission"
)

// TestServersAdmissionReplicas: two gates that have nothing in common but what is in the cluster, as pods on two nodes. Either decides alone, what one
// remembers the other knows, and while one dies nothing passes that should not.
func TestServersAdmissionReplicas(t *testing.T) {
	g := newGated(t)
	web := g.registry + "/app/web"
	signed := g.signed(t, "app/web", "1")
	bad := g.push(t, "app/web", "unsigned")
	a, b := g.replica(t, ""), g.replica(t, "-b")
	g.kill(t, "gate")
	g.startReplica(t, a)
	g.startReplica(t, b)
	g.behind(t, a.listen, b.listen)
	g.settled(t, web+"@"+signed, "")
	t.Run("one authority", func(t *testing.T) { // both show what the API server trusts, by the one root that they share
		if n := g.bundles(t); n[0] != 1 || n[1] != 1 {
			t.Errorf("%v roots are trusted, want 1", n)
		}
		for _, only := range []replica{a, b} {
			g.behind(t, only.listen)
			g.allowed(t, "by"+strings.TrimPrefix(only.name, "gate"), web+":1", signed)
			g.refused(t, "not-by"+strings.TrimPrefix(only.name, "gate"), web+":unsigned", "the policy does not allow it")
		}
	})
	t.Run("break-glass", func(t *testing.T) { breakGlass(t, g, a, b, web, bad) })
	t.Run("one is killed", func(t *testing.T) { failover(t, g, a, b, web, signed) })
	t.Run("receipts", func(t *testing.T) {
		g.startReplica(t, a)
		g.behind(t, a.listen)
		byA := g.signed(t, "app/web", "by-a")
		never := g.signed(t, "app/web", "never")
		g.allowed(t, "receipt-a", web+"@"+byA, byA)
		g.behind(t, b.listen)
		old := time.Now().Add(-25 * time.Hour)
		if err := os.Chtimes(filepath.Join(g.dir, "gate", "trusted_root.json"), old, old); err != nil {
			t.Fatal(err)
		}
		g.kill(t, "gate")
		g.processes["gate-b"].Process.Signal(syscall.SIGHUP)
		wait(t, "the trust of yesterday", func() bool {
			_, age, _ := strings.Cut(g.page(t, b.metrics+"/metrics"), "\nredoubt_admission_trust_age_seconds ")
			var seconds float64
			fmt.Sscan(age, &seconds)
			return seconds > 24*60*60
		})
		g.refused(t, "never", web+"@"+never, "nothing new is admitted, and this digest was not admitted here before")
		code, answer, warnings := g.pod(t, "apps", "receipt-b", web+"@"+byA)
		if code != http.StatusCreated || !strings.Contains(strings.Join(warnings, "\n"), "admitted by the receipt of an earlier admission") {
			t.Errorf("what the other admitted: %d %s, warnings %q", code, message(answer), warnings)
		}
		// A third that starts now has never seen anything.
		c := g.replica(t, "-c")
		g.startReplica(t, c)
		g.kill(t, "gate-b")
		g.behind(t, c.listen)
		g.allowed(t, "receipt-c", web+"@"+byA, byA)
		g.refused(t, "not-by-c", web+"@"+never, "nothing new is admitted")
	})
}

// failover: while pods are made one gate is killed. Nothing unsigned is made, and what is signed goes on being made by the other.
func failover(t *testing.T, g *gated, a, b replica, web, signed string) {
	g.behind(t, a.listen) // so that the API server is connected to the one that dies
	stop := make(chan struct{})
	var work sync.WaitGroup
	var made, failed, open atomic.Int64
	for worker := range 4 {
		work.Go(func() {
			image := []string{web + "@" + signed, web + ":unsigned"}[worker%2]
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				code, _, _ := g.create(t, "Pod", "apps", fmt.Sprintf(podJSON, fmt.Sprintf("over-%d-%d", worker, i), image))
				switch {
				case worker%2 == 1 && code/100 == 2:
					open.Add(1)
				case worker%2 == 0 && code == http.StatusCreated:
					made.Add(1)
				case worker%2 == 0:
					failed.Add(1)
				}
			}
		})
	}
	wait(t, "pods before", func() bool { return made.Load() > 20 })
	g.front.also(b.listen)
	g.kill(t, "gate")
	at := made.Load()
	wait(t, "pods after", func() bool { return made.Load() > at+20 })
	close(stop)
	work.Wait()
	if open.Load() > 0 {
		t.Errorf("%d unsigned pods were made", open.Load())
	}
	t.Logf("%d pods made, %d after one gate was killed; %d requests for signed ones were refused meanwhile; 0 unsigned passed", made.Load(), made.Load()-at, failed.Load())
	_, answer, _ := g.ask(http.MethodGet, place(t, "Pod", "apps"), "", nil)
	var list struct {
		Items []struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
			Spec struct {
				Containers []struct {
					Image string `json:"image"`
				} `json:"containers"`
			} `json:"spec"`
		} `json:"items"`
	}
	if err := json.Unmarshal(answer, &list); err != nil || len(list.Items) < 40 {
		t.Fatalf("%v: %d pods", err, len(list.Items))
	}
	for _, pod := range list.Items {
		if strings.HasPrefix(pod.Metadata.Name, "over-") && !strings.HasSuffix(pod.Spec.Containers[0].Image, "@"+signed) {
			t.Errorf("pod %s runs %s", pod.Metadata.Name, pod.Spec.Containers[0].Image)
		}
	}
}

// breakGlass: what two people let through passes at both gates, and what one does at neither.
func breakGlass(t *testing.T, g *gated, a, b replica, web, bad string) {
	now := time.Now()
	act, err := admission.Exemption{Kind: admission.BreakGlass, Reason: "the shop is down", From: now.Add(-time.Minute), Until: now.Add(time.Hour), Namespace: "apps", Digests: []string{bad}}.Act(domain)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(g.dir, "gate", "approvals")
	refusedByBoth := func(name string) {
		for _, only := range []replica{a, b} {
			g.behind(t, only.listen)
			g.refused(t, name, web+"@"+bad, "the policy does not allow it")
		}
	}
	refusedByBoth("nobody")
	g.people.approve(t, dir, "shop", act, now, "alice")
	refusedByBoth("one")
	g.people.approve(t, dir, "shop", act, now, "alice", "carol")
	for _, only := range []replica{a, b} {
		g.behind(t, only.listen)
		g.settled(t, web+"@"+bad, "")
		code, answer, warnings := g.pod(t, "apps", "let-"+only.name, web+"@"+bad)
		if code != http.StatusCreated || !strings.Contains(strings.Join(warnings, "\n"), "break-glass approved by alice and carol until") {
			t.Errorf("%s: %d %s, warnings %q", only.name, code, message(answer), warnings)
		}
		if code, answer, _ := g.pod(t, "default", "elsewhere-"+only.name, web+"@"+bad); code/100 == 2 {
			t.Errorf("%s: in another namespace: %d %s", only.name, code, message(answer))
		}
		state := "state" + strings.TrimPrefix(only.name, "gate")
		if record, err := os.ReadFile(filepath.Join(g.dir, "gate", state, "passed.jsonl")); err != nil || !bytes.Contains(record, []byte("the shop is down")) {
			t.Errorf("%s has no record: %v", only.name, err)
		}
	}
	wait(t, "the event", func() bool {
		_, answer, _ := g.ask(http.MethodGet, "/api/v1/namespaces/apps/events", "", nil)
		return bytes.Contains(answer, []byte(`"reason":"ImageLetThrough"`))
	})
	for _, file := range []string{"shop.act", "shop.alice.json", "shop.carol.json"} { // withdrawn
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	for _, only := range []replica{a, b} {
		g.behind(t, only.listen)
		g.settled(t, web+"@"+bad, "the policy does not allow it")
	}
}
