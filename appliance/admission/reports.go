package admission

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// What was refused, or would have been, stands in a report of the namespace that it concerns, where tools for policy reports look: an object NAME of
// kind PolicyReport (wgpolicyk8s.io/v1alpha2) or Report (openreports.io/v1alpha1), whichever the cluster has. Replicas write the same object, each its
// own results into it, under the resource version it read. A cluster that has neither kind gets none; it is looked for every now and then.

// reportKinds are the kinds of reports, the preferred first. Their results have the same fields.
var reportKinds = []struct{ group, version, kind, resource string }{
	{"wgpolicyk8s.io", "v1alpha2", "PolicyReport", "policyreports"},
	{"openreports.io", "v1alpha1", "Report", "reports"},
}

const (
	reportPause    = 5 * time.Second // between writes; what comes meanwhile is written at once
	lookForReports = time.Minute     // between looks for a kind of report
	maxReported    = 100             // results in one report, the newest
	maxUnreported  = 1000            // results that wait; more are dropped and counted
)

// report is what of a PolicyReport or a Report is written here.
type report struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   objectMeta     `json:"metadata"`
	Source     string         `json:"source,omitempty"` // of a Report
	Summary    map[string]int `json:"summary"`
	Results    []result       `json:"results"`
}

// reports writes results into the cluster.
type reports struct {
	kube    *kube
	name    string
	logger  *slog.Logger
	metrics *metrics

	mu      sync.Mutex
	waiting map[string][]result // by namespace, the oldest first
	count   int
	kind    int // index in reportKinds, -1 while the cluster has none
	looked  time.Time
}

func newReports(k *kube, name string, logger *slog.Logger, m *metrics) *reports {
	return &reports{kube: k, name: name, logger: logger, metrics: m, waiting: map[string][]result{}, kind: -1}
}

// offer queues a result.
func (r *reports) offer(namespace string, one result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if namespace == "" || r.count == maxUnreported {
		r.metrics.reports.WithLabelValues("dropped").Inc()
		return
	}
	r.waiting[namespace] = append(r.waiting[namespace], one)
	r.count++
}

// run writes what is queued until ctx ends.
func (r *reports) run(ctx context.Context) {
	every(ctx, reportPause, func() { r.write(ctx, time.Now()) })
}

// write writes what waits, a namespace at a time. What cannot be written is dropped and counted: the events and the gate's own log have it too.
func (r *reports) write(ctx context.Context, now time.Time) {
	r.mu.Lock()
	waiting := r.waiting
	r.waiting, r.count = map[string][]result{}, 0
	r.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	known := r.look(ctx, now)
	for _, namespace := range slices.Sorted(maps.Keys(waiting)) {
		sent := float64(len(waiting[namespace]))
		if !known {
			r.metrics.reports.WithLabelValues("no_kind").Add(sent)
			continue
		}
		if err := r.add(ctx, namespace, waiting[namespace]); err != nil {
			r.metrics.reports.WithLabelValues("failed").Add(sent)
			r.logger.Warn("writing a policy report", "namespace", namespace, "error", err)
			continue
		}
		r.metrics.reports.WithLabelValues("sent").Add(sent)
	}
}

// look finds which kind of report the cluster has.
func (r *reports) look(ctx context.Context, now time.Time) bool {
	if r.kind >= 0 || !r.looked.IsZero() && now.Sub(r.looked) < lookForReports {
		return r.kind >= 0
	}
	r.looked = now
	for i, k := range reportKinds {
		var served struct {
			Resources []struct {
				Name string `json:"name"`
			} `json:"resources"`
		}
		err := r.kube.do(ctx, http.MethodGet, "/apis/"+k.group+"/"+k.version, "", nil, &served)
		for _, s := range served.Resources {
			if err == nil && s.Name == k.resource {
				r.kind = i
				r.logger.Info("policy reports are written", "kind", k.kind, "group", k.group)
				return true
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.logger.Warn("looking for the kind of policy reports", "group", k.group, "error", err)
		}
	}
	return false
}

// add puts results into the report of a namespace, whatever another replica writes meanwhile.
func (r *reports) add(ctx context.Context, namespace string, results []result) error {
	k := reportKinds[r.kind]
	all := "/apis/" + k.group + "/" + k.version + "/namespaces/" + url.PathEscape(namespace) + "/" + k.resource
	for range 5 {
		held := report{}
		err := r.kube.do(ctx, http.MethodGet, all+"/"+url.PathEscape(r.name), "", nil, &held)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		method, path := http.MethodPut, all+"/"+url.PathEscape(r.name)
		if err != nil {
			method, path = http.MethodPost, all
		}
		next := report{APIVersion: k.group + "/" + k.version, Kind: k.kind, Results: merged(held.Results, results)}
		next.Metadata = objectMeta{Name: r.name, Namespace: namespace, ResourceVersion: held.Metadata.ResourceVersion, Labels: map[string]string{"app.kubernetes.io/managed-by": "redoubt"}}
		next.Summary = summarised(next.Results)
		if k.kind == "Report" {
			next.Source = resultSource
		}
		if err = r.kube.do(ctx, method, path, "application/json", next, nil); !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return fmt.Errorf("%w: the report of namespace %s changes all the time", ErrCluster, namespace)
}

// merged are the newest results of both. What is refused again and again, as controllers do, is one result.
func merged(held, fresh []result) []result {
	out := slices.Clone(held)
	for _, one := range fresh {
		out = slices.DeleteFunc(out, one.same)
		out = append(out, one)
	}
	return out[max(0, len(out)-maxReported):]
}

func (r result) same(o result) bool {
	return r.Source == o.Source && r.Policy == o.Policy && r.Result == o.Result && r.Message == o.Message && slices.Equal(r.Resources, o.Resources)
}

func summarised(results []result) map[string]int {
	summary := map[string]int{"pass": 0, "fail": 0, "warn": 0, "error": 0, "skip": 0}
	for _, one := range results {
		if _, known := summary[one.Result]; known {
			summary[one.Result]++
		}
	}
	return summary
}
