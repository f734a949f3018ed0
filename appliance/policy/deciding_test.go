package policy

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

// TestExpressions: what an expression sees, and that what cannot be evaluated is not true.
func TestExpressions(t *testing.T) {
	b := newBench(t)
	b.file("k.pub", []byte(strings.NewReplacer(`\n`, "\n", `"`, "").Replace(somePEM(t))))
	key := b.own.Issue(b.own.Now, nil)
	statement := statementOf("https://x.internal/a", `{"n":2}`, descriptor{Digest: digestOf("artifact")})
	keyed := b.own.AttestPayload("artifact", statement)
	keyed.Signer = key
	for expression, want := range map[string]bool{
		`predicateType == "https://x.internal/a"`:                                                     true,
		`signer.issuer == "https://oidc.corp.internal" && signer.root == "own" && signer.key == ""`:   true,
		`artifact.name == "registry.corp.internal/team/app" && artifact.digest.startsWith("sha256:")`: true,
		`extensions.issuer == "https://oidc.corp.internal"`:                                           true,
		`has(extensions.runnerEnvironment)`:                                                           false,
		`signed == timestamp("2026-06-01T12:01:00Z") && now == timestamp("2026-06-01T13:00:00Z")`:     true,
		`signed < timestamp("2026-06-01T12:01:00Z")`:                                                  false,
		`predicate.n == 2 && type(predicate.n) == double`:                                             true,
		`predicate.n`:                    false,
		`predicate.n / 0 > 1`:            false,
		strings.Repeat("!", 90) + "true": true,
		`predicate.n > 1 || ` + strings.Repeat(`predicate.n > 1 || `, 100) + `false`: true,
	} {
		p, err := b.parse("rules: [{name: r, images: ['**'], attestations: [{by: [us], type: 'https://x.internal/a', cel: [" + fmt.Sprintf("%q", expression) + "]}]}]\n")
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		if d := p.Decide(t.Context(), theImage(), attested(t, b.own, "https://x.internal/a", `{"n":2}`)); d.Allow != want {
			t.Errorf("%s: %s", expression, d.explain())
		}
	}
}

// TestManyPieces: as much evidence is judged as may be, and one piece more is a denial that says so; of many reasons a hundred are told.
func TestManyPieces(t *testing.T) {
	b := newBench(t)
	p := b.policy("rules: [{name: r, images: ['**'], signatures: {by: [us]}}]\n")
	ours := evidence("ours", b.own.SignMessage(2, "artifact"), t)
	pieces := make([]Evidence, MaxEvidence)
	pieces[MaxEvidence-1] = ours
	d := p.Decide(t.Context(), theImage(), pieces...)
	if !d.Allow || len(d.Ignored) != 100 || len(d.Refused) != 100 {
		t.Errorf("%d pieces: %d ignored, %d refused: %v", len(pieces), len(d.Ignored), len(d.Refused), d.Reasons)
	}
	if d := p.Decide(t.Context(), theImage(), append(pieces, ours)...); d.Allow || !strings.Contains(d.explain(), "257 pieces of evidence, at most 256") {
		t.Error(d.explain())
	}
	all := "rules: [{name: r, images: ['**'], signatures: {by: [us]}, attestations: [" + repeated(100, func(int) string { return "{type: sbom, by: [us]}" }) + "]}]\n"
	if d := b.policy(all).Decide(t.Context(), theImage()); d.Allow || len(d.Reasons) != 100 {
		t.Errorf("%d reasons", len(d.Reasons))
	}
	long := Evidence{Source: strings.Repeat("s", 3000), Bundle: []byte("{}")}
	if d := p.Decide(t.Context(), theImage(), long); d.Allow || len(d.Ignored) != 1 || len(d.Ignored[0]) > 2010 || !strings.HasSuffix(d.Ignored[0], "…") {
		t.Errorf("%d bytes of a reason", len(d.Ignored[0]))
	}
	theirs := evidence("theirs", b.them.SignMessage(2, "artifact"), t)
	var many []Evidence
	for i := range 12 {
		b.them.Identity = fmt.Sprintf("dev%d@vendor.internal", i)
		many = append(many, evidence("theirs", b.them.SignMessage(1, "artifact"), t))
	}
	if d := p.Decide(t.Context(), theImage(), append(many, theirs)...); d.Allow || strings.Count(d.explain(), "not one of the signers") != 10 {
		t.Error(d.explain())
	}
}

// TestDecisionInWords: a decision says which rule decided, and of evidence that did not count that it did not.
func TestDecisionInWords(t *testing.T) {
	b := newBench(t)
	p := b.policy("rules: [{name: r, images: ['a/**'], signatures: {by: [us]}, attestations: [{type: sbom, by: [us]}]}]\n")
	ours := evidence("ours", b.own.SignMessage(2, "artifact"), t)
	bill := attested(t, b.own, spdx, `{"packages":[{"name":"x"}]}`)
	a := Artifact{Kind: Image, Name: "a/b", Digest: digestOf("artifact")}
	who := "dev@corp.internal (issuer https://oidc.corp.internal) under root own"
	for _, test := range []struct {
		name     string
		artifact Artifact
		evidence []Evidence
		want     string
		results  int
	}{
		{"allowed", a, []Evidence{ours, bill, ours}, `rule "r": signed by ` + who + "; sbom attested by " + who, 2},
		{"one missing", a, []Evidence{ours}, `rule "r": attestations[0], sbom: 0 of 1 needed from us; ours by ` + who + ": a signature, not an attestation", 1},
		{"the other missing", a, []Evidence{bill}, `rule "r": signatures: 0 of 1 needed from us; https://spdx.dev/Document by ` + who + ": an attestation, not a signature", 1},
		{"both missing", a, nil, `rule "r": signatures: 0 of 1 needed from us; attestations[0], sbom: 0 of 1 needed from us`, 0},
		{"for another", Artifact{Kind: Image, Name: "b/b", Digest: a.Digest}, []Evidence{ours}, `no rule: no rule is for the image "b/b"`, 0},
		{"no image", Artifact{Kind: Blob, Name: "a/b", Digest: a.Digest}, []Evidence{ours}, `no rule: no rule is for the artifact "a/b"`, 0},
		{"nothing of any kind", Artifact{Name: "a/b", Digest: a.Digest}, []Evidence{ours}, `no rule: an artifact of kind ""`, 0},
		{"too long a name", Artifact{Kind: Image, Name: "a/" + strings.Repeat("b", 999), Digest: a.Digest}, []Evidence{ours}, "no rule: an artifact without a digest, or with too long a name", 0},
	} {
		d := p.Decide(t.Context(), test.artifact, test.evidence...)
		if d.explain() != test.want || len(d.Results) != test.results || d.Allow != (test.name == "allowed") {
			t.Errorf("%s: %s, %d results", test.name, d.explain(), len(d.Results))
		}
		if len(d.Verified()) != len(test.evidence)-min(len(test.evidence)/3, 1) && d.Rule != "" || d.Rule != "" && len(test.evidence) > 0 && len(d.Observations()) == 0 {
			t.Errorf("%s: %d verified, %d observed", test.name, len(d.Verified()), len(d.Observations()))
		}
	}
	longest := Artifact{Kind: Image, Name: "a/" + strings.Repeat("b", 998), Digest: a.Digest}
	if d := p.Decide(t.Context(), longest, ours, bill); !d.Allow {
		t.Errorf("the longest name: %s", d.explain())
	}
}

// TestAgesAtTheirBounds: an age is held to the second, the root's, the signature's and the denial's.
func TestAgesAtTheirBounds(t *testing.T) {
	b := newBench(t)
	ours := evidence("ours", b.own.SignMessage(2, "artifact"), t) // signed one minute after the epoch
	signed := verifytest.Epoch.Add(time.Minute)
	for _, test := range []struct {
		asked string
		now   time.Time
		want  bool
	}{
		{"max-age: 1h", signed.Add(time.Hour), true}, {"max-age: 1h", signed.Add(time.Hour + time.Second), false}, {"max-age: 0s", signed.Add(9999 * time.Hour), true},
	} {
		p, err := Parse([]byte(header+"rules: [{name: r, images: ['**'], signatures: {by: [us], "+test.asked+"}}]\n"), b.dir, Config{Now: func() time.Time { return test.now }})
		if err != nil {
			t.Fatal(err)
		}
		if d := p.Decide(t.Context(), theImage(), ours); d.Allow != test.want {
			t.Errorf("%s at %s: %s", test.asked, test.now, d.explain())
		}
	}
	for window, denied := range map[string]bool{
		"since: 2026-06-01T12:01:00Z": true, "since: 2026-06-01T12:01:01Z": false, "until: 2026-06-01T12:01:00Z": true, "until: 2026-06-01T12:00:59Z": false,
	} {
		p := b.policy("deny: [{by: [us], " + window + "}]\nrules: [{name: r, images: ['**'], signatures: {by: [us]}}]\n")
		if d := p.Decide(t.Context(), theImage(), ours); d.Allow == denied || strings.HasSuffix(strings.Join(d.Reasons, ""), ": ") {
			t.Errorf("%s: %s", window, d.explain())
		}
	}
}

// keyed is a signature over "artifact" by a key, whose public half is written to a file; it stands in d's log one minute after the epoch.
func (b *bench) keyed(d *verifytest.Deployment, file string) Evidence {
	p := d.SignMessage(1, "artifact")
	der, err := x509.MarshalPKIXPublicKey(&p.Signer.Key.PublicKey)
	if err != nil {
		b.t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	b.file(file, text)
	body := fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":"%s","publicKey":{"content":"%s"}}}}`,
		sum("artifact"), base64.StdEncoding.EncodeToString(p.Signature), base64.StdEncoding.EncodeToString(text))
	p.Entries = []any{d.Entry(body, d.Now.Add(time.Minute), true)}
	tree := p.Tree()
	verifytest.Set(tree, nil, "verificationMaterial", "certificate")
	verifytest.Set(tree, map[string]any{"hint": "h"}, "verificationMaterial", "publicKey")
	return Evidence{Source: "keyed", Bundle: verifytest.Encode(b.t, tree)}
}

// TestKeyWindow: a key counts at the signed times that the policy gives it, both ends included, and at no other.
func TestKeyWindow(t *testing.T) {
	b := newBench(t)
	keyed := b.keyed(b.own, "k.pub")
	for window, want := range map[string]bool{
		"": true, ", not-before: 2026-06-01T12:01:00Z": true, ", not-before: 2026-06-01T12:01:01Z": false, ", not-after: 2026-06-01T12:01:00Z": true, ", not-after: 2026-06-01T12:00:59Z": false,
	} {
		for _, other := range []string{"", ", other: {file: other.pub, root: them}"} { // what one key does not vouch for another may
			b.file("other.pub", []byte(strings.NewReplacer(`\n`, "\n", `"`, "").Replace(somePEM(t))))
			policy := strings.Replace(header, "  us:\n", "  key: [{key: k}]\n  us:\n", 1) + "keys: {k: {file: k.pub, root: own" + window + "}" + other + "}\nrules: [{name: r, images: ['**'], signatures: {by: [key]}}]\n"
			q, err := Parse([]byte(policy), b.dir, Config{})
			if err != nil {
				t.Fatal(err)
			}
			d := q.Decide(t.Context(), theImage(), keyed)
			if d.Allow != want || want && len(d.Ignored) > 0 || !want && (len(d.Ignored) != 1 || !strings.Contains(d.Ignored[0], "by key k: time invalid")) {
				t.Errorf("%q %q: %s", window, other, d.explain())
			}
			if d := q.Decide(t.Context(), Artifact{Kind: Image, Name: image, Digest: digestOf("another")}, keyed); d.Allow || len(d.Ignored) != 1 {
				t.Errorf("another artifact: %s", d.explain())
			}
		}
	}
}

// TestKeyUnderAnotherRoot: a key that two roots may vouch for counts for a signer under the root that he is named under.
func TestKeyUnderAnotherRoot(t *testing.T) {
	b := newBench(t)
	keyed := b.keyed(b.them, "k.pub")
	for by, want := range map[string]bool{"under-own": false, "under-them": true} {
		policy := strings.Replace(header, "  us:\n", "  under-own: [{key: k}]\n  under-them: [{key: m}]\n  us:\n", 1) + "keys: {k: {file: k.pub, root: own}, m: {file: k.pub, root: them}}\nrules: [{name: r, images: ['**'], signatures: {by: [" + by + "]}}]\n"
		p, err := Parse([]byte(policy), b.dir, Config{})
		if err != nil {
			t.Fatal(err)
		}
		if d := p.Decide(t.Context(), theImage(), keyed); d.Allow != want || len(d.Verified()) != 1 {
			t.Errorf("%s: %s", by, d.explain())
		}
	}
	if d := b.policy("rules: [{name: r, images: ['**'], signatures: {by: [us]}}]\n").Decide(t.Context(), theImage(), keyed); d.Allow || len(d.Ignored) != 1 || !strings.Contains(d.Ignored[0], "no matching signature") {
		t.Errorf("no keys: %s", d.explain())
	}
}

// TestAtomicSigning: simple signing under its older name counts as well, and under none does not.
func TestAtomicSigning(t *testing.T) {
	b := newBench(t)
	p := b.policy("rules: [{name: r, images: ['**'], signatures: {by: [us]}}]\n")
	for kind, want := range map[string]bool{"cosign container image signature": true, "atomic container signature": true, "": false, "another": false} {
		payload := strings.Replace(simpleSigning(digestOf("artifact")), "cosign container image signature", kind, 1)
		e := evidence("simple", b.own.SignMessage(1, payload), t)
		e.Payload = []byte(payload)
		if d := p.Decide(t.Context(), theImage(), e); d.Allow != want {
			t.Errorf("%q: %s", kind, d.explain())
		}
	}
}
