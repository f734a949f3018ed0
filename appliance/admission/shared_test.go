package admission

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// objects is as much of an API server as objects need to be kept: created, replaced under the version that was read, and changed by merge patches.
type objects struct {
	t       testing.TB
	server  *httptest.Server
	mu      sync.Mutex
	held    map[string]map[string]any // by path
	kinds   []string                  // APIs that are served, GROUP/VERSION/RESOURCE
	down    bool
	version int
	between func(path string) // runs before a replacement, once
}

func newObjects(t testing.TB) *objects {
	o := &objects{t: t, held: map[string]map[string]any{}}
	o.server = httptest.NewTLSServer(o)
	t.Cleanup(o.server.Close)
	return o
}

func (o *objects) cluster() Cluster {
	return Cluster{URL: o.server.URL, CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.server.Certificate().Raw})}
}

func (o *objects) set(down bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down = down
}

// object is what lies at a path, as JSON.
func (o *objects) object(path string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.held[path] == nil {
		return ""
	}
	b, err := json.Marshal(o.held[path])
	if err != nil {
		o.t.Error(err)
	}
	return string(b)
}

func (o *objects) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	o.mu.Lock()
	between := o.between
	if q.Method == http.MethodPut {
		o.between = nil
		o.mu.Unlock()
		if between != nil {
			between(q.URL.Path)
		}
		o.mu.Lock()
	}
	defer o.mu.Unlock()
	if o.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if resources := o.served(q.URL.Path); resources != nil {
		json.NewEncoder(w).Encode(map[string]any{"resources": resources})
		return
	}
	if q.Header.Get("Content-Type") == "application/json-patch+json" {
		o.patch(w, q)
		return
	}
	body := map[string]any{}
	if q.Body != nil && q.Method != http.MethodGet {
		if err := json.NewDecoder(q.Body).Decode(&body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	}
	path := q.URL.Path
	meta, _ := body["metadata"].(map[string]any)
	if name, _ := meta["name"].(string); q.Method == http.MethodPost && name != "" {
		path += "/" + name
	}
	held := o.held[path]
	switch {
	case q.Method == http.MethodPost && held != nil:
		w.WriteHeader(http.StatusConflict)
		return
	case q.Method == http.MethodPut && held != nil && meta["resourceVersion"] != held["metadata"].(map[string]any)["resourceVersion"]:
		w.WriteHeader(http.StatusConflict)
		return
	case q.Method != http.MethodPost && held == nil:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	switch q.Method {
	case http.MethodPatch:
		if q.Header.Get("Content-Type") != mergePatch {
			w.WriteHeader(http.StatusUnsupportedMediaType)
			return
		}
		merge(held, body)
	case http.MethodPost, http.MethodPut:
		held = body
	}
	if q.Method != http.MethodGet {
		o.version++
		held["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(o.version)
		o.held[path] = held
	}
	json.NewEncoder(w).Encode(held)
}

// patch applies a JSON Patch (RFC 6902) of tests and additions to members of objects.
func (o *objects) patch(w http.ResponseWriter, q *http.Request) {
	var ops []struct {
		Op, Path string
		Value    any
	}
	held := o.held[q.URL.Path]
	if err := json.NewDecoder(q.Body).Decode(&ops); err != nil || held == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	for _, op := range ops {
		steps := strings.Split(op.Path, "/")[1:]
		var at any = held
		for _, step := range steps[:len(steps)-1] {
			if list, ok := at.([]any); ok {
				i, _ := strconv.Atoi(step)
				at = list[i]
			} else {
				at = at.(map[string]any)[step]
			}
		}
		member := steps[len(steps)-1]
		if op.Op == "test" && at.(map[string]any)[member] != op.Value {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		} else if op.Op == "add" {
			at.(map[string]any)[member] = op.Value
		}
	}
	json.NewEncoder(w).Encode(held)
}

func (o *objects) served(path string) (all []map[string]string) {
	for _, k := range o.kinds {
		if api, resource, _ := strings.Cut(k, ":"); path == "/apis/"+api {
			all = append(all, map[string]string{"name": resource})
		}
	}
	return all
}

// merge is RFC 7386.
func merge(into, patch map[string]any) {
	for k, v := range patch {
		inner, isMap := v.(map[string]any)
		held, wasMap := into[k].(map[string]any)
		switch {
		case v == nil:
			delete(into, k)
		case isMap && wasMap:
			merge(held, inner)
		default:
			into[k] = v
		}
	}
}

// replica is another gate of the lab's policy, trust, registry and clock, with a state folder of its own.
func (l *lab) replica(cluster Cluster) *Gate {
	l.t.Helper()
	c := l.gate.c
	c.Dir = filepath.Join(l.t.TempDir(), "state")
	g, err := New(c, l.gate.rules.Load(), nil)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := g.InCluster(cluster, false); err != nil {
		l.t.Fatal(err)
	}
	return g
}

const ownNamespace = "redoubt-admission"

func replicas(t *testing.T) (l *lab, a, b *Gate, o *objects) {
	o = newObjects(t)
	l = newLab(t, func(c *Config, _ **People) {
		c.OwnName, c.OwnNamespace, c.Reports = "redoubt-admission", ownNamespace, true
	})
	return l, l.replica(o.cluster()), l.replica(o.cluster()), o
}

// TestReplicasShareReceipts: what one replica admitted has its grace at another, which never saw it; what none admitted has none anywhere.
func TestReplicasShareReceipts(t *testing.T) {
	l, a, b, o := replicas(t)
	known, unknown := l.host+"/app/web@"+l.signed("app/web", "1"), l.host+"/app/web@"+l.signed("app/web", "2")
	at := func(g *Gate, image string) answer {
		l.gate = g
		return l.create(ValidatePath, "apps", image)
	}
	l.allowed(at(a, known))
	l.pass(25 * time.Hour)
	passed := at(b, known)
	l.allowed(passed)
	if len(passed.Response.Warnings) != 1 || !strings.Contains(passed.Response.Warnings[0], "receipt") {
		t.Errorf("not shown as stale: %q", passed.Response.Warnings)
	}
	for _, g := range []*Gate{a, b} {
		l.refused(at(g, unknown), "not admitted here before")
	}
	// One that starts with nothing, as a pod on another node does.
	l.allowed(at(l.replica(o.cluster()), known))
	// Alone, without the cluster, it would know nothing: the control.
	alone, err := New(func() Config { c := b.c; c.Dir = t.TempDir(); return c }(), b.rules.Load(), nil)
	if err != nil {
		t.Fatal(err)
	}
	l.refused(at(alone, known), "never seen fresh here")
	// The grace began when any of them saw fresh trust last.
	l.pass(30 * 24 * time.Hour)
	for _, g := range []*Gate{a, b, l.replica(o.cluster())} {
		l.refused(at(g, known), "the grace")
	}
}

// TestSharedReceiptsAreNotBelieved: a receipt of another image, junk, and a time to come, as somebody might write them, let nothing in.
func TestSharedReceiptsAreNotBelieved(t *testing.T) {
	l, a, b, o := replicas(t)
	known, unknown := l.host+"/app/web@"+l.signed("app/web", "1"), l.host+"/app/web@"+l.signed("app/web", "2")
	l.gate = a
	l.allowed(l.create(ValidatePath, "apps", known))
	l.pass(25 * time.Hour)
	l.gate = b
	of := func(text string) {
		t.Helper()
		b.receipts.shared.put(context.Background(), nameOf(unknown), text)
	}
	mine, err := b.receipts.shared.get(context.Background(), nameOf(known))
	if err != nil {
		t.Fatal(err)
	}
	of(mine)
	l.refused(l.create(ValidatePath, "apps", unknown), "it is that of")
	of("junk")
	l.refused(l.create(ValidatePath, "apps", unknown), "reading a receipt")
	of(strings.Replace(strings.Replace(mine, known, unknown, 1), `"ours"`, `"other"`, 1))
	l.refused(l.create(ValidatePath, "apps", unknown), "no longer decides")
	// An image that the policy does not allow gains nothing from a receipt.
	unsigned := l.host + "/app/web@" + digest(l.push("app/web", "3"))
	b.receipts.shared.put(context.Background(), nameOf(unsigned), strings.Replace(mine, known, unsigned, 1))
	l.refused(l.create(ValidatePath, "apps", unsigned), "the policy does not allow it")
	// A clock that is wrong elsewhere extends no grace here.
	b.receipts.shared.put(context.Background(), freshName, l.now().Add(1000*time.Hour).UTC().Format(time.RFC3339))
	l.pass(31 * 24 * time.Hour)
	l.refused(l.create(ValidatePath, "apps", known), "trust") // none of them knows when it was fresh
	if o.object("/api/v1/namespaces/"+ownNamespace+"/configmaps/redoubt-admission-receipts-0") == "" {
		t.Error("nothing was shared")
	}
}

// TestSharingLater: an API server that is away costs no admission; the receipt is shared when it is back.
func TestSharingLater(t *testing.T) {
	l, a, b, o := replicas(t)
	known := l.host + "/app/web@" + l.signed("app/web", "1")
	l.gate = a
	o.set(true)
	l.allowed(l.create(ValidatePath, "apps", known))
	a.receipts.shared.again(context.Background())
	if n := len(a.receipts.shared.waiting); n != 2 {
		t.Fatalf("%d wait", n)
	}
	o.set(false)
	a.receipts.shared.again(context.Background())
	if n := len(a.receipts.shared.waiting); n != 0 {
		t.Fatalf("%d wait", n)
	}
	l.pass(25 * time.Hour)
	l.gate = b
	l.allowed(l.create(ValidatePath, "apps", known))
	// While it is away again, nothing that is not here has a grace.
	o.set(true)
	l.gate = l.replica(o.cluster())
	l.refused(l.create(ValidatePath, "apps", known), "never seen fresh here")
}

// TestSharedReceiptsAreBounded: a ConfigMap that is nearly full loses its older half.
func TestSharedReceiptsAreBounded(t *testing.T) {
	data := map[string]string{freshName: "2026-01-01T00:00:00Z"}
	for i := range 2000 {
		text, err := json.Marshal(receipt{strings.Repeat("x", 200), "rule", strings.Repeat("s", 100), strings.Repeat("v", 64), time.Unix(int64(i), 0).UTC()})
		if err != nil {
			t.Fatal(err)
		}
		data[fmt.Sprintf("%064d", i)] = string(text)
	}
	old := surplus(data)
	if len(old) != 1000 {
		t.Fatalf("%d go", len(old))
	}
	for key := range old {
		delete(data, key)
	}
	if surplus(data) != nil || data[freshName] == "" || data[fmt.Sprintf("%064d", 1999)] == "" || data[fmt.Sprintf("%064d", 0)] != "" {
		t.Errorf("left %d", len(data))
	}
	names := map[string]bool{}
	s := shared{name: "gate"}
	for i := range 100 {
		names[s.mapOf(nameOf(fmt.Sprint(i)))] = true
	}
	if listed := (Manifests{Name: "gate"}).receiptMaps(); len(names) != 16 || strings.Count(listed, "gate-receipts-") != 16 {
		t.Errorf("%v, %s", maps.Keys(names), listed)
	}
	for name := range names {
		if !strings.Contains((Manifests{Name: "gate"}).receiptMaps(), name) {
			t.Errorf("the gate has no right to %s", name)
		}
	}
}
