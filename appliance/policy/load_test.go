package policy

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

// TestBadPolicies: what is wrong is told by its line or its name, and nothing of such a file is used.
func TestBadPolicies(t *testing.T) {
	b := newBench(t)
	rule := func(more string) string {
		return "rules: [{name: r, images: ['**'], signatures: {by: [us]}" + more + "}]\n"
	}
	tests := []struct{ name, rules, want string }{
		{"unknown key", "rules:\n- name: r\n  imagse: ['**']\n", "line 14: unknown key rules[0].imagse (did you mean images?)"},
		{"unknown key of an attestation", rule(", attestations: [{type: sbom, by: [us], treshold: 2}]"), "unknown key rules[0].attestations[0].treshold (did you mean threshold?)"},
		{"a key twice", rule("") + rule(""), "rules stands twice"},
		{"no rules", "rules: []\n", "nothing would ever be allowed"},
		{"asks for nothing", "rules: [{name: r, images: ['**']}]\n", "asks for signatures or attestations"},
		{"asks and denies", rule(", action: deny"), "never both"},
		{"an action nobody knows", rule(", action: warn"), "allow or deny is needed"},
		{"for nothing", "rules: [{name: r, signatures: {by: [us]}}]\n", "it is for nothing"},
		{"no name", "rules: [{images: ['**'], signatures: {by: [us]}}]\n", "name \"\" is missing"},
		{"one name twice", "rules: [{name: r, images: [a/b], signatures: {by: [us]}}, {name: r, images: [c/d], signatures: {by: [us]}}]\n", "another rule has it"},
		{"signers nobody knows", "rules: [{name: r, images: ['**'], signatures: {by: [vendro]}}]\n", `there are no signers "vendro" (did you mean vendor?)`},
		{"signed by nobody", "rules: [{name: r, images: ['**'], signatures: {}}]\n", "by is missing"},
		{"a tag in a pattern", "rules: [{name: r, images: ['h.io/a:v1'], signatures: {by: [us]}}]\n", "a tag says nothing"},
		{"a digest in a pattern", "rules: [{name: r, images: ['h.io/a@sha256:*'], signatures: {by: [us]}}]\n", "a digest is judged by what vouches"},
		{"a type nobody knows", rule(", attestations: [{type: slsa-provenence, by: [us]}]"), "did you mean slsa-provenance?"},
		{"checks of another type", rule(", attestations: [{type: sbom, by: [us], vex: {}}]"), "vex is for the type openvex"},
		{"no builder", rule(", attestations: [{type: slsa-provenance, by: [us], slsa: {}}]"), "builders are missing"},
		{"a level nobody has", rule(", attestations: [{type: slsa-provenance, by: [us], slsa: {level: 3, builders: [{id: x, level: 2}]}}]"), "none of the builders has it"},
		{"a severity nobody knows", rule(", attestations: [{type: vulnerabilities, by: [us], vulnerabilities: {max-severity: hihg}}]"), "did you mean high?"},
		{"CEL that does not parse", rule(", attestations: [{type: sbom, by: [us], cel: ['predicate.']}]"), "cel[0]"},
		{"CEL of a name nobody knows", rule(", attestations: [{type: sbom, by: [us], cel: ['predcate.x']}]"), "undeclared reference"},
		{"CEL that is no question", rule(", attestations: [{type: sbom, by: [us], cel: ['1 + 1']}]"), "it yields int"},
		{"a denial of nobody", "deny: [{by: []}]\n" + rule(""), "deny[0]: by is missing"},
		{"a denial that ends first", "deny: [{by: [us], since: 2026-02-01T00:00:00Z, until: 2026-01-01T00:00:00Z}]\n" + rule(""), "ends before it begins"},
		{"a negative age", "rules: [{name: r, images: ['**'], signatures: {by: [us], max-age: -1h}}]\n", "negative"},
		{"unreachable", "rules: [{name: a, images: ['h.io/**'], signatures: {by: [us]}}, {name: b, images: [x.io/y, 'h.io/team/*'], signatures: {by: [us]}}]\n", `rule "b" can never be reached by the image pattern "h.io/team/*": rule "a"`},
		{"unreachable by a denial below", "rules: [{name: a, images: ['h.io/team/*'], signatures: {by: [us]}}, {name: b, images: ['h.io/**'], action: deny}]\n", `rule "a" can never be reached by the image pattern "h.io/team/*": rule "b"`},
		{"unreachable by two together", "rules: [{name: a, images: ['h.io/*'], signatures: {by: [us]}}, {name: b, images: ['h.io/**/*'], signatures: {by: [us]}}, {name: c, images: ['h.io/**'], signatures: {by: [us]}}]\n", `rule "c" can never be reached`},
		{"unreachable by the nearer of two", "rules: [{name: a, images: ['x.io/**'], signatures: {by: [us]}}, {name: b, images: ['h.io/**'], signatures: {by: [us]}}, {name: c, images: ['h.io/team/*'], signatures: {by: [us]}}]\n", `"h.io/team/*": rule "b" before it`},
		{"a denial after a denial of the same", "rules: [{name: a, images: ['h.io/**'], action: deny}, {name: b, images: ['h.io/team/*'], action: deny}]\n", `rule "b" can never be reached`},
		{"after everything", "rules: [{name: a, artifacts: ['**'], signatures: {by: [us]}}, {name: b, artifacts: ['*.tgz'], signatures: {by: [us]}}]\n", `artifact pattern "*.tgz"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := b.parse(test.rules); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%v, want %q", err, test.want)
			}
		})
	}
	heads := []struct{ name, signers, want string }{
		{"no root", "{identity: a, issuer: b}", "every identity names the root"},
		{"a root nobody knows", "{root: owm, identity: a, issuer: b}", "did you mean own?"},
		{"no issuer", "{root: own, identity: a}", "both needed"},
		{"two spellings", "{root: own, identity: a, identity-regexp: b, issuer: c}", "both exactly and as an expression"},
		{"no expression", "{root: own, identity-regexp: '(', issuer: c}", "missing closing"},
		{"an extension nobody knows", "{root: own, identity: a, issuer: c, extensions: {sourceRepositoryUri: x}}", "did you mean sourceRepositoryURI?"},
		{"a key nobody knows", "{key: k}", `no key "k"`},
	}
	for _, test := range heads {
		t.Run(test.name, func(t *testing.T) {
			text := "version: redoubt.policy/v1\nroots: {own: {file: own.json}}\nsigners: {us: [" + test.signers + "]}\n" + rule("")
			if _, err := Parse([]byte(text), b.dir, Config{}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%v, want %q", err, test.want)
			}
		})
	}
}

// TestReachable: rules that share much and still leave each other something.
func TestReachable(t *testing.T) {
	b := newBench(t)
	b.policy(`
rules:
  - {name: a, images: ['h.io/team/*'], signatures: {by: [us]}}
  - {name: b, images: ['h.io/team/**'], signatures: {by: [us]}}
  - {name: c, images: ['h.io/**', '*.io/x'], signatures: {by: [us]}}
  - {name: d, images: ['**/x'], signatures: {by: [us]}}
  - {name: e, images: ['**'], artifacts: ['**'], signatures: {by: [us]}}
  - {name: f, images: ['h.io/team/bad', 'h.io/*/worse'], action: deny}
`)
	var many strings.Builder
	many.WriteString("rules:\n")
	for i := range 300 {
		fmt.Fprintf(&many, "  - {name: r%d, images: ['registry.corp.internal/team-%d/**', '**/mirror-%d/*'], signatures: {by: [us]}}\n", i, i, i)
	}
	b.policy(many.String())
}

// TestGlobs holds patterns to what they are said to match.
func TestGlobs(t *testing.T) {
	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"a/*", "a/b", true}, {"a/*", "a/", true}, {"a/*", "a/b/c", false}, {"a/*", "a", false}, {"a/**", "a/b/c", true}, {"**", "", true}, {"*", "", true}, {"*", "a/b", false},
		{"**/x", "a/b/x", true}, {"**/x", "x", false}, {"a*c", "abbc", true}, {"a*c", "a/c", false}, {"a.c", "abc", false}, {"a**c", "a/c", true}, {"a", "a\n", false}, {"a*b*c", "aXbYbZc", true},
	} {
		g, err := compileGlob(test.pattern)
		if err != nil || g.matches(test.name) != test.want {
			t.Errorf("%q and %q: want %t, %v", test.pattern, test.name, test.want, err)
		}
	}
}

// TestExtensions: any of Fulcio's extensions can be asked for.
func TestExtensions(t *testing.T) {
	b := newBench(t)
	b.own.Edit = func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 12}, Value: verifytest.MustDER(t, "https://git.internal/team/app")})
	}
	signed := evidence("ours", b.own.SignMessage(2, "artifact"), t)
	for extensions, want := range map[string]bool{
		"extensions: {sourceRepositoryURI: https://git.internal/team/app}": true, "extensions: {sourceRepositoryURI: https://git.internal/team/ap}": false,
		"extensions-regexp: {sourceRepositoryURI: 'https://git\\.internal/team/.*'}": true, "extensions-regexp: {sourceRepositoryURI: 'git'}": false,
		"extensions: {runnerEnvironment: self-hosted}": false,
	} {
		text := "version: redoubt.policy/v1\nroots: {own: {file: own.json}}\nsigners: {us: [{root: own, identity: dev@corp.internal, issuer: https://oidc.corp.internal, " + extensions + "}]}\nrules: [{name: r, images: ['**'], signatures: {by: [us]}}]\n"
		p, err := Parse([]byte(text), b.dir, Config{})
		if err != nil {
			t.Fatal(err)
		}
		if d := p.Decide(context.Background(), theImage(), signed); d.Allow != want {
			t.Errorf("%s: %+v", extensions, d)
		}
	}
}

// TestKeys: a key counts under its root, and by no name.
func TestKeys(t *testing.T) {
	b := newBench(t)
	signer := b.own.Issue(b.own.Now, nil)
	keyed := func() Evidence {
		sig := b.own.Sign(signer.Key, []byte("artifact"))
		return Evidence{Source: "keyed", Bundle: verifytest.Encode(t, map[string]any{"mediaType": verifytest.MediaV03,
			"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": "x"}},
			"messageSignature":     map[string]any{"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": sum("artifact")}, "signature": sig}})}
	}
	write := func(name string, key *ecdsa.PublicKey) {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		b.file(name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	write("k.pub", &signer.Key.PublicKey)
	write("other.pub", &verifytest.ECKey(t).PublicKey)
	for keys, want := range map[string]bool{"{file: k.pub, root: own, without-log: true}": true, "{file: other.pub, root: own, without-log: true}": false, "{file: k.pub, root: own}": false} {
		text := header + "keys: {k: " + keys + "}\n"
		text = strings.Replace(text, "  us:\n", "  ours: [{key: k}]\n  us:\n", 1) + "rules: [{name: r, images: ['**'], signatures: {by: [ours]}}]\n"
		p, err := Parse([]byte(text), b.dir, Config{})
		if err != nil {
			t.Fatal(err)
		}
		if d := p.Decide(context.Background(), theImage(), keyed()); d.Allow != want {
			t.Errorf("%s: %s", keys, d.explain())
		}
	}
}

// TestMaxTrustAge: a root that is older than the policy allows vouches for nothing.
func TestMaxTrustAge(t *testing.T) {
	b := newBench(t)
	text := strings.Replace(header, "{file: own.json}", "{file: own.json, max-age: 30d}", 1) + "rules: [{name: r, images: ['**'], signatures: {by: [us]}}]\n"
	signed := evidence("ours", b.own.SignMessage(2, "artifact"), t)
	for after, want := range map[time.Duration]bool{0: true, 31 * 24 * time.Hour: false} {
		p, err := Parse([]byte(text), b.dir, Config{Now: func() time.Time { return time.Now().Add(after) }})
		if err != nil {
			t.Fatal(err)
		}
		if d := p.Decide(context.Background(), theImage(), signed); d.Allow != want || !want && !strings.Contains(d.explain(), "stale") {
			t.Errorf("after %s: %s", after, d.explain())
		}
	}
}
