package mirror

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestClockAhead imports once under a clock that is seventy years ahead: it is refused, so that it locks nobody out later. A
// clock that a person looked at is accepted, ahead or behind.
func TestClockAhead(t *testing.T) {
	ctx := context.Background()
	l, g, first, second := twoParcels(t)
	l.load(first)
	right := l.now
	l.now = right.AddDate(73, 0, 0)
	l.refused(51, second...)
	l.now = right.Add(clockLeap + time.Hour)
	l.refused(51, second...)
	l.now = right
	l.load(second)

	// A mirror that rested: the parcel is old too, so nothing says that the clock is right but a person.
	show(t, g, 1500)
	l.pull()
	third := l.export(0)
	l.now = right.AddDate(0, 3, 0)
	l.refused(51, third...)
	if was, now, err := l.in.AcceptClock(ctx); err != nil || !was.Equal(right) || !now.Equal(l.now) {
		t.Fatal(was, now, err)
	}
	l.load(third)

	// A first import has nothing to go by. The way out leads back, too.
	l, _, first, second = twoParcels(t)
	if _, _, err := l.in.AcceptClock(ctx); !errors.Is(err, ErrNothing) {
		t.Fatal(err)
	}
	right = l.now
	l.now = right.AddDate(73, 0, 0)
	l.load(first)
	l.now = right
	l.refused(51, second...)
	if _, _, err := l.in.AcceptClock(ctx); err != nil {
		t.Fatal(err)
	}
	l.load(second)
	// A rest of months is no doubt where the parcel is fresh.
	l, g, first, second = twoParcels(t)
	l.load(append(first, second...))
	l.now = l.now.AddDate(0, 8, 0)
	show(t, g, 1500)
	l.pull()
	l.load(l.export(0))
}

// TestRoomForTheRest measures what an import takes: what it leaves behind, and after an interruption only the rest.
func TestRoomForTheRest(t *testing.T) {
	c := tinyLog(t, 70_000)
	l := newLab(t, c)
	l.pull()
	files := l.export(0)
	p, _ := openParcel(t, l, files[0])
	unpacked, whole, err := l.in.need(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.mc.Progress = func(p Progress) {
		if p.Stage == "package" && p.Done > 150 {
			cancel()
		}
	}
	l.reopen()
	if _, err := l.in.Import(ctx, files); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	s, err := l.in.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, rest, err := l.in.need(p, s.pending); err != nil || rest <= 0 || rest > whole/2 {
		t.Fatalf("%d of %d bytes are still needed: %v", rest, whole, err)
	}
	l.load(files)
	left, err := bytesBelow(os.DirFS(filepath.Join(l.dir, "in")), "logs")
	if err != nil || left > unpacked || left < unpacked*3/4 { // an archive has headers
		t.Fatalf("%d bytes are left by a parcel of %d, %d were asked for: %v", left, unpacked, whole, err)
	}
}

// TestFrozenStreamGoesOn imports parcels whose only log is frozen: no head moves, and none of them is missing afterwards.
func TestFrozenStreamGoesOn(t *testing.T) {
	ctx := context.Background()
	old := signedLog(t, 4, 1<<40, 700)
	l := newLab(t, old)
	l.pull()
	l.load(l.export(0))
	forked := signedLog(t, 4, 500, 700, 1500, 1600)
	show := func(size uint64) {
		if err := os.WriteFile(forked.Source+"/checkpoint", readFile(t, forked.Source, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	show(1500)
	l.ec.Logs = []LogConfig{forked}
	liar(t, l, forked)
	l.reopen()
	l.pull()
	second := l.export(0)
	show(1600)
	l.pull()
	third := l.export(0)
	for i, files := range [][]string{second, third} {
		r, err := l.in.Import(ctx, files)
		if ExitCode(err) != 30 || len(r.Transfers) != 1 || !r.Transfers[0].Logs[0].Frozen {
			t.Fatalf("%v, %+v", err, r)
		}
		st, err := l.in.Status(ctx)
		if err != nil || st.Sequence != uint64(i+2) || len(st.Missing) != 0 || st.Pending != 0 || st.Logs[0].Size != 700 || st.Logs[0].Frozen == nil {
			t.Fatalf("%+v, %v", st, err)
		}
	}
	if r := l.load(third); r.Transfers[0].Outcome != "already imported" {
		t.Fatalf("%+v", r)
	}
}
