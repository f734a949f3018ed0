package approval

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
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

func sample() Act {
	return Act{Kind: "mirror.unfreeze", Domain: "corp.internal", Lines: []string{"origin log.example", "kept 700"}}
}

// sign signs and reads the file back, as it is carried.
func sign(t testing.TB, act Act, name string, key crypto.Signer) Approval {
	t.Helper()
	a, err := Sign(act, name, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	data, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// Every subset of every group of up to seven, against every threshold, proposed by nobody and, of up to five, by each member, with every
// approval given twice: it passes exactly when as many different people as the threshold says, the proposer aside, approved.
func TestEverySubsetOfApprovers(t *testing.T) {
	members, keys := people(t, 7)
	accepted, refused := 0, 0
	for proposer := range 6 { // 0: nobody
		act := sample()
		if proposer > 0 {
			act.Proposer = members[proposer-1].Name
		}
		var given []Approval
		for i, m := range members {
			given = append(given, sign(t, act, m.Name, keys[i]))
		}
		for n := 1; n <= 7; n++ {
			if proposer > 0 && n > 5 {
				continue // each signature is verified for each threshold; the smaller groups have every case
			}
			for threshold := 1; threshold <= n; threshold++ {
				among := Operators{threshold, members[:n]}
				for set := range 1 << n {
					var some []Approval
					count := 0
					for i := range n {
						if set&(1<<i) == 0 {
							continue
						}
						some = append(some, given[i], given[i])
						if i != proposer-1 {
							count++
						}
					}
					slices.Reverse(some)
					by, err := Check(among, act, some)
					switch {
					case count >= threshold && (err != nil || len(by) != count):
						t.Fatalf("%d of %d, subset %b, proposer %d: %v %v", threshold, n, set, proposer, by, err)
					case count < threshold && !errors.Is(err, ErrTooFew):
						t.Fatalf("%d of %d, subset %b, proposer %d: %v %v", threshold, n, set, proposer, by, err)
					case err == nil:
						accepted++
					default:
						refused++
					}
				}
			}
		}
	}
	t.Logf("%d sets of approvals accepted, %d with too few people refused", accepted, refused)
}

// What is signed is the text of one act, octet by octet; a stranger's approval and one of another act are refused, not passed over.
func TestApprovalsOfSomethingElse(t *testing.T) {
	members, keys := people(t, 3)
	among := Operators{1, members[:2]}
	act := sample()
	good := sign(t, act, members[0].Name, keys[0])
	if by, err := Check(among, act, []Approval{good}); err != nil || !slices.Equal(by, []string{members[0].Name}) {
		t.Fatal(by, err)
	}
	for name, c := range map[string]struct {
		act    Act
		change func(*Approval)
	}{
		"one line more":   {Act{act.Kind, act.Domain, "", append(slices.Clone(act.Lines), "more yes")}, nil},
		"other kind":      {Act{"mirror.release", act.Domain, "", act.Lines}, nil},
		"other domain":    {Act{act.Kind, "evil.internal", "", act.Lines}, nil},
		"other proposer":  {Act{act.Kind, act.Domain, members[1].Name, act.Lines}, nil},
		"other time":      {act, func(a *Approval) { a.Statement.Time = a.Statement.Time.Add(time.Hour) }},
		"other operator":  {act, func(a *Approval) { a.Statement.Operator = members[1].Name }},
		"other format":    {act, func(a *Approval) { a.Statement.Format = "redoubt-ceremony-approval/v1" }},
		"a stranger":      {act, func(a *Approval) { a.Statement.Operator = members[2].Name }},
		"signature":       {act, func(a *Approval) { a.Signature = append([]byte{a.Signature[0] ^ 1}, a.Signature[1:]...) }},
		"no signature":    {act, func(a *Approval) { a.Signature = nil }},
		"other key named": {act, func(a *Approval) { a.Statement.Fingerprint = strings.Repeat("0", 64) }},
		"foreign key":     {act, func(a *Approval) { *a = sign(t, act, members[0].Name, keys[2]) }},
	} {
		a := good
		if c.change != nil {
			c.change(&a)
		}
		if _, err := Check(among, c.act, []Approval{a, sign(t, c.act, members[1].Name, keys[1])}); !errors.Is(err, ErrApproval) {
			t.Errorf("%s: %v", name, err)
		}
	}
	data, _ := good.Encode()
	for i := range data {
		flipped := slices.Clone(data)
		flipped[i] ^= 1
		a, err := Parse(flipped)
		if err == nil {
			_, err = Check(among, act, []Approval{a})
		}
		if !errors.Is(err, ErrApproval) {
			t.Fatalf("octet %d flipped: %v", i, err)
		}
	}
}

// One person under two names is refused before anything is counted.
func TestOneKeyUnderTwoNames(t *testing.T) {
	members, keys := people(t, 2)
	alias, err := NewOperator("alias", keys[0].Public())
	if err != nil {
		t.Fatal(err)
	}
	act := sample()
	both := []Approval{sign(t, act, members[0].Name, keys[0]), sign(t, act, "alias", keys[0])}
	if _, err := Check(Operators{2, []Operator{members[0], alias}}, act, both); !errors.Is(err, ErrOperator) || !strings.Contains(err.Error(), "have one key") {
		t.Fatal(err)
	}
	if _, err := Check(Operators{2, members}, act, both); !errors.Is(err, ErrApproval) {
		t.Fatal(err)
	}
	for name, among := range map[string]Operators{"nobody": {1, nil}, "threshold 0": {0, members}, "threshold 3": {3, members}, "a name twice": {1, []Operator{members[0], {members[0].Name, members[1].PublicKey}}}} {
		if _, err := Check(among, act, both[:1]); !errors.Is(err, ErrOperator) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A text that people would read in two ways is no act.
func TestActs(t *testing.T) {
	good := sample()
	if a, err := ParseAct([]byte(good.Text())); err != nil || a.Text() != good.Text() {
		t.Fatal(a, err)
	}
	for name, a := range map[string]Act{
		"no lines":      {"k", "d", "", nil},
		"empty line":    {"k", "d", "", []string{"a", ""}},
		"two in one":    {"k", "d", "", []string{"a\nb"}},
		"control":       {"k", "d", "", []string{"a\x1b[2Kb"}},
		"right to left": {"k", "d", "", []string{"a\u202eb"}},
		"blank end":     {"k", "d", "", []string{"a "}},
		"kind":          {"Two words", "d", "", []string{"a"}},
		"domain":        {"k", "d\n", "", []string{"a"}},
		"proposer":      {"k", "d", "Alice", []string{"a"}},
		"long":          {"k", "d", "", []string{strings.Repeat("a", maxLine+1)}},
	} {
		if _, err := Check(Operators{}, a, nil); err == nil {
			t.Errorf("%s passes", name)
		}
		if err := a.check(); !errors.Is(err, ErrAct) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, s := range []string{"plain", "with blank", "", " x", "a\nb", "\u202e", "ä", `"q"`} {
		if v := Value(s); !plain(v) {
			t.Errorf("%q becomes %q", s, v)
		}
	}
}

// The octets approvals of ceremony plans cover are those they always covered.
func TestStatementOctets(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	type statement struct {
		Format string    `json:"format"`
		Kind   string    `json:"kind"`
		Time   time.Time `json:"time"`
		After  string    `json:"after"`
	}
	v := statement{"redoubt-ceremony-approval/v1", "rotate", time.Unix(0, 0).UTC(), "<&>"}
	sig, err := SignStatement(v.Format, v, key)
	if err != nil {
		t.Fatal(err)
	}
	message := "redoubt-ceremony-approval/v1\n" + `{"after":"<&>","format":"redoubt-ceremony-approval/v1","kind":"rotate","time":"1970-01-01T00:00:00Z"}`
	if !ed25519.Verify(key.Public().(ed25519.PublicKey), []byte(message), sig) {
		t.Fatal("the octets under a statement's signature changed")
	}
}

// An act is done once.
func TestSpend(t *testing.T) {
	db, err := bolt.Create(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	spend := func(a Act) error {
		return db.Update(func(tx store.Tx) error { return Spend(tx, a, []string{"alice", "bob"}, time.Now()) })
	}
	other := sample()
	other.Lines = append(other.Lines, "again")
	if err := errors.Join(spend(sample()), spend(other)); err != nil {
		t.Fatal(err)
	}
	if err := spend(sample()); !errors.Is(err, ErrSpent) || !strings.Contains(err.Error(), "alice, bob") {
		t.Fatal(err)
	}
}

func FuzzAct(f *testing.F) {
	f.Add([]byte(sample().Text()))
	f.Add([]byte("redoubt.act/v1 k\ndomain d\nproposer alice\na\n"))
	f.Add([]byte("redoubt.act/v1 k\ndomain d\nproposer -\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ParseAct(data)
		if err == nil && a.Text() != string(data) {
			t.Fatal("two spellings")
		}
	})
}

func FuzzApproval(f *testing.F) {
	members, keys := people(f, 1)
	data, err := Encode(sign(f, sample(), members[0].Name, keys[0]))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"statement":{},"signature":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := Parse(data)
		if err != nil {
			return
		}
		if again, err := a.Encode(); err != nil || string(again) != string(data) {
			t.Fatalf("two spellings: %v", err)
		}
	})
}
