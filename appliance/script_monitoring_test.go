package main

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"go.yaml.in/yaml/v3"
)

// alsotrust OUTSIDE INSIDE has the trust repository of OUTSIDE carried as well.
func alsoTrust(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "alsotrust OUTSIDE INSIDE")
	outside := layout{ts.MkAbs(args[0])}
	t := MirrorTUF{Name: "outside", Root: filepath.Join(outside.tuf(), "1.root.json")}
	reconfigure(ts, args[1], func(c *Config) { c.Mirror.TUF = []MirrorTUF{t} })
	t.Source = outside.tuf()
	reconfigure(ts, args[0], func(c *Config) { c.Mirror.TUF = []MirrorTUF{t} })
}

// monitoring DIR holds the shipped alerting rules and dashboard against the metrics page of the server of DIR: both are of their form, and
// every metric they name is on the page.
func monitoring(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "monitoring DIR")
	exposed := exposedBy(ts, args[0])
	exposed["redoubt_role_up"] = true // where roles run apart: TestRolesTogether sees it
	used := map[string]string{}       // expression to what has it
	shippedRules(ts, used)
	shippedDashboard(ts, used)
	if len(used) < 40 {
		ts.Fatalf("only %d expressions were found", len(used))
	}
	names := map[string]bool{}
	for expr, where := range used {
		for _, name := range metricsOf(expr) {
			names[name] = true
			if !exposed[name] {
				ts.Fatalf("%s: %s is not on the metrics page (%s)", where, name, expr)
			}
		}
	}
	ts.Logf("%d metrics in %d expressions are on the page: %v", len(names), len(used), slices.Sorted(maps.Keys(names)))
	if exposed["redoubt_mirror_nosuch"] || len(metricsOf(`sum by (a, b) (rate(x_total{c="y_z"}[5m])) > ignoring(o) group_left() (2 * z > 0) unless q`)) != 3 {
		ts.Fatalf("the check finds no metrics: %v", metricsOf(`sum by (a, b) (rate(x_total{c="y_z"}[5m])) > ignoring(o) group_left() (2 * z > 0) unless q`))
	}
}

// exposedBy are the names on a metrics page. It is fetched twice, since it counts the requests before.
func exposedBy(ts *testscript.TestScript, dir string) map[string]bool {
	base, ok := readyFile(ts, dir)["metrics"].(string)
	if !ok {
		ts.Fatalf("%s serves no metrics", dir)
	}
	names := map[string]bool{}
	for range 2 {
		response, err := http.Get(strings.TrimSuffix(base, "/metrics") + "/metrics")
		ts.Check(err)
		page, err := io.ReadAll(response.Body)
		response.Body.Close()
		ts.Check(err)
		for line := range strings.Lines(string(page)) {
			if end := strings.IndexAny(line, "{ "); end > 0 && line[0] != '#' {
				names[line[:end]] = true
			}
		}
	}
	return names
}

// monitoringFile reads a file that is shipped.
func monitoringFile(ts *testscript.TestScript, name string) []byte {
	data, err := os.ReadFile(filepath.Join("..", "installer", "files", "monitoring", name))
	ts.Check(err)
	return data
}

func shippedRules(ts *testscript.TestScript, used map[string]string) {
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	d := yaml.NewDecoder(strings.NewReader(string(monitoringFile(ts, "redoubt.rules.yml"))))
	d.KnownFields(true)
	ts.Check(d.Decode(&file))
	seen := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if g.Name == "" || r.Alert == "" || seen[r.Alert] || r.Expr == "" || r.For == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" ||
				!slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
				ts.Fatalf("the rule %+v lacks something, or is there twice", r)
			}
			seen[r.Alert] = true
			used[r.Expr] = r.Alert
		}
	}
}

func shippedDashboard(ts *testscript.TestScript, used map[string]string) {
	var board struct {
		UID, Title string
		Panels     []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ Expr string }
		}
	}
	ts.Check(json.Unmarshal(monitoringFile(ts, "redoubt.dashboard.json"), &board))
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if board.UID == "" || p.ID == 0 || ids[p.ID] || p.Title == "" || p.GridPos.W == 0 || p.GridPos.X+p.GridPos.W > 24 || p.Type != "row" && len(p.Targets) == 0 {
			ts.Fatalf("the panel %+v lacks something, or its id is there twice", p)
		}
		ids[p.ID] = true
		for _, t := range p.Targets {
			used[t.Expr] = p.Title
		}
	}
}

var (
	notMetrics = regexp.MustCompile(`\{[^}]*\}|\[[^\]]*\]|\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)|\b(or|and|unless)\b`)
	identifier = regexp.MustCompile(`[a-zA-Z_][a-zA-Z0-9_]*\s*\(?`)
)

// metricsOf are the metrics that an expression names: identifiers that are no functions, labels, durations or operators.
func metricsOf(expr string) (names []string) {
	for _, word := range identifier.FindAllString(notMetrics.ReplaceAllString(expr, " "), -1) {
		if !strings.HasSuffix(word, "(") {
			names = append(names, strings.TrimSpace(word))
		}
	}
	return names
}
