//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The definitions of the kinds of policy reports, as their projects publish them.
const (
	policyReportKinds = "policyreports-v1.19.1" // wgpolicyk8s.io/v1alpha2, as Kyverno ships it
	openReportKinds   = "openreports-v0.2.1"    // openreports.io/v1alpha1
)

// define puts the definitions of a folder into the cluster.
func (g *gated) define(t *testing.T, folder string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(client(t, folder), "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text := strings.TrimPrefix(string(must(os.ReadFile(file))), "---\n")
		if kind, name, _ := headOf(t, text); kind == "CustomResourceDefinition" {
			g.apply(t, text)
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		t.Fatalf("no definition in %s", folder)
	}
	return names
}

// reported waits until a namespace has a report with a result that says something.
func (g *gated) reported(t *testing.T, path, result, word string, again func()) {
	t.Helper()
	var held struct {
		Summary map[string]int `json:"summary"`
		Results []struct {
			Source    string `json:"source"`
			Policy    string `json:"policy"`
			Result    string `json:"result"`
			Message   string `json:"message"`
			Timestamp struct {
				Seconds int64 `json:"seconds"`
			} `json:"timestamp"`
			Resources []struct{ Kind, Namespace, APIVersion string } `json:"resources"`
		} `json:"results"`
	}
	wait(t, "a report at "+path, func() bool {
		again()
		code, answer, _ := g.ask(http.MethodGet, path, "", nil)
		if code != http.StatusOK {
			return false
		}
		if err := json.Unmarshal(answer, &held); err != nil {
			t.Fatalf("%v: %s", err, answer)
		}
		return true
	})
	found := false
	counts := map[string]int{}
	for _, r := range held.Results {
		counts[r.Result]++
		if r.Result == result && strings.Contains(r.Message, word) && r.Source == "redoubt" && r.Policy == "admission" && r.Timestamp.Seconds > 0 && len(r.Resources) == 1 && r.Resources[0].Kind == "Pod" && r.Resources[0].APIVersion == "v1" {
			found = true
		}
	}
	if !found || held.Summary["fail"] != counts["fail"] || held.Summary["warn"] != counts["warn"] {
		t.Errorf("%s: %+v", path, held)
	}
}

// policyReports: what is refused, or would be, stands in reports of the kind that the cluster has, taken by the API server by the published definition.
func policyReports(t *testing.T, g *gated, web string) {
	refuse := func(namespace string) func() {
		return func() { g.pod(t, namespace, "reported", web+":unsigned") }
	}
	wait(t, "results without a place", func() bool { // the control: there is no such kind yet
		refuse("apps")()
		return strings.Contains(g.page(t, g.metrics+"/metrics"), `redoubt_admission_reports_total{sent="no_kind"}`)
	})
	names := g.define(t, policyReportKinds)
	at := func(namespace string) string {
		return "/apis/wgpolicyk8s.io/v1alpha2/namespaces/" + namespace + "/policyreports/redoubt-admission"
	}
	g.reported(t, at("apps"), "fail", "the policy does not allow it", refuse("apps"))
	g.ask(http.MethodDelete, place(t, "Pod", "soft")+"/reported", "", nil)
	g.reported(t, at("soft"), "warn", "the policy does not allow it", refuse("soft"))
	// The other kind, of a cluster that has it alone.
	for _, name := range names {
		g.ask(http.MethodDelete, place(t, "CustomResourceDefinition", "")+"/"+name, "", nil)
	}
	g.define(t, openReportKinds)
	wait(t, "the kind to be gone and the other to be there", func() bool {
		gone, _, _ := g.ask(http.MethodGet, "/apis/wgpolicyk8s.io/v1alpha2", "", nil)
		there, _, _ := g.ask(http.MethodGet, "/apis/openreports.io/v1alpha1", "", nil)
		return gone == http.StatusNotFound && there == http.StatusOK
	})
	g.kill(t, "gate")
	g.startGate(t)
	g.settled(t, web+":unsigned", "the policy does not allow it")
	g.reported(t, "/apis/openreports.io/v1alpha1/namespaces/apps/reports/redoubt-admission", "fail", "the policy does not allow it", refuse("apps"))
}
