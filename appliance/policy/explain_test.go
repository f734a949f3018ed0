package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestExplain: every rule is told in words, those that deny first, with all that it asks for and nothing that it does not.
func TestExplain(t *testing.T) {
	b := newBench(t)
	b.file("k.pub", []byte(strings.NewReplacer(`\n`, "\n", `"`, "").Replace(somePEM(t))))
	text := strings.Replace(header, "  us:\n", "  key: [{key: k}]\n  ci: [{root: own, identity-regexp: a.*, issuer-regexp: b.*, extensions: {runnerEnvironment: self-hosted}}]\n  us:\n", 1) + `
keys: {k: {file: k.pub, root: own}}
rules:
  - {name: plain, images: [a/b], artifacts: [c], signatures: {by: [us]}}
  - {name: more, images: [a/c], signatures: {by: [us, key], threshold: 2, logs: 3, max-age: 1h}}
  - {name: named, images: [a/d], signatures: {by: [ci]}}
  - name: asks
    images: [a/e]
    attestations:
      - {type: slsa-provenance, by: [us], slsa: {level: 3, builders: [{id: x, level: 3}, {id: y, level: 2}, {id: z, level: 4}], sources: [s, u]}}
      - {type: slsa-provenance, by: [us], slsa: {builders: [{id: x}]}}
      - {type: sbom, by: [us], sbom: {min-packages: 2, deny-packages: [p, q]}}
      - {type: spdx, by: [us], sbom: {}}
      - {type: openvex, by: [us], vex: {}}
      - {type: vulnerabilities, by: [us], vulnerabilities: {max-severity: low, max-age: 2h}}
      - {type: vulnerabilities, by: [us], vulnerabilities: {}}
      - {type: test-result, by: [us], tests: {}}
      - {type: 'https://x/y', by: [us], newest: true, cel: ['1 < 2', "true\n && true"]}
      - {type: 'https://x/z', by: [us]}
  - {name: never, images: [d/e], action: deny}
`
	p, err := Parse([]byte(text), b.dir, Config{})
	if err != nil {
		t.Fatal(err)
	}
	const us = " by one of us: dev@corp.internal (issuer https://oidc.corp.internal) under root own"
	var lines []string
	for _, e := range p.Explain(Artifact{Kind: Image, Name: "a/c"}) {
		lines = append(lines, fmt.Sprintf("%s %s %t %s", e.Rule, e.Action, e.Decides, strings.Join(e.For, ", ")))
		lines = append(lines, e.Asks...)
	}
	want := []string{
		"never deny false image d/e",
		"plain allow false image a/b, artifact c",
		"a signature" + us,
		"more allow true image a/c",
		"a signature of 2 different signers of us, key: dev@corp.internal (issuer https://oidc.corp.internal) under root own; or key k with the log of root own, in 3 different logs, at most 1h0m0s old",
		"named allow false image a/d",
		"a signature by one of ci: /a.*/ (issuer /b.*/) under root own, with 1 certificate extensions",
		"asks allow false image a/e",
		"an attestation of slsa-provenance" + us + "; built at level 3 by x or z from s or u",
		"an attestation of slsa-provenance" + us + "; built at level 0 by x",
		"an attestation of sbom" + us + "; at least 2 packages, none of p, q",
		"an attestation of spdx" + us + "; at least 1 packages",
		"an attestation of openvex" + us + ", each signer's newest; none of its statements denied",
		"an attestation of vulnerabilities" + us + ", each signer's newest; nothing worse than low, scanned at most 2h0m0s ago",
		"an attestation of vulnerabilities" + us + ", each signer's newest; nothing worse than none",
		"an attestation of test-result" + us + ", each signer's newest; its tests passed",
		"an attestation of https://x/y" + us + ", each signer's newest; 1 < 2; true && true",
		"an attestation of https://x/z" + us,
	}
	for i := range max(len(lines), len(want)) {
		if i >= len(lines) || i >= len(want) || lines[i] != want[i] {
			t.Fatalf("line %d of\n%s\nwant\n%s", i, strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
	}
	if slices.ContainsFunc(p.Explain(Artifact{}), func(e Explained) bool { return e.Decides }) {
		t.Error("a rule decides about nothing")
	}
	if p.SLSALevel("asks") != 3 || p.SLSALevel("plain") != 0 || p.SLSALevel("no such rule") != 0 {
		t.Errorf("built at levels %d, %d and %d", p.SLSALevel("asks"), p.SLSALevel("plain"), p.SLSALevel("no such rule"))
	}
}
