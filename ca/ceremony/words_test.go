package ceremony

import (
	"slices"
	"testing"
)

func TestAloud(t *testing.T) {
	// The example that PGPfone's users know: a key fingerprint of 20 octets.
	got, err := Aloud("e58294f2e9a227486e8b061b31cc528fd7fa3f19")
	if err != nil {
		t.Fatal(err)
	}
	want := `e582 94f2 e9a2 2748   topmost Istanbul Pluto vagabond treadmill Pacific brackish dictator
6e8b 061b 31cc 528f   goldfish Medusa afflict bravado chatter revolver Dupont midsummer
d7fa 3f19   stopwatch whimsical cowbell bottomless
`
	if got != want {
		t.Errorf("got\n%s", got)
	}
	all := slices.Concat(twoSyllables, threeSyllables)
	if len(twoSyllables) != 256 || len(threeSyllables) != 256 {
		t.Fatalf("%d and %d words", len(twoSyllables), len(threeSyllables))
	}
	for i, w := range all {
		if slices.Contains(all[:i], w) {
			t.Errorf("%s is there twice", w)
		}
	}
	if _, err := Aloud("no digest"); err == nil {
		t.Error("read what is no digest")
	}
}
