package admission

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

// BenchmarkAdmission measures whole reviews through the HTTP handler, the registry of this process included: an image nobody asked about
// before, with one attestation; the same where the receipt is shared by an API server, of this process as well; one that was judged; and as many of
// those at once as there are cores.
func BenchmarkAdmission(b *testing.B) {
	l := newLab(b, func(c *Config, _ **People) { c.Logger = slog.New(slog.DiscardHandler) })
	l.file("policy.yaml", fmt.Appendf(nil, attestedRules, l.host))
	l.gate.Use(l.rules())
	attested := func(i int) string {
		manifest := l.push("app/web", fmt.Sprint("b", i))
		l.attach("app/web", manifest, l.own.Attest(string(manifest), verifytest.CustomPredicate).Bundle(b))
		return l.host + "/app/web@" + digest(manifest)
	}
	handler := l.gate.Handler()
	ask := func(image string) {
		q := httptest.NewRequest(http.MethodPost, ValidatePath, bytes.NewReader(review("CREATE", pods, "apps", pod(image), nil)))
		q.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, q)
		if body, _ := io.ReadAll(w.Body); !bytes.Contains(body, []byte(`"allowed":true`)) {
			b.Errorf("%s", body)
		}
	}
	quantiles := func(b *testing.B, all []time.Duration) {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
		b.ReportMetric(rss(), "RSS-MiB")
	}
	uncached := func(first int) func(*testing.B) {
		images := make([]string, 100)
		for i := range images {
			images[i] = attested(first + i)
		}
		return func(b *testing.B) {
			var all []time.Duration
			b.ResetTimer()
			for i := range b.N {
				if i%len(images) == 0 {
					l.gate.cache.clear()
					held, _ := filepath.Glob(filepath.Join(l.gate.receipts.dir, "*.json"))
					for _, file := range held { // each admission writes its receipt
						os.Remove(file)
					}
				}
				started := time.Now()
				ask(images[i%len(images)])
				all = append(all, time.Since(started))
			}
			quantiles(b, all)
		}
	}
	b.Run("uncached", uncached(0))
	o := newObjects(b)
	l.gate.c.OwnName, l.gate.c.OwnNamespace = "redoubt-admission", ownNamespace
	if err := l.gate.InCluster(o.cluster(), false); err != nil {
		b.Fatal(err)
	}
	b.Run("uncached and shared", uncached(100))
	image := attested(1000)
	ask(image)
	b.Run("cached", func(b *testing.B) {
		var all []time.Duration
		for range b.N {
			started := time.Now()
			ask(image)
			all = append(all, time.Since(started))
		}
		quantiles(b, all)
	})
	b.Run("at once", func(b *testing.B) {
		var mu sync.Mutex
		var all []time.Duration
		var n atomic.Int64
		started := time.Now()
		b.RunParallel(func(p *testing.PB) {
			var own []time.Duration
			for p.Next() {
				one := time.Now()
				ask(image)
				own = append(own, time.Since(one))
				n.Add(1)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
		b.ReportMetric(float64(n.Load())/time.Since(started).Seconds(), "reviews/s")
		quantiles(b, all)
	})
}

const attestedRules = `version: redoubt.policy/v1
roots:
  own: {file: own.json}
signers:
  us:
    - {root: own, identity: dev@corp.internal, issuer: https://oidc.corp.internal}
rules:
  - {name: attested, images: ["%s/app/**"], attestations: [{type: "` + verifytest.CustomPredicate + `", by: [us]}]}
`

// rss is the resident memory of this process in MiB.
func rss() float64 {
	text, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kib float64
	fmt.Sscan(rest, &kib)
	return kib / 1024
}

// TestAttested: what a rule asks to be attested has to be, by who it says.
func TestAttested(t *testing.T) {
	l := newLab(t, nil)
	l.file("policy.yaml", fmt.Appendf(nil, attestedRules, l.host))
	l.gate.Use(l.rules())
	manifest := l.push("app/web", "1")
	l.attach("app/web", manifest, l.own.Attest(string(manifest), "https://example.com/another/v1").Bundle(t))
	l.refused(l.create(MutatePath, "apps", l.host+"/app/web:1"), "attest")
	other := l.push("app/web", "2")
	l.attach("app/web", other, l.own.Attest(string(manifest), verifytest.CustomPredicate).Bundle(t)) // of another image
	l.refused(l.create(MutatePath, "apps", l.host+"/app/web:2"), "digest does not match")
	l.attach("app/web", manifest, l.own.Attest(string(manifest), verifytest.CustomPredicate).Bundle(t))
	l.allowed(l.create(MutatePath, "apps", l.host+"/app/web:1"))
}
