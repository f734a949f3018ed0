//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const pipelinesJS = "pipelines-js-1"

// pipelineBlock is an example of docs/ci.md in YAML.
var pipelineBlock = regexp.MustCompile("(?ms)^```yaml\n# (\\w+): [^\n]*\n(.*?)^```$")

// TestPipelines: the examples of docs/ci.md for GitHub and GitLab are what those take, by GitHub's parser and GitLab's schema. Each is bent as well, and refused.
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
