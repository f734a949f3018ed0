package mirror

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

const (
	scrubPeriod = 7 * 24 * time.Hour
	scrubPause  = 12 * time.Hour
)

// scrubLab is a mirror of a log that was imported in several steps, and checked whole once.
func scrubLab(t *testing.T, scope string, sizes ...uint64) *lab {
	t.Helper()
	c := tinyLog(t, append(sizes, 12_000)...)
	c.Scope = scope
	if scope == parcel.ScopeSparse {
		for i := range uint64(40) {
			c.Records = append(c.Records, 3+i*90)
		}
	}
	l := newLab(t, c)
	l.mc.Scrub = scrubPeriod
	l.reopen()
	for _, size := range sizes {
		rewind(t, c.Source, size)
		l.pull()
		l.load(l.export(0))
	}
	if r := l.scrubbed(); !r.Logs[0].Scrub.Whole || r.Err() != nil || !r.Scrubbed.Equal(l.now) {
		t.Fatalf("the first run: %+v %v", r.Logs[0].Scrub, r.Err())
	}
	return l
}

// scrubbed reconciles a pause later.
func (l *lab) scrubbed() *ReconcileReport {
	l.t.Helper()
	l.now = l.now.Add(scrubPause)
	r, err := l.in.Reconcile(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

func (l *lab) flip(name string) (mend func()) {
	l.t.Helper()
	path := filepath.Join(l.mc.Dir, "logs", "log.example", name)
	good, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, flipped(good), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return func() {
		if err := os.WriteFile(path, good, 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
}

// TestScrub flips a bit in old files at different times of a pass. Each is found within one period, though each run hashes a small part;
// it stays a finding until it is mended, and the report says what was checked and when everything was.
func TestScrub(t *testing.T) {
	for scope, names := range map[string][]string{
		parcel.ScopeFull:   {"tile/entries/000", "tile/entries/020", "tile/1/000.p/39", "tile/entries/037"},
		parcel.ScopeSparse: {"record/003", "record/003/513", "record/x001/893"},
	} {
		t.Run(scope, func(t *testing.T) {
			l := scrubLab(t, scope, 300, 5000, 10_000)
			if scope == parcel.ScopeSparse {
				names = []string{recordName(3), recordName(3 + 39*90), recordName(3 + 20*90)}
			}
			longest := 0
			for n, name := range names {
				for range 3 * n {
					l.scrubbed()
				}
				mend := l.flip(name)
				runs := 1
				var r *ReconcileReport
				for r = l.scrubbed(); r.Err() == nil; r = l.scrubbed() {
					s := r.Logs[0].Scrub
					if s.Whole || s.Window == 0 || s.Window > s.Units/10+1 || s.New != 0 || s.Late {
						t.Fatalf("run %d checked %+v", runs, s)
					}
					if runs++; time.Duration(runs)*scrubPause > scrubPeriod {
						t.Fatalf("%s: not found within %v", name, scrubPeriod)
					}
				}
				longest = max(longest, runs)
				if !errors.Is(r.Err(), ErrDamaged) {
					t.Fatal(r.Err())
				}
				if r = l.scrubbed(); !errors.Is(r.Err(), ErrDamaged) || r.Logs[0].Scrub.Again == 0 {
					t.Fatalf("%s is forgotten: %v %+v", name, r.Err(), r.Logs[0].Scrub)
				}
				mend()
				if r = l.scrubbed(); r.Err() != nil || r.Logs[0].Scrub.Again == 0 {
					t.Fatalf("%s is mended: %v", name, r.Err())
				}
				if r = l.scrubbed(); r.Err() != nil || r.Logs[0].Scrub.Again != 0 {
					t.Fatalf("%v %+v", r.Err(), r.Logs[0].Scrub)
				}
				if age := l.now.Sub(r.Scrubbed); age > 2*scrubPeriod || r.Scrubbed != r.Logs[0].Scrub.Seen {
					t.Fatalf("everything was seen %v ago", age)
				}
			}
			t.Logf("found after %d runs of %v at most", longest, scrubPause)
		})
	}
}

// TestScrubNew: what is new is checked in the next run, whatever the window is at: entries, tiles, checkpoints, records.
func TestScrubNew(t *testing.T) {
	for scope, name := range map[string]string{parcel.ScopeFull: "tile/entries/045", parcel.ScopeSparse: recordName(11_000)} {
		t.Run(scope, func(t *testing.T) {
			l := scrubLab(t, scope, 300, 5000, 10_000)
			l.scrubbed()
			rewind(t, l.ec.Logs[0].Source, 12_000)
			if scope == parcel.ScopeSparse {
				l.ec.Logs[0].Records = append(l.ec.Logs[0].Records, 11_000)
				l.reopen()
			}
			l.pull()
			l.load(l.export(0))
			mend := l.flip(name)
			r := l.scrubbed()
			if !errors.Is(r.Err(), ErrDamaged) || r.Logs[0].Scrub.New == 0 || r.Logs[0].Scrub.Whole {
				t.Fatalf("%v %+v", r.Err(), r.Logs[0].Scrub)
			}
			mend()
			if r = l.scrubbed(); r.Err() != nil || r.Logs[0].Scrub.New != 0 {
				t.Fatalf("%v %+v", r.Err(), r.Logs[0].Scrub)
			}
		})
	}
}

// TestScrubRecordsOfAnOldHead: records that come without a larger head are new as well.
func TestScrubRecordsOfAnOldHead(t *testing.T) {
	l := scrubLab(t, parcel.ScopeSparse, 300, 5000, 10_000)
	l.ec.Logs[0].Records = append(l.ec.Logs[0].Records, 9_000)
	l.reopen()
	l.pull()
	l.load(l.export(0))
	mend := l.flip(recordName(9_000))
	if r := l.scrubbed(); !errors.Is(r.Err(), ErrDamaged) || r.Logs[0].Scrub.New != 1 {
		t.Fatalf("%v %+v", r.Err(), r.Logs[0].Scrub)
	}
	mend()
	if r := l.scrubbed(); r.Err() != nil || r.Logs[0].Scrub.New != 0 {
		t.Fatalf("%v %+v", r.Err(), r.Logs[0].Scrub)
	}
}

// TestScrubWhole: everything is checked in one run where it is asked for, where no run was for long, where the clock went back, and where the
// stored state is not the one that was checked; fsck checks everything and changes nothing.
func TestScrubWhole(t *testing.T) {
	l := scrubLab(t, parcel.ScopeFull, 300, 5000)
	all := func(when string, r *ReconcileReport, err error) {
		t.Helper()
		if err != nil || r.Logs[0].Leaves != 5000 || r.Logs[0].Heads != 2 || !r.Logs[0].Scrub.Whole || !r.Scrubbed.Equal(l.now) {
			t.Fatalf("%s: %v %+v", when, err, r.Logs[0])
		}
	}
	if r := l.scrubbed(); r.Logs[0].Leaves > 1000 {
		t.Fatalf("an ordinary run: %+v", r.Logs[0])
	}
	r, err := l.in.ReconcileAll(t.Context())
	all("asked for", r, err)
	l.now = l.now.Add(scrubPeriod)
	r, err = l.in.Reconcile(t.Context())
	all("after a period", r, err)
	l.now = l.now.Add(-48 * time.Hour)
	r, err = l.in.Reconcile(t.Context())
	all("the clock went back", r, err)
	if err := l.inDB.Update(func(tx store.Tx) error {
		var s scrubState
		_, err := get(tx, keyScrub+"log.example", &s)
		s.Root[0] ^= 1
		return errors.Join(err, put(tx, keyScrub+"log.example", s))
	}); err != nil {
		t.Fatal(err)
	}
	l.now = l.now.Add(scrubPause)
	r, err = l.in.Reconcile(t.Context())
	all("another head was checked", r, err)
	before := l.fingerprint()
	if f, err := l.in.Fsck(t.Context()); err != nil || f[0].Leaves != 5000 || l.fingerprint() != before {
		t.Fatal("fsck", err)
	}
	l.mc.Scrub = 0
	l.reopen()
	r, err = l.in.Reconcile(t.Context())
	all("no period", r, err)
	if !r.Logs[0].Scrub.Due.IsZero() {
		t.Fatalf("%+v", r.Logs[0].Scrub)
	}
	if s, err := l.in.Status(t.Context()); err != nil || !s.Logs[0].Scrubbed.Equal(l.now) {
		t.Fatalf("%v %+v", err, s.Logs[0])
	}
}

// TestScrubGoesOn cuts a whole pass short again and again: each run goes on where the one before ended, also over what was imported in
// between, and what was found on the way stays found.
func TestScrubGoesOn(t *testing.T) {
	c := tinyLog(t, 300, 5000, 12_000)
	l := newLab(t, c)
	l.mc.Scrub = scrubPeriod
	l.reopen()
	rewind(t, c.Source, 5000)
	l.pull()
	l.load(l.export(0))
	mend := l.flip("tile/entries/001")
	begun := l.now
	leaves, runs := uint64(0), 0
	for ; ; runs++ {
		if runs > 40 {
			t.Fatal("it does not come to an end")
		}
		if runs == 2 {
			rewind(t, c.Source, 12_000)
			l.pull()
			l.load(l.export(0))
		}
		ctx, cancel := context.WithCancel(t.Context())
		asked := 0
		out := &LogReport{}
		h, err := l.in.Head("log.example")
		if err != nil {
			t.Fatal(err)
		}
		err = l.in.scrub(countingContext{ctx, func() {
			if asked++; asked > 20+runs {
				cancel()
			}
		}}, l.in.logs["log.example"], h, false, out)
		cancel()
		leaves += out.Leaves
		l.now = l.now.Add(time.Minute)
		if err == nil {
			if !out.Scrubbed.Equal(begun) || len(out.Problems) == 0 {
				t.Fatalf("%+v", out)
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if runs < 3 || leaves < 12_000-256 {
		t.Fatalf("%d runs, %d leaves", runs, leaves)
	}
	mend()
	if r := l.scrubbed(); r.Err() != nil || r.Logs[0].Scrub.Whole {
		t.Fatalf("%v %+v", r.Err(), r.Logs[0].Scrub)
	}
	t.Logf("%d runs, %d leaves hashed for 12000", runs+1, leaves)
}

// TestScrubTooMuchDamage: more damage than is remembered by name has everything checked again.
func TestScrubTooMuchDamage(t *testing.T) {
	s := &scrubbing{checking: &checking{out: &LogReport{}}}
	for i := range uint64(maxBad + 5) {
		if err := s.found(unit{1, i % (maxBad + 1)}, fmt.Errorf("unit %d: %w", i, ErrDamaged)); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.state.Bad) != maxBad || !s.state.Again || len(s.out.Problems) != maxProblems {
		t.Fatalf("%d %v %d", len(s.state.Bad), s.state.Again, len(s.out.Problems))
	}
}

func TestWindow(t *testing.T) {
	for _, c := range []struct {
		total         uint64
		since, within time.Duration
		want          uint64
	}{{100, time.Hour, 10 * time.Hour, 10}, {101, time.Hour, 10 * time.Hour, 11}, {100, 0, time.Hour, 1}, {0, 0, time.Hour, 0}, {100, time.Hour, time.Hour, 100}, {100, time.Hour, -time.Hour, 100}, {1, time.Second, time.Hour, 1}, {tiles.MaxSize, time.Hour, 2 * time.Hour, tiles.MaxSize / 2}} {
		if got := windowOf(c.total, c.since, c.within); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
