package mirror

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/generate"
)

// strangeLab is a lab of which the inside does not know the log, and has one parcel of it in quarantine.
func strangeLab(t *testing.T) (*lab, *generate.Log, LogConfig) {
	t.Helper()
	g, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300, 700, 900}})
	show(t, g, 700)
	l := newLab(t, c)
	l.mc.Logs = nil
	l.reopen()
	l.pull()
	if _, err := l.in.Import(t.Context(), l.export(0)); ExitCode(err) != 60 {
		t.Fatal(err)
	}
	return l, g, c
}

// TestReleaseOnPeoplesWord: people name the key of a log that nothing explains; from then on it is believed by that key, also by a
// mirror that is opened again.
func TestReleaseOnPeoplesWord(t *testing.T) {
	l, g, c := strangeLab(t)
	if _, err := l.in.ReleaseText(t.Context(), c.Origin, ""); ExitCode(err) != 60 {
		t.Fatal("released without a key", err)
	}
	if _, err := l.in.ReleaseText(t.Context(), "other.example", c.VKey); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	text, err := l.in.ReleaseText(t.Context(), c.Origin, c.VKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"origin log.example", "key " + c.VKey, "on the word of", "parcel 1 ", "from 0 to 700 ", "sha256:"} {
		if !strings.Contains(strings.Join(text, "\n"), want) {
			t.Errorf("the text does not say %q: %q", want, text)
		}
	}
	wrong := mustKey(t, c.Origin, 5)
	other, err := l.in.ReleaseText(t.Context(), c.Origin, wrong)
	if err != nil {
		t.Fatal(err)
	}
	before := l.fingerprint()
	if _, err := l.in.ReleaseAgreed(t.Context(), c.Origin, wrong, other, nil, nothing); ExitCode(err) != 60 {
		t.Fatal("another key was believed", err)
	}
	if _, err := l.in.ReleaseAgreed(t.Context(), c.Origin, c.VKey, other, nil, nothing); !errors.Is(err, ErrChanged) {
		t.Fatal(err)
	}
	spent := errors.New("spent")
	if _, err := l.in.ReleaseAgreed(t.Context(), c.Origin, c.VKey, text, nil, func(store.Tx) error { return spent }); !errors.Is(err, spent) {
		t.Fatal(err)
	}
	if l.fingerprint() != before {
		t.Fatal("what was not agreed on moved the state")
	}
	steps, err := l.in.ReleaseAgreed(t.Context(), c.Origin, c.VKey, text, []string{"alice", "bob"}, nothing)
	if err != nil || len(steps) != 1 || steps[0].To != 700 {
		t.Fatal(err, steps)
	}
	l.reopen()
	show(t, g, 900)
	l.pull()
	l.load(l.export(0))
	if r, err := l.in.Reconcile(t.Context()); err != nil || r.Err() != nil || r.Logs[0].Size != 900 {
		t.Fatal(err, r.Err())
	}
}

// TestReleaseProves: people's word replaces no proof. What was changed since they looked is another act; what never proved stays.
func TestReleaseProves(t *testing.T) {
	l, _, c := strangeLab(t)
	text, err := l.in.ReleaseText(t.Context(), c.Origin, c.VKey)
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(l.mc.Dir, "quarantine", "*", "*", "tile", "entries", "*"))
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], flipped(b), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.in.ReleaseAgreed(t.Context(), c.Origin, c.VKey, text, nil, nothing); !errors.Is(err, ErrChanged) {
		t.Fatal(err)
	}
	again, err := l.in.ReleaseText(t.Context(), c.Origin, c.VKey)
	if err != nil || slices.Equal(again, text) {
		t.Fatal("the digest of the files is not of the files", err)
	}
	if _, err := l.in.ReleaseAgreed(t.Context(), c.Origin, c.VKey, again, []string{"alice", "bob"}, nothing); ExitCode(err) != 31 {
		t.Fatal(err)
	}
	if _, err := l.in.Head(c.Origin); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if q, err := l.in.Quarantine(); err != nil || len(q) != 1 {
		t.Fatal(err, q)
	}
}
