package policy

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

// caseBench is a folder with a policy, bundles, a file that was signed and the layout of a signed image.
func caseBench(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	b.file("policy.yaml", []byte(header+`
rules:
  - {name: ours, images: ["registry.corp.internal/**"], signatures: {by: [us], max-age: 2h}}
  - {name: charts, artifacts: ["*.tgz"], signatures: {by: [us]}}
  - {name: withdrawn, images: ["registry.corp.internal/withdrawn/*"], action: deny}
`))
	ours, theirs := b.own.SignMessage(2, "artifact").Bundle(t), b.them.SignMessage(2, "artifact").Bundle(t)
	b.file("ours.json", ours)
	b.file("theirs.json", theirs)
	b.file("both.jsonl", bytes.Join([][]byte{theirs, nil, ours, nil}, []byte("\n")))
	b.file("app.tgz", []byte("artifact"))
	s := newStore(t)
	i := s.put("v1", nil)
	s.attach(i, b.own.AttestPayload("", statementOf(cosignSign, "{}", i)).Bundle(t))
	if err := os.Rename(s.layout(), filepath.Join(b.dir, "app")); err != nil {
		t.Fatal(err)
	}
	s.put("v2", map[string]any{"annotations": map[string]string{"is": "another"}})
	if err := os.Rename(s.layout(), filepath.Join(b.dir, "two")); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) cases(text string) ([]Tested, error) {
	b.file("policy.test.yaml", []byte("cases:\n  - {"+text+"}\n"))
	return Test(b.t.Context(), filepath.Join(b.dir, "policy.yaml"), Config{Now: func() time.Time { return verifytest.Epoch.Add(time.Hour) }})
}

// TestCases: a case passes when the policy decides as it says, and names what it decided otherwise.
func TestCases(t *testing.T) {
	b := caseBench(t)
	digest := digestOf("artifact")
	const image = "image: registry.corp.internal/team/app, "
	for _, test := range []struct{ name, text, problem string }{
		{"allowed by its layout", image + "layout: app, expect: allow, rule: ours", ""},
		{"allowed by digest and bundle", image + "digest: '" + digest + "', bundles: [ours.json], expect: allow", ""},
		{"allowed by the second of two lines", image + "digest: '" + digest + "', bundles: [both.jsonl], expect: allow, reason: dev@corp.internal", ""},
		{"allowed by the second of two files", image + "digest: '" + digest + "', bundles: [theirs.json, ours.json], expect: allow", ""},
		{"a file by its bytes", "artifact: app.tgz, file: app.tgz, bundles: [ours.json], expect: allow, rule: charts", ""},
		{"a file with another's signature", "artifact: app.tgz, file: app.tgz, bundles: [theirs.json], expect: deny, rule: charts, reason: not one of the signers", ""},
		{"another file", "artifact: app.tgz, file: ours.json, bundles: [ours.json], expect: deny, reason: mismatch", ""},
		{"which rule decides about what is not there", "artifact: app.tgz, expect: deny, rule: charts, reason: 0 of 1 needed", ""},
		{"denied by name", "image: registry.corp.internal/withdrawn/app, layout: app, expect: deny, rule: withdrawn", ""},
		{"an image is no artifact", "image: app.tgz, digest: '" + digest + "', bundles: [ours.json], expect: deny, reason: no rule is for", ""},
		{"later than it may be", image + "digest: '" + digest + "', bundles: [ours.json], now: 2026-06-01T15:00:00Z, expect: deny, reason: at most 2h0m0s", ""},
		{"wrongly expected to be allowed", image + "layout: app, expect: deny", "expected deny"},
		{"wrongly expected to be denied", "image: registry.corp.internal/withdrawn/app, layout: app, expect: allow", "expected allow"},
		{"another rule", image + "layout: app, expect: allow, rule: charts", `expected rule "charts"`},
		{"another reason", "image: registry.corp.internal/withdrawn/app, layout: app, expect: deny, reason: too old", `expected the reason "too old"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			all, err := b.cases("name: c, " + test.text)
			if err != nil {
				t.Fatal(err)
			}
			if len(all) != 1 || all[0].Name != "c" || all[0].Passed != (test.problem == "") || !strings.Contains(all[0].Problem, test.problem) {
				t.Errorf("%+v", all)
			}
		})
	}
}

// TestBadCases: cases that cannot be judged are an error that says which, and not cases that fail: a case that expects a denial would pass by it.
func TestBadCases(t *testing.T) {
	b := caseBench(t)
	const image = "image: registry.corp.internal/team/app, "
	for _, test := range []struct{ name, text, want string }{
		{"nothing expected", image + "layout: app", "cases[0]: expect \"\""},
		{"something else expected", image + "layout: app, expect: warn", "allow or deny is needed"},
		{"neither image nor artifact", "layout: app, expect: deny", "image or artifact is needed"},
		{"image and artifact", image + "artifact: a, expect: deny", "and not both"},
		{"no such layout", image + "layout: none, expect: deny", "none"},
		{"a layout of two images", image + "layout: two, expect: deny", "holds 2 images"},
		{"no such file", "artifact: app.tgz, file: none.tgz, expect: deny", "none.tgz"},
		{"no such bundle", image + "bundles: [none.json], expect: deny", "none.json"},
		{"an unknown key", image + "expects: deny", "did you mean expect?"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if all, err := b.cases(test.text); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), test.want) || all != nil {
				t.Fatalf("%v, %v", all, err)
			}
		})
	}
	b.file("policy.test.yaml", []byte("cases: []\n"))
	if _, err := Test(t.Context(), filepath.Join(b.dir, "policy.yaml"), Config{}); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), "there are none") {
		t.Errorf("no cases: %v", err)
	}
	if _, err := Test(t.Context(), filepath.Join(b.dir, "other.yml"), Config{}); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), "other.test.yaml") {
		t.Errorf("no file of cases: %v", err)
	}
	b.file("broken.test.yaml", []byte("cases: [{name: c, image: a/b, expect: deny}]\n"))
	if _, err := Test(t.Context(), filepath.Join(b.dir, "broken.yaml"), Config{}); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), "broken.yaml") {
		t.Errorf("no policy beside the cases: %v", err)
	}
}

// TestReadBundles: one bundle in a file, or one on each line, and none of more bytes than are read.
func TestReadBundles(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		text    string
		sources []string
	}{
		{"{}\n", []string{"f"}},
		{"{\n}\n", []string{"f"}},
		{"{}\n\n{}", []string{"f, line 1", "f, line 3"}},
		{"{}\n{\n", []string{"f"}},
		{"", []string{"f"}},
	} {
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := ReadBundles(path)
		if err != nil {
			t.Fatal(err)
		}
		var sources []string
		for _, e := range all {
			sources = append(sources, e.Source)
		}
		if strings.Join(sources, ";") != strings.Join(test.sources, ";") {
			t.Errorf("%q: %q", test.text, sources)
		}
		if len(all) == 1 && string(all[0].Bundle) != test.text {
			t.Errorf("%q became %q", test.text, all[0].Bundle)
		}
	}
	large := filepath.Join(dir, "large")
	if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, maxBundles+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadBundles(large); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("%v", err)
	}
}
