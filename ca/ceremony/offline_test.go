package ceremony

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

func offlinePlan() Plan {
	p := quick()
	p.Kind = OfflineRoot
	p.Keys.TSAIntermediate = &KeyPlan{softURI(RoleTSAIntermediate), hsm.ECDSAP256}
	p.Certificates.TSAIntermediate = &CertificatePlan{"Redoubt Time Stamping CA", 3000}
	return p
}

// gap holds the three parts of an offline-root ceremony between two machines that share nothing but what is carried.
func gap(t testing.TB, p Plan) (requests, certificates, result *Transcript, online, offline Session) {
	t.Helper()
	_, on := softToken(t)
	_, off := softToken(t)
	online, offline = Session{Open: on, Software: "test"}, Session{Open: off, Software: "test"}
	requests, err := online.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	there := offline
	there.Requests, _ = requests.Encode()
	if certificates, err = there.Run(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	back := online
	back.Certificates, _ = certificates.Encode()
	if result, err = back.Run(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return requests, certificates, result, online, offline
}

func TestOfflineRoot(t *testing.T) {
	p := offlinePlan()
	requests, certificates, result, online, offline := gap(t, p)
	if len(requests.Keys()) != 10 || len(requests.Certificates()) != 0 || requests.Signatures[0].By != RoleAudit {
		t.Errorf("requests: %d keys, %d certificates, signed by %s", len(requests.Keys()), len(requests.Certificates()), requests.Signatures[0].By)
	}
	if keys := certificates.Keys(); len(keys) != 1 || keys[0].Role != RoleRoot || certificates.Signatures[0].By != RoleRoot {
		t.Errorf("certificates: keys %v", keys)
	}
	if len(result.Keys()) != 11 || len(result.Certificates()) != 4 || len(result.TSAChain()) != 3 || len(result.IssuingChain()) != 2 {
		t.Errorf("result: %d keys, %d certificates", len(result.Keys()), len(result.Certificates()))
	}
	digest, _ := certificates.Digest()
	if in := result.Body.Opening.Inputs; len(in) != 1 || in[0].Digest != digest {
		t.Error("the result is not linked to the certificates")
	}
	digest, _ = requests.Digest()
	if in := certificates.Body.Opening.Inputs; len(in) != 1 || in[0].Digest != digest {
		t.Error("the certificates are not linked to the requests")
	}
	// Each side's files, on its own machine.
	for _, tr := range []*Transcript{requests, certificates, result} {
		dir := filepath.Join(t.TempDir(), "out")
		if err := tr.Write(dir); err != nil {
			t.Error(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, tr.FileName()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(data); err != nil {
			t.Error(err)
		}
	}
	// Out of turn, or the wrong document.
	both, _ := requests.Encode()
	done, _ := certificates.Encode()
	for name, c := range map[string]struct {
		s    Session
		p    Plan
		says string
	}{
		"requests again":            {online, p, "exists already"},
		"sign twice":                {Session{Open: offline.Open, Requests: both}, p, "exists already"},
		"both documents":            {Session{Open: online.Open, Requests: both, Certificates: done}, p, "each belongs to another part"},
		"certificates for requests": {Session{Open: offline.Open, Requests: done}, p, `the part "certificates"`},
		"requests for certificates": {Session{Open: online.Open, Certificates: both}, p, `the part "requests"`},
		"another plan":              {Session{Open: online.Open, Certificates: done}, func() Plan { q := p; q.BackdateSeconds = 1; return q }(), "another plan"},
		"another kind":              {Session{Open: online.Open, Certificates: done}, quick(), "another plan"},
	} {
		if _, err := c.s.Run(t.Context(), c.p); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	// On a machine that has other keys, the certificates are not taken in.
	_, _, _, stranger, _ := gap(t, p)
	stranger.Certificates = done
	if _, err := stranger.Run(t.Context(), p); !errors.Is(err, ErrForeignKey) {
		t.Errorf("somebody else's certificates: %v", err)
	}
}

// Later, below the root that stayed offline: new keys here, its signatures there; and a new root beside it in the same token.
func TestRotationBelowAnOfflineRoot(t *testing.T) {
	_, _, first, online, offline := gap(t, offlinePlan())
	authority := &Authority{URI: softURI(RoleRoot), Chain: string(pemOf(first.Certificate(RoleRoot))), Offline: true}
	rotate := Rotation("corp.internal", authority, map[string]KeyPlan{RoleIssuing: {"soft:i2", hsm.ECDSAP256}, RoleTSAIntermediate: {"soft:m2", hsm.ECDSAP256}, RoleTSA: {"soft:t2", hsm.ECDSAP256}, "rekor-3": {"soft:r3", hsm.ECDSAP256}})
	renewed := Rotation("corp.internal", authority, map[string]KeyPlan{RoleIssuing: {"soft:i3", hsm.ECDSAP256}})
	renewed.Kind, renewed.Keys.Root = RotateRoot, &KeyPlan{"soft:root-2", hsm.ECDSAP384}
	renewed.Certificates.Root, renewed.Certificates.Cross = &CertificatePlan{"Redoubt Root 2", 3653}, &CrossPlan{700}
	for _, p := range []Plan{rotate, renewed} {
		read, err := ParsePlan(p.YAML())
		if err != nil || !same(read, p) {
			t.Fatalf("own YAML: %v", err)
		}
		here, there := online, offline
		requests, err := here.Run(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		there.Requests, _ = requests.Encode()
		certificates, err := there.Run(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		here.Certificates, _ = certificates.Encode()
		result, err := here.Run(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if requests.Signatures[0].By == RoleAuthority || result.Signatures[0].By == RoleAuthority || certificates.Signatures[0].By != map[Kind]string{Rotate: RoleAuthority, RotateRoot: RoleRoot}[p.Kind] {
			t.Errorf("%s: signed by %v, %v, %v", p.Kind, requests.Signatures[0].By, certificates.Signatures[0].By, result.Signatures[0].By)
		}
		chain := result.IssuingChain()
		if top := chain[len(chain)-1]; (p.Kind == Rotate) != top.Equal(first.Certificate(RoleRoot)) || checkPath(chain, time.Now()) != nil {
			t.Errorf("%s: chain of %d below %s", p.Kind, len(chain), top.Subject)
		}
		if p.Kind == Rotate && len(result.TSAChain()) != 3 {
			t.Errorf("TSA chain of %d", len(result.TSAChain()))
		}
		if p.Kind == RotateRoot && (result.Certificate(CrossAuthorityByRoot) == nil || result.Certificate(CrossRootByAuthority).CheckSignatureFrom(first.Certificate(RoleRoot)) != nil) {
			t.Error("the roots did not sign each other")
		}
		_, open := softToken(t)
		rehearsal, err := Session{Open: open, StandIn: standIns, Software: "test"}.Rehearse(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if d := Diff(rehearsal, result); len(d.Refused) != 0 {
			t.Errorf("%s: %+v", p.Kind, d.Refused)
		}
	}
	logs := Rotation("corp.internal", authority, map[string]KeyPlan{"ct-2": {"soft:c", hsm.ECDSAP256}})
	if err := logs.Validate(); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), "nothing is requested") {
		t.Errorf("an offline authority nobody asks: %v", err)
	}
}

// Plan and approvals travel with the requests, so a thief of the medium could make requests for keys of his own: what he cannot make
// is the operators' signatures under them.
func TestCarriedTranscriptsAreSigned(t *testing.T) {
	members, keys := people(t, 3)
	p := offlinePlan()
	p.Operators = &Operators{Threshold: 2, Members: members}
	approvals := []Approval{approve(t, p, p.Operators, keys[0]), approve(t, p, p.Operators, keys[1])}
	_, on := softToken(t)
	_, off := softToken(t)
	online, offline := Session{Open: on, Approvals: approvals}, Session{Open: off, Approvals: approvals}
	requests, err := online.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	carry := func(from *Transcript, to *Session, field *[]byte) *Transcript {
		t.Helper()
		for signed := 0; ; signed++ {
			*field, _ = from.Encode()
			tr, err := to.Run(t.Context(), p)
			if signed == 2 {
				if err != nil {
					t.Fatal(err)
				}
				return tr
			}
			if !errors.Is(err, ErrApproval) || !strings.Contains(err.Error(), "operators signed it") {
				t.Fatalf("%d signatures: %v", signed, err)
			}
			if err := from.Sign(keys[signed]); err != nil {
				t.Fatal(err)
			}
		}
	}
	certificates := carry(requests, &offline, &offline.Requests)
	result := carry(certificates, &online, &online.Certificates)
	data, _ := result.Encode()
	if _, err := Verify(data); err != nil {
		t.Fatal(err)
	}
	t.Logf("the last file has %d octets", len(data))
}

// Any octet altered on the medium is noticed by the side that reads it.
func TestTheMediumIsNotTrusted(t *testing.T) {
	p := offlinePlan()
	_, certificates, _, online, _ := gap(t, p)
	data, _ := certificates.Encode()
	for i := 0; i < len(data); i += 1 + len(data)/300 {
		altered := bytes.Clone(data)
		altered[i] ^= 4
		s := online
		s.Certificates = altered
		if _, err := s.Run(t.Context(), p); !errors.Is(err, ErrTranscript) {
			t.Fatalf("octet %d: %v", i, err)
		}
	}
}

func standIns(role, _ string) string { return "soft:stand-in-" + role + ".key" }

// A rehearsal goes the way of the run, and Diff finds nothing that should not differ.
func TestRehearsalAndRun(t *testing.T) {
	_, founding, authority := founded(t)
	cross := Plan{Version: 1, Kind: RotateRoot, Domain: "corp.internal", Profile: Dev, Organization: "corp.internal", Authority: authority,
		Keys: Keys{Root: &KeyPlan{"soft:root-2.key", hsm.ECDSAP384}}, Certificates: Certificates{Root: &CertificatePlan{"Root 2", 4000}, Cross: &CrossPlan{500}}}
	backed := quick()
	backed.Backup = &Backup{Profile: BackupWrapped, Holders: []string{"Alice", "Bob"}, Place: "safe 2"}
	for name, c := range map[string]struct {
		plan Plan
		run  func(t *testing.T, p Plan) *Transcript
	}{
		"found": {quick(), func(t *testing.T, p Plan) *Transcript { return run1(t, p) }},
		"backup": {backed, func(t *testing.T, p Plan) *Transcript {
			_, open := softToken(t)
			tr, err := Session{Open: open, BackupStatement: "wrapped with the key of 2025, blob sealed"}.Run(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			return tr
		}},
		"rotate": {Rotation("corp.internal", authority, map[string]KeyPlan{RoleIssuing: {"soft:issuing-2.key", hsm.ECDSAP256}}), func(t *testing.T, p Plan) *Transcript {
			tr, err := Run(t.Context(), p, founding, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			return tr
		}},
		"rotate-root": {cross, func(t *testing.T, p Plan) *Transcript {
			tr, err := Run(t.Context(), p, founding, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			return tr
		}},
		"offline": {offlinePlan(), func(t *testing.T, p Plan) *Transcript {
			_, _, result, _, _ := gap(t, p)
			for tr := result; tr != nil; tr = tr.issued {
				tr.Body.Opening.Software = ""
				if tr.requests != nil {
					tr.requests.Body.Opening.Software = ""
				}
			}
			return result
		}},
	} {
		t.Run(name, func(t *testing.T) {
			_, open := softToken(t)
			rehearsal, err := Session{Open: open, StandIn: standIns}.Rehearse(t.Context(), c.plan)
			if err != nil {
				t.Fatal(err)
			}
			if !rehearsal.Rehearsal() || rehearsal.issued != nil && (!rehearsal.issued.Rehearsal() || !rehearsal.requests.Rehearsal()) {
				t.Error("the transcript does not say that it is a rehearsal")
			}
			real := c.run(t, c.plan)
			d := Diff(rehearsal, real)
			if len(d.Refused) != 0 || len(d.Expected) == 0 || len(d.Same) < 20 {
				t.Errorf("%d same, %d expected, refused %+v", len(d.Same), len(d.Expected), d.Refused)
			}
			other := c.plan
			other.BackdateSeconds++
			_, open = softToken(t)
			edited, err := Session{Open: open, StandIn: standIns}.Rehearse(t.Context(), other)
			if err != nil {
				t.Fatal(err)
			}
			if d := Diff(edited, real); len(d.Refused) != 1 || d.Refused[0].Where != "plan digest" {
				t.Errorf("another plan: %+v", d.Refused)
			}
		})
	}
}

// What must not differ is refused even under one plan digest.
func TestDiffRefuses(t *testing.T) {
	a, b := run1(t, quick()), run1(t, quick())
	if d := Diff(a, b); len(d.Refused) != 0 {
		t.Fatalf("%+v", d.Refused)
	}
	for name, change := range map[string]func(*Transcript){
		"program":   func(t *Transcript) { t.Body.Opening.Software = "v9" },
		"steps":     func(t *Transcript) { t.Body.Steps = t.Body.Steps[1:] },
		"step":      func(t *Transcript) { t.Body.Steps[2].Name = "other" },
		"lints":     func(c *Transcript) { c.Body.find(t, "", RoleTSA).Certificate.Lint.Applied-- },
		"algorithm": func(c *Transcript) { c.Body.find(t, RoleTSA, "").Key.Info.Algorithm = hsm.Ed25519 },
		"certificate": func(c *Transcript) {
			c.Body.find(t, "", RoleTSA).Certificate.PEM = a.Body.find(t, "", RoleIssuing).Certificate.PEM
		},
		"product": func(c *Transcript) { c.Body.Steps[0].Request = &RequestRecord{} },
	} {
		c := clone(t, b)
		change(c)
		if d := Diff(a, c); len(d.Refused) == 0 {
			t.Errorf("%s: not refused", name)
		}
	}
}

// A statement is owed where a backup is declared, and out of place where not.
func TestBackupStatement(t *testing.T) {
	p := quick()
	p.Backup = &Backup{Profile: BackupCloned, Holders: []string{"Alice"}, Place: "vault A"}
	_, open := softToken(t)
	if _, err := Run(t.Context(), p, open, nil, nil); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), "state what was done") {
		t.Errorf("without a statement: %v", err)
	}
	if _, err := (Session{Open: open, BackupStatement: "x"}).Run(t.Context(), quick()); !errors.Is(err, ErrPlan) {
		t.Errorf("a statement nobody asked for: %v", err)
	}
	tr, err := Session{Open: open, BackupStatement: "cloned into the token of serial 42"}.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := tr.Encode()
	if !bytes.Contains(data, []byte("serial 42")) {
		t.Error("the statement is not in the transcript")
	}
	for says, b := range map[string]Backup{
		"known are none": {Profile: "exported"}, "name one to": {Profile: BackupWrapped, Place: "x"}, "backup.place": {Profile: BackupWrapped, Holders: []string{"a"}}, "has no holders": {Profile: BackupNone, Place: "x"},
	} {
		p.Backup = &b
		if err := p.Validate(); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", b, err)
		}
	}
}

// A production root that dies with one machine wants a cross-signed successor in another token.
func TestRootBoundToOneMachine(t *testing.T) {
	bound := func(uri string) (string, bool) {
		token, _, _ := strings.Cut(strings.TrimPrefix(uri, "soft:"), "-")
		return token, token == "tpm"
	}
	plan := func(root, next string) Plan {
		p := quick()
		p.Profile = Production
		p.Keys.Root.URI = "soft:" + root
		if next != "" {
			p.Keys.Successor = &KeyPlan{"soft:" + next, hsm.ECDSAP384}
			p.Certificates.Successor, p.Certificates.Cross = &CertificatePlan{"Redoubt Root B", 3653}, &CrossPlan{3000}
		}
		return p
	}
	for name, c := range map[string]struct {
		p    Plan
		fine bool
	}{
		"hardware alone":           {plan("hsm-root", ""), true},
		"TPM alone":                {plan("tpm-root", ""), false},
		"TPM, successor in a TPM":  {plan("tpm-root", "tpm-next"), false},
		"TPM, successor elsewhere": {plan("tpm-root", "hsm-next"), true},
		"dev":                      {func() Plan { p := plan("tpm-root", ""); p.Profile = Dev; return p }(), true},
	} {
		_, open := softToken(t)
		tr, err := Session{Open: open, Place: bound}.Run(t.Context(), c.p)
		if c.fine != (err == nil) || err != nil && (!errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), "root-successor")) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && c.p.Keys.Successor != nil {
			cross := tr.Certificate(CrossSuccessorByRoot)
			if cross == nil || cross.CheckSignatureFrom(tr.Certificate(RoleRoot)) != nil || !samePublic(cross.PublicKey, tr.Certificate(RoleSuccessor).PublicKey) {
				t.Error("the successor is not cross-signed")
			}
			for _, change := range tr.Trust() {
				if strings.HasPrefix(change.Role, RoleSuccessor) && change.Change != "hold" {
					t.Errorf("%+v is to be published", change)
				}
			}
		}
	}
	_, open := softToken(t)
	if _, err := Run(t.Context(), plan("hsm-root", ""), open, nil, nil); !errors.Is(err, ErrPlan) {
		t.Errorf("production, and nobody knows the tokens: %v", err)
	}
}
