package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/log/strictyaml"
)

// repeated joins n of what make makes.
func repeated(n int, make func(i int) string) string {
	var all []string
	for i := range n {
		all = append(all, make(i))
	}
	return strings.Join(all, ", ")
}

// TestBounds: what is as large as it may be is read, and what is larger by one is refused.
func TestBounds(t *testing.T) {
	b := newBench(t)
	rule := func(more string) string { return "rules: [{name: r, images: ['**']" + more + "}]\n" }
	signed := rule(", signatures: {by: [us]}")
	asked := func(more string) string { return rule(", signatures: {by: [us], " + more + "}") }
	attests := func(more string) string {
		return rule(", attestations: [{by: [us], type: slsa-provenance, " + more + "}]")
	}
	for _, test := range []struct {
		name string
		of   func(n int) string
		most int
		want string
	}{
		{"denials", func(n int) string {
			return "deny: [" + repeated(n, func(int) string { return "{by: [vendor]}" }) + "]\n" + signed
		}, 1000, "more than 1000 rules"},
		{"rules", func(n int) string {
			return "rules: [" + repeated(n, func(i int) string { return fmt.Sprintf("{name: r%d, artifacts: [a%d], action: deny}", i, i) }) + "]\n"
		}, 1000, "more than 1000 rules"},
		{"threshold", func(n int) string { return asked(fmt.Sprintf("threshold: %d", n)) }, 256, "threshold is from 1 to 256"},
		{"logs", func(n int) string { return asked(fmt.Sprintf("logs: %d", n)) }, 32, "logs from 0 to 32"},
		{"attestations", func(n int) string {
			return rule(", attestations: [" + repeated(n, func(int) string { return "{type: sbom, by: [us]}" }) + "]")
		}, 100, "more than 100 attestations"},
		{"expressions", func(n int) string { return attests("cel: [" + repeated(n, func(int) string { return "'true'" }) + "]") }, 32, "more than 32 expressions"},
		{"bytes of an expression", func(n int) string { return attests("cel: ['true" + strings.Repeat(" ", n-4) + "']") }, 8192, "an expression of 1 to 8192 bytes"},
		{"patterns of a rule", func(n int) string {
			return "rules: [{name: r, artifacts: [" + repeated(n, func(i int) string { return fmt.Sprintf("a%d", i) }) + "], action: deny}]\n"
		}, 1000, "more than 1000 patterns"},
		{"patterns of a policy", func(n int) string {
			return "rules: [" + repeated(10, func(i int) string {
				return fmt.Sprintf("{name: r%d, artifacts: [%s], action: deny}", i, repeated(1000, func(k int) string { return fmt.Sprintf("a%d.%d", i, k) }))
			}) + repeated(n-10_000, func(int) string { return ", {name: more, images: [a/b], action: deny}" }) + "]\n"
		}, 10_000, "more than 10000 patterns"},
		{"bytes of a pattern", func(n int) string {
			return "rules: [{name: r, images: ['" + strings.Repeat("a", n) + "'], signatures: {by: [us]}}]\n"
		}, 512, "1 to 512 bytes are needed"},
		{"level", func(n int) string {
			return attests(fmt.Sprintf("slsa: {level: %d, builders: [{id: b, level: 4}]}", n))
		}, 4, "level 5"},
		{"a builder's level", func(n int) string { return attests(fmt.Sprintf("slsa: {builders: [{id: b, level: %d}]}", n)) }, 4, "a level from 0 to 4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name != "patterns of a policy" { // ten thousand of them are compared with each other for seconds
				if _, err := b.parse(test.of(test.most)); err != nil {
					t.Errorf("%d: %v", test.most, err)
				}
			}
			if _, err := b.parse(test.of(test.most + 1)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%d: %v, want %q", test.most+1, err, test.want)
			}
		})
	}
	for name, text := range map[string]string{
		"a negative threshold": asked("threshold: -1"), "negative logs": asked("logs: -1"), "a negative level": attests("slsa: {level: -1, builders: [{id: b}]}"),
		"a builder's negative level": attests("slsa: {builders: [{id: b, level: -1}]}"), "a builder without an id": attests("slsa: {builders: [{level: 1}]}"),
		"an empty expression": attests("cel: ['']"), "an empty pattern": "rules: [{name: r, images: [''], signatures: {by: [us]}}]\n",
		"a negative number of packages": rule(", attestations: [{by: [us], type: sbom, sbom: {min-packages: -1}}]"), "a space in a pattern": "rules: [{name: r, images: ['a b'], signatures: {by: [us]}}]\n",
		"a control character in a pattern": "rules: [{name: r, artifacts: [\"a\\x1f\"], signatures: {by: [us]}}]\n", "DEL in a pattern": "rules: [{name: r, artifacts: [\"a\\x7f\"], signatures: {by: [us]}}]\n",
		"a bad pattern of a source": attests("slsa: {builders: [{id: b}], sources: ['']}"), "a bad pattern of a build type": attests("slsa: {builders: [{id: b}], build-types: ['']}"),
		"a bad pattern of a package": rule(", attestations: [{by: [us], type: sbom, sbom: {deny-packages: ['']}}]"),
		"a status nobody knows":      rule(", attestations: [{by: [us], type: openvex, vex: {deny: [afected]}}]"),
		"a result nobody knows":      rule(", attestations: [{by: [us], type: test-result, tests: {results: [PASED]}}]"),
		"a tool's name for a type":   rule(", attestations: [{by: [us], type: spdxjson}]"),
	} {
		if _, err := b.parse(text); err == nil {
			t.Errorf("%s: read", name)
		}
	}
	for name, text := range map[string]string{
		"a host with a port": "rules: [{name: r, images: ['localhost:5000/a'], signatures: {by: [us]}}]\n", "a host alone, with a port": "rules: [{name: r, images: ['localhost:5000'], signatures: {by: [us]}}]\n",
		"a space in a file's name": "rules: [{name: r, artifacts: ['a b'], signatures: {by: [us]}}]\n", "allow, in so many words": rule(", action: allow, signatures: {by: [us]}"),
		"a denial of one instant": "deny: [{by: [us], since: 2026-01-01T00:00:00Z, until: 2026-01-01T00:00:00Z}]\n" + signed,
	} {
		if _, err := b.parse(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestManyOfEach: roots, keys and groups of signers are counted before any of their files is looked for.
func TestManyOfEach(t *testing.T) {
	named := func(value string) string {
		return "{" + repeated(1001, func(i int) string { return fmt.Sprintf("n%d: %s", i, value) }) + "}\n"
	}
	const rules = "rules: [{name: r, images: ['**'], action: deny}]\nversion: redoubt.policy/v1\n"
	for name, text := range map[string]string{
		"roots": rules + "roots: " + named("{file: none}"), "keys": rules + "roots: {own: {file: none}}\nkeys: " + named("{file: none, root: own}"), "signers": rules + "roots: {own: {file: none}}\nsigners: " + named("[]"),
	} {
		if _, err := Parse([]byte(text), t.TempDir(), Config{}); err == nil || !strings.Contains(err.Error(), "more than 1000 rules, signers, roots, keys or denials") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFilesOfAPolicy: a file that a policy names is found beside it or by its whole path, is read up to its bound, and is named where it is missing.
func TestFilesOfAPolicy(t *testing.T) {
	b := newBench(t)
	elsewhere := t.TempDir()
	if err := os.WriteFile(filepath.Join(elsewhere, "root.json"), b.own.Root(), 0o600); err != nil {
		t.Fatal(err)
	}
	b.file("k.pub", []byte(strings.NewReplacer(`\n`, "\n", `"`, "").Replace(somePEM(t))))
	b.file("bad.pub", []byte("no key"))
	b.file("bad.json", []byte("{}"))
	b.file("large.json", nil)
	if err := os.Truncate(filepath.Join(b.dir, "large.json"), 4<<20+1); err != nil {
		t.Fatal(err)
	}
	const rules = "\nrules: [{name: r, images: ['**'], action: deny}]\nversion: "
	head := func(roots string) string { return "roots: {" + roots + "}" + rules + "redoubt.policy/v1\n" }
	for _, test := range []struct{ name, text, want string }{
		{"beside it", head("own: {file: own.json}"), ""},
		{"by its whole path", head("own: {file: '" + elsewhere + "/root.json'}"), ""},
		{"a key", head("own: {file: own.json}") + "keys: {k: {file: k.pub, root: own}}\n", ""},
		{"no version", strings.Replace(head("own: {file: own.json}"), "redoubt.policy/v1", "''", 1), `version is ""`},
		{"another version", strings.Replace(head("own: {file: own.json}"), "policy/v1", "policy/v2", 1), `version is "redoubt.policy/v2"`},
		{"no roots", head(""), "nothing could ever verify"},
		{"a root without a file", head("own: {}"), "roots.own: file is missing"},
		{"a root that is not there", head("own: {file: none.json}"), "none.json"},
		{"a root that is none", head("own: {file: bad.json}"), "roots.own: reading trusted root own"},
		{"a root that is too large", head("own: {file: large.json}"), "large.json is larger than 4194304 bytes"},
		{"a list without a file", head("own: {file: own.json, denied: {}}"), "roots.own.denied: file is missing"},
		{"a list that is not there", head("own: {file: own.json, denied: {file: none.json}}"), "roots.own.denied"},
		{"a list that is none", head("own: {file: own.json, denied: {file: bad.json}}"), "roots.own.denied"},
		{"a key without a file", head("own: {file: own.json}") + "keys: {k: {root: own}}\n", "keys.k: file is missing"},
		{"a key without a root", head("own: {file: own.json}") + "keys: {k: {file: k.pub}}\n", "keys.k: there is no root"},
		{"a key under a root nobody knows", head("own: {file: own.json}") + "keys: {k: {file: k.pub, root: owm}}\n", "did you mean own?"},
		{"a key that is not there", head("own: {file: own.json}") + "keys: {k: {file: none.pub, root: own}}\n", "none.pub"},
		{"a key that is none", head("own: {file: own.json}") + "keys: {k: {file: bad.pub, root: own}}\n", "keys.k: malformed input"},
		{"a signer that is a key and more", head("own: {file: own.json}") + "keys: {k: {file: k.pub, root: own}}\nsigners: {s: [{key: k, root: own}]}\n", "a key or an identity, not both"},
		{"a signer that is a key and has extensions", head("own: {file: own.json}") + "keys: {k: {file: k.pub, root: own}}\nsigners: {s: [{key: k, extensions: {runnerEnvironment: x}}]}\n", "a key or an identity, not both"},
		{"a signer that is a key and has expressions of extensions", head("own: {file: own.json}") + "keys: {k: {file: k.pub, root: own}}\nsigners: {s: [{key: k, extensions-regexp: {runnerEnvironment: x}}]}\n", "a key or an identity, not both"},
		{"a key nobody knows", head("own: {file: own.json}") + "keys: {k: {file: k.pub, root: own}}\nsigners: {s: [{key: kk}]}\n", "did you mean k?"},
		{"nobody in a group", head("own: {file: own.json}") + "signers: {s: []}\n", "signers.s: nobody is in it"},
		{"an extension of nothing", head("own: {file: own.json}") + "signers: {s: [{root: own, identity: a, issuer: b, extensions: {runnerEnvironment: ''}}]}\n", "extensions.runnerEnvironment is empty"},
		{"an extension twice", head("own: {file: own.json}") + "signers: {s: [{root: own, identity: a, issuer: b, extensions: {runnerEnvironment: x}, extensions-regexp: {runnerEnvironment: x}}]}\n", "both exactly and as an expression"},
		{"an extension by no expression", head("own: {file: own.json}") + "signers: {s: [{root: own, identity: a, issuer: b, extensions-regexp: {runnerEnvironment: '('}}]}\n", "extensions-regexp.runnerEnvironment"},
		{"an issuer by no expression", head("own: {file: own.json}") + "signers: {s: [{root: own, identity: a, issuer-regexp: '('}]}\n", "issuer: "},
		{"an expression as long as it may be", head("own: {file: own.json}") + "signers: {s: [{root: own, identity: a, issuer-regexp: '" + strings.Repeat("a", 4096) + "'}]}\n", ""},
		{"an expression that is longer", head("own: {file: own.json}") + "signers: {s: [{root: own, identity: a, issuer-regexp: '" + strings.Repeat("a", 4097) + "'}]}\n", "more than 4096 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.file("policy.yaml", []byte(test.text))
			_, err := Load(filepath.Join(b.dir, "policy.yaml"), Config{})
			if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, ErrFile) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
	if _, err := Load(filepath.Join(b.dir, "none.yaml"), Config{}); !errors.Is(err, ErrFile) {
		t.Errorf("no policy: %v", err)
	}
	good := head("own: {file: own.json}")
	b.file("policy.yaml", []byte(good+strings.Repeat("#", strictyaml.MaxBytes-len(good))))
	if _, err := Load(filepath.Join(b.dir, "policy.yaml"), Config{}); err != nil {
		t.Errorf("as large as it may be: %v", err)
	}
	b.file("policy.yaml", []byte(good+strings.Repeat("#", strictyaml.MaxBytes+1-len(good))))
	if _, err := Load(filepath.Join(b.dir, "policy.yaml"), Config{}); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("larger: %v", err)
	}
}

// TestVersionOfAPolicy: two policies are of one version when file, roots, keys and lists are the same, and the oldest root says of when it is.
func TestVersionOfAPolicy(t *testing.T) {
	b := newBench(t)
	old, young := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
	if err := errors.Join(os.Chtimes(filepath.Join(b.dir, "own.json"), young, young), os.Chtimes(filepath.Join(b.dir, "them.json"), old, old)); err != nil {
		t.Fatal(err)
	}
	const rules = "rules: [{name: r, images: ['**'], signatures: {by: [us]}}]\n"
	first := b.policy(rules)
	if !first.AsOf().Equal(old) {
		t.Errorf("as of %s", first.AsOf())
	}
	if again := b.policy(rules); again.Version() != first.Version() || !strings.HasPrefix(again.Version(), "sha256:") {
		t.Errorf("%s and %s", first.Version(), again.Version())
	}
	if b.policy(rules+"# more\n").Version() == first.Version() {
		t.Error("another file, the same version")
	}
	given, err := Parse([]byte(header+rules), b.dir, Config{Roots: []verify.Root{{Name: "them", JSON: b.own.Root(), AsOf: young}}})
	if err != nil || given.Version() == first.Version() || !given.AsOf().Equal(young) {
		t.Errorf("a root of another content: %s, as of %s: %v", given.Version(), given.AsOf(), err)
	}
	b.file("them.json", verifytest.New(t, "vendor.internal").Root())
	if b.policy(rules).Version() == first.Version() {
		t.Error("another root, the same version")
	}
}
