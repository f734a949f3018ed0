package admission

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"redoubt.internal/appliance/policy"
)

// TestHoldPolicy: a policy is put in force by two people over its very digest, by an act after the one before, and else the former stays.
func TestHoldPolicy(t *testing.T) {
	l, crew := peopleLab(t)
	p := People{Approvers: crew.among, Domain: "corp.internal", Dir: filepath.Join(l.dir, "acts")}
	state := filepath.Join(t.TempDir(), "state")
	first, second, third := []byte("first"), []byte("second"), []byte("third")
	hold := func(file []byte, want []byte, step string) {
		t.Helper()
		got, held, err := HoldPolicy(p, state, file, l.now(), l.gate.Logger())
		if err != nil || string(got) != string(want) || held != (string(file) != string(want)) {
			t.Errorf("%s: %q in force, held %t, %v", step, got, held, err)
		}
	}
	propose := func(name string, text []byte, domain, proposer string, by ...string) {
		t.Helper()
		act, err := PolicyAct(domain, "because", text, l.now())
		if err != nil {
			t.Fatal(err)
		}
		act.Proposer = proposer
		crew.put(l, name, act, by...)
	}
	hold(first, first, "the first one")
	hold(second, first, "nobody approved")
	l.pass(time.Minute)
	propose("one", second, "corp.internal", "", "alice")
	hold(second, first, "one approved")
	propose("own", second, "corp.internal", "alice", "alice", "bob")
	hold(second, first, "one of the two proposes it")
	propose("elsewhere", second, "other.internal", "", "alice", "bob")
	hold(second, first, "of another deployment")
	propose("other", third, "corp.internal", "", "alice", "bob")
	hold(second, first, "another policy was approved")
	l.pass(time.Minute)
	propose("two", second, "corp.internal", "carol", "alice", "bob")
	hold(second, second, "two approved")
	hold(second, second, "once more")
	hold(third, second, "what was approved before it")
	l.pass(time.Minute)
	propose("late", first, "corp.internal", "", "alice", "bob")
	l.pass(maxPolicyWait + time.Hour)
	hold(first, second, "approved too long ago")
	if err := os.WriteFile(filepath.Join(state, "policy.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := HoldPolicy(p, state, second, l.now(), l.gate.Logger()); err == nil {
		t.Error("what was approved cannot be read, and a policy is in force")
	}
	if _, err := policy.ReadFile(filepath.Join(state, "nosuch")); !errors.Is(err, policy.ErrFile) {
		t.Errorf("no file: %v", err)
	}
}
