package ceremony

import (
	"bytes"
	"crypto"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// keeper plays the custodians: it knows everybody's key and moves the clock.
type keeper struct {
	t    *testing.T
	keys map[string]crypto.Signer // by base64 of the public key
	now  time.Time
	reg  *Register
}

func newKeeper(t *testing.T) *keeper {
	return &keeper{t: t, keys: map[string]crypto.Signer{}, now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
}

// person makes an operator with a new key.
func (k *keeper) person(name string) Operator {
	members, keys := people(k.t, 1)
	members[0].Name = name
	k.keys[members[0].PublicKey] = keys[0]
	return members[0]
}

func (k *keeper) plan(c Change) Plan {
	if k.reg != nil {
		c.Previous = k.reg.Head()
	}
	if c.Reason == "" {
		c.Reason = "exercise"
	}
	return Plan{Version: 1, Kind: Custodians, Domain: "corp.internal", Profile: Production, Custodians: &c}
}

// change holds the ceremony of a change approved by these people.
func (k *keeper) change(c Change, by ...Operator) error {
	k.t.Helper()
	k.now = k.now.Add(time.Minute)
	p := k.plan(c)
	read, err := ParsePlan(p.YAML())
	if err != nil {
		return err
	}
	s := Session{Now: func() time.Time { return k.now }}
	if k.reg != nil {
		if s.Register, err = k.reg.Encode(); err != nil {
			k.t.Fatal(err)
		}
	}
	for _, o := range by {
		a, err := Approve(read, &Operators{Threshold: 1, Members: by}, k.keys[o.PublicKey], k.now)
		if err != nil {
			return err
		}
		s.Approvals = append(s.Approvals, *a)
	}
	tr, err := s.Run(k.t.Context(), read)
	if err != nil {
		return err
	}
	data, err := tr.Register().Encode()
	if err != nil {
		k.t.Fatal(err)
	}
	if k.reg, err = ParseRegister(data); err != nil {
		k.t.Fatal(err)
	}
	return nil
}

func (k *keeper) must(c Change, by ...Operator) {
	k.t.Helper()
	if err := k.change(c, by...); err != nil {
		k.t.Fatalf("%s: %v", c.Action, err)
	}
}

func (k *keeper) refused(says string, c Change, by ...Operator) {
	k.t.Helper()
	before := k.reg
	if err := k.change(c, by...); err == nil || !strings.Contains(err.Error(), says) {
		k.t.Errorf("%s: got %v, want %q", c.Action, err, says)
	}
	k.reg = before
}

func set(threshold int, members ...Operator) *Operators {
	return &Operators{Threshold: threshold, Members: members}
}

func TestCustodianLifecycle(t *testing.T) {
	k := newKeeper(t)
	a, b, c, d := k.person("alice"), k.person("bob"), k.person("carol"), k.person("dave")
	k.refused("0 of the 3 operators", Change{Action: ActionFound, Operators: set(2, a, b, c)})
	k.refused("1 of the 3 operators", Change{Action: ActionFound, Operators: set(2, a, b, c)}, a)
	k.must(Change{Action: ActionFound, Operators: set(2, a, b, c)}, a, b)
	k.refused("left out for found", Change{Action: ActionFound, Operators: set(1, d)}, d)

	k.refused("no operator of the plan", Change{Action: ActionEnrol, Member: "dave", Operators: set(2, a, b, c, d)}, a, d) // the new one does not count
	k.refused("the other custodians", Change{Action: ActionEnrol, Member: "dave", Operators: set(2, a, b, d)}, a, b)
	k.refused("must be new", Change{Action: ActionEnrol, Member: "carol", Operators: set(2, a, b, c)}, a, b)
	k.must(Change{Action: ActionEnrol, Member: "dave", Operators: set(3, a, b, c, d)}, b, c)
	if o := k.reg.Operators(); o.Threshold != 3 || len(o.Members) != 4 || o.Register != k.reg.Head() {
		t.Errorf("after enrolling: %+v", o)
	}
	b2 := k.person("bob")
	k.refused("approved twice", Change{Action: ActionReplace, Member: "bob", Operators: set(3, a, b2, c, d)}, a, b, b2)
	k.refused("another plan", Change{Action: ActionReplace, Member: "bob", Operators: set(3, a, b2, c, d)}, a, b2, c) // by the new key
	k.refused("must have had another key", Change{Action: ActionReplace, Member: "bob", Operators: set(3, a, b, c, d)}, a, b, c)
	k.must(Change{Action: ActionReplace, Member: "bob", Operators: set(3, a, b2, c, d)}, a, b, c)
	k.refused("another plan", Change{Action: ActionRemove, Member: "carol", Operators: set(2, a, b2, d)}, a, b, d) // the old key of bob
	k.refused("only 2 members", Change{Action: ActionLose, Member: "dave", Operators: set(3, a, b2)}, a, b2, c)
	k.must(Change{Action: ActionLose, Member: "dave", Operators: set(2, a, b2, c)}, a, b2, c)
	k.must(Change{Action: ActionRemove, Member: "carol", Operators: set(2, a, b2)}, b2, c)

	// A ceremony whose operators are the custodians as of an entry.
	p := quick()
	p.Operators = k.reg.Operators()
	_, open := softToken(t)
	data, _ := k.reg.Encode()
	s := Session{Open: open, Approvals: []Approval{approve(t, p, p.Operators, k.keys[a.PublicKey]), approve(t, p, p.Operators, k.keys[b2.PublicKey])}}
	if _, err := s.Run(t.Context(), p); !errors.Is(err, ErrRegister) {
		t.Errorf("without the register: %v", err)
	}
	s.Register = data
	if _, err := s.Run(t.Context(), p); err != nil {
		t.Errorf("with the register: %v", err)
	}
	p.Operators.Threshold = 1
	if _, err := s.Run(t.Context(), p); !errors.Is(err, ErrRegister) {
		t.Errorf("an easier quorum: %v", err)
	}
}

// Loss below the quorum: the emergency set, named in advance, claims, waits, and takes over; the old quorum can object until then.
func TestLossBelowTheQuorum(t *testing.T) {
	k := newKeeper(t)
	a, b, c := k.person("alice"), k.person("bob"), k.person("carol")
	x, y, z := k.person("xenia"), k.person("yuri"), k.person("zoe")
	k.must(Change{Action: ActionFound, Operators: set(2, a, b, c)}, a, b)
	k.refused("no operator of the plan", Change{Action: ActionClaim}, x, y) // nobody is named yet
	k.refused("waitDays", Change{Action: ActionSuccessor, Operators: set(2, x, y, z)}, a, c)
	k.must(Change{Action: ActionSuccessor, WaitDays: 30, Operators: set(2, x, y, z)}, a, c)
	k.refused("1 of the 3", Change{Action: ActionClaim}, x)
	k.refused("no operator of the plan", Change{Action: ActionClaim}, a, b)
	k.refused("waiting period has not begun", Change{Action: ActionTakeover}, x, z)
	k.must(Change{Action: ActionClaim}, x, z)
	if due := k.reg.Due(); !due.Equal(k.now.AddDate(0, 0, 30)) {
		t.Errorf("due %s", due)
	}
	k.refused("claimed already", Change{Action: ActionClaim}, x, z)
	k.now = k.now.AddDate(0, 0, 29)
	k.refused("waiting period of 30 days", Change{Action: ActionTakeover}, x, z)

	// The quorum is not lost after all: any change of it ends the claim.
	d := k.person("dave")
	k.must(Change{Action: ActionEnrol, Member: "dave", Operators: set(2, a, b, c, d)}, a, b)
	k.now = k.now.AddDate(0, 0, 60)
	k.refused("waiting period has not begun", Change{Action: ActionTakeover}, x, z)

	k.must(Change{Action: ActionClaim, Reason: "three of four lost in the fire"}, y, z)
	k.now = k.now.AddDate(0, 0, 30)
	k.must(Change{Action: ActionTakeover}, x, y)
	if o := k.reg.Operators(); o.Threshold != 2 || len(o.Members) != 3 || o.Members[0] != x {
		t.Errorf("after the takeover: %+v", o)
	}
	k.refused("no operator of the plan", Change{Action: ActionRemove, Member: "zoe", Operators: set(2, x, y)}, a, b)
	if next, _, _ := k.reg.Successor(); next != nil {
		t.Error("the emergency set is still named")
	}
	k.must(Change{Action: ActionReplace, Member: "zoe", Operators: set(2, x, y, k.person("zoe"))}, x, y)
}

// Every octet of a register counts, entries cannot be dropped, swapped or taken from another register.
func TestRegisterIsLinked(t *testing.T) {
	k := newKeeper(t)
	a, b := k.person("alice"), k.person("bob")
	k.must(Change{Action: ActionFound, Operators: set(1, a)}, a)
	k.must(Change{Action: ActionEnrol, Member: "bob", Operators: set(1, a, b)}, a)
	k.must(Change{Action: ActionRemove, Member: "alice", Operators: set(1, b)}, b)
	data, _ := k.reg.Encode()
	for i := range data {
		flipped := bytes.Clone(data)
		flipped[i] ^= 1
		r, err := ParseRegister(flipped)
		if err == nil && r.Head() == k.reg.Head() {
			t.Fatalf("octet %d flipped: %q", i, data[max(0, i-40):min(len(data), i+40)])
		}
		// The time of the last entry alone is bound by nothing but the digest everybody compares.
		if err == nil && !bytes.Contains(data[max(0, i-40):i], []byte(`"time": "`)) {
			t.Fatalf("octet %d flipped and read: %q", i, data[max(0, i-40):min(len(data), i+40)])
		}
	}
	for name, entries := range map[string][]Entry{
		"none": {}, "without the first": k.reg.Entries[1:], "without the second": {k.reg.Entries[0], k.reg.Entries[2]},
		"swapped": {k.reg.Entries[0], k.reg.Entries[2], k.reg.Entries[1]}, "twice": append(slices.Clone(k.reg.Entries), k.reg.Entries[2]),
	} {
		text, _ := (&Register{Entries: entries}).Encode()
		if _, err := ParseRegister(text); !errors.Is(err, ErrRegister) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A rehearsal of a change, which nobody has approved yet, tells whether it would follow.
func TestRehearsalOfAChange(t *testing.T) {
	k := newKeeper(t)
	a, b := k.person("alice"), k.person("bob")
	s := Session{StandIn: standIns, Now: func() time.Time { return k.now }}
	tr, err := s.Rehearse(t.Context(), k.plan(Change{Action: ActionFound, Operators: set(1, a)}))
	if err != nil || tr.Register() != nil {
		t.Fatalf("%v, register %v", err, tr.Register())
	}
	k.must(Change{Action: ActionFound, Operators: set(1, a)}, a)
	s.Register, _ = k.reg.Encode()
	if _, err := s.Rehearse(t.Context(), k.plan(Change{Action: ActionEnrol, Member: "bob", Operators: set(1, b)})); !errors.Is(err, ErrRegister) {
		t.Errorf("a change that does not follow: %v", err)
	}
}

func FuzzRegister(f *testing.F) {
	members, keys := people(f, 1)
	p := Plan{Version: 1, Kind: Custodians, Domain: "corp.internal", Profile: Dev, Custodians: &Change{Action: ActionFound, Reason: "start", Operators: set(1, members[0])}}
	tr, err := Session{Approvals: []Approval{approve(f, p, p.Custodians.Operators, keys[0])}}.Run(f.Context(), p)
	if err != nil {
		f.Fatal(err)
	}
	data, _ := tr.Register().Encode()
	f.Add(data)
	f.Add([]byte(`{"entries":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRegister(data)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(again, data) || r.Operators() == nil {
			t.Fatalf("two spellings: %v", err)
		}
	})
}
