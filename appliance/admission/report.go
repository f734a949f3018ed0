package admission

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// report tells of what was refused, or would have been: one line in the log, an event in the cluster, a result for who asks. A dry run
// leaves nothing behind.
func (g *Gate) report(r *request, decision, message string) {
	g.c.Logger.Info("admission "+decision, "kind", r.Kind.Kind, "namespace", r.Namespace, "name", r.Name, "user", r.UserInfo.Username, "operation", r.Operation, "why", message)
	if r.DryRun != nil && *r.DryRun {
		return
	}
	g.recent.add(result{Source: "redoubt", Policy: "admission", Result: map[string]string{"refused": "fail", "warned": "warn", "audited": "warn"}[decision], Message: message,
		Timestamp: stamp{g.now().Unix()}, Resources: []resource{{versionOf(r.Kind), r.Kind.Kind, r.Namespace, r.Name}}})
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
}

type stamp struct {
	Seconds int64 `json:"seconds"`
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
	summary := map[string]int{"pass": 0, "fail": 0, "warn": 0, "error": 0, "skip": 0}
	for _, one := range results {
		summary[one.Result]++
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(policyReport{"wgpolicyk8s.io/v1alpha2", "ClusterPolicyReport",
		map[string]any{"name": "redoubt-admission", "creationTimestamp": g.now().UTC().Format(time.RFC3339)}, summary, results})
}
