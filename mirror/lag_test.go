package mirror

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/generate"
)

// TestLag: how far a log is behind follows the largest checkpoint that the log signed, from a bundle or from another enclave, or else a parcel
// that came too early; an unsigned or smaller one moves nothing, and an import takes it back.
func TestLag(t *testing.T) {
	ctx := t.Context()
	l, honest, _ := spoolLab(t)
	lag := func() LogStatus {
		t.Helper()
		s, err := l.in.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s.Logs[0]
	}
	if s := lag(); s.Lag != 0 || s.Upstream != nil {
		t.Fatalf("behind though nobody showed more: %+v", s)
	}
	if _, err := l.in.Observe(ctx, honest.shows(t, 3, 700)); err != nil {
		t.Fatal(err)
	}
	if s := lag(); s.Lag != 0 || s.Upstream != nil {
		t.Fatalf("behind though what was shown is held: %+v", s)
	}
	forged := honest.shows(t, 3, 900)
	forged.Note = []byte(strings.Replace(string(forged.Note), "\n900\n", "\n9000000\n", 1))
	if _, err := l.in.Observe(ctx, forged); err == nil {
		t.Fatal("a changed checkpoint was taken")
	}
	if s := lag(); s.Lag != 0 {
		t.Fatalf("a changed checkpoint counts: %+v", s)
	}
	if _, err := l.in.Observe(ctx, honest.shows(t, 800, 900)); err != nil {
		t.Fatal(err)
	}
	if s := lag(); s.Lag != 200 || s.Upstream.By != ByCheckpoint || s.Upstream.Source != "bundle 800 of 900" || !s.Upstream.Seen.Equal(l.now) {
		t.Fatalf("%+v %+v", s, s.Upstream)
	}
	if _, err := l.in.ObserveCheckpoint(ctx, honest.shows(t, 0, 1200).Note, "a friend"); err != nil {
		t.Fatal(err)
	}
	if s := lag(); s.Lag != 500 || s.Upstream.Source != "a friend" {
		t.Fatalf("%+v", s)
	}
	if _, err := l.in.Observe(ctx, honest.shows(t, 800, 900)); err != nil || lag().Lag != 500 {
		t.Fatal("a smaller checkpoint moved it", err)
	}
	l.now = l.now.Add(90 * time.Minute)
	r, err := l.in.Reconcile(ctx)
	if err != nil || r.Logs[0].Lag != 500 || r.Logs[0].Seconds != 90*60 || !strings.Contains(string(r.Note), `"lag_entries":500`) {
		t.Fatalf("%v %+v", err, r)
	}
	rewind(t, l.ec.Logs[0].Source, 1500)
	l.pull()
	l.load(l.export(0))
	if s := lag(); s.Lag != 0 || s.Upstream != nil || s.Size != 1500 {
		t.Fatalf("still behind after the import: %+v", s)
	}
}

// TestLagByExporter: a parcel that waits for the one before it says how large the logs are; it is only a claim, and ends with the gap.
func TestLagByExporter(t *testing.T) {
	g, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{10, 20, 30}})
	l := newLab(t, c)
	var parcels [][]string
	for _, size := range []uint64{10, 20, 30} {
		show(t, g, size)
		l.pull()
		parcels = append(parcels, l.export(0))
	}
	l.load(parcels[0])
	l.refused(20, parcels[2]...)
	s, err := l.in.Status(t.Context())
	if err != nil || s.Logs[0].Lag != 20 || s.Logs[0].Upstream.By != ByExporter || s.Logs[0].Upstream.Source != "parcel 3" {
		t.Fatalf("%v %+v", err, s.Logs[0])
	}
	l.load(parcels[1])
	l.load(parcels[2])
	if s, err = l.in.Status(t.Context()); err != nil || s.Logs[0].Lag != 0 {
		t.Fatalf("%v %+v", err, s.Logs[0])
	}
}

// TestLastReconcile: status says how the last reconcile ended, also when no report could be made.
func TestLastReconcile(t *testing.T) {
	ctx := t.Context()
	l, _, _ := spoolLab(t)
	last := func() *Reconciled {
		t.Helper()
		s, err := l.in.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s.Reconcile
	}
	if r := last(); r != nil {
		t.Fatalf("before the first: %+v", r)
	}
	if _, err := l.in.Reconcile(ctx); err != nil {
		t.Fatal(err)
	}
	if r := last(); r.Outcome != Clean || r.Code != 0 || !r.Time.Equal(l.now) {
		t.Fatalf("%+v", r)
	}
	if _, err := l.in.Observe(ctx, newHistory(1500, 100).shows(t, 300, 700)); ExitCode(err) != 30 {
		t.Fatal(err)
	}
	first := l.now
	l.now = l.now.Add(time.Hour)
	refuse := errors.New("the audit log takes nothing")
	l.mc.Record = func(context.Context, Event, func(store.Tx) error) error { return refuse }
	l.reopen()
	if _, err := l.in.Reconcile(ctx); !errors.Is(err, refuse) {
		t.Fatal(err)
	}
	if r := last(); r.Outcome != Failed || !r.Failed.Equal(l.now) || !r.Time.Equal(first) || !strings.Contains(r.Error, "takes nothing") {
		t.Fatalf("%+v", r)
	}
	l.mc.Record = nil
	l.reopen()
	if _, err := l.in.Reconcile(ctx); err != nil {
		t.Fatal(err)
	}
	if r := last(); r.Outcome != Findings || r.Code != 30 || r.Conflicts != 1 || r.Error != "" {
		t.Fatalf("%+v", r)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := l.in.Reconcile(ended); err == nil {
		t.Fatal("it went on")
	}
	if r := last(); r.Outcome != Findings {
		t.Fatalf("a run that was told to end failed: %+v", r)
	}
}
