package mirror

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"redoubt.internal/mirror/parcel"
)

// TestRealCheckpointsAreObserved shows the mirror 16 real checkpoints of Rekor v1 in shuffled order, several times over. All are
// signed, most by a witness too, and none is proven consistent with another, so none is ever called so.
func TestRealCheckpointsAreObserved(t *testing.T) {
	ctx := context.Background()
	c, witnesses, notes := realWitnesses(t)
	c.Scope = parcel.ScopeSparse
	for i, w := range witnesses {
		c.Witnesses += "witness W" + string(rune('0'+i)) + " " + w + "\n"
	}
	c.Witnesses += "group any any W0 W1 W2 W3\nquorum any\n"
	for seed := range uint64(3) {
		l := newLab(t, c)
		order := rand.New(rand.NewPCG(seed, 0)).Perm(len(notes))
		for round := range 2 {
			for _, i := range order {
				s, err := l.in.ObserveCheckpoint(ctx, notes[i], "a distributor")
				if err != nil || s.State != Observed {
					t.Fatalf("checkpoint %d in round %d is %q: %v", i, round, s.State, err)
				}
			}
		}
		all, err := l.in.Sightings()
		if err != nil || len(all) != len(notes) {
			t.Fatal(len(all), err)
		}
		lines := 0
		for i, s := range all {
			if s.State != Observed || !s.Settled.IsZero() || i > 0 && all[i-1].Size >= s.Size {
				t.Fatalf("%+v", s)
			}
			lines += len(s.Witnesses)
		}
		if lines != 19 {
			t.Fatalf("%d cosignatures", lines)
		}
		if _, err := l.in.Head(c.Origin); !errors.Is(err, ErrNotFound) {
			t.Fatal("a sighting became a head:", err)
		}
	}
	t.Logf("%d checkpoints, 3 orders, each twice: all observed, none consistent", len(notes))
	// Negative controls: another shard of the same key, a foreign key, a digit changed.
	l := newLab(t, c)
	for why, n := range map[string][]byte{
		"another shard": bytes.Replace(notes[0], []byte("2605736670972794746"), []byte("1193050959916656506"), 1),
		"a digit":       bytes.Replace(notes[0], []byte("\n19095610\n"), []byte("\n19095611\n"), 1),
		"no note":       []byte("rekor\n1\n"),
	} {
		if s, err := l.in.ObserveCheckpoint(ctx, n, why); err == nil {
			t.Errorf("%s is taken: %+v", why, s)
		}
	}
	if all, err := l.in.Sightings(); err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
}

// TestSightingsSettle: a checkpoint ahead of the mirror is observed, and consistent once an import has proven it, at every scope
// that can; below the head it is consistent at once.
func TestSightingsSettle(t *testing.T) {
	ctx := context.Background()
	for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSpine, parcel.ScopeSparse} {
		t.Run(scope, func(t *testing.T) {
			c := tinyLog(t, 100, 256, 700, 1500, 2000)
			c.Scope = scope
			l := newLab(t, c)
			setCheckpoint(t, c.Source, 700)
			l.pull()
			l.load(l.export(0))
			see := func(size uint64) Sighting {
				t.Helper()
				s, err := l.in.ObserveCheckpoint(ctx, readFile(t, c.Source, size), "a witness")
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			if s := see(700); s.State != Consistent {
				t.Fatalf("our own head is %s", s.State)
			}
			wantOld := Observed // nothing but a whole copy, or the right subtrees, gives the root of a size nobody carried
			if scope == parcel.ScopeFull {
				wantOld = Consistent
			}
			if s := see(100); s.State != wantOld {
				t.Fatalf("a size below the head is %s", s.State)
			}
			if s := see(1500); s.State != Observed {
				t.Fatalf("a size ahead is %s", s.State)
			}
			setCheckpoint(t, c.Source, 1500)
			l.pull()
			l.load(l.export(0))
			for _, s := range must(l.in.Sightings()) {
				if s.Size == 1500 && (s.State != Consistent || s.Settled.IsZero()) {
					t.Fatalf("the import did not settle it: %+v", s)
				}
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestSightingsOfAFork freezes a log when a second history of it is seen: at a size of ours, below it, among sightings alone, and
// ahead, when the import comes that proves it.
func TestSightingsOfAFork(t *testing.T) {
	ctx := context.Background()
	fork := signedLog(t, 4, 500, 300, 600, 700, 1500)
	frozen := func(t *testing.T, l *lab, c LogConfig, err error) {
		t.Helper()
		var f *ForkError
		if ExitCode(err) != 30 || !errors.As(err, &f) {
			t.Fatal(err)
		}
		data, rerr := os.ReadFile(f.Evidence)
		if rerr != nil {
			t.Fatal(rerr)
		}
		if _, err := CheckEvidence(data, c); err != nil {
			t.Fatal(err)
		}
		st, err := l.in.Status(ctx)
		if err != nil || st.Logs[0].Frozen == nil {
			t.Fatalf("%+v, %v", st, err)
		}
	}
	at := func(t *testing.T, sizes ...uint64) (*lab, LogConfig) {
		c := tinyLog(t, 300, 600, 700, 1500)
		l := newLab(t, c)
		for _, s := range sizes {
			setCheckpoint(t, c.Source, s)
			l.pull()
			l.load(l.export(0))
		}
		return l, c
	}
	t.Run("same size", func(t *testing.T) {
		l, c := at(t, 700)
		_, err := l.in.ObserveCheckpoint(ctx, readFile(t, fork.Source, 700), "x")
		frozen(t, l, c, err)
	})
	t.Run("below", func(t *testing.T) {
		l, c := at(t, 700)
		if s, err := l.in.ObserveCheckpoint(ctx, readFile(t, fork.Source, 300), "x"); err != nil || s.State != Consistent {
			t.Fatal("both histories agree up to 500 leaves", s, err)
		}
		_, err := l.in.ObserveCheckpoint(ctx, readFile(t, fork.Source, 600), "x")
		frozen(t, l, c, err)
	})
	t.Run("older head", func(t *testing.T) {
		l, c := at(t, 700, 1500)
		_, err := l.in.ObserveCheckpoint(ctx, readFile(t, fork.Source, 700), "x")
		frozen(t, l, c, err)
	})
	t.Run("sightings alone", func(t *testing.T) {
		l, c := at(t)
		for i, n := range [][]byte{readFile(t, fork.Source, 1500), readFile(t, c.Source, 1500)} {
			s, err := l.in.ObserveCheckpoint(ctx, n, "x")
			if i == 0 && (err != nil || s.State != Observed) {
				t.Fatal(s, err)
			}
			if i == 1 {
				frozen(t, l, c, err)
			}
		}
	})
	t.Run("ahead", func(t *testing.T) {
		l, c := at(t, 300)
		if s, err := l.in.ObserveCheckpoint(ctx, readFile(t, fork.Source, 600), "x"); err != nil || s.State != Observed {
			t.Fatal(s, err)
		}
		setCheckpoint(t, c.Source, 700)
		l.pull()
		r, err := l.in.Import(ctx, l.export(0))
		if len(r.Transfers) != 1 {
			t.Fatal(r)
		}
		frozen(t, l, c, err)
		for _, s := range must(l.in.Sightings()) {
			if s.State != Conflict || s.Evidence == "" {
				t.Fatalf("%+v", s)
			}
		}
	})
}

// TestCompareEnclaves lets three enclaves that import one stream compare receipts and files of heads.
func TestCompareEnclaves(t *testing.T) {
	ctx := context.Background()
	c := tinyLog(t, 300, 700, 1500)
	fork := signedLog(t, 4, 500, 300, 700, 1500)
	site := func(n byte, name string, c LogConfig, sizes ...uint64) *lab {
		l := newLab(t, c)
		l.mc.Signer, l.mc.Name = labKey(n), name
		for _, k := range []byte{9, 10, 11} {
			l.mc.Peers = append(l.mc.Peers, mustKey(t, map[byte]string{9: "one", 10: "two", 11: "three"}[k], k))
		}
		l.reopen()
		for _, s := range sizes {
			setCheckpoint(t, c.Source, s)
			l.pull()
			l.load(l.export(0))
		}
		return l
	}
	heads := func(l *lab) []byte { return must(l.in.HeadsFile(must(l.in.Heads()))) }
	receipt := func(l *lab) []byte { r, _ := l.receipt(); return r }
	one, two, three := site(9, "one", c, 300, 700), site(10, "two", c, 300, 700, 1500), site(11, "three", fork, 300, 700)
	for _, x := range []struct {
		name     string
		by       *lab
		of       []byte
		stands   string
		code     int
		cosigned bool
	}{
		{"two of one by receipt", two, receipt(one), StandsSame, 0, true},
		{"two of one by heads", two, heads(one), StandsSame, 0, true},
		{"one of two by receipt", one, receipt(two), StandsAhead, 0, false},
		{"one of two by heads", one, heads(two), StandsAhead, 0, true},
		{"one of itself", one, heads(one), StandsSame, 0, true},
		{"two of three by heads", two, heads(three), StandsConflict, 30, true},
		{"one of three by receipt", one, receipt(three), StandsConflict, 30, false},
	} {
		r, err := x.by.in.Compare(ctx, x.of, "a courier")
		if ExitCode(err) != x.code || len(r.Heads) != 1 || r.Heads[0].Stands != x.stands || r.Heads[0].Cosigned.IsZero() == x.cosigned {
			t.Fatalf("%s: %+v, %v", x.name, r, err)
		}
		if x.code != 30 {
			continue
		}
		data := must(os.ReadFile(r.Heads[0].Evidence))
		e, err := CheckEvidence(data, c, x.by.mc.Peers...)
		if err != nil {
			t.Fatal(x.name, err)
		}
		if byLogAlone := e.Claim == ""; byLogAlone != (x.name == "two of three by heads") {
			t.Fatalf("%s: %+v", x.name, e)
		}
	}
	// What one could not tell of two's receipt is settled when its own parcel comes; it is frozen by now, so a fresh site does.
	late := site(9, "one", c, 300)
	if r, err := late.in.Compare(ctx, receipt(three), "a courier"); err != nil || r.Heads[0].Stands != StandsAhead {
		t.Fatalf("%+v, %v", r, err)
	}
	setCheckpoint(t, c.Source, 1500)
	late.pull()
	if _, err := late.in.Import(ctx, late.export(0)); ExitCode(err) != 30 {
		t.Fatal("a peer's word is forgotten:", err)
	}
	// Whose key is not pinned, and what was changed on the way, is not believed.
	stranger := site(12, "four", c, 300)
	if _, err := two.in.Compare(ctx, heads(stranger), "x"); ExitCode(err) != 61 {
		t.Fatal(err)
	}
	good := heads(one)
	for why, b := range map[string][]byte{
		"a root of the list":  bytes.Replace(good, []byte(" ok log.example"), []byte(" fork log.example"), 1),
		"a missing end":       good[:len(good)-1],
		"a checkpoint twice":  append(bytes.Clone(good), good[bytes.Index(good, []byte("checkpoint ")):]...),
		"another checkpoint":  bytes.Replace(good, []byte("\n700\n"), []byte("\n701\n"), 1),
		"a list after a list": append(bytes.Clone(good), good...),
	} {
		if r, err := two.in.Compare(ctx, b, "x"); err == nil {
			t.Errorf("%s: %+v", why, r)
		}
	}
	if _, err := two.in.Compare(ctx, readFile(t, c.Source, 1500), "x"); err != nil {
		t.Error("a bare checkpoint:", err)
	}
	lone := site(9, "one", c, 300)
	lone.mc.Peers = nil
	lone.reopen()
	if _, err := lone.in.Compare(ctx, receipt(two), "x"); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
}
