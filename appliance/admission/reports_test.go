package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

const reportPath = "/apis/wgpolicyk8s.io/v1alpha2/namespaces/apps/policyreports/redoubt-admission"

// reportOf reads a report that was written.
func reportOf(t *testing.T, o *objects, path string) (r report) {
	t.Helper()
	if err := json.Unmarshal([]byte(o.object(path)), &r); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return r
}

// TestPolicyReports: both replicas write what they refused into the one report of the namespace, and neither undoes the other's.
func TestPolicyReports(t *testing.T) {
	l, a, b, o := replicas(t)
	o.kinds = []string{"wgpolicyk8s.io/v1alpha2:policyreports", "openreports.io/v1alpha1:reports"}
	ctx := context.Background()
	refuse := func(g *Gate, image string) {
		l.gate = g
		l.refused(l.create(ValidatePath, "apps", image), "registry")
	}
	refuse(a, "elsewhere.internal/one:1")
	refuse(a, "elsewhere.internal/one:1") // as a controller does
	a.reports.write(ctx, l.now())
	refuse(b, "elsewhere.internal/two:1")
	o.between = func(string) { // while the other replaces it
		refuse(a, "elsewhere.internal/three:1")
		a.reports.write(ctx, l.now())
	}
	b.reports.write(ctx, l.now())
	r := reportOf(t, o, reportPath)
	if r.APIVersion != "wgpolicyk8s.io/v1alpha2" || r.Kind != "PolicyReport" || r.Source != "" || len(r.Results) != 3 || r.Summary["fail"] != 3 || r.Summary["warn"] != 0 {
		t.Fatalf("%+v", r)
	}
	for i, name := range []string{"one", "three", "two"} {
		got := r.Results[i]
		if !strings.Contains(got.Message, name) || got.Result != "fail" || got.Policy == "" || got.Resources[0] != (resource{"v1", "Pod", "apps", "app"}) || got.Properties["decision"] != "refused" || got.Properties["user"] != "dev" {
			t.Errorf("%+v", got)
		}
	}
	l.gate = a
	for i := range maxReported + 10 {
		refuse(a, fmt.Sprintf("elsewhere.internal/n%d:1", i))
	}
	a.reports.write(ctx, l.now())
	if r := reportOf(t, o, reportPath); len(r.Results) != maxReported || r.Summary["fail"] != maxReported || !strings.Contains(r.Results[maxReported-1].Message, fmt.Sprintf("n%d:", maxReported+9)) {
		t.Errorf("%d results", len(r.Results))
	}
}

// TestReportsWithoutTheirKind: a cluster without the kind gets none; once it has one, what is refused from then on is reported.
func TestReportsWithoutTheirKind(t *testing.T) {
	l, a, _, o := replicas(t)
	ctx := context.Background()
	l.gate = a
	refuse := func() { l.refused(l.create(ValidatePath, "apps", "elsewhere.internal/one:1"), "registry") }
	refuse()
	a.reports.write(ctx, l.now())
	o.kinds = []string{"openreports.io/v1alpha1:reports"}
	refuse()
	a.reports.write(ctx, l.now()) // not looked for again yet
	if len(o.held) != 0 {
		t.Fatalf("%v", o.held)
	}
	l.pass(2 * lookForReports)
	refuse()
	a.reports.write(ctx, l.now())
	r := reportOf(t, o, "/apis/openreports.io/v1alpha1/namespaces/apps/reports/redoubt-admission")
	if r.APIVersion != "openreports.io/v1alpha1" || r.Kind != "Report" || r.Source != "redoubt" || len(r.Results) != 1 || r.Results[0].Timestamp.Seconds != l.now().Unix() {
		t.Errorf("%+v", r)
	}
	// A flood costs no memory without end, and an API server that is away no admission.
	o.set(true)
	for range maxUnreported + 10 {
		a.reports.offer("apps", r.Results[0])
	}
	if a.reports.count != maxUnreported {
		t.Errorf("%d wait", a.reports.count)
	}
	a.reports.write(ctx, l.now().Add(time.Hour))
	refuse()
}
