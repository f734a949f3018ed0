package ceremony

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// same compares what two plans say, not the files they came from.
func same(a, b Plan) bool {
	a.text, b.text = nil, nil
	return reflect.DeepEqual(a, b)
}

func TestPlanRoundTrip(t *testing.T) {
	p := Default("corp.internal", func(role string) string {
		return "pkcs11:token=it's;object=" + role + "?module-path=/m&pin-source=/p"
	})
	p.Organization = "O'Neill # & Söhne: \"x\""
	got, err := ParsePlan(p.YAML())
	if err != nil {
		t.Fatal(err)
	}
	if !same(got, p) {
		t.Errorf("read back %+v", got)
	}
}

func TestPlanRefusals(t *testing.T) {
	p := Default("corp.internal", softURI)
	text := string(p.YAML())
	for name, c := range map[string]struct{ text, says string }{
		"unknown key":      {strings.Replace(text, "domain:", "domian:", 1), `line 11: unknown key "domian", known here are version, kind, domain`},
		"unknown role":     {strings.Replace(text, "  rekor:", "  reckor:", 1), `unknown key "reckor", known here are root, root-successor, issuing`},
		"unknown key deep": {strings.Replace(text, "    days:", "    dayz:", 1), `unknown key "dayz", known here are commonName, days`},
		"duplicate key":    {text + "domain: twice.internal\n", "already defined"},
		"two documents":    {text + "---\nversion: 1\n", "more than one"},
		"wrong type":       {strings.Replace(text, "days: 3653", "days: long", 1), "line "},
		"empty":            {"", "EOF"},
		"missing role":     {strings.Replace(text, "  # parcels of the mirror\n  exporter:\n    uri: 'soft:exporter.key'\n    algorithm: 'ecdsa-p256'\n", "", 1), "keys.exporter is missing"},
		"version":          {strings.Replace(text, "version: 1", "version: 2", 1), "version is 2"},
		"domain":           {strings.Replace(text, "'corp.internal'", "'Corp Internal'", 1), "DNS name"},
		"algorithm":        {strings.Replace(text, "'ecdsa-p384'", "'rsa-1024'", 1), `"rsa-1024"`},
		"two roles":        {strings.Replace(text, "soft:ct.key", "soft:rekor.key", 1), "rekor and keys.ct have one URI"},
		"pin":              {strings.Replace(text, "soft:ct.key", "pkcs11:object=x?pin-value=1234", 1), "pin-source"},
		"outlives root":    {strings.Replace(text, "days: 1826", "days: 9999", 1), "longer than the root's"},
		"rekor key":        {strings.Replace(text, "uri: 'soft:rekor.key'\n    algorithm: 'ecdsa-p256'", "uri: 'soft:rekor.key'\n    algorithm: 'ed25519'", 1), "keys.rekor.algorithm"},
		"half a TSA":       {strings.Replace(text, "certificates:\n", "certificates:\n  tsa-intermediate: {commonName: x, days: 1}\n", 1), "needs a key and a certificate"},
		"huge":             {text + strings.Repeat("#", maxPlan), "limit"},
	} {
		if c.text == text {
			t.Fatalf("%s: case changes nothing", name)
		}
		if _, err := ParsePlan([]byte(c.text)); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %q", name, err, c.says)
		}
	}
}

// The transcript holds the reviewed file itself, so that its digest is the one
// sha256sum shows.
func TestTranscriptHoldsTheReviewedFile(t *testing.T) {
	def := quick()
	text := append([]byte("# reviewed by three people\n"), def.YAML()...)
	p, err := ParsePlan(text)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	if tr := run1(t, p); tr.Body.Opening.Plan != string(text) || tr.Body.Opening.PlanDigest != hex.EncodeToString(sum[:]) {
		t.Errorf("plan of digest %s became\n%s", tr.Body.Opening.PlanDigest, tr.Body.Opening.Plan)
	}
	p.Organization = "changed after reading"
	if tr := run1(t, p); !strings.Contains(tr.Body.Opening.Plan, "changed after reading") || strings.Contains(tr.Body.Opening.Plan, "three people") {
		t.Errorf("a changed plan kept its old text:\n%s", tr.Body.Opening.Plan)
	}
}

// Any octet of the plan that is altered is refused or shows in the digest.
func TestEveryOctetOfThePlanCounts(t *testing.T) {
	def := quick()
	text := def.YAML()
	for i := range text {
		for _, flip := range []byte{1, 0x20} {
			edited := bytes.Clone(text)
			edited[i] ^= flip
			p, err := ParsePlan(edited)
			if err == nil && hexSum(p.source()) == hexSum(text) {
				t.Fatalf("octet %d: %q reads as the old plan", i, edited[max(0, i-20):min(len(edited), i+20)])
			}
		}
	}
}

func FuzzPlan(f *testing.F) {
	p := Default("corp.internal", softURI)
	f.Add(p.YAML())
	f.Add([]byte("version: 1\nkeys: {root: {uri: x}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePlan(data)
		if err != nil {
			return
		}
		again, err := ParsePlan(p.YAML())
		if err != nil || !same(again, p) {
			t.Fatalf("own YAML does not read back: %v\n%+v\n%+v", err, p, again)
		}
	})
}
