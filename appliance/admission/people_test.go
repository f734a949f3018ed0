package admission

import (
	"crypto/ecdsa"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/ca/approval"
)

// crew are the people of a lab.
type crew struct {
	among approval.Operators
	keys  map[string]*ecdsa.PrivateKey
}

func newCrew(t *testing.T, names ...string) *crew {
	t.Helper()
	c := &crew{keys: map[string]*ecdsa.PrivateKey{}, among: approval.Operators{Threshold: 2}}
	for _, name := range names {
		c.keys[name] = verifytest.ECKey(t)
		o, err := approval.NewOperator(name, c.keys[name].Public())
		if err != nil {
			t.Fatal(err)
		}
		c.among.Members = append(c.among.Members, o)
	}
	return c
}

// put puts an act and approvals of it into the folder of the lab.
func (c *crew) put(l *lab, name string, act approval.Act, by ...string) {
	l.t.Helper()
	l.file("acts/"+name+".act", []byte(act.Text()))
	for _, who := range by {
		a, err := approval.Sign(act, who, c.keys[who], l.now())
		if err != nil {
			l.t.Fatal(err)
		}
		text, err := a.Encode()
		if err != nil {
			l.t.Fatal(err)
		}
		l.file("acts/"+name+"."+who+".json", text)
	}
	l.pass(2 * rereadActs)
}

func peopleLab(t *testing.T) (*lab, *crew) {
	c := newCrew(t, "alice", "bob", "carol")
	var dir string
	l := newLab(t, func(config *Config, p **People) {
		dir = filepath.Join(filepath.Dir(config.Dir), "acts")
		*p = &People{Approvers: c.among, Domain: "corp.internal", Dir: dir}
	})
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return l, c
}

// TestBreakGlass: two people let a digest in, in one namespace, until the end they set; it is written down first.
func TestBreakGlass(t *testing.T) {
	l, people := peopleLab(t)
	d := digest(l.push("app/web", "1"))
	image := l.host + "/app/web@" + d
	exemption := func(until time.Duration, digests ...string) approval.Act {
		act, err := Exemption{Kind: BreakGlass, Reason: "the shop is down", From: l.now(), Until: l.now().Add(until), Namespace: "shop", Digests: digests}.Act("corp.internal")
		if err != nil {
			t.Fatal(err)
		}
		return act
	}
	record := filepath.Join(l.gate.c.Dir, "passed.jsonl")
	nothing := func(why string) {
		t.Helper()
		l.refused(l.create(ValidatePath, "shop", image), "the policy does not allow it")
		if _, err := os.Stat(record); err == nil {
			t.Fatalf("%s: something was recorded", why)
		}
	}
	nothing("nobody approved")
	people.put(l, "one", exemption(time.Hour, d), "alice")
	nothing("one approved")
	people.put(l, "other", exemption(time.Hour, digest([]byte("other"))), "alice", "bob")
	nothing("another digest")
	elsewhere := exemption(time.Hour, d)
	elsewhere.Domain = "other.internal"
	people.put(l, "elsewhere", elsewhere, "alice", "bob")
	nothing("another deployment")
	long := exemption(time.Hour, d)
	long.Lines[2] = "until " + l.now().Add(MaxBreakGlass+time.Hour).UTC().Format(time.RFC3339)
	people.put(l, "long", long, "alice", "bob")
	nothing("too long")
	l.file("acts/junk.act", []byte("junk"))
	l.file("acts/junk.json", []byte("{}"))

	people.put(l, "two", exemption(time.Hour, d), "alice", "bob")
	a := l.create(ValidatePath, "shop", image)
	l.allowed(a)
	if len(a.Response.Warnings) != 1 || !strings.Contains(a.Response.Warnings[0], "break-glass approved by alice and bob until") {
		t.Errorf("warnings %q", a.Response.Warnings)
	}
	if told := l.gate.recent.results; told[len(told)-1].Properties["decision"] != "let-through" || told[len(told)-1].Result != "warn" || !strings.Contains(told[len(told)-1].Message, "alice and bob") {
		t.Errorf("told %+v", told[len(told)-1])
	}
	var line passage
	text, err := os.ReadFile(record)
	if err != nil || json.Unmarshal(text, &line) != nil || line.Image != image || line.Reason != "the shop is down" || line.User != "dev" || len(line.By) != 2 || line.Refused == "" {
		t.Errorf("record %s, %v", text, err)
	}
	l.refused(l.create(ValidatePath, "apps", image), "the policy does not allow it")
	// What cannot be recorded does not pass.
	l.gate.people.record = filepath.Join(l.dir, "missing", "passed.jsonl")
	l.refused(l.create(ValidatePath, "shop", image), "the policy does not allow it")
	l.gate.people.record = record
	l.pass(2 * time.Hour)
	l.refused(l.create(ValidatePath, "shop", image), "the policy does not allow it")
}

// TestGraceExtended: two people give what was admitted before more time.
func TestGraceExtended(t *testing.T) {
	l, people := peopleLab(t)
	known, unknown := l.host+"/app/web@"+l.signed("app/web", "1"), l.host+"/app/web@"+l.signed("app/web", "2")
	l.allowed(l.create(ValidatePath, "apps", known))
	l.pass(32 * 24 * time.Hour)
	l.refused(l.create(ValidatePath, "apps", known), "the grace")
	act, err := Exemption{Kind: ExtendGrace, Reason: "the courier is ill", From: l.now(), Until: l.now().Add(48 * time.Hour)}.Act("corp.internal")
	if err != nil {
		t.Fatal(err)
	}
	people.put(l, "grace", act, "bob")
	l.refused(l.create(ValidatePath, "apps", known), "the grace")
	people.put(l, "grace", act, "bob", "carol")
	l.allowed(l.create(ValidatePath, "apps", known))
	l.refused(l.create(ValidatePath, "apps", unknown), "not admitted here before")
	l.pass(49 * time.Hour)
	l.refused(l.create(ValidatePath, "apps", known), "the grace")
}

// TestOnePersonIsNotEnough: a gate that one person could open is not opened at all.
func TestOnePersonIsNotEnough(t *testing.T) {
	c := newCrew(t, "alice", "bob")
	c.among.Threshold = 1
	l := newLab(t, nil)
	if _, err := New(l.gate.c, l.rules(), &People{Approvers: c.among, Domain: "corp.internal", Dir: l.dir}); err == nil || !strings.Contains(err.Error(), "at least two") {
		t.Errorf("%v", err)
	}
}

// TestDeniedSignerHasNoGrace: a receipt does not outlive the denial of who signed.
func TestDeniedSignerHasNoGrace(t *testing.T) {
	l := newLab(t, nil)
	known := l.host + "/app/web@" + l.signed("app/web", "1")
	l.allowed(l.create(ValidatePath, "apps", known))
	l.pass(26 * time.Hour)
	l.allowed(l.create(ValidatePath, "apps", known))
	policy, err := os.ReadFile(filepath.Join(l.dir, "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	l.file("policy.yaml", []byte(strings.Replace(string(policy), "rules:\n", "deny:\n  - {by: [us], reason: the key was lost}\nrules:\n", 1)))
	rules, err := loadRules(filepath.Join(l.dir, "policy.yaml"), nil, l.now)
	if err != nil {
		t.Fatal(err)
	}
	l.gate.Use(rules)
	l.refused(l.create(ValidatePath, "apps", known), "")
}
