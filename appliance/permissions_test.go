package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/fulcio"
)

// verbsOf are the verbs of a command tree: whatever does something when it is called.
func verbsOf(prefix string, commands []*cli.Command) (verbs []string) {
	group := reflect.ValueOf(cmdline.NoVerb).Pointer()
	for _, c := range commands {
		if reflect.ValueOf(c.Action).Pointer() != group {
			verbs = append(verbs, prefix+c.Name)
		}
		verbs = append(verbs, verbsOf(prefix+c.Name+" ", c.Subcommands)...)
	}
	return verbs
}

// TestPermissionsOfVerbs: the table has a row for each verb of the real command tree and each operation of the control socket, once,
// and none for others.
func TestPermissionsOfVerbs(t *testing.T) {
	for _, problem := range verbProblems(verbsOf("", newApp(io.Discard, io.Discard).Commands), operations(), verbTable) {
		t.Error(problem)
	}
	// The negative controls: a verb, an operation and a row too many, and rows that disagree, are found.
	extra := append(slices.Clone(operations()), operation{name: "open.everything"})
	rows := append(slices.Clone(verbTable), verbRow{"fly", "status", anyone})
	problems := strings.Join(verbProblems([]string{"swim"}, extra, rows), "\n")
	for _, want := range []string{"no row for the verb swim", "no row for the operation open.everything", "the verb fly does not exist", "status has rows that disagree"} {
		if !strings.Contains(problems, want) {
			t.Errorf("not found: %s", want)
		}
	}
}

func verbProblems(verbs []string, operations []operation, table []verbRow) (problems []string) {
	rows, ops := map[string]int{}, map[string]access{}
	for _, row := range table {
		for verb := range strings.SplitSeq(row.verbs, ", ") {
			rows[verb]++
		}
		for _, o := range strings.Fields(row.operations) {
			if was, ok := ops[o]; ok && !reflect.DeepEqual(was, row.access) {
				problems = append(problems, o+" has rows that disagree")
			}
			ops[o] = row.access
		}
	}
	for _, verb := range verbs {
		switch rows[verb] {
		case 0:
			problems = append(problems, "no row for the verb "+verb)
		case 1:
		default:
			problems = append(problems, "two rows for the verb "+verb)
		}
		delete(rows, verb)
	}
	for verb := range rows {
		problems = append(problems, "the verb "+verb+" does not exist")
	}
	for _, o := range operations {
		if a, ok := ops[o.name]; !ok {
			problems = append(problems, "no row for the operation "+o.name)
		} else if a.roles == nil {
			problems = append(problems, "the operation "+o.name+" is anyone's")
		}
		delete(ops, o.name)
	}
	for o := range ops {
		problems = append(problems, "the operation "+o+" does not exist")
	}
	return problems
}

// patternsOf are the patterns registered in a mux, as its own index keeps them.
func patternsOf(t *testing.T, mux *http.ServeMux) (patterns []string) {
	t.Helper()
	index := reflect.ValueOf(mux).Elem().FieldByName("index")
	add := func(all reflect.Value) {
		for i := range all.Len() {
			patterns = append(patterns, all.Index(i).Elem().FieldByName("str").String())
		}
	}
	add(index.FieldByName("multis"))
	for each := index.FieldByName("segments").MapRange(); each.Next(); {
		add(each.Value())
	}
	slices.Sort(patterns)
	if patterns = slices.Compact(patterns); len(patterns) == 0 {
		t.Fatal("the mux has no patterns: net/http keeps them elsewhere now")
	}
	return patterns
}

// servedPatterns are the patterns of each service's real routes.
func servedPatterns(t *testing.T, s *served) map[string][]string {
	t.Helper()
	in := s.server.instance()
	mux := func(h http.Handler) *http.ServeMux {
		m, ok := h.(*http.ServeMux)
		if !ok {
			t.Fatalf("%T is no mux", h)
		}
		return m
	}
	return map[string][]string{
		"fulcio":  fulcio.Routes(),
		"rekor":   append(patternsOf(t, in.artifacts[0].api.Routes()), patternsOf(t, in.eachArtifactLog())...),
		"tsa":     patternsOf(t, mux(in.tsa.Handler())),
		"ct":      patternsOf(t, mux(in.certificateLogs[0].api.Handler())),
		"oidc":    append(patternsOf(t, mux(in.issuer.Handler())), patternsOf(t, mux(in.workloads.Handler()))...),
		"console": patternsOf(t, s.server.consoleHandler()),
		"people":  patternsOf(t, s.server.peopleHandler()),
		"metrics": patternsOf(t, s.server.metricsHandler()),
	}
}

// TestPermissionsOfRoutes: every route of the real muxes has a row, every row of theirs a route, and what has no row is 404 before
// any room sees it, on every service.
func TestPermissionsOfRoutes(t *testing.T) {
	s := serveState(t, nil)
	table, all := map[string]bool{}, newRoutes()
	for _, row := range routeTable {
		table[row.service+" "+row.pattern] = true
	}
	checked := map[string]bool{}
	for service, patterns := range servedPatterns(t, s) {
		checked[service] = true
		for _, pattern := range patterns {
			method, path, ok := strings.Cut(pattern, " ")
			if !ok { // the room looks at the method itself: one of the rows' has to be there
				method, path = "", pattern
			}
			if path = strings.TrimSuffix(path, "/{$}"); path == "" {
				path = "/{$}"
			}
			if strings.HasSuffix(path, "/healthz") {
				continue // answered by the guard
			}
			if !hasRow(all, service, method, strings.ReplaceAll(path, "/{$}", "/")) {
				t.Errorf("%s %s is served and has no row in routeTable", service, pattern)
			}
			for key := range table {
				row := strings.TrimPrefix(key, service+" ")
				m, p, _ := strings.Cut(row, " ")
				if row != key && p == path && (method == "" || m == method) {
					delete(table, key)
				}
			}
		}
	}
	for key := range table {
		if service, _, _ := strings.Cut(key, " "); checked[service] {
			t.Errorf("%s stands in routeTable and is not served", key)
		}
	}
	for name, svc := range s.cfg.Services.all() {
		for _, path := range []string{"/nothing/of/the/kind", "/api/v1/nothing", "/api/v2/log", "/ct/v1/nothing", "/debug/vars", "/%2e%2e/x"} {
			response, err := http.Get(svc.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s: %s %.80s", name, path, response.Status, body)
			}
		}
	}
	// The negative control: a room that serves a path without a row is not reached.
	reached := false
	room := s.server.guard("console", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	for path, want := range map[string]bool{"/": true, "/backdoor": false, "/api/v1/act/status": false} {
		reached = false
		room.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil))
		if reached != want {
			t.Errorf("%s: reached %t", path, reached)
		}
	}
	if mux := http.NewServeMux(); true {
		mux.HandleFunc("GET /backdoor", func(http.ResponseWriter, *http.Request) {})
		if p := patternsOf(t, mux); len(p) != 1 || hasRow(all, "console", "GET", "/backdoor") {
			t.Errorf("the walk does not see a route without a row: %v", p)
		}
	}
}

// hasRow reports whether a row covers a pattern; any method's where the pattern names none.
func hasRow(all routeIndex, service, method, path string) bool {
	path = strings.NewReplacer("{", "", "}", "", "...", "").Replace(path)
	methods := []string{method}
	if method == "" {
		methods = []string{http.MethodGet, http.MethodPost}
	}
	return slices.ContainsFunc(methods, func(m string) bool {
		found, _ := all.find(service, httptest.NewRequest(m, path, nil))
		return found != ""
	})
}
