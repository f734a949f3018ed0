package policy

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verify/verifytest"
)

const (
	slsa02 = "https://slsa.dev/provenance/v0.2"
	slsa1  = "https://slsa.dev/provenance/v1"
	vuln   = "https://cosign.sigstore.dev/attestation/vuln/v1"
)

// attested is an attestation over "artifact" by d.
func attested(t testing.TB, d *verifytest.Deployment, predicateType, predicate string) Evidence {
	t.Helper()
	return evidence(predicateType, d.AttestPayload("artifact", statementOf(predicateType, predicate, descriptor{Digest: digestOf("artifact")})), t)
}

func builtBy(builder, source string) string {
	return fmt.Sprintf(`{"buildDefinition":{"buildType":"https://build.internal/v1","externalParameters":{"workflow":{"repository":%q}}},"runDetails":{"builder":{"id":%q}}}`, source, builder)
}

// TestAttestations: each kind of predicate, what passes and what does not, by its reason.
func TestAttestations(t *testing.T) {
	b := newBench(t)
	const slsa = "slsa: {level: 3, builders: [{id: 'https://build.internal/three@*', level: 3}, {id: https://build.internal/one, level: 1}], sources: ['https://git.internal/team/*']}"
	tests := []struct {
		name, asked   string // of attestations: type and more
		predicateType string
		predicate     string
		want          string // reason of the denial, empty where it is allowed
	}{
		{"SLSA v1", "type: slsa-provenance, " + slsa, slsa1, builtBy("https://build.internal/three@v1", "https://git.internal/team/app"), ""},
		{"SLSA v1 of git", "type: slsa-provenance, " + slsa, slsa1, builtBy("https://build.internal/three@v1", "git+https://git.internal/team/app.git@refs/heads/main"), ""},
		{"SLSA v0.2", "type: slsa-provenance, " + slsa, slsa02, `{"builder":{"id":"https://build.internal/three@v2"},"invocation":{"configSource":{"uri":"git+https://git.internal/team/app@refs/tags/v1"}}}`, ""},
		{"another builder", "type: slsa-provenance, " + slsa, slsa1, builtBy("https://build.internal/evil", "https://git.internal/team/app"), "none of the builders"},
		{"a builder of a lower level", "type: slsa-provenance, " + slsa, slsa1, builtBy("https://build.internal/one", "https://git.internal/team/app"), "trusted to level 1, 3 is asked for"},
		{"another source", "type: slsa-provenance, " + slsa, slsa1, builtBy("https://build.internal/three@v1", "https://git.internal/other/app"), "built from"},
		{"one source of two is another", "type: slsa-provenance, " + slsa, slsa1, `{"buildDefinition":{"externalParameters":{"workflow":{"repository":"https://git.internal/team/app"},"source":"https://evil.internal/x"}},"runDetails":{"builder":{"id":"https://build.internal/three@v1"}}}`, "built from"},
		{"no source", "type: slsa-provenance, " + slsa, slsa1, `{"buildDefinition":{"resolvedDependencies":[{"uri":"https://git.internal/team/app"}]},"runDetails":{"builder":{"id":"https://build.internal/three@v1"}}}`, "names no source"},
		{"v1 written as v0.2", "type: slsa-provenance, " + slsa, slsa02, builtBy("https://build.internal/three@v1", "https://git.internal/team/app"), "none of the builders"},
		{"a predicate that is a list", "type: slsa-provenance, " + slsa, slsa1, "[]", "none of the builders"},
		{"the wrong type, rightly signed", "type: slsa-provenance, " + slsa, "https://slsa.dev/provenance/v9", builtBy("https://build.internal/three@v1", "https://git.internal/team/app"), "it attests https://slsa.dev/provenance/v9"},
		{"a URI exactly", "type: https://example.com/predicate/v1", "https://example.com/predicate/v1", "{}", ""},
		{"a URI, and another", "type: https://example.com/predicate/v1", "https://example.com/predicate/v1x", "{}", "it attests"},
		{"SPDX", "type: sbom, sbom: {min-packages: 2, deny-packages: ['pkg:maven/**/log4j-core@2.14.*']}", "https://spdx.dev/Document/v2.3", `{"packages":[{"name":"a","versionInfo":"1"},{"name":"b"}]}`, ""},
		{"SPDX with what is denied", "type: sbom, sbom: {deny-packages: ['pkg:maven/**/log4j-core@2.14.*']}", "https://spdx.dev/Document", `{"packages":[{"name":"a","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1"}]}]}`, "lists the package"},
		{"CycloneDX with what is denied, deep", "type: cyclonedx, sbom: {deny-packages: ['xz@5.6.*']}", "https://cyclonedx.org/bom", `{"components":[{"name":"a","components":[{"name":"xz","version":"5.6.1"}]}]}`, "lists the package"},
		{"an empty bill", "type: sbom, sbom: {}", "https://spdx.dev/Document", `{"packages":[]}`, "lists 0 packages"},
		{"VEX", "type: openvex, vex: {}", "https://openvex.dev/ns/v0.2.0", `{"statements":[{"vulnerability":{"name":"CVE-1"},"status":"not_affected"}]}`, ""},
		{"VEX affected", "type: openvex, vex: {}", "https://openvex.dev/ns", `{"statements":[{"vulnerability":{"name":"CVE-1"},"status":"affected"}]}`, `it says "affected" of "CVE-1"`},
		{"VEX of a word nobody knows", "type: openvex, vex: {}", "https://openvex.dev/ns", `{"statements":[{"vulnerability":"CVE-1","status":"Affected"}]}`, "it says"},
		{"VEX of nothing", "type: openvex, vex: {}", "https://openvex.dev/ns", `{"statements":[]}`, "states nothing"},
		{"Trivy", "type: vulnerabilities, vulnerabilities: {max-severity: medium, max-age: 7d}", vuln, `{"scanner":{"result":{"Results":[{"Vulnerabilities":[{"VulnerabilityID":"CVE-1","Severity":"MEDIUM"}]}]}},"metadata":{"scanFinishedOn":"2026-05-30T00:00:00Z"}}`, ""},
		{"Grype", "type: vulnerabilities, vulnerabilities: {max-severity: medium}", vuln, `{"scanner":{"result":{"matches":[{"vulnerability":{"id":"CVE-1","severity":"High"}}]}}}`, `"CVE-1" (high)`},
		{"ignored", "type: vulnerabilities, vulnerabilities: {max-severity: medium, ignore: [CVE-1]}", vuln, `{"scanner":{"result":{"matches":[{"vulnerability":{"id":"CVE-1","severity":"High"}}]}}}`, ""},
		{"in-toto, by score", "type: vulnerabilities, vulnerabilities: {max-severity: high}", "https://in-toto.io/attestation/vulns/v0.2", `{"scanner":{"result":[{"id":"CVE-1","severity":[{"method":"CVSSv3","score":"9.8"}]}]}}`, `(critical)`},
		{"in-toto, no score", "type: vulnerabilities, vulnerabilities: {max-severity: high}", "https://in-toto.io/attestation/vulns/v0.1", `{"scanner":{"result":[{"id":"CVE-1"}]}}`, `(critical)`},
		{"an old scan", "type: vulnerabilities, vulnerabilities: {max-age: 1h}", vuln, `{"scanner":{"result":{"matches":[]}},"metadata":{"scanFinishedOn":"2026-05-30T00:00:00Z"}}`, "at most 1h0m0s ago"},
		{"a scan of no time", "type: vulnerabilities, vulnerabilities: {max-age: 1h}", vuln, `{"scanner":{"result":{"matches":[]}}}`, "is no time"},
		{"a scanner nobody knows", "type: vulnerabilities, vulnerabilities: {}", vuln, `{"scanner":{"result":{"issues":[]}}}`, "not read here"},
		{"tests", "type: test-result, tests: {passed: [fips]}", "https://in-toto.io/attestation/test-result/v0.1", `{"result":"PASSED","passedTests":["unit","fips"]}`, ""},
		{"tests that failed", "type: test-result, tests: {}", "https://in-toto.io/attestation/test-result/v0.1", `{"result":"FAILED"}`, `result is "FAILED"`},
		{"a test that is missing", "type: test-result, tests: {passed: [fips]}", "https://in-toto.io/attestation/test-result/v0.1", `{"result":"PASSED","passedTests":["unit"]}`, `the test "fips"`},
		{"CEL", "type: https://x.internal/a, cel: ['predicate.n > 1', 'signer.identity.endsWith(\"@corp.internal\") && artifact.kind == \"image\" && now > signed']", "https://x.internal/a", `{"n":2}`, ""},
		{"CEL false", "type: https://x.internal/a, cel: ['predicate.n > 1']", "https://x.internal/a", `{"n":1}`, "it is not so that predicate.n > 1"},
		{"CEL of what is missing", "type: https://x.internal/a, cel: ['predicate.n > 1']", "https://x.internal/a", `{}`, "no such key"},
		{"CEL of another type", "type: https://x.internal/a, cel: ['predicate']", "https://x.internal/a", `"true"`, "it is not so"},
		{"CEL that costs too much", "type: https://x.internal/a, cel: ['predicate.all(a, predicate.all(b, predicate.all(c, a + b + c >= 0.0)))']", "https://x.internal/a", "[" + strings.Repeat("1,", 999) + "1]", "cost limit"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := b.policy("rules: [{name: r, images: ['**'], attestations: [{by: [us], " + test.asked + "}]}]\n")
			d := p.Decide(context.Background(), theImage(), attested(t, b.own, test.predicateType, test.predicate))
			if d.Allow != (test.want == "") || !strings.Contains(d.explain(), test.want) {
				t.Fatalf("%s", d.explain())
			}
			if d := p.Decide(context.Background(), theImage(), attested(t, b.them, test.predicateType, test.predicate)); d.Allow {
				t.Error("signed by somebody else, and allowed")
			}
			if d := p.Decide(context.Background(), theImage(), evidence("plain", b.own.SignMessage(2, "artifact"), t)); d.Allow || !strings.Contains(d.explain(), "a signature, not an attestation") {
				t.Errorf("attestation absent: %s", d.explain())
			}
		})
	}
}

// TestNewest: a scan that passed does not outlive one that did not.
func TestNewest(t *testing.T) {
	b := newBench(t)
	p := b.policy("rules: [{name: r, images: ['**'], attestations: [{by: [us], type: vulnerabilities, vulnerabilities: {}}]}]\n")
	clean := attested(t, b.own, vuln, `{"scanner":{"result":{"matches":[]}}}`)
	b.own.Now = b.own.Now.Add(20 * time.Minute)
	found := attested(t, b.own, vuln, `{"scanner":{"result":{"matches":[{"vulnerability":{"id":"CVE-1","severity":"Low"}}]}}}`)
	if d := p.Decide(context.Background(), theImage(), clean); !d.Allow {
		t.Fatal(d.explain())
	}
	if d := p.Decide(context.Background(), theImage(), clean, found); d.Allow {
		t.Fatal("an old scan outvotes a new one")
	}
}

// TestThresholds: signers are counted by who they are, logs by their keys.
func TestThresholds(t *testing.T) {
	b := newBench(t)
	by := func(identity string) Evidence {
		b.own.Identity = identity
		return evidence(identity, b.own.SignMessage(2, "artifact"), t)
	}
	workflow := func(ref string) Evidence {
		b.own.Edit = func(c *x509.Certificate) {
			c.EmailAddresses, c.URIs = nil, nil
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: uriName(t, "https://git.internal/team/app/.ci/build.yml@"+ref)})
		}
		defer func() { b.own.Edit = nil }()
		return evidence(ref, b.own.SignMessage(2, "artifact"), t)
	}
	doubled := b.own.SignMessage(1, "artifact")
	doubled.Entries = append(doubled.Entries, doubled.Entries[0])
	again := b.own.SignMessage(1, "artifact")
	again.Entries = append(again.Entries, b.own.Entry(verifytest.BodyV1(again.Signer, sum("artifact"), again.Signature), b.own.Now.Add(time.Minute), true))
	alice, bob := by("alice@corp.internal"), by("bob@corp.internal")
	aliceAgain := by("alice@corp.internal")
	tests := []struct {
		name, demand string
		evidence     []Evidence
		want         string
	}{
		{"two people", "threshold: 2", []Evidence{alice, bob}, ""},
		{"one twice", "threshold: 2", []Evidence{alice, aliceAgain}, "1 of 2 needed"},
		{"one bundle twice", "threshold: 2", []Evidence{alice, alice}, "1 of 2 needed"},
		{"a workflow at two refs", "threshold: 2", []Evidence{workflow("refs/heads/a"), workflow("refs/heads/b")}, "1 of 2 needed"},
		{"one log", "logs: 1", []Evidence{alice}, ""},
		{"two entries of one log", "logs: 2", []Evidence{evidence("again", again, t)}, "1 different logs, 2 are asked for"},
		{"one entry twice", "logs: 2", []Evidence{evidence("doubled", doubled, t)}, "0 of 1 needed"},
		{"young enough", "max-age: 2h", []Evidence{alice}, ""},
		{"too old", "max-age: 30m", []Evidence{alice}, "at most 30m0s is asked for"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := b.policy("rules: [{name: r, images: ['**'], signatures: {by: [everyone], " + test.demand + "}}]\n")
			if d := p.Decide(context.Background(), theImage(), test.evidence...); d.Allow != (test.want == "") || !strings.Contains(d.explain(), test.want) {
				t.Fatal(d.explain())
			}
		})
	}
}

// TestDenied: a denied signer spoils what others vouch for, within his window and not beside it.
func TestDenied(t *testing.T) {
	b := newBench(t)
	ours, theirs := evidence("ours", b.own.SignMessage(2, "artifact"), t), evidence("theirs", b.them.SignMessage(2, "artifact"), t)
	for _, test := range []struct {
		window string
		denied bool
	}{{"", true}, {", since: 2026-06-01T00:00:00Z", true}, {", since: 2026-06-02T00:00:00Z", false}, {", until: 2026-05-31T00:00:00Z", false}, {", since: 2026-06-01T12:01:00Z, until: 2026-06-01T12:01:00Z", true}} {
		p := b.policy("deny: [{by: [vendor], reason: stolen" + test.window + "}]\nrules: [{name: r, images: ['**'], signatures: {by: [us]}}]\n")
		d := p.Decide(context.Background(), theImage(), ours, theirs)
		if d.Allow == test.denied || test.denied && (d.Code != 25 || verify.ExitCode(d.Err()) != 25 || !strings.Contains(d.explain(), "stolen")) {
			t.Errorf("%q: %+v", test.window, d)
		}
	}
}

// TestBadEvidence: the rows of bad input that concern an artifact and what vouches for it.
func TestBadEvidence(t *testing.T) {
	b := newBench(t)
	p := b.policy("rules: [{name: r, images: ['**'], artifacts: ['**'], signatures: {by: [us]}}]\n")
	digest := strings.TrimPrefix(digestOf("artifact"), "sha256:")
	statement := func(subjects string) Evidence {
		return evidence("statement", b.own.AttestPayload("", fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicate":{},"predicateType":%q,"subject":%s}`, cosignSign, subjects)), t)
	}
	tests := []struct {
		name     string
		artifact string
		evidence Evidence
		want     string
	}{
		{"as it should be", "", statement(`[{"digest":{"sha256":"` + digest + `"}}]`), ""},
		{"another subject", "", statement(`[{"digest":{"sha256":"` + strings.Repeat("0", 64) + `"}}]`), "signature or digest mismatch"},
		{"no subject", "", statement(`[]`), "0 subjects"},
		{"a subject without a digest", "", statement(`[{"name":"app","digest":{}}]`), "not verified"},
		{"the digest under another algorithm", "", statement(`[{"digest":{"sha512":"` + digest + `"}}]`), "not verified"},
		{"the digest under no algorithm", "", statement(`[{"digest":{"":"` + digest + `"}}]`), "not verified"},
		{"asked by another algorithm", "sha512:" + strings.Repeat(digest, 2), statement(`[{"digest":{"sha256":"` + digest + `"}}]`), "not verified"},
		{"a digest cut short", "sha256:" + digest[:32], statement(`[{"digest":{"sha256":"` + digest[:32] + `"}}]`), "is not sha256:HEX"},
		{"no digest at all", "-", statement(`[{"digest":{"sha256":"` + digest + `"}}]`), "without a digest"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := theImage()
			if a.Digest = orElse(strings.TrimPrefix(test.artifact, "-"), a.Digest); test.artifact == "-" {
				a.Digest = ""
			}
			d := p.Decide(context.Background(), a, test.evidence)
			switch {
			case test.want == "" && !d.Allow, test.want != "" && d.Allow:
				t.Fatal(d.explain())
			case test.want == "not verified" && len(d.Ignored) != 1, test.want != "not verified" && !strings.Contains(d.explain(), test.want):
				t.Fatal(d.explain())
			}
		})
	}
	if d := p.Decide(context.Background(), theImage(), make([]Evidence, MaxEvidence+1)...); d.Allow || !strings.Contains(d.explain(), "at most 256") {
		t.Error(d.explain())
	}
	stopped, stop := context.WithCancel(context.Background())
	stop()
	if d := p.Decide(stopped, theImage(), tests[0].evidence); d.Allow || !strings.Contains(d.explain(), "context canceled") {
		t.Error(d.explain())
	}
}
