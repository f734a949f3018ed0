package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/tiles"
)

// verifyWith verifies a sample with what a mirror knows, at a time.
func (s sample) verifyWith(t testing.TB, known *freshness.State, now time.Time) (*Result, error) {
	t.Helper()
	v, err := New(Config{Roots: []Root{{Name: "root", JSON: s.root}}, Upstream: known, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return v.Verify(context.Background(), s.request())
}

// knows is the state of a mirror that saw every log of a result at a time, each one entry past the proof.
func knows(r *Result, observed time.Time, limits freshness.Limits) *freshness.State {
	f := &freshness.State{By: "mirror.inside+00000000"}
	for _, p := range r.Log() {
		l := freshness.Log{Origin: p.Origin, LogID: p.LogID, Size: p.TreeSize + 1, Observed: observed, Exporter: "exporter.outside+11111111", Limits: limits}
		if p.Origin == "" {
			l.Origin = p.BaseURL
		}
		f.Logs = append(f.Logs, l)
	}
	return f
}

// TestUpstreamOfRealBundles: every real bundle is shown with when its log was last observed, and is refused by a state too old for it.
func TestUpstreamOfRealBundles(t *testing.T) {
	samples, _ := realSamples(t, dataDir(t))
	limits := freshness.Limits{Warn: 3600, DenyNew: 86400, DenyAll: 7 * 86400}
	entries, refused := 0, 0
	for _, s := range samples {
		plain, err := s.verify(t)
		if err != nil { // TestRealBundles knows why
			refused++
			continue
		}
		signed := time.Time{}
		for _, at := range plain.Times() {
			if at.Time.After(signed) {
				signed = at.Time
			}
		}
		later := signed.Add(time.Minute) // the mirror saw the log a minute after the signature
		for _, test := range []struct {
			observed time.Time
			age      time.Duration
			level    freshness.Level
			ok       bool
		}{
			{later, time.Minute, freshness.Fresh, true},
			{later, 2 * time.Hour, freshness.Warn, true},
			{later, 48 * time.Hour, freshness.DenyNew, true},
			{signed.Add(-time.Minute), 48 * time.Hour, "", signed.IsZero()},
			{later, 8 * 24 * time.Hour, "", false},
		} {
			if signed.IsZero() && test.level == "" {
				continue
			}
			known := knows(plain, test.observed, limits)
			r, err := s.verifyWith(t, known, test.observed.Add(test.age))
			if signed.IsZero() && test.level == freshness.DenyNew { // no signed time: it may be from today
				test.ok = false
			}
			if (err == nil) != test.ok {
				t.Fatalf("%s, observed %s, %s ago: %v", s.name, test.observed, test.age, err)
			}
			if err != nil {
				if ExitCode(err) != 21 || !errors.Is(err, freshness.ErrStale) || !strings.Contains(err.Error(), test.observed.UTC().Format(time.RFC3339)) {
					t.Fatalf("%s: exit %d: %v", s.name, ExitCode(err), err)
				}
				continue
			}
			for _, p := range r.Log() {
				entries++
				u := p.Upstream
				if u == nil || u.Observed == nil || !u.Observed.Equal(test.observed) || u.Level != test.level || u.By != "exporter.outside+11111111" || u.Claimed != known.By {
					t.Fatalf("%s: %+v", s.name, u)
				}
			}
			if (len(r.Warnings()) > 0) != (test.level != freshness.Fresh) {
				t.Fatalf("%s: at level %s it warns %q", s.name, test.level, r.Warnings())
			}
			raw, err := json.Marshal(r)
			if err != nil || !strings.Contains(string(raw), `"upstream_observed_at":"`+test.observed.UTC().Format(time.RFC3339)) {
				t.Fatalf("%s: %v: %.300s", s.name, err, raw)
			}
		}
		checkObservations(t, s, plain)
	}
	t.Logf("%d bundles, %d entries shown with when their log was observed; %d bundles do not verify at all", len(samples)-refused, entries, refused)
	if len(samples)-refused < 70 {
		t.Errorf("only %d bundles were judged", len(samples)-refused)
	}
}

// checkObservations: what a verified bundle leaves to the mirror hashes up to the signed checkpoint.
func checkObservations(t *testing.T, s sample, r *Result) {
	t.Helper()
	proofs := 0
	for _, p := range r.Log() {
		if p.Index != nil {
			proofs++
		}
	}
	all := r.Observations()
	if len(all) != proofs {
		t.Fatalf("%s: %d observations of %d proofs", s.name, len(all), proofs)
	}
	for _, o := range all {
		c, err := mirror.ParseCheckpoint([]byte(strings.SplitAfter(string(o.Note), "\n\n")[0][:strings.Index(string(o.Note), "\n\n")+1]))
		if err != nil || c.Origin != o.Origin {
			t.Fatalf("%s: %v", s.name, err)
		}
		if root, _, err := tiles.Path(o.Index, c.Size, o.Leaf, o.Proof); err != nil || root != c.Root || !strings.HasPrefix(o.Source, "bundle sha256:") {
			t.Fatalf("%s: %+v: %v", s.name, o, err)
		}
	}
}

// TestUpstreamUnknown: a log the mirror does not carry is shown as one and warned of, not refused; an entry beyond the mirrored tree is new.
func TestUpstreamUnknown(t *testing.T) {
	d := verifytest.New(t, "example.com")
	s := sampleOf(d, d.SignMessage(1, "artifact"))
	r, err := s.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
	got, err := s.verifyWith(t, &freshness.State{By: "m"}, now)
	if err != nil || got.Log()[0].Upstream == nil || got.Log()[0].Upstream.Observed != nil || len(got.Warnings()) != 1 {
		t.Fatalf("%v, %+v", err, got)
	}
	known := knows(r, now.Add(-48*time.Hour), freshness.Limits{DenyNew: 3600})
	if _, err := s.verifyWith(t, known, now); err != nil {
		t.Fatalf("signed before and within the tree: %v", err)
	}
	known.Logs[0].Size = uint64(*r.Log()[0].Index)
	if _, err := s.verifyWith(t, known, now); ExitCode(err) != 21 || !strings.Contains(fmt.Sprint(err), "newer than") {
		t.Fatalf("beyond the tree: %v", err)
	}
	known = knows(r, now.Add(time.Minute), freshness.Limits{DenyNew: 3600})
	known.Logs[0].Frozen = true
	got, err = s.verifyWith(t, known, now)
	if err != nil || !strings.Contains(strings.Join(got.Warnings(), ""), "two histories") {
		t.Fatalf("of a frozen log, from before: %v", err)
	}
	sum := got.report.Root.SHA256
	known.TUF = []freshness.TUF{{Name: "other", Observed: now.Add(-time.Hour), Targets: []string{"00"}, Limits: freshness.Limits{DenyAll: 1}},
		{Name: "ours", Observed: now.Add(-time.Hour), Targets: []string{sum}, Limits: freshness.Limits{Warn: 60, DenyAll: 86400}}}
	got, err = s.verifyWith(t, known, now)
	if err != nil || got.report.Root.Upstream == nil || got.report.Root.Upstream.Level != freshness.Warn {
		t.Fatalf("the root's repository: %v", err)
	}
	if _, err = s.verifyWith(t, known, now.Add(48*time.Hour)); ExitCode(err) != 21 || !strings.Contains(fmt.Sprint(err), `"ours"`) {
		t.Fatalf("the root's repository is too old: %v", err)
	}
}

// TestClockPutBack: a verifier whose clock lies before what is signed goes by what is signed, and a log that is awaited and never came has no age
// that is young.
func TestClockPutBack(t *testing.T) {
	d := verifytest.New(t, "example.com")
	s := sampleOf(d, d.SignMessage(1, "artifact"))
	r, err := s.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	signed := r.Times()[0].Time
	known := knows(r, signed.Add(-48*time.Hour), freshness.Limits{DenyNew: 3600})
	long := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	if _, err := s.verifyWith(t, known, long); ExitCode(err) != 21 {
		t.Fatalf("the bundle's own time: %v", err)
	}
	known = knows(r, signed.Add(time.Hour), freshness.Limits{DenyAll: 3600})
	if _, err := s.verifyWith(t, known, long); err != nil {
		t.Fatal(err)
	}
	known.Time = signed.Add(3 * time.Hour)
	if _, err := s.verifyWith(t, known, long); ExitCode(err) != 21 || !strings.Contains(fmt.Sprint(err), "nothing is accepted") {
		t.Fatalf("the mirror's own time: %v", err)
	}
	known = knows(r, time.Time{}, freshness.Limits{DenyAll: 3600})
	if _, err := s.verifyWith(t, known, signed); ExitCode(err) != 21 || !strings.Contains(fmt.Sprint(err), "nothing of it was imported") {
		t.Fatalf("a log that never came: %v", err)
	}
	known = knows(r, time.Time{}, freshness.Limits{Warn: 3600})
	if r, err := s.verifyWith(t, known, signed); err != nil || len(r.Warnings()) != 1 {
		t.Fatalf("a log that never came and whose age denies nothing: %v", err)
	}
}
