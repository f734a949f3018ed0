package admission

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// decisions says how each decision that somebody should hear of is reported: the result of a policy report, the reason of an event.
var decisions = map[string]struct{ result, reason string }{
	"refused":     {"fail", "ImageRefused"},
	"warned":      {"warn", "ImageWouldBeRefused"},
	"audited":     {"warn", "ImageWouldBeRefused"},
	"let-through": {"warn", "ImageLetThrough"}, // by people, against the policy
}

const resultSource = "redoubt"

// report tells of what was refused, would have been, or was let through: one line in the log, an event and a policy report in the cluster, a result
// for who asks. A dry run leaves nothing behind.
func (g *Gate) report(r *request, decision, message string) {
	g.c.Logger.Info("admission "+decision, "kind", r.Kind.Kind, "namespace", r.Namespace, "name", r.Name, "user", r.UserInfo.Username, "operation", r.Operation, "why", message)
	if r.DryRun != nil && *r.DryRun {
		return
	}
	one := result{Source: resultSource, Policy: "admission", Result: decisions[decision].result, Message: message, Timestamp: stamp{Seconds: g.now().Unix()},
		Resources: []resource{{versionOf(r.Kind), r.Kind.Kind, r.Namespace, r.Name}}, Properties: map[string]string{"decision": decision, "user": r.UserInfo.Username}}
	g.recent.add(one)
	if g.reports != nil {
		g.reports.offer(r.Namespace, one)
	}
	if g.events != nil {
		g.events.offer(r, decision, message)
	}
}

func versionOf(k groupVersionKind) string {
	if k.Group == "" {
		return k.Version
	}
	return k.Group + "/" + k.Version
}

// policyReport is what of a ClusterPolicyReport (wgpolicyk8s.io/v1alpha2) there is to say.
type policyReport struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Summary    map[string]int `json:"summary"`
	Results    []result       `json:"results"`
}

type result struct {
	Source    string     `json:"source"`
	Policy    string     `json:"policy"`
	Result    string     `json:"result"` // fail or warn
	Message   string     `json:"message"`
	Timestamp stamp      `json:"timestamp"`
	Resources []resource `json:"resources"`
	// Properties say what was decided, and who asked.
	Properties map[string]string `json:"properties,omitempty"`
}

type stamp struct {
	Seconds int64 `json:"seconds"`
	Nanos   int32 `json:"nanos"`
}

type resource struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name,omitempty"`
}

const maxRecent = 500

// recent keeps the last results.
type recent struct {
	mu      sync.Mutex
	results []result // the oldest first
}

func (r *recent) add(one result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.results) == maxRecent {
		r.results = append(r.results[:0], r.results[1:]...)
	}
	r.results = append(r.results, one)
}

// ServeResults shows what was refused last, in the form of a policy report.
func (g *Gate) ServeResults(w http.ResponseWriter, _ *http.Request) {
	g.recent.mu.Lock()
	results := append([]result{}, g.recent.results...)
	g.recent.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(policyReport{"wgpolicyk8s.io/v1alpha2", "ClusterPolicyReport",
		map[string]any{"name": "redoubt-admission", "creationTimestamp": g.now().UTC().Format(time.RFC3339)}, summarised(results), results})
}
