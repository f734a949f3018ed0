package gates

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"redoubt.internal/appliance/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// outside is what no manifest may hold: addresses of the public deployments.
var outside = regexp.MustCompile(`https?://[^\s"']*(sigstore\.dev|githubusercontent|github\.com|ghcr\.io|googleapis)`)

func load(t *testing.T, text string) policy.Parts {
	t.Helper()
	p, err := policy.Parse([]byte(text), "testdata", policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return p.Parts()
}

var options = Options{Allow: []string{"registry.corp.internal/openshift"}}

// TestGolden: the forms as they are, twice the same.
func TestGolden(t *testing.T) {
	for _, form := range Forms() {
		t.Run(form, func(t *testing.T) {
			file := "testdata/policy.yaml"
			if form == "gatekeeper-ratify" {
				file = "testdata/keys.yaml"
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join("testdata", form)
			if *update {
				os.RemoveAll(dir)
			}
			written, err := Write(form, load(t, string(text)), options)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Write(form, load(t, string(text)), options)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for i, f := range written.Files {
				names = append(names, filepath.Join(dir, f.Name))
				if !bytes.Equal(f.Data, again.Files[i].Data) {
					t.Errorf("%s is not the same twice", f.Name)
				}
				if found := outside.Find(f.Data); found != nil {
					t.Errorf("%s leads outside: %s", f.Name, found)
				}
				golden(t, filepath.Join(dir, f.Name), f.Data)
			}
			golden(t, filepath.Join(dir, "notes.txt"), []byte(strings.Join(written.Notes, "\n")+"\n"))
			err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
				if err == nil && !e.IsDir() && e.Name() != "notes.txt" && !slices.Contains(names, path) {
					t.Errorf("%s is not written any more", path)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

const head = `version: redoubt.policy/v1
roots: {own: {file: trusted_root.json%s}}
keys: {vendor: {file: vendor.pub, root: own%s}, free: {file: vendor.pub, root: own, without-log: true}}
signers:
  us: [{root: own, identity: dev@corp.internal, issuer: "https://sso.corp.internal"}]
  two: [{root: own, identity: dev@corp.internal, issuer: "https://sso.corp.internal"}, {root: own, identity: ops@corp.internal, issuer: "https://sso.corp.internal"}]
  any: [{root: own, identity-regexp: '.*@corp\.internal', issuer: "https://sso.corp.internal"}]
  flow: [{root: own, identity: "https://git.corp.internal/ci@refs/heads/a", issuer: "https://ci.corp.internal"}, {root: own, identity: "https://git.corp.internal/ci@refs/heads/b", issuer: "https://ci.corp.internal"}]
  hosted: [{root: own, identity: dev@corp.internal, issuer: "https://sso.corp.internal", extensions: {runnerEnvironment: self-hosted}}]
  vendor: [{key: vendor}]
  free: [{key: free}]
`

// ruled is a policy with rules for registry.corp.internal/a and below, by what stands in the braces of each.
func ruled(rules ...string) string {
	text := fmt.Sprintf(head, "", "") + "rules:\n"
	for i, r := range rules {
		text += fmt.Sprintf("- {name: r%d, %s}\n", i, r)
	}
	return text
}

const images = `images: ["registry.corp.internal/a", "registry.corp.internal/a/**"], `

// TestRefuses: what a form cannot say is refused with the rule and the feature.
func TestRefuses(t *testing.T) {
	scoped := []string{"containers-policy.json", "openshift"}
	for _, c := range []struct {
		name   string
		forms  []string
		policy string
		says   []string
	}{
		{"a denied signer", Forms(), ruled(images+"signatures: {by: [us]}") + "deny: [{by: [vendor]}]\n", []string{"deny:"}},
		{"old trust", Forms(), fmt.Sprintf(head, ", max-age: 9d", "") + "rules: [{name: r0, " + images + "signatures: {by: [us]}}]\n", []string{"r0", "root own, max-age"}},
		{"a key's times", Forms(), fmt.Sprintf(head, "", ", not-after: 2030-01-01T00:00:00Z") + "rules: [{name: r0, " + images + "signatures: {by: [vendor]}}]\n", []string{"r0", "key vendor", "not-after"}},
		{"a signature's age", Forms(), ruled(images + "signatures: {by: [us], max-age: 9d}"), []string{"r0", "signatures, max-age"}},
		{"two logs", Forms(), ruled(images + "signatures: {by: [us], logs: 2}"), []string{"r0", "signatures, logs"}},
		{"a threshold of persons that an expression matches", Forms(), ruled(images + "signatures: {by: [any], threshold: 2}"), []string{"r0", "threshold", "expression"}},
		{"a threshold below the number", Forms(), ruled(images + "signatures: {by: [two, vendor], threshold: 2}"), []string{"r0", "threshold", "2 of 3"}},
		{"a threshold that one workflow would meet", Forms(), ruled(images + "signatures: {by: [flow], threshold: 2}"), []string{"r0", "threshold", "2 of 1"}},
		{"an age of provenance", Forms(), ruled(images + "attestations: [{type: slsa-provenance, by: [us], max-age: 9d}]"), []string{"r0", "slsa-provenance", "max-age"}},
		{"a builder", Forms(), ruled(images + `attestations: [{type: slsa-provenance, by: [us], slsa: {builders: [{id: x}]}}]`), []string{"r0", "slsa"}},
		{"a condition", Forms(), ruled(images + `attestations: [{type: "https://corp.internal/v1", by: [us], cel: ["predicate.ok"]}]`), []string{"r0", "cel"}},
		{"the newest", Forms(), ruled(images + `attestations: [{type: "https://corp.internal/v1", by: [us], newest: true}]`), []string{"r0", "newest"}},
		{"any version of a type", Forms(), ruled(images + `attestations: [{type: sbom, by: [us]}]`), []string{"r0", "sbom", "write the predicate type"}},
		{"nothing allowed", Forms(), ruled(images + "action: deny"), []string{"rules"}},
		{"extensions", Forms(), ruled(images + "signatures: {by: [hosted]}"), []string{"r0", "extensions"}},
		{"a person, for Ratify", []string{"gatekeeper-ratify"}, ruled(images + "signatures: {by: [us]}"), []string{"r0", "identities of certificates"}},
		{"a key with a log, for Ratify", []string{"gatekeeper-ratify"}, ruled(images + "signatures: {by: [vendor]}"), []string{"r0", "key vendor", "without-log"}},
		{"attestations, for Ratify", []string{"gatekeeper-ratify"}, ruled(images + `attestations: [{type: "https://corp.internal/v1", by: [free]}]`), []string{"r0", "attestations"}},
		{"a star, for Ratify", []string{"gatekeeper-ratify"}, ruled(`images: ["registry.corp.internal/*"], signatures: {by: [free]}`), []string{"r0", "patterns there"}},
		{"a denial within what is allowed, for Ratify", []string{"gatekeeper-ratify"}, ruled(`images: ["registry.corp.internal/a/b"], action: deny`, images+"signatures: {by: [free]}"), []string{"r0", "action deny within"}},
		{"one of two persons", scoped, ruled(images + "signatures: {by: [two]}"), []string{"r0", "one of several signers"}},
		{"a person or a key", scoped, ruled(images + "signatures: {by: [us, vendor]}"), []string{"r0", "one of several signers"}},
		{"keys with and without a log", scoped, ruled(images + "signatures: {by: [vendor, free]}"), []string{"r0", "one of several signers"}},
		{"an expression", scoped, ruled(images + "signatures: {by: [any]}"), []string{"r0", "identity-regexp"}},
		{"attestations", scoped, ruled(images + `attestations: [{type: "https://corp.internal/v1", by: [us]}]`), []string{"r0", "attestations are not looked at"}},
		{"a name without what is below", scoped, ruled(`images: ["registry.corp.internal/a"], signatures: {by: [us]}`), []string{"r0", `"registry.corp.internal/a/**"`}},
		{"what is below without the name", scoped, ruled(`images: ["registry.corp.internal/a/**"], signatures: {by: [us]}`), []string{"r0", `"registry.corp.internal/a"`}},
		{"a star in a name", scoped, ruled(`images: ["registry.corp.internal/a/*"], signatures: {by: [us]}`), []string{"r0", "patterns there"}},
		{"a domain at the usual port", scoped, ruled(`images: ["*.corp.internal/**"], signatures: {by: [us]}`), []string{"r0", `"*.corp.internal:*/**"`}},
		{"rules of which the first decides", []string{"policy-controller", "kyverno"}, ruled(`images: ["registry.corp.internal/a/b"], signatures: {by: [us]}`, `images: ["registry.corp.internal/a/**"], signatures: {by: [vendor]}`), []string{"r1", "r0", "disjoint"}},
		{"everything, on nodes", []string{"openshift"}, ruled(`images: ["**"], signatures: {by: [us]}`), []string{"r0", "images **"}},
		{"a denial within what is allowed, on nodes", []string{"openshift"}, ruled(`images: ["registry.corp.internal/a/b", "registry.corp.internal/a/b/**"], action: deny`, images+"signatures: {by: [us]}"), []string{"r0", "action deny within"}},
		{"what is opened again, on nodes", []string{"openshift"}, ruled(`images: ["registry.corp.internal/**"], signatures: {by: [us]}`), []string{"r0", "--allow-registry"}},
	} {
		for _, form := range c.forms {
			t.Run(c.name+"/"+form, func(t *testing.T) {
				written, err := Write(form, load(t, c.policy), options)
				if !errors.Is(err, ErrCannot) {
					t.Fatalf("%v, want a refusal; written: %v", err, written)
				}
				for _, want := range append(c.says, form) {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("it does not say %q: %v", want, err)
					}
				}
			})
		}
	}
	t.Run("what no rule is for, on nodes", func(t *testing.T) {
		if _, err := Write("openshift", load(t, ruled(images+"signatures: {by: [us]}")), Options{}); !errors.Is(err, ErrCannot) {
			t.Error(err)
		}
	})
}

// TestThresholdOfAll: where all of several must sign, each is asked for.
func TestThresholdOfAll(t *testing.T) {
	for _, form := range slices.DeleteFunc(Forms(), func(form string) bool { return form == "gatekeeper-ratify" }) { // which knows no persons
		written, err := Write(form, load(t, ruled(images+"signatures: {by: [two], threshold: 2}")), options)
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		var text bytes.Buffer
		for _, f := range written.Files {
			text.Write(f.Data)
		}
		for _, who := range []string{"dev@corp.internal", "ops@corp.internal"} {
			if !strings.Contains(text.String(), who) {
				t.Errorf("%s: %s is not asked for", form, who)
			}
		}
	}
}

// TestEnded: what has an end of validity is left out, for it would hold for ever there.
func TestEnded(t *testing.T) {
	parts := load(t, ruled(images+"signatures: {by: [us]}"))
	begun := []byte(`"start": "2026-11-29T12:38:18Z"`)
	own := parts.Roots["own"]
	if bytes.Count(own, begun) < 5 {
		t.Fatal("the root of the test is another one")
	}
	ended := bytes.Replace(own, begun, []byte(`"start": "2026-11-29T12:38:18Z", "end": "2027-01-01T00:00:00Z"`), 1)
	parts.Roots = map[string][]byte{"own": ended}
	written, err := Write("containers-policy.json", parts, options)
	if err != nil || !strings.Contains(strings.Join(written.Notes, "\n"), "1 of its authorities and logs have an end") {
		t.Fatal(written, err)
	}
	if bytes.Contains(written.Files[0].Data, []byte("rekorPublicKeyDatas")) {
		t.Error("the log that ends is still there")
	}
	parts.Roots["own"] = bytes.ReplaceAll(own, begun, []byte(`"start": "2026-11-29T12:38:18Z", "end": "2027-01-01T00:00:00Z"`))
	if _, err := Write("containers-policy.json", parts, options); !errors.Is(err, ErrCannot) {
		t.Error("a root of which everything ends:", err)
	}
}

// TestScopesDecideAlike: for names around all patterns, the scope that containers-policy.json(5) looks up belongs to the rule that decides here.
func TestScopesDecideAlike(t *testing.T) {
	text := ruled(
		`images: ["registry.corp.internal/a/b", "registry.corp.internal/a/b/**"], action: deny`,
		`images: ["registry.corp.internal/d", "registry.corp.internal/d/**"], signatures: {by: [us]}`,
		images+"signatures: {by: [vendor]}",
		`images: ["registry.corp.internal/**", "registry.corp.internal:5000/**"], signatures: {by: [us]}`,
		`images: ["*.corp.internal/**", "*.corp.internal:*/**", "index.docker.io/library", "index.docker.io/library/**"], signatures: {by: [vendor]}`,
	)
	p, err := policy.Parse([]byte(text), "testdata", policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := &writing{Parts: p.Parts(), form: "test", trusts: map[string]*trust{}}
	if err := w.read(); err != nil {
		t.Fatal(err)
	}
	scopes, err := w.scopes()
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, host := range []string{"registry.corp.internal", "registry.corp.internal:5000", "other.corp.internal", "other.corp.internal:5000", "corp.internal", "xcorp.internal", "index.docker.io", "elsewhere.org"} {
		for _, path := range []string{"a", "a/b", "a/b/c", "a/b/c/d", "a/bc", "ab", "d", "d/e", "library", "library/x", "libraryx"} {
			want := ""
			for _, e := range p.Explain(policy.Artifact{Kind: policy.Image, Name: host + "/" + path}) {
				if e.Decides {
					want = e.Rule
				}
			}
			got := ""
			for _, candidate := range lookups(strings.Replace(host, "index.docker.io", "docker.io", 1), path) {
				if i := slices.IndexFunc(scopes, func(s scope) bool { return s.name == candidate }); i >= 0 {
					got = scopes[i].rule.name
					break
				}
			}
			if got != want {
				t.Errorf("%s/%s: rule %q decides there, here %q", host, path, got, want)
			}
			checked++
		}
	}
	t.Logf("%d names", checked)
}

// lookups are the scopes of a repository in the order in which containers-policy.json(5), "docker:", tries them.
func lookups(host, path string) (all []string) {
	for name := host + "/" + path; name != host; name = name[:strings.LastIndexByte(name, '/')] {
		all = append(all, name)
	}
	all = append(all, host)
	name, _, _ := strings.Cut(host, ":")
	for {
		_, rest, ok := strings.Cut(name, ".")
		if !ok {
			return append(all, "")
		}
		all, name = append(all, "*."+rest), rest
	}
}

// TestGlobsMatchAlike: policy-controller's globs, by its own reading of them, match the repositories that the patterns match, at any tag or digest.
func TestGlobsMatchAlike(t *testing.T) {
	parts := load(t, ruled(`images: ["registry.corp.internal/a", "registry.corp.internal/b/*", "registry.corp.internal/c/**/d", "*.corp.internal/e*"], signatures: {by: [us]}`))
	w := &writing{Parts: parts, form: "test", trusts: map[string]*trust{}}
	if err := w.read(); err != nil {
		t.Fatal(err)
	}
	globs, err := w.globs(&w.rules[0])
	if err != nil {
		t.Fatal(err)
	}
	digest := "@sha256:" + strings.Repeat("5e", 32)
	for name, want := range map[string]bool{
		"registry.corp.internal/a": true, "registry.corp.internal/a/b": false, "registry.corp.internal/ab": false, "registry.corp.internal/b/c": true,
		"registry.corp.internal/b/c/d": false, "registry.corp.internal/c/x/y/d": true, "registry.corp.internal/c/x/y/e": false, "x.corp.internal/ef": true,
		"x.corp.internal/e/f": false, "xcorp.internal/e": false, "registry_corp.internal/a": false,
	} {
		for _, version := range []string{":latest", ":v1.2", digest} {
			got := slices.ContainsFunc(globs, func(g cipGlob) bool { return cipMatch(g.Glob, name+version) })
			if got != want {
				t.Errorf("%s%s: %v, want %v", name, version, got, want)
			}
		}
	}
}

// cipMatch reads a glob as policy-controller documents it: * is anything but a slash, ** is anything, the whole reference must match.
func cipMatch(glob, image string) bool {
	re := regexp.QuoteMeta(glob)
	re = strings.ReplaceAll(re, `\*\*`, `.*`)
	re = strings.ReplaceAll(re, `\*`, `[^/]*`)
	return regexp.MustCompile(`\A` + re + `\z`).MatchString(image)
}

// TestExpressionsAreBound: an expression that matches the whole text here does not match a part there.
func TestExpressionsAreBound(t *testing.T) {
	for in, texts := range map[string][2]string{`a|b`: {"a", "ab"}, `.*@corp\.internal`: {"x@corp.internal", "x@corp.internal.evil"}} {
		re := regexp.MustCompile(bound(in))
		if !re.MatchString(texts[0]) || re.MatchString(texts[1]) {
			t.Errorf("%s became %s", in, re)
		}
	}
}

// TestContainersPolicyFiles: policy.json is JSON whose default is to reject.
func TestContainersPolicyFiles(t *testing.T) {
	written, err := Write("containers-policy.json", load(t, ruled(images+"signatures: {by: [us]}")), options)
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Default []requirement `json:"default"`
	}
	if err := json.Unmarshal(written.Files[0].Data, &p); err != nil || len(p.Default) != 1 || p.Default[0].Type != "reject" {
		t.Error(p, err)
	}
}
