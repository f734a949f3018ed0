package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/tiles"
)

// TestReconcileNamesForkAndGap is the whole story: two imports, then a parcel with a fork, then one that leaves a gap. The
// signed report names both, and the exit code is that of the fork.
func TestReconcileNamesForkAndGap(t *testing.T) {
	ctx := context.Background()
	good, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300, 700}})
	forked, fc := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{700, 1500}, ForkAt: 500})
	other, oc := makeLog(t, generate.Config{Seed: 2, Origin: "other.example", Sizes: []uint64{10, 20, 30, 40, 50}})
	c.MaxAge, oc.MaxAge = 24*time.Hour, 24*time.Hour
	l := newLab(t, c, oc)
	var events []string
	l.mc.Record = func(_ context.Context, e Event, with func(store.Tx) error) error {
		events = append(events, e.Action+" "+e.Outcome)
		return l.inDB.Update(with)
	}
	l.reopen()
	for i, size := range []uint64{300, 700} { // two imports
		show(t, good, size)
		show(t, other, []uint64{10, 20}[i])
		l.pull()
		l.load(l.export(0))
	}
	r, err := l.in.Reconcile(ctx)
	if err != nil || r.Err() != nil {
		t.Fatal(err, r.Err())
	}
	if len(r.Logs) != 2 || r.Logs[0].Leaves != 700 || r.Logs[0].Heads != 2 {
		t.Fatalf("%+v", r)
	}
	// The fork.
	show(t, forked, 1500)
	show(t, other, 30)
	l.ec.Logs = []LogConfig{fc, oc}
	liar(t, l, fc)
	l.reopen()
	l.pull()
	if _, err := l.in.Import(ctx, l.export(0)); ExitCode(err) != 30 {
		t.Fatal(err)
	}
	// The gap: parcel 4 stays behind, 5 arrives.
	show(t, other, 40)
	l.pull()
	l.export(0)
	show(t, other, 50)
	l.pull()
	l.refused(20, l.export(0)...)
	l.now = l.now.Add(48 * time.Hour)

	r, err = l.in.Reconcile(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if ExitCode(r.Err()) != 30 {
		t.Fatal(r.Err())
	}
	var gap *GapError
	if !errors.As(r.Err(), &gap) || gap.First != 4 || gap.Last != 4 || !errors.Is(r.Err(), freshness.ErrStale) {
		t.Fatal(r.Err())
	}
	vkey := mustKey(t, "inside", 9)
	signed, err := OpenReport(r.Note, vkey)
	if err != nil {
		t.Fatal(err)
	}
	if len(signed.Missing) != 1 || signed.Missing[0] != (Range{4, 4}) || signed.Logs[0].Frozen == nil || signed.Logs[1].Frozen != nil || signed.Sequence != 3 {
		t.Fatalf("the signed report does not name both: %s", r.Note)
	}
	for _, want := range []string{`"log.example"`, `"first":4`, "evidence/log.example-"} {
		if !strings.Contains(string(r.Note), want) {
			t.Errorf("the report does not say %s", want)
		}
	}
	if _, err := OpenReport([]byte(strings.Replace(string(r.Note), `"first":4`, `"first":5`, 1)), vkey); !errors.Is(err, ErrProof) {
		t.Fatal("a changed report verifies")
	}
	if _, err := OpenReport(r.Note, mustKey(t, "inside", 8)); err == nil {
		t.Fatal("the report verifies by another key")
	}
	for _, want := range []string{"mirror.import success", "mirror.freeze success", "mirror.refuse refused", "mirror.reconcile success", "mirror.reconcile failed"} {
		if !strings.Contains(strings.Join(events, "\n"), want) {
			t.Errorf("%q was not recorded: %v", want, events)
		}
	}
}

// TestReconcileFindsDamage flips one bit in each kind of stored file, and in the stored head; the report says so, and the
// exit code is not 0.
func TestReconcileFindsDamage(t *testing.T) {
	ctx := context.Background()
	c := tinyLog(t, 300, 70_000)
	if err := generate.Rewind(c.Source, 300); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, c)
	l.pull()
	l.load(l.export(0))
	if err := generate.Rewind(c.Source, 70_000); err != nil {
		t.Fatal(err)
	}
	l.pull()
	l.load(l.export(0))
	base := filepath.Join(l.mc.Dir, "logs", "log.example", "tile")
	kept, err := l.in.Tile(c.Origin, tiles.Tile{Level: 0, Index: 0, Width: tiles.Width}) // a tile that may also lie there as a file
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "0", "000"), kept, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"0/000", "0/273.p/112", "1/000", "1/001.p/17", "2/000.p/1", "entries/000", "entries/100", "entries/273.p/112"} {
		path := filepath.Join(base, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range [][]byte{flipped(good), good[:len(good)-1], append(append([]byte{}, good...), 0), nil} {
			os.WriteFile(path, bad, 0o644)
			r, err := l.in.Reconcile(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if !errors.Is(r.Err(), ErrDamaged) || ExitCode(r.Err()) != 31 {
				t.Fatalf("%s with %d of %d bytes: %v", name, len(bad), len(good), r.Err())
			}
		}
		os.Remove(path)
		if r, err := l.in.Reconcile(ctx); err != nil || errors.Is(r.Err(), ErrDamaged) == strings.HasPrefix(name, "0/") { // those follow from entries
			t.Fatalf("%s is gone: %v, %v", name, err, r.Err())
		}
		os.WriteFile(path, good, 0o644)
	}
	if r, err := l.in.Reconcile(ctx); err != nil || r.Err() != nil {
		t.Fatal(err, r.Err())
	}
	// A head that says more than was signed.
	h, err := l.in.Head(c.Origin)
	if err != nil {
		t.Fatal(err)
	}
	h.Size--
	if err := l.inDB.Update(func(tx store.Tx) error { return put(tx, keyHead+c.Origin, h) }); err != nil {
		t.Fatal(err)
	}
	if r, err := l.in.Reconcile(ctx); err != nil || !errors.Is(r.Err(), ErrDamaged) {
		t.Fatal(err, r.Err())
	}
}

func flipped(b []byte) []byte {
	c := append([]byte{}, b...)
	c[len(c)/2] ^= 8
	return c
}

// TestRunReconcilesOnATimer lets the interval pass and waits for three reports.
func TestRunReconcilesOnATimer(t *testing.T) {
	_, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300}})
	l := newLab(t, c)
	l.pull()
	l.load(l.export(0))
	ctx, cancel := context.WithCancel(context.Background())
	reports := make(chan *ReconcileReport)
	ended := make(chan error)
	go func() { ended <- l.in.Run(ctx, time.Millisecond, func(r *ReconcileReport) { reports <- r }) }()
	for range 3 {
		if r := <-reports; r.Err() != nil || len(r.Note) == 0 {
			t.Fatal(r.Err())
		}
	}
	cancel()
	select {
	case <-reports:
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := l.in.Run(context.Background(), 0, nil); !errors.Is(err, ErrConfig) {
		t.Fatal(err)
	}
}

// TestReplaysInAnyOrder offers five parcels in random orders, each again and again, until all are in. No head ever goes back,
// and the end is always the same.
func TestReplaysInAnyOrder(t *testing.T) {
	sizes := []uint64{10, 20, 256, 300, 520}
	g, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: sizes})
	l := newLab(t, c)
	var parcels [][]string
	for _, s := range sizes {
		show(t, g, s)
		l.pull()
		parcels = append(parcels, l.export(0))
	}
	want := ""
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 3 {
		l.mc.DB, l.mc.Dir = newDB(t, filepath.Join(l.dir, fmt.Sprint(round, ".db"))), filepath.Join(l.dir, "in", fmt.Sprint(round))
		l.inDB = l.mc.DB
		l.reopen()
		size := uint64(0)
		for size != sizes[len(sizes)-1] {
			_, err := l.in.Import(context.Background(), parcels[rng.IntN(len(parcels))])
			if code := ExitCode(err); code != 0 && code != 20 && code != 21 {
				t.Fatal(err)
			}
			h, err := l.in.Head(c.Origin)
			if err != nil && !errors.Is(err, ErrNotFound) || h.Size < size {
				t.Fatalf("from %d to %d: %v", size, h.Size, err)
			}
			size = h.Size
		}
		h, _ := l.in.Head(c.Origin)
		if want == "" {
			want = h.Root.String()
		} else if want != h.Root.String() {
			t.Fatal("another end")
		}
	}
}

// TestReconcileMemory reproduces many checkpoints and walks every tile: beside the right edge, only the tiles above the last
// one read stay in memory.
func TestReconcileMemory(t *testing.T) {
	ctx := context.Background()
	var sizes []uint64
	for s := uint64(100); s <= 140_000; s += 700 {
		sizes = append(sizes, s)
	}
	c := tinyLog(t, sizes...)
	l := newLab(t, c)
	l.pull()
	l.load(l.export(0))
	h, err := l.in.Head(c.Origin)
	if err != nil {
		t.Fatal(err)
	}
	var seen []seenHead
	for _, s := range sizes {
		note := readFile(t, c.Source, s)
		p, err := l.in.logs[c.Origin].open(note)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, seenHead{Size: s, Root: p.Root, Note: note})
	}
	out, most := &LogReport{}, 0
	c2, err := l.in.checking(l.in.logs[c.Origin], h, out)
	if err != nil {
		t.Fatal(err)
	}
	c2.seen = seen
	look := countingContext{ctx, func() { most = max(most, c2.tree.Held()) }}
	found := func(u unit, err error) error {
		if err != nil {
			t.Errorf("%+v: %v", u, err)
		}
		return nil
	}
	if err := c2.everything(look, found); err != nil || out.Heads != uint64(len(sizes)) || out.Leaves != h.Size {
		t.Fatal(err, out.Heads, out.Leaves)
	}
	if most == 0 || most > 10 || c2.tree.Held() > 3 {
		t.Fatalf("%d tiles in memory, %d in the end", most, c2.tree.Held())
	}
}

// countingContext looks whenever it is asked whether to go on.
type countingContext struct {
	context.Context
	look func()
}

func (c countingContext) Err() error { c.look(); return c.Context.Err() }
