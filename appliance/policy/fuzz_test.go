package policy

import (
	"context"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verify/verifytest"
)

// FuzzParse: whatever a policy says, it is read or refused, and what was read allows nothing that nobody vouches for.
func FuzzParse(f *testing.F) {
	d := verifytest.New(f, "corp.internal")
	root := d.Root()
	for _, rules := range []string{
		"rules:\n- {name: any, images: ['**'], signatures: {by: [us]}}\n",
		"deny: [{by: [us], since: 2026-01-01T00:00:00Z}]\nrules:\n- {name: a, images: ['h.io/*/x**', 'a*b'], attestations: [{type: slsa-provenance, by: [us], slsa: {level: 3, builders: [{id: 'x*', level: 3}]}}]}\n",
		"rules:\n- {name: a, artifacts: ['**/*.tgz'], attestations: [{type: sbom, by: [us], newest: true, cel: ['predicate.packages.all(p, p.name != \"x\")']}]}\n- {name: b, images: ['**'], action: deny}\n",
		"rules: [&r {name: a, images: [x/y], signatures: {by: [us], threshold: 2, logs: 2, max-age: 30d}}]\n",
	} {
		f.Add([]byte("version: redoubt.policy/v1\nroots:\n  own: {file: own.json}\nsigners:\n  us: [{root: own, identity: dev@corp.internal, issuer-regexp: '.*'}]\n" + rules))
	}
	f.Add([]byte("version: redoubt.policy/v1\nroots: {own: {}}\nrules: []\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data, t.TempDir(), Config{Roots: []verify.Root{{Name: "own", JSON: root}}, Now: func() time.Time { return verifytest.Epoch }})
		if err != nil {
			return
		}
		for _, a := range []Artifact{theImage(), {Kind: Blob, Name: "x.tgz", Digest: digestOf("x")}} {
			if d := p.Decide(context.Background(), a, Evidence{Source: "nothing", Bundle: []byte("{}")}); d.Allow {
				t.Fatalf("allowed: %+v", d)
			}
			p.Explain(a)
		}
	})
}

// FuzzImport: whatever stands in the policies of others, it becomes a policy that can be read, or is refused.
func FuzzImport(f *testing.F) {
	d := verifytest.New(f, "corp.internal")
	root := d.Root()
	f.Add([]byte(cipKeyless))
	f.Add([]byte(kyvernoKeyless))
	f.Add([]byte("---\n---\napiVersion: kyverno.io/v1\nkind: ClusterPolicy\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := Import(data, "own")
		if err != nil || len(in.Keys) > 0 {
			return
		}
		text, err := in.YAML()
		if err != nil {
			t.Fatal(err)
		}
		var roots []verify.Root
		for name := range in.File.Roots {
			roots = append(roots, verify.Root{Name: name, JSON: root})
		}
		if p, err := Parse(text, t.TempDir(), Config{Roots: roots}); err == nil {
			if d := p.Decide(context.Background(), theImage()); d.Allow {
				t.Fatalf("allowed: %+v", d)
			}
		}
	})
}

// FuzzGlobs holds the comparison of patterns to matching: what one pattern covers, it matches.
func FuzzGlobs(f *testing.F) {
	f.Add("a/**", "a/*", "a/b")
	f.Add("**/x", "a*/x", "ab/x")
	f.Add("a*b*c", "a**c", "abc")
	f.Fuzz(func(t *testing.T, pattern, other, name string) {
		if len(pattern)+len(other) > 60 || strings.Count(pattern+other, "*") > 8 {
			return
		}
		a, err := compileGlob(pattern)
		if err != nil {
			return
		}
		b, err := compileGlob(other)
		if err != nil {
			return
		}
		budget := 1_000_000
		covered, err := covers([]glob{a}, b, &budget)
		if err == nil && covered && b.matches(name) && !a.matches(name) {
			t.Fatalf("%q is said to cover %q, and does not match %q", pattern, other, name)
		}
		if a.matches(name) && b.matches(name) && !overlap(a, b) {
			t.Fatalf("%q and %q both match %q, and are said to share nothing", pattern, other, name)
		}
	})
}
