package mirror

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
)

func labFreshnessKey(t testing.TB) string {
	t.Helper()
	line, err := parcel.VerifierKey("inside", labKey(9).Public())
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// TestFreshness: what the mirror signs of itself is what it holds, under its own key alone, and a changed byte is refused.
func TestFreshness(t *testing.T) {
	c := tinyLog(t, 5)
	c.Stale = freshness.Thresholds{Warn: time.Hour, DenyNew: 2 * time.Hour, DenyAll: 3 * time.Hour}
	l := newLab(t, c)
	l.pull()
	l.load(l.export(0))
	l.now = l.now.Add(90 * time.Minute)
	f, err := l.in.Freshness(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	key := labFreshnessKey(t)
	again, err := freshness.Open(f.Note, key)
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.in.Head(c.Origin)
	if err != nil {
		t.Fatal(err)
	}
	got := again.Find(c.Origin, "")
	if again.Sequence != 1 || got == nil || got.Size != 5 || got.Root != h.Root.String() || !got.Observed.Equal(h.Observed) || got.Exporter == "" || got.Limits.DenyNew != 7200 {
		t.Fatalf("%+v", again)
	}
	if level, err := got.Judge(l.now, l.now, nil); level != freshness.Warn || err != nil {
		t.Errorf("after 90 minutes: %s, %v", level, err)
	}
	if again.Find("other.example", "") != nil {
		t.Error("a log the mirror does not carry is claimed")
	}
	stranger, err := parcel.VerifierKey("inside", labKey(8).Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := freshness.Open(f.Note, stranger); !errors.Is(err, freshness.ErrState) {
		t.Errorf("under another key: %v", err)
	}
	for i := range f.Note {
		bad := append([]byte(nil), f.Note...)
		bad[i] ^= 1
		if _, err := freshness.Open(bad, key); err == nil {
			t.Fatalf("byte %d flipped, and believed", i)
		}
	}
	report, err := l.in.Reconcile(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := freshness.Open(report.Note, key); !errors.Is(err, freshness.ErrState) {
		t.Errorf("a reconcile report passes for a state: %v", err)
	}
}

// TestJudgeFreshness: each threshold on both sides, frozen logs, entries beyond the mirrored tree, and what is found by what.
func TestJudgeFreshness(t *testing.T) {
	seen := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	before, after := seen.Add(-time.Hour), seen.Add(time.Hour)
	limits := freshness.Limits{Warn: 3600, DenyNew: 7200, DenyAll: 10800}
	in, beyond := uint64(9), uint64(10)
	for name, test := range map[string]struct {
		age    time.Duration
		signed time.Time
		index  *uint64
		frozen bool
		level  freshness.Level
		ok     bool
	}{
		"fresh":                         {time.Hour, after, &beyond, false, freshness.Fresh, true},
		"from the future":               {-time.Hour, after, nil, false, freshness.Fresh, true},
		"warn":                          {time.Hour + 1, after, &beyond, false, freshness.Warn, true},
		"old but signed before":         {2*time.Hour + 1, before, &in, false, freshness.DenyNew, true},
		"signed as it was observed":     {2*time.Hour + 1, seen, &in, false, freshness.DenyNew, true},
		"old and signed after":          {2*time.Hour + 1, after, &in, false, freshness.DenyNew, false},
		"old and beyond the tree":       {2*time.Hour + 1, before, &beyond, false, freshness.DenyNew, false},
		"too old for anything":          {3*time.Hour + 1, before, &in, false, freshness.DenyAll, false},
		"frozen, signed before":         {0, before, &in, true, freshness.DenyNew, true},
		"frozen, signed after":          {0, after, &in, true, freshness.DenyNew, false},
		"frozen and too old":            {3*time.Hour + 1, before, &in, true, freshness.DenyAll, false},
		"no proof, signed before":       {2*time.Hour + 1, before, nil, false, freshness.DenyNew, true},
		"no threshold reached, no time": {0, time.Time{}, nil, false, freshness.Fresh, true},
	} {
		l := freshness.Log{Origin: "log.example", Size: 10, Observed: seen, Frozen: test.frozen, Limits: limits}
		level, err := l.Judge(seen.Add(test.age), test.signed, test.index)
		if level != test.level || (err == nil) != test.ok || err != nil && !errors.Is(err, freshness.ErrStale) {
			t.Errorf("%s: %s, %v", name, level, err)
		}
		if err != nil && test.frozen && !strings.Contains(err.Error(), "two histories") {
			t.Errorf("%s: the reason is not said: %v", name, err)
		}
	}
	if (&freshness.Log{Observed: seen}).Limits != (freshness.Limits{}) {
		t.Fatal()
	}
	f := freshness.State{Logs: []freshness.Log{
		{Origin: "rekor.example - 1", LogID: "aa", Observed: before}, {Origin: "rekor.example - 2", LogID: "aa", Observed: after},
		{Origin: "other.example", LogID: "bb", Observed: seen}, {Origin: "ed.example", Observed: seen},
	}}
	for _, test := range [][3]string{
		{"rekor.example - 1", "aa", "rekor.example - 1"}, {"rekor.example - 3", "aa", ""}, {"", "aa", "rekor.example - 2"}, {"", "", ""}, {"", "cc", ""},
		{"other.example - 7", "bb", "other.example"}, {"other.example - 7", "aa", ""}, {"ed.example - 1", "", ""}, {"ed.example", "zz", "ed.example"},
	} {
		got := ""
		if l := f.Find(test[0], test[1]); l != nil {
			got = l.Origin
		}
		if got != test[2] {
			t.Errorf("%q %q finds %q instead of %q", test[0], test[1], got, test[2])
		}
	}
}

// TestAwaitedIsSaid: a log that is configured with thresholds and was never imported stands in the claim and in the status as older than any.
func TestAwaitedIsSaid(t *testing.T) {
	c := tinyLog(t, 5)
	c.Stale = freshness.Thresholds{DenyNew: time.Hour}
	l := newLab(t, c)
	f, err := l.in.Freshness(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if f, err = freshness.Open(f.Note, labFreshnessKey(t)); err != nil {
		t.Fatal(err)
	}
	got := f.Find(c.Origin, "")
	if got == nil || !got.Observed.IsZero() {
		t.Fatalf("%+v", got)
	}
	if level, err := got.Judge(l.now, l.now, nil); level != freshness.DenyNew || !errors.Is(err, freshness.ErrStale) {
		t.Fatal(level, err)
	}
	if st, err := l.in.Status(context.Background()); err != nil || st.Logs[0].Level != freshness.DenyNew {
		t.Fatal(st.Logs, err)
	}
	if r, err := l.in.Reconcile(context.Background()); err != nil || ExitCode(r.Err()) != 50 || !strings.Contains(r.Err().Error(), "nothing of it was imported") {
		t.Fatal(r.Err(), err)
	}
}
