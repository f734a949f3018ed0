package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	spdx    = "https://spdx.dev/Document"
	cdx     = "https://cyclonedx.org/bom"
	openvex = "https://openvex.dev/ns"
	results = "https://in-toto.io/attestation/test-result/v0.1"
	inToto  = "https://in-toto.io/attestation/vulns/v0.2"
)

// TestPredicates: what each kind of predicate says is read at its bounds and in each of its forms.
func TestPredicates(t *testing.T) {
	b := newBench(t)
	built := func(parameters, more string) string {
		return `{"buildDefinition":{"externalParameters":` + parameters + more + `},"runDetails":{"builder":{"id":"https://b/1"}}}`
	}
	sourced := func(uri string) string { return built(fmt.Sprintf(`{"source":%q}`, uri), "") }
	const from = "slsa: {builders: [{id: https://b/1}], sources: ['https://git/team/*']}"
	scored := func(score string) string {
		return `{"scanner":{"result":[{"id":"CVE-1","severity":[{"score":` + score + `}]}]}}`
	}
	grype := func(severity string) string {
		return fmt.Sprintf(`{"scanner":{"result":{"matches":[{"vulnerability":{"id":"CVE-1","severity":%q}}]}}}`, severity)
	}
	scanned := func(at string) string {
		return `{"scanner":{"result":[]},"metadata":{"scanFinishedOn":"` + at + `"}}`
	}
	stated := func(status string) string {
		return `{"statements":[{"vulnerability":{"name":"CVE-1"},"status":"fixed"},{"vulnerability":{"name":"CVE-2"},"status":"` + status + `"}]}`
	}
	// The database by which a scan was made is named in it (in-toto's vulns/v0.2): one that was carried across is told from one outside.
	osvScan := func(db, result string) string {
		return fmt.Sprintf(`{"scanner":{"uri":"pkg:golang/github.com/google/osv-scanner@v2","db":{"uri":%q,"lastUpdate":"2026-11-01T00:00:00Z"},"result":[%s]}}`, db, result)
	}
	const osvAsked = `vulnerabilities: {max-severity: medium}, cel: ['predicate.scanner.db.uri.startsWith("file:///srv/osv") && timestamp(predicate.scanner.db.lastUpdate) > timestamp("2026-10-01T00:00:00Z")']`
	for _, test := range []struct{ name, asked, predicateType, predicate, want string }{
		{"a scan by a copy of OSV that was carried here", osvAsked, inToto, osvScan("file:///srv/osv", ""), ""},
		{"a scan by OSV outside", osvAsked, inToto, osvScan("https://osv-vulnerabilities.storage.googleapis.com", ""), "it is not so that"},
		{"a scan by OSV that found something", osvAsked, inToto, osvScan("file:///srv/osv", `{"id":"GHSA-1","severity":[{"method":"CVSS_V3","score":"9.8"}]}`), "GHSA-1"},
		{"a builder trusted to no level, none asked for", "slsa: {builders: [{id: https://b/1}]}", slsa1, built("{}", ""), ""},
		{"a builder trusted to exactly the level", "slsa: {level: 4, builders: [{id: https://b/1, level: 4}]}", slsa1, built("{}", ""), ""},
		{"the better of two patterns counts", "slsa: {level: 3, builders: [{id: https://b/1, level: 3}, {id: 'https://b/*', level: 1}]}", slsa1, built("{}", ""), ""},
		{"a build type", "slsa: {builders: [{id: https://b/1}], build-types: ['https://t/*']}", slsa1, built("{}", `,"buildType":"https://t/1"`), ""},
		{"another build type", "slsa: {builders: [{id: https://b/1}], build-types: ['https://t/*']}", slsa1, built("{}", `,"buildType":"https://u/1"`), `build type "https://u/1"`},
		{"no build type", "slsa: {builders: [{id: https://b/1}], build-types: ['https://t/*']}", slsa1, built("{}", ""), `build type ""`},
		{"a build type of v0.2", "slsa: {builders: [{id: https://b/1}], build-types: ['https://t/*']}", slsa02, `{"builder":{"id":"https://b/1"},"buildType":"https://t/1"}`, ""},
		{"a source", from, slsa1, sourced("https://git/team/app"), ""},
		{"a source of git at a commit", from, slsa1, sourced("git+https://git/team/app@0123abc"), ""},
		{"a source of git with its suffix, at a commit", from, slsa1, sourced("git+https://git/team/app.git@0123abc"), ""},
		{"a source at a ref with slashes", from, slsa1, sourced("https://git/team/app@refs/heads/a/b"), ""},
		{"a source whose host has a user", "slsa: {builders: [{id: https://b/1}], sources: ['ssh://git@git/team/*']}", slsa1, sourced("ssh://git@git/team/app"), ""},
		{"a source of two parts", from, slsa1, sourced("https://git/team/app/x"), "built from"},
		{"a source by its place", from, slsa1, built(`{"source":{"uri":"https://git/team/app"}}`, ""), ""},
		{"a repository", from, slsa1, built(`{"repository":"https://git/team/app"}`, ""), ""},
		{"a configuration", from, slsa1, built(`{"configSource":{"uri":"https://git/team/app"}}`, ""), ""},
		{"another configuration", from, slsa1, built(`{"configSource":{"repository":"https://git/evil/app"}}`, ""), "built from"},
		{"another source, and none is asked for", "slsa: {builders: [{id: https://b/1}]}", slsa1, sourced("https://evil/x"), ""},
		{"as many packages as are asked for", "sbom: {min-packages: 2}", spdx, `{"packages":[{"name":"a"},{}]}`, ""},
		{"one package fewer", "sbom: {min-packages: 3}", spdx, `{"packages":[{"name":"a"},{}]}`, "lists 2 packages, at least 3"},
		{"a reference of another kind", "sbom: {deny-packages: ['pkg:**']}", spdx, `{"packages":[{"externalRefs":[{"referenceType":"cpe23Type","referenceLocator":"pkg:x"}]}]}`, ""},
		{"a denied package by name", "sbom: {deny-packages: ['xz@5.6.*']}", spdx, `{"packages":[{"name":"xz","versionInfo":"5.6.1"}]}`, `lists the package "xz@5.6.1"`},
		{"a denied component by purl", "sbom: {deny-packages: ['pkg:deb/**']}", cdx, `{"components":[{"purl":"pkg:deb/debian/xz@5"}]}`, `"pkg:deb/debian/xz@5"`},
		{"a package without a name", "sbom: {deny-packages: ['@*']}", spdx, `{"packages":[{"versionInfo":"1"}]}`, ""},
		{"a component without a purl", "sbom: {deny-packages: ['@*', 'x']}", cdx, `{"components":[{"name":"a","purl":""}]}`, ""},
		{"components in components count", "sbom: {min-packages: 3}", cdx, `{"components":[{"components":[{"components":[{}]}]}]}`, ""},
		{"fixed, and affected", "vex: {}", openvex, stated("affected"), `it says "affected" of "CVE-2"`},
		{"under investigation", "vex: {}", openvex, stated("under_investigation"), ""},
		{"under investigation, and denied", "vex: {deny: [affected, under_investigation]}", openvex, stated("under_investigation"), `"under_investigation" of "CVE-2"`},
		{"affected, where something else is denied", "vex: {deny: [under_investigation]}", openvex, stated("affected"), ""},
		{"the older form", "vex: {}", openvex, `{"statements":[{"vulnerability":"CVE-3","status":"affected"}]}`, `of "CVE-3"`},
		{"written an hour ago", "vex: {max-age: 1h}", openvex, strings.Replace(stated("fixed"), "{", `{"timestamp":"2026-06-01T12:00:00Z",`, 1), ""},
		{"written longer ago", "vex: {max-age: 1h}", openvex, strings.Replace(stated("fixed"), "{", `{"timestamp":"2026-06-01T11:59:59Z",`, 1), "at most 1h0m0s ago"},
		{"warned", "tests: {}", results, `{"result":"WARNED"}`, `result is "WARNED"`},
		{"warned, and accepted", "tests: {results: [PASSED, WARNED]}", results, `{"result":"WARNED"}`, ""},
		{"no result", "tests: {}", results, `{}`, `result is ""`},
		{"both tests passed", "tests: {passed: [a, b]}", results, `{"result":"PASSED","passedTests":["b","c","a"]}`, ""},
		{"scanned an hour ago", "vulnerabilities: {max-age: 1h}", inToto, scanned("2026-06-01T12:00:00Z"), ""},
		{"scanned longer ago", "vulnerabilities: {max-age: 1h}", inToto, scanned("2026-06-01T11:59:59Z"), "at most 1h0m0s ago"},
		{"the worse of two scores counts", "vulnerabilities: {max-severity: high}", inToto, `{"scanner":{"result":[{"id":"CVE-1","severity":[{"score":"9.0"},{"score":"1.0"}]}]}}`, "(critical)"},
		{"two scanners in one", "vulnerabilities: {}", vuln, `{"scanner":{"result":{"matches":[],"Results":[]}}}`, "not read here"},
		{"no result of a scanner", "vulnerabilities: {}", vuln, `{"scanner":{"result":"clean"}}`, "not read here"},
		{"five of six are told", "vulnerabilities: {}", inToto, `{"scanner":{"result":[{"id":"1"},{"id":"2"},{"id":"3"},{"id":"4"},{"id":"5"},{"id":"6"}]}}`, `6 vulnerabilities worse than none: "1" (critical), "2" (critical), "3" (critical), "4" (critical), "5" (critical))`},
		{"severity 0", "vulnerabilities: {}", inToto, scored(`"0.0"`), ""},
		{"severity 0.1", "vulnerabilities: {}", inToto, scored(`0.1`), "(low)"},
		{"severity 3.9", "vulnerabilities: {max-severity: low}", inToto, scored(`3.9`), ""},
		{"severity 4", "vulnerabilities: {max-severity: low}", inToto, scored(`"4.0"`), "(medium)"},
		{"severity 6.9", "vulnerabilities: {max-severity: medium}", inToto, scored(`6.9`), ""},
		{"severity 7", "vulnerabilities: {max-severity: medium}", inToto, scored(`7`), "(high)"},
		{"severity 8.9", "vulnerabilities: {max-severity: high}", inToto, scored(`"8.9"`), ""},
		{"severity 9", "vulnerabilities: {max-severity: high}", inToto, scored(`9`), "(critical)"},
		{"severity 10, and everything accepted", "vulnerabilities: {max-severity: critical}", inToto, scored(`10`), ""},
		{"severity below zero", "vulnerabilities: {max-severity: high}", inToto, scored(`-1`), "(critical)"},
		{"severity of no number", "vulnerabilities: {max-severity: high}", inToto, scored(`"NaN"`), "(critical)"},
		{"severity of a list", "vulnerabilities: {max-severity: high}", inToto, scored(`[]`), "(critical)"},
		{"severity in a word nobody knows", "vulnerabilities: {max-severity: high}", vuln, grype("Unknown"), "(critical)"},
		{"severity in words", "vulnerabilities: {max-severity: low}", vuln, grype("MEDIUM"), "(medium)"},
		{"negligible", "vulnerabilities: {}", vuln, grype("Negligible"), "(low)"},
		{"none in a word", "vulnerabilities: {}", vuln, grype("None"), ""},
		{"a source of no place", "slsa: {builders: [{id: https://b/1}], sources: [app]}", slsa1, sourced("app"), ""},
		{"a source of no place at a commit", "slsa: {builders: [{id: https://b/1}], sources: [app]}", slsa1, sourced("app@0123abc"), ""},
		{"a source that is a user's", "slsa: {builders: [{id: https://b/1}], sources: ['https://git/@team']}", slsa1, sourced("https://git/@team"), "built from"},
		{"informational, and low accepted", "vulnerabilities: {max-severity: low}", vuln, grype("informational"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := b.policy("rules: [{name: r, images: ['**'], attestations: [{by: [us], type: '" + test.predicateType + "', " + test.asked + "}]}]\n")
			d := p.Decide(t.Context(), theImage(), attested(t, b.own, test.predicateType, test.predicate))
			if d.Allow != (test.want == "") || !strings.Contains(d.explain()+")", test.want) {
				t.Errorf("%s", d.explain())
			}
		})
	}
}

// TestCycloneDXDepth: components in components are read sixteen deep; what hides deeper is not found, and does not count as listed either.
func TestCycloneDXDepth(t *testing.T) {
	nested := func(depth int) string {
		return strings.Repeat(`{"components":[`, depth) + `{"name":"xz","version":"5.6.1"}` + strings.Repeat(`]}`, depth)
	}
	b := newBench(t)
	p := b.policy("rules: [{name: r, images: ['**'], attestations: [{by: [us], type: cyclonedx, sbom: {min-packages: 17}}]}]\n")
	for depth, want := range map[int]bool{16: false, 17: true, 18: true} {
		if d := p.Decide(t.Context(), theImage(), attested(t, b.own, cdx, nested(depth))); d.Allow != want {
			t.Errorf("%d deep: %s", depth, d.explain())
		}
	}
	q := b.policy("rules: [{name: r, images: ['**'], attestations: [{by: [us], type: cyclonedx, sbom: {min-packages: 18}}]}]\n")
	if d := q.Decide(t.Context(), theImage(), attested(t, b.own, cdx, nested(18))); d.Allow {
		t.Error("what is deeper than is read counts")
	}
}

// TestNewestOfAKind: the newest is looked for among the signer's attestations of the kind asked for, in whatever order they are found.
func TestNewestOfAKind(t *testing.T) {
	b := newBench(t)
	p := b.policy("rules: [{name: r, images: ['**'], attestations: [{by: [us], type: vulnerabilities, vulnerabilities: {}}]}]\n")
	clean := attested(t, b.own, inToto, `{"scanner":{"result":[]}}`)
	theirs := attested(t, b.them, inToto, `{"scanner":{"result":[{"id":"CVE-1"}]}}`)
	b.own.Now = b.own.Now.Add(20 * time.Minute)
	found := attested(t, b.own, inToto, `{"scanner":{"result":[{"id":"CVE-1"}]}}`)
	other := attested(t, b.own, slsa1, builtBy("https://b/1", "https://git/x"))
	for name, test := range map[string]struct {
		evidence []Evidence
		want     bool
	}{
		"the newest first": {[]Evidence{found, clean}, false}, "the newest last": {[]Evidence{clean, found}, false},
		"another kind, later": {[]Evidence{clean, other}, true}, "another kind, found first": {[]Evidence{other, clean}, true},
		"a scan of somebody else": {[]Evidence{theirs, clean, theirs}, true},
	} {
		if d := p.Decide(t.Context(), theImage(), test.evidence...); d.Allow != test.want {
			t.Errorf("%s: %s", name, d.explain())
		}
	}
}
