package mirror

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

var growing = generate.Config{Seed: 4, Origin: "growing.example", Sizes: []uint64{1, 255, 256, 257, 700, 701, 1500, 70_000}}

// TestSparseLog carries single records of a growing log, some with each parcel, and proves each at every later head.
func TestSparseLog(t *testing.T) {
	g, c := makeLog(t, growing)
	c.Scope = parcel.ScopeSparse
	l := newLab(t, c)
	r := rand.New(rand.NewChaCha8([32]byte{7}))
	var want []uint64
	for n, size := range growing.Sizes {
		show(t, g, size)
		for range n {
			c.Records = append(c.Records, r.Uint64N(size))
		}
		l.ec.Logs = []LogConfig{c}
		l.reopen()
		l.pull()
		files := l.export(0)
		l.load(files)
		l.load(files) // again: no change
		want = slices.Compact(slices.Sorted(slices.Values(c.Records)))
		got, err := l.in.Records(c.Origin)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%v: %v instead of %v", err, got, want)
		}
		for _, i := range want {
			leaf, proof, head, err := l.in.Inclusion(t.Context(), c.Origin, i)
			if err != nil || head.Size != size {
				t.Fatal(i, size, err)
			}
			proven(t, i, head, leaf, proof)
			if r, err := l.in.Record(c.Origin, i); err != nil || tiles.LeafHash(r.Leaf) != leaf {
				t.Fatal(i, err)
			}
		}
		for _, s := range growing.Sizes[:n+1] {
			if _, _, _, err := l.in.Consistency(t.Context(), c.Origin, s); err != nil {
				t.Fatal(s, size, err)
			}
		}
	}
	rep, err := l.in.Reconcile(t.Context())
	if err != nil || rep.Err() != nil || rep.Logs[0].Leaves != uint64(len(want)) || rep.Logs[0].Heads != uint64(len(growing.Sizes)) {
		t.Fatalf("%v, %v, %+v", err, rep.Err(), rep)
	}
	if _, err := l.in.Record(c.Origin, want[0]+1); !errors.Is(err, ErrNotFound) && !slices.Contains(want, want[0]+1) {
		t.Fatal(err)
	}
	// A record that changes on the shelf is found.
	name := filepath.Join(l.mc.Dir, logDir(c.Origin), recordName(want[3]))
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[9] ^= 1
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if rep, err = l.in.Reconcile(t.Context()); err != nil || ExitCode(rep.Err()) != 31 {
		t.Fatal(err, rep.Err())
	}
}

// TestSpineLog carries no entries, and proves every step.
func TestSpineLog(t *testing.T) {
	g, c := makeLog(t, growing)
	c.Scope = parcel.ScopeSpine
	l := newLab(t, c)
	for n, size := range growing.Sizes {
		show(t, g, size)
		l.pull()
		l.load(l.export(0))
		for _, s := range growing.Sizes[:n+1] {
			if _, _, h, err := l.in.Consistency(t.Context(), c.Origin, s); err != nil || h.Size != size {
				t.Fatal(s, size, err)
			}
		}
		if _, err := l.in.Tile(c.Origin, tiles.Tile{Level: tiles.Entries, Width: 1}); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		if _, _, _, err := l.in.Inclusion(t.Context(), c.Origin, 0); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	}
	if b, err := l.in.Tile(c.Origin, tiles.Tile{Level: 1, Index: 0, Width: 256}); err != nil || len(b) != 256*32 {
		t.Fatal(err)
	}
	rep, err := l.in.Reconcile(t.Context())
	if err != nil || rep.Err() != nil || rep.Logs[0].Heads != uint64(len(growing.Sizes)) || rep.Logs[0].Tiles == 0 {
		t.Fatalf("%v, %v, %+v", err, rep.Err(), rep)
	}
}

// TestForkAtEveryScope: a log forks at a random entry; whatever the scope, the step is refused with evidence that stands by itself
// and the head stays: outside, and inside when the exporter did not notice.
func TestForkAtEveryScope(t *testing.T) {
	r, detected := rand.New(rand.NewChaCha8([32]byte{9})), 0
	for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSparse, parcel.ScopeSpine} {
		for range 8 {
			at := 1 + r.Uint64N(699)
			good, bad := growing, growing
			good.Sizes, bad.Sizes, bad.ForkAt = []uint64{700, 1500}, []uint64{700, 1500}, at
			gl, gc := makeLog(t, good)
			bl, bc := makeLog(t, bad)
			gc.Scope, bc.Scope = scope, scope
			if scope == parcel.ScopeSparse {
				gc.Records, bc.Records = []uint64{3, 400}, []uint64{3, 400, 900}
			}
			show(t, gl, 700)
			show(t, bl, 1500)
			l := newLab(t, gc)
			l.pull()
			l.load(l.export(0))
			// The exporter notices.
			l.ec.Logs = []LogConfig{bc}
			l.reopen()
			if _, err := l.out.Pull(t.Context()); ExitCode(err) != 30 {
				t.Fatalf("%s, fork at %d: the exporter: %v", scope, at, err)
			}
			// One that only knows the other history does not, but the inside does.
			liar(t, l, bc)
			l.reopen()
			l.pull()
			files := l.export(0)
			before, _ := l.in.Head(gc.Origin)
			_, err := l.in.Import(t.Context(), files)
			var fork *ForkError
			if ExitCode(err) != 30 || !errors.As(err, &fork) {
				t.Fatalf("%s, fork at %d: %v", scope, at, err)
			}
			data, err := os.ReadFile(fork.Evidence)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := CheckEvidence(data, gc); err != nil {
				t.Fatalf("%s, fork at %d: the evidence does not stand: %v", scope, at, err)
			}
			if after, err := l.in.Head(gc.Origin); err != nil || after.Size != 700 || after.Root != before.Root {
				t.Fatal("the head moved", err)
			}
			detected++
		}
	}
	t.Logf("%d forks of %d", detected, detected)
}
