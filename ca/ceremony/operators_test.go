package ceremony

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// people makes n operators with keys of both kinds.
func people(t testing.TB, n int) (members []Operator, keys []crypto.Signer) {
	t.Helper()
	for i := range n {
		var key crypto.Signer
		var err error
		if i%2 == 0 {
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		} else {
			_, key, err = ed25519.GenerateKey(rand.Reader)
		}
		if err != nil {
			t.Fatal(err)
		}
		o, err := NewOperator(fmt.Sprintf("operator-%d", i+1), key.Public())
		if err != nil {
			t.Fatal(err)
		}
		members, keys = append(members, o), append(keys, key)
	}
	return members, keys
}

func approve(t testing.TB, p Plan, among *Operators, key crypto.Signer) Approval {
	t.Helper()
	a, err := Approve(p, among, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	data, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := ParseApproval(data)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// Every subset of every group of up to seven, against every threshold: below it
// all fail, from it on all pass; and no subset passes with one approval given twice
// in the place of another.
func TestEverySubsetOfOperators(t *testing.T) {
	members, keys := people(t, 7)
	accepted, refused, duplicates := 0, 0, 0
	for n := 1; n <= 7; n++ {
		for threshold := 1; threshold <= n; threshold++ {
			p := quick()
			p.Operators = &Operators{Threshold: threshold, Members: members[:n]}
			var given []Approval
			for i := range n {
				given = append(given, approve(t, p, p.Operators, keys[i]))
			}
			for set := range 1 << n {
				var some []Approval
				for i := range n {
					if set&(1<<i) != 0 {
						some = append(some, given[i])
					}
				}
				err := checkApprovals(&p, p.Digest(), p.Operators, some)
				if enough := bits.OnesCount(uint(set)) >= threshold; enough != (err == nil) || err != nil && !errors.Is(err, ErrApproval) {
					t.Fatalf("%d of %d, subset %b: %v", threshold, n, set, err)
				} else if enough {
					accepted++
				} else {
					refused++
				}
				for i := range some {
					if err := checkApprovals(&p, p.Digest(), p.Operators, append(some[:len(some):len(some)], some[i])); !errors.Is(err, ErrApproval) {
						t.Fatalf("%d of %d, subset %b with number %d twice: %v", threshold, n, set, i, err)
					}
					duplicates++
				}
			}
		}
	}
	t.Logf("%d subsets from the threshold up accepted, %d below it refused, %d with a duplicate refused", accepted, refused, duplicates)
}

// Too few approvals stop a ceremony before a token is opened; enough let it run, and the transcript carries them.
func TestRunWantsApprovals(t *testing.T) {
	members, keys := people(t, 3)
	p := quick()
	p.Operators = &Operators{Threshold: 2, Members: members}
	_, open := softToken(t)
	opened := 0
	s := Session{Open: func(ctx context.Context, uri string) (hsm.Token, error) { opened++; return open(ctx, uri) }}
	for _, some := range [][]Approval{nil, {approve(t, p, p.Operators, keys[0])}} {
		s.Approvals = some
		if _, err := s.Run(t.Context(), p); !errors.Is(err, ErrApproval) || opened != 0 {
			t.Fatalf("%d approvals: %v, %d tokens opened", len(some), err, opened)
		}
	}
	s.Approvals = []Approval{approve(t, p, p.Operators, keys[2]), approve(t, p, p.Operators, keys[1])}
	tr, err := s.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if have, want := tr.Signed(); have != 0 || want != 2 {
		t.Errorf("signed by %d of %d", have, want)
	}
	for _, key := range keys[:2] {
		if err := tr.Sign(key); err != nil {
			t.Fatal(err)
		}
	}
	if err := tr.Sign(keys[0]); !errors.Is(err, ErrApproval) {
		t.Errorf("second signature of one operator: %v", err)
	}
	_, strangers := people(t, 1)
	if err := tr.Sign(strangers[0]); !errors.Is(err, ErrApproval) {
		t.Errorf("signature of a stranger: %v", err)
	}
	data, _ := tr.Encode()
	again, err := Verify(data)
	if err != nil {
		t.Fatal(err)
	}
	if have, _ := again.Signed(); have != 2 {
		t.Errorf("signed by %d", have)
	}
	c := clone(t, tr)
	c.Signatures[2].Signature[3] ^= 1
	refuse(t, "operator's signature", c, "does not verify")
	c = clone(t, tr)
	c.Signatures[1].By = "operator:operator-3"
	refuse(t, "another operator's name", c, "names another key")
	c = clone(t, tr)
	c.Signatures = append(c.Signatures, c.Signatures[1])
	refuse(t, "signature twice", c, "there twice")
	c = clone(t, tr)
	c.Signatures = c.Signatures[1:]
	refuse(t, "without the root", c, "root key's signature is missing")
}

// What is signed is the plan, octet by octet, and nothing else.
func TestApprovalsOfSomethingElse(t *testing.T) {
	members, keys := people(t, 2)
	p := quick()
	p.Operators = &Operators{Threshold: 1, Members: members}
	good := approve(t, p, p.Operators, keys[0])
	commented, err := ParsePlan(append(p.YAML(), '#'))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		plan   Plan
		change func(*Approval)
	}{
		"one octet more":  {commented, func(*Approval) {}},
		"other kind":      {p, func(a *Approval) { a.Statement.Kind = Rotate }},
		"other domain":    {p, func(a *Approval) { a.Statement.Domain = "evil.internal" }},
		"other time":      {p, func(a *Approval) { a.Statement.Time = a.Statement.Time.Add(time.Hour) }},
		"other operator":  {p, func(a *Approval) { a.Statement.Operator = members[1].Name }},
		"other format":    {p, func(a *Approval) { a.Statement.Format = Format }},
		"no operator":     {p, func(a *Approval) { a.Statement.Operator = "mallory" }},
		"signature":       {p, func(a *Approval) { a.Signature[5] ^= 1 }},
		"no signature":    {p, func(a *Approval) { a.Signature = nil }},
		"other key named": {p, func(a *Approval) { a.Statement.Fingerprint = strings.Repeat("0", 64) }},
	} {
		a := good
		a.Signature = append([]byte(nil), good.Signature...)
		c.change(&a)
		if err := checkApprovals(&c.plan, c.plan.Digest(), p.Operators, []Approval{a}); !errors.Is(err, ErrApproval) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, strangers := people(t, 1)
	if _, err := Approve(p, p.Operators, strangers[0], time.Now()); !errors.Is(err, ErrApproval) {
		t.Errorf("a stranger approves: %v", err)
	}
	data, _ := good.Encode()
	for i := range data {
		flipped := append([]byte(nil), data...)
		flipped[i] ^= 1
		a, err := ParseApproval(flipped)
		if err == nil {
			err = checkApprovals(&p, p.Digest(), p.Operators, []Approval{a})
		}
		if !errors.Is(err, ErrApproval) {
			t.Fatalf("octet %d flipped: %v", i, err)
		}
	}
}

func TestOperatorsOfAPlan(t *testing.T) {
	members, _ := people(t, 3)
	big, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewOperator("big", big.Public()); !errors.Is(err, ErrPlan) {
		t.Errorf("a P-384 operator: %v", err)
	}
	for name, c := range map[string]struct {
		o    Operators
		says string
	}{
		"fewer than the threshold": {Operators{Threshold: 4, Members: members}, "threshold is 4 and there are only 3"},
		"no threshold":             {Operators{Members: members}, "threshold is 0"},
		"nobody":                   {Operators{Threshold: 1}, "has 0 members"},
		"a name twice":             {Operators{Threshold: 1, Members: []Operator{members[0], {Name: members[0].Name, PublicKey: members[1].PublicKey}}}, "there twice"},
		"one key, two names":       {Operators{Threshold: 2, Members: []Operator{members[0], {Name: "alias", PublicKey: members[0].PublicKey}}}, "have one key"},
		"odd name":                 {Operators{Threshold: 1, Members: []Operator{{Name: "Alice Smith", PublicKey: members[0].PublicKey}}}, "expected up to 40"},
		"no key":                   {Operators{Threshold: 1, Members: []Operator{{Name: "alice", PublicKey: "AAAA"}}}, "publicKey"},
		"padded key":               {Operators{Threshold: 1, Members: []Operator{{Name: "alice", PublicKey: members[0].PublicKey + "\n"}}}, "base64"},
	} {
		p := quick()
		p.Operators = &c.o
		if err := p.Validate(); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %q", name, err, c.says)
		}
	}
}

func FuzzApproval(f *testing.F) {
	members, keys := people(f, 1)
	p := quick()
	p.Operators = &Operators{Threshold: 1, Members: members}
	a := approve(f, p, p.Operators, keys[0])
	data, _ := a.Encode()
	f.Add(data)
	f.Add([]byte(`{"statement":{},"signature":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := ParseApproval(data)
		if err != nil {
			return
		}
		if again, err := got.Encode(); err != nil || string(again) != string(data) {
			t.Fatalf("two spellings: %v", err)
		}
	})
}

func FuzzOperator(f *testing.F) {
	members, _ := people(f, 2)
	f.Add([]byte(members[0].YAML()))
	f.Add([]byte(members[1].YAML()))
	f.Add([]byte("name: x\npublicKey: ''\n---\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := ParseOperator(data)
		if err != nil {
			return
		}
		if again, err := ParseOperator([]byte(o.YAML())); err != nil || again != o {
			t.Fatalf("own YAML does not read back: %v", err)
		}
	})
}
