//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	pipelines   = "pipelines-1"
	pipelinesJS = "pipelines-js-1"
)

// pipelineBlock is an example of docs/ci.md in YAML.
var pipelineBlock = regexp.MustCompile("(?ms)^```yaml\n# (\\w+): [^\n]*\n(.*?)^```$")

// TestPipelines: the examples of docs/ci.md are what those projects take, by their own types, validation, parser or schema. Each is bent as well, and refused.
func TestPipelines(t *testing.T) {
	document, err := os.ReadFile("../../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := map[string]string{}
	for _, block := range pipelineBlock.FindAllStringSubmatch(string(document), -1) {
		examples[block[1]] = block[2]
	}
	l := &lab{serverLog: os.DevNull}
	js := client(t, pipelinesJS)
	checked := func(t *testing.T, s *session, text string) []string { // by the program of Go's types
		return []string{client(t, pipelines), s.write(t, "example.yaml", text)}
	}
	github := func(t *testing.T, s *session, text string) []string {
		return []string{"node", "--no-warnings", filepath.Join(js, "github.mjs"), s.write(t, "sign.yml", text)}
	}
	gitlab := func(t *testing.T, s *session, text string) []string {
		s.write(t, ".gitlab-ci.yml", text)
		s.run(t, "git", "init", "-q", "--initial-branch=main", ".")
		s.run(t, "git", "-c", "user.name=dev", "-c", "user.email="+identity, "commit", "-q", "--allow-empty", "-m", "app")
		return []string{"node", filepath.Join(js, "node_modules/gitlab-ci-local/src/index.js"), "--list"}
	}
	for name, e := range map[string]struct {
		check            func(*testing.T, *session, string) []string
		from, to, reason string
	}{
		"tekton":                   {checked, "      script: |", "      scripts: |", `unknown field "scripts"`},
		"tekton's validation":      {checked, "- name: sign\n", "- name: Sign\n", "spec.steps[0].name"},
		"argo":                     {checked, "        source: |", "        sources: |", `unknown field "sources"`},
		"argo's validation":        {checked, "entrypoint: sign", "entrypoint: signs", "template name 'signs' undefined"},
		"spinnaker":                {checked, "backoffLimit: 0", "backoffLimits: 0", `unknown field "backoffLimits"`},
		"chains":                   {checked, "\ndata:", "\ndate:", `unknown field "date"`},
		"github":                   {github, "runs-on: self-hosted", "run-on: self-hosted", "Unexpected value 'run-on'"},
		"github's permissions":     {github, "id-token: write", "id-token: both", "Unexpected value 'both'"},
		"gitlab":                   {gitlab, "  artifacts:", "  artifactz:", "artifactz"},
		"gitlab's tokens for jobs": {gitlab, "SIGSTORE_ID_TOKEN: {aud: sigstore}", "SIGSTORE_ID_TOKEN: {audience: sigstore}", "must have required property 'aud'"},
	} {
		t.Run(name, func(t *testing.T) {
			example, _, _ := strings.Cut(name, "'")
			text := examples[example]
			if text == "" || strings.Count(text, e.from) != 1 {
				t.Fatalf("docs/ci.md has no %s with one %q", example, e.from)
			}
			s := l.session(t)
			command := e.check(t, s, text)
			s.run(t, command[0], command[1:]...)
			bent := l.session(t)
			command = e.check(t, bent, strings.Replace(text, e.from, e.to, 1))
			bent.refuse(t, []string{e.reason}, command[0], command[1:]...)
		})
	}
}
