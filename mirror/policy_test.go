package mirror

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"redoubt.internal/mirror/parcel"
)

// witnessKey is the verifier key of a test's witness: cosignature/v1 under name, with the key of labKey(n).
func witnessKey(t testing.TB, name string, n byte) string {
	t.Helper()
	v, err := parcel.NewVerifier(mustKey(t, name, n))
	if err != nil {
		t.Fatal(err)
	}
	c, ok := v.Cosigner()
	if !ok {
		t.Fatal("no cosigner")
	}
	return c.VKey()
}

// threePolicy needs two of the three witnesses with keys 21, 22 and 23.
func threePolicy(t testing.TB) string {
	var b strings.Builder
	for i := range byte(3) {
		fmt.Fprintf(&b, "witness W%d %s https://w%d.example/\n", i+1, witnessKey(t, fmt.Sprintf("w%d.example", i+1), 21+i), i+1)
	}
	return b.String() + "group two 2 W1 W2 W3\nquorum two\n"
}

// TestPolicy evaluates the rules of C2SP tlog-policy against every set of cosigners.
func TestPolicy(t *testing.T) {
	var head strings.Builder
	names := []string{"X1", "X2", "X3", "Y1", "Y2", "Y3"}
	for i, n := range names {
		fmt.Fprintf(&head, "witness %s\t%s\n", n, witnessKey(t, n+".example", byte(31+i)))
	}
	groups := "group X-witnesses 2 X1 X2 X3\n  group Y-witnesses any Y1 Y2 Y3  \n\n# both\ngroup X-and-Y all X-witnesses Y-witnesses\n"
	for quorum, want := range map[string]func(x, y int, s map[int]bool) bool{
		"X-and-Y":     func(x, y int, _ map[int]bool) bool { return x >= 2 && y >= 1 },
		"X-witnesses": func(x, _ int, _ map[int]bool) bool { return x >= 2 },
		"Y2":          func(_, _ int, s map[int]bool) bool { return s[4] },
		"none":        func(int, int, map[int]bool) bool { return true },
	} {
		p, err := ParsePolicy([]byte(head.String() + groups + "quorum " + quorum + "\n"))
		if err != nil || len(p.Witnesses) != 6 {
			t.Fatal(quorum, err)
		}
		for set := range 1 << 6 {
			s, x, y := make(map[int]bool), 0, 0
			for i := range 6 {
				if s[i] = set>>i&1 == 1; s[i] && i < 3 {
					x++
				} else if s[i] {
					y++
				}
			}
			if got := p.quorum == nil || p.quorum.satisfied(s); got != want(x, y, s) {
				t.Fatalf("quorum %s by %06b: %v", quorum, set, got)
			}
		}
	}
}

// TestPolicyRefusals: every line that the specification does not allow is refused, with its number.
func TestPolicyRefusals(t *testing.T) {
	w1, w2 := witnessKey(t, "w1.example", 21), witnessKey(t, "w2.example", 22)
	two := "witness A " + w1 + "\nwitness B " + w2 + "\n"
	for _, c := range []struct{ why, text string }{
		{"no quorum", two},
		{"two quorums", two + "quorum A\nquorum B\n"},
		{"unknown quorum", two + "quorum C\n"},
		{"quorum before its definition", "quorum A\n" + two},
		{"one name twice", "witness A " + w1 + "\nwitness A " + w2 + "\nquorum A\n"},
		{"a witness called none", "witness none " + w1 + "\nquorum none\n"},
		{"one key twice", "witness A " + w1 + "\nwitness B " + w1 + "\nquorum none\n"},
		{"one key under two names", "witness A " + w1 + "\nwitness B " + witnessKey(t, "other.example", 21) + "\nquorum none\n"},
		{"one key of two types", "witness A " + w1 + "\nwitness B " + mustKey(t, "w1.example", 21) + "\nquorum none\n"},
		{"one log twice", "log " + mustKey(t, "a.example", 5) + "\nlog " + mustKey(t, "b.example", 5) + "\nquorum none\n"},
		{"a member of two groups", two + "group g any A B\ngroup h any A\nquorum g\n"},
		{"a member twice", two + "group g 2 A A\nquorum g\n"},
		{"none as a member", two + "group g any none\nquorum g\n"},
		{"itself as a member", two + "group g any g\nquorum g\n"},
		{"0 of 2", two + "group g 0 A B\nquorum g\n"},
		{"3 of 2", two + "group g 3 A B\nquorum g\n"},
		{"02 of 2", two + "group g 02 A B\nquorum g\n"},
		{"a group of nobody", two + "group g any\nquorum g\n"},
		{"another line", two + "witnesses A\nquorum A\n"},
		{"a line too long", two + "quorum A B\n"},
		{"a carriage return", two + "quorum A\r\n"},
		{"a wrong key id", "witness A " + strings.Replace(w1, "+", "+0", 1) + "\nquorum A\n"},
		{"no key", "witness A w1.example\nquorum A\n"},
		{"an ML-DSA key", "witness A w+00000000+Bg==\nquorum A\n"},
		{"too much", strings.Repeat("#\n", maxPolicy)},
	} {
		if _, err := ParsePolicy([]byte(c.text)); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

// FuzzPolicy: a policy that is read counts a witness once, and nobody's silence satisfies a quorum other than none.
func FuzzPolicy(f *testing.F) {
	f.Add(threePolicy(f))
	f.Add("log " + mustKey(f, "log.example", 4) + "\nquorum none\n")
	f.Add("witness a " + witnessKey(f, "a", 21) + "\ngroup g all a\ngroup h any g\nquorum h\n")
	f.Add("quorum none")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePolicy([]byte(s))
		if err != nil {
			if !errors.Is(err, ErrPolicy) {
				t.Fatal(err)
			}
			return
		}
		keys := make(map[string]bool)
		all := make(map[int]bool)
		for i, w := range p.Witnesses {
			if k := string(w.Cosigner.Key()); keys[k] {
				t.Fatalf("%q is a second name of one key", w.Name)
			} else {
				keys[k], all[i] = true, true
			}
		}
		if p.quorum != nil && (p.quorum.satisfied(nil) || !p.quorum.satisfied(all)) {
			t.Fatal("a quorum of nobody, or one that cannot be reached")
		}
	})
}
