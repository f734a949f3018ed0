package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"go.yaml.in/yaml/v3"
)

// ciBlock is an example of docs/ci.md: its language, its name and its text.
var ciBlock = regexp.MustCompile("(?ms)^```(yaml|groovy|hcl)\n(?:#|//) (\\w+): [^\n]*\n(.*?)^```$")

// ciShell is where the shell of an example stands in its document; none has any else.
var ciShell = map[string][]any{"gitlab": {"sign", "script"}, "tekton": {"spec", "steps", 0, "script"}, "github": {"jobs", "sign", "steps", 1, "run"}, "argo": {"spec", "templates", 0, "script", "source"}, "chains": nil, "keyless": nil,
	"circleci": {"jobs", "sign", "steps", 1, "run", "command"}, "cloudbuild": {"steps", 0, "args", 1}, "spinnaker": {"spec", "template", "spec", "containers", 0, "args", 0}}

// ciHeredoc are what the shell stands between in examples that are no YAML, by their language.
var ciHeredoc = map[string][2]string{"groovy": {"'''", "'''"}, "hcl": {"<<-EOT", "EOT"}}

// ciSnippets writes the shell of each example of docs/ci.md to NAME.sh.
func ciSnippets(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 0, "snippets")
	text, err := os.ReadFile("../docs/ci.md")
	ts.Check(err)
	blocks := ciBlock.FindAllStringSubmatch(string(text), -1)
	if len(blocks) != len(ciShell)+len(ciHeredoc) || len(blocks) != strings.Count(string(text), "\n```")/2 {
		ts.Fatalf("docs/ci.md has %d examples", len(blocks))
	}
	for _, b := range blocks {
		shell := ""
		if marks, ok := ciHeredoc[b[1]]; ok {
			_, rest, begun := strings.Cut(b[3], marks[0])
			text, rest, ended := strings.Cut(rest, marks[1])
			if !begun || !ended || strings.Contains(rest, marks[0]) {
				ts.Fatalf("%s: one shell block is expected", b[2])
			}
			shell = text
		} else {
			path, known := ciShell[b[2]]
			if !known {
				ts.Fatalf("what is the shell of %s?", b[2])
			}
			var document map[string]any // a name that stands twice is an error
			if err := yaml.Unmarshal([]byte(b[3]), &document); err != nil {
				ts.Fatalf("%s: %v", b[2], err)
			}
			if path == nil {
				continue
			}
			shell = shellAt(ts, document, path)
		}
		if b[2] == "cloudbuild" {
			shell = strings.ReplaceAll(shell, "$$", "$")
		}
		ts.Check(os.WriteFile(ts.MkAbs(b[2]+".sh"), []byte(shell), 0o600))
	}
}

func shellAt(ts *testscript.TestScript, v any, path []any) string {
	for _, step := range path {
		switch at := step.(type) {
		case string:
			v = v.(map[string]any)[at]
		case int:
			v = v.([]any)[at]
		}
	}
	switch v := v.(type) {
	case string:
		return v
	case []any:
		var lines []string
		for _, line := range v {
			lines = append(lines, fmt.Sprint(line))
		}
		return strings.Join(lines, "\n")
	}
	ts.Fatalf("no shell at %v", path)
	return ""
}

// ciTokens FILE serves the token in FILE as GitHub's runner does, to whoever has the request's secret, and as Google's metadata server does.
func ciTokens(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "citokens FILE")
	token := strings.TrimSpace(ts.ReadFile(args[0]))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/computeMetadata/v1/instance/service-accounts/default/identity" && q.Header.Get("Metadata-Flavor") == "Google" && q.URL.Query().Get("audience") == "sigstore" {
			fmt.Fprint(w, token)
			return
		}
		if q.Header.Get("Authorization") != "bearer request-secret" || q.URL.Query().Get("audience") != "sigstore" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, `{"count":1,"value":%q}`, token)
	}))
	ts.Defer(server.Close)
	ts.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(server.URL, "http://"))
	ts.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", server.URL+"/token?api-version=2.0")
	ts.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "request-secret")
}
