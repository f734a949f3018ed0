package backup

import (
	"bytes"
	"crypto/fips140"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every file of a backup is flipped in one bit, cut short, emptied and taken away, one at a time. Nothing of it may pass, and nothing
// may be restored that opens.
func TestDamage(t *testing.T) {
	identity, recipient := custodian(t)
	for name, sealed := range modes() {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			c := s.reading()
			if sealed {
				s.c.Plain, s.c.Recipients, c.Identities = false, []string{recipient}, []string{identity}
			}
			s.add(20)
			s.create()
			s.add(3)
			s.create()
			files := snapshotOf(t, s.c.To)
			tried := 0
			for path, good := range files {
				damaged := map[string][]byte{"emptied": {}, "taken away": nil}
				for _, at := range []int{0, len(good) / 3, len(good) / 2, len(good) - 1} {
					flipped := slices.Clone(good)
					flipped[at] ^= 1 << (at % 8)
					damaged["flipped at "+string(rune('0'+len(damaged)))] = flipped
					damaged["cut "+string(rune('0'+len(damaged)))] = good[:at]
				}
				for how, data := range damaged {
					os.Remove(path)
					if data != nil {
						check(t, os.WriteFile(path, data, 0o640))
					}
					newest := strings.HasSuffix(path, runFile(2)) && data == nil // what was never there cannot be missed; its objects are
					if r, err := Verify(t.Context(), c); err == nil && !(newest && r.Strays > 0) {
						t.Errorf("%s %s: it verified", filepath.Base(path), how)
					}
					dir := filepath.Join(t.TempDir(), "x")
					if _, err := Restore(t.Context(), c, dir); err == nil && !newest {
						if !strings.Contains(path, "/objects/") {
							t.Errorf("%s %s: it was restored", filepath.Base(path), how)
						}
						// An object of a run that another one replaced is not needed; what was needed was restored whole.
						s.whole(dir, 23)
					} else if _, err := os.Stat(filepath.Join(dir, configFile)); err == nil && !newest {
						t.Errorf("%s %s: restore failed and left a configuration", filepath.Base(path), how)
					}
					tried++
				}
				os.Remove(path)
				check(t, os.WriteFile(path, good, 0o640))
			}
			if _, err := Verify(t.Context(), c); err != nil {
				t.Fatalf("the control, undamaged: %v", err)
			}
			t.Logf("%d damages of %d files", tried, len(files))
		})
	}
}

// A run into a damaged folder says so and adds nothing; a manifest of another key, and a run taken out of the middle, are refused.
func TestForeign(t *testing.T) {
	s, other := newSite(t), newSite(t)
	s.add(3)
	s.create()
	other.c.To = s.c.To
	if _, err := Create(t.Context(), other.c); !errors.Is(err, ErrForeign) {
		t.Fatalf("another appliance's run: %v", err)
	}
	c := s.reading()
	c.Appliance = other.reading().Appliance
	if _, err := Verify(t.Context(), c); !errors.Is(err, ErrForeign) {
		t.Fatalf("another appliance was named: %v", err)
	}
	s.add(1)
	s.create()
	s.add(1)
	s.create()
	note, err := os.ReadFile(filepath.Join(s.c.To, runFile(2)))
	check(t, err)
	check(t, os.Remove(filepath.Join(s.c.To, runFile(2))))
	if _, err := Verify(t.Context(), s.reading()); !errors.Is(err, ErrDamaged) {
		t.Fatalf("without the second of three runs: %v", err)
	}
	if _, err := Create(t.Context(), s.c); !errors.Is(err, ErrDamaged) {
		t.Fatalf("a run on top of a missing one: %v", err)
	}
	check(t, os.WriteFile(filepath.Join(s.c.To, runFile(2)), note, 0o440))
	for path := range snapshotOf(t, filepath.Join(s.c.To, "objects")) {
		check(t, os.Truncate(path, 10))
	}
	if _, err := Create(t.Context(), s.c); !errors.Is(err, ErrDamaged) {
		t.Fatalf("a run on top of cut objects: %v", err)
	}
	if r, err := openRepository(s.c.To); err != nil || r.runs != 3 {
		t.Fatalf("a refused run was added: %v", err)
	}
}

// A restore touches nothing that is there, and a key that is no recipient's opens nothing.
func TestRefusals(t *testing.T) {
	if fips140.Enforced() {
		t.Skip("NOT TESTED: FIPS 140-3 mode: nothing is sealed in it, so nobody has a key")
	}
	_, recipient, err := NewKey()
	check(t, err)
	stranger, _, err := NewKey()
	check(t, err)
	identity := filepath.Join(t.TempDir(), "stranger")
	check(t, os.WriteFile(identity, stranger, 0o600))
	s := newSite(t)
	s.c.Plain, s.c.Recipients = false, []string{recipient}
	s.add(2)
	s.create()
	c := s.reading()
	c.Identities = []string{identity}
	if _, err := Verify(t.Context(), c); !errors.Is(err, ErrKey) {
		t.Fatalf("opened by a stranger: %v", err)
	}
	before := snapshotOf(t, s.dir)
	if _, err := Restore(t.Context(), c, s.dir); err == nil {
		t.Fatal("restored over live data")
	}
	for path, data := range snapshotOf(t, s.dir) {
		if !bytes.Equal(before[path], data) {
			t.Fatalf("%s changed", path)
		}
	}
	s.c.Recipients = nil
	if _, err := Create(t.Context(), s.c); !errors.Is(err, ErrRecipients) {
		t.Fatalf("sealed for nobody: %v", err)
	}
	for path, data := range snapshotOf(t, s.c.To) {
		if bytes.Contains(data, []byte("entry 0")) || bytes.Contains(data, []byte("beside")) {
			t.Fatalf("%s shows what is sealed", path)
		}
	}
}
