package ceremony

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"redoubt.internal/hsm"
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

// everyKind is a plan of each kind, with everything a plan can hold.
func everyKind(t testing.TB) []Plan {
	t.Helper()
	members, _ := people(t, 3)
	first, _, authority := founded(t)
	found := quick()
	found.Operators = &Operators{Threshold: 2, Members: members}
	found.Backup = &Backup{Profile: BackupCloned, Holders: []string{"Alice", "O'Neill"}, Place: "vault: #2"}
	found.Keys.Successor, found.Certificates.Successor, found.Certificates.Cross = &KeyPlan{softURI(RoleSuccessor), hsm.ECDSAP384}, &CertificatePlan{"Root B", 3653}, &CrossPlan{99}
	offline := offlinePlan()
	rotate := Rotation("corp.internal", authority, map[string]KeyPlan{RoleIssuing: {"soft:i", hsm.ECDSAP256}, "rekor-3": {"soft:r", hsm.ECDSAP256}})
	rotateRoot := Rotation("corp.internal", authority, map[string]KeyPlan{RoleTSA: {"soft:t", hsm.ECDSAP256}})
	rotateRoot.Kind, rotateRoot.Keys.Root, rotateRoot.Certificates.Root, rotateRoot.Certificates.Cross = RotateRoot, &KeyPlan{"soft:root-2", hsm.RSA4096}, &CertificatePlan{"Root 2", 3653}, &CrossPlan{3}
	cross := Plan{Version: 1, Kind: CrossSign, Domain: "corp.internal", Profile: Production, Organization: "corp.internal", Authority: authority,
		Subject: &Subject{string(pemOf(first.Certificate(RoleRoot)))}, Certificates: Certificates{Cross: &CrossPlan{365}}}
	change := Plan{Version: 1, Kind: Custodians, Domain: "corp.internal", Profile: Production,
		Custodians: &Change{Action: ActionEnrol, Previous: strings.Repeat("a", 64), Member: "operator-3", Reason: "it's time", Operators: &Operators{Threshold: 2, Members: members}}}
	return []Plan{quick(), found, offline, rotate, rotateRoot, cross, change}
}

func TestEveryKindReadsBack(t *testing.T) {
	for _, p := range everyKind(t) {
		got, err := ParsePlan(p.YAML())
		if err != nil || !same(got, p) {
			t.Errorf("%s: %v\n%s", p.Kind, err, p.YAML())
		}
		for line := range strings.Lines(string(p.YAML())) {
			if len(line) > 130 && !strings.Contains(line, "publicKey") {
				t.Errorf("%s: a line of %d octets: %s", p.Kind, len(line), line)
			}
		}
	}
}

// Any octet of a plan of any kind that is altered is refused or gives it
// another digest, and so another line to read aloud.
func TestEveryOctetOfThePlanCounts(t *testing.T) {
	edits := 0
	for _, p := range everyKind(t) {
		text := p.YAML()
		old := hexSum(text)
		for i := range text {
			edited := bytes.Clone(text)
			edited[i] ^= 1
			p, err := ParsePlan(edited)
			// What is digested right after reading is the text read; asking for it reads everything again, so that is not done each time.
			if edits++; err == nil && (string(p.text) == string(text) || i%11 == 0 && p.Digest() == old) {
				t.Fatalf("octet %d: %q reads as the old plan", i, edited[max(0, i-20):min(len(edited), i+20)])
			}
		}
	}
	t.Logf("%d edits of one octet, none with the digest of the plan before it", edits)
}

// What has no place in a kind, or is missing from it.
func TestKindsRefuse(t *testing.T) {
	var plans [][]byte
	for _, p := range everyKind(t) {
		plans = append(plans, p.YAML())
	}
	for _, c := range []struct {
		kind   Kind
		change func(*Plan)
		says   string
	}{
		{Found, func(p *Plan) { p.Kind = "party" }, "kind is"},
		{Found, func(p *Plan) { p.Profile = "test" }, "profile is"},
		{Found, func(p *Plan) { p.Keys.set("ct-2", &KeyPlan{"soft:x", hsm.ECDSAP256}) }, "no place in a plan of kind found"},
		{Found, func(p *Plan) { p.Keys.set("witness", &KeyPlan{"soft:x", hsm.ECDSAP256}) }, `unknown key "witness"`},
		{Found, func(p *Plan) { p.Authority = &Authority{} }, "authority has no place"},
		{Found, func(p *Plan) { p.Certificates.Cross = nil }, "certificates.cross belongs"},
		{Found, func(p *Plan) { p.Custodians = &Change{} }, "custodians belongs"},
		{Found, func(p *Plan) { p.Operators.Register = "x" }, "not a SHA-256"},
		{Rotate, func(p *Plan) { p.Authority = nil }, "authority is missing"},
		{Rotate, func(p *Plan) { p.Keys = Keys{}; p.Certificates = Certificates{} }, "names no role to rotate"},
		{Rotate, func(p *Plan) { p.Keys.Root = &KeyPlan{"soft:x", hsm.ECDSAP256} }, "keys.root has no place"},
		{Rotate, func(p *Plan) { p.Keys.Issuing.URI = p.Authority.URI }, "have one URI"},
		{Rotate, func(p *Plan) { p.Keys.Issuing.URI = "pkcs11:token=t?PIN-VALUE=1" }, "pin-value"},
		{Rotate, func(p *Plan) { p.Authority.URI = "pkcs11:token=t?pin-value=1" }, "pin-value"},
		{Rotate, func(p *Plan) { p.Keys.Further["rekor-3"].Algorithm = hsm.Ed25519 }, "clients verify only ecdsa-p256"},
		{Rotate, func(p *Plan) { p.Keys.OIDC = &KeyPlan{"soft:o", hsm.Ed25519} }, "keys.oidc.algorithm is ed25519; the role allows"},
		{Rotate, func(p *Plan) { p.Authority.Chain += "x" }, "authority.chain"},
		{Rotate, func(p *Plan) { p.Authority.Chain = "" }, "no certificate"},
		{Rotate, func(p *Plan) { p.Authority.Chain = strings.Repeat(p.Authority.Chain, 5) }, "more than 4"},
		{RotateRoot, func(p *Plan) { p.Certificates.Cross.Days = 0 }, "cross.days"},
		{RotateRoot, func(p *Plan) { p.Keys.Rekor = &KeyPlan{"soft:x", hsm.ECDSAP256} }, "keys.rekor has no place"},
		{CrossSign, func(p *Plan) { p.Subject = nil }, "subject belongs"},
		{CrossSign, func(p *Plan) { p.Backup = &Backup{Profile: BackupNone} }, "makes no key"},
		{Custodians, func(p *Plan) { p.Operators = p.Custodians.Operators }, "operators has no place"},
		{Custodians, func(p *Plan) { p.Custodians.Action = "promote" }, "custodians.action"},
		{Custodians, func(p *Plan) { p.Custodians.Previous = "" }, "custodians.previous"},
		{Custodians, func(p *Plan) { p.Custodians.Member = "" }, "custodians.member"},
		{Custodians, func(p *Plan) { p.Custodians.Reason = "" }, "custodians.reason"},
		{Custodians, func(p *Plan) { p.Custodians.WaitDays = 3 }, "custodians.waitDays"},
		{Custodians, func(p *Plan) { p.Custodians.Operators = nil }, "custodians.operators"},
		{Custodians, func(p *Plan) { p.Custodians.Operators.Threshold = 4 }, "only 3 members"},
	} {
		for _, text := range plans {
			p, err := ParsePlan(text)
			if err != nil {
				t.Fatal(err)
			}
			if p.Kind != c.kind || p.Kind == Found && p.Operators == nil {
				continue
			}
			c.change(&p)
			if err := p.Validate(); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: got %v, want %q", c.kind, err, c.says)
			}
		}
	}
}

func FuzzPlan(f *testing.F) {
	for _, p := range everyKind(f) {
		f.Add(p.YAML())
	}
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
