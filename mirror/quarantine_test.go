package mirror

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

// TestQuarantine imports two parcels of a log that is not known, and of one whose key is another, beside a log that is known. The
// stream goes on, nothing of the unknown logs shows; once they are known, the next run proves and takes in all of it.
func TestQuarantine(t *testing.T) {
	known := generate.Config{Seed: 1, Origin: "known.example", Sizes: []uint64{300, 700, 1500}}
	strange := generate.Config{Seed: 2, Origin: "strange.example", Sizes: []uint64{300, 700, 1500}}
	for _, c := range []struct {
		name, scope string
		inside      func(LogConfig) []LogConfig
	}{
		{"unknown log", parcel.ScopeFull, func(LogConfig) []LogConfig { return nil }},
		{"unknown log, sparse", parcel.ScopeSparse, func(LogConfig) []LogConfig { return nil }},
		{"unknown key", parcel.ScopeFull, func(c LogConfig) []LogConfig { c.VKey = mustKey(t, c.Origin, 5); return []LogConfig{c} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			kg, kc := makeLog(t, known)
			sg, sc := makeLog(t, strange)
			if sc.Scope = c.scope; c.scope == parcel.ScopeSparse {
				sc.Records = []uint64{0, 299, 650}
			}
			l := newLab(t, kc, sc)
			l.mc.Logs = append([]LogConfig{kc}, c.inside(sc)...)
			l.reopen()
			for _, size := range []uint64{300, 700} {
				show(t, kg, size)
				show(t, sg, size)
				l.pull()
				r, err := l.in.Import(t.Context(), l.export(0))
				if ExitCode(err) != 60 || len(r.Transfers) != 1 || !r.Transfers[0].Logs[1].Quarantined || !strings.Contains(err.Error(), "quarantine") {
					t.Fatalf("%v, %+v", err, r)
				}
			}
			if h, err := l.in.Head(kc.Origin); err != nil || h.Size != 700 {
				t.Fatal(h.Size, err)
			}
			if _, err := l.in.Head(sc.Origin); !errors.Is(err, ErrNotFound) {
				t.Fatal("a log that is not known has a head", err)
			}
			if q, err := l.in.Quarantine(); err != nil || len(q) != 2 || q[0].Sequence != 1 || q[1].Log.To.Size != 700 || q[0].Bytes == 0 {
				t.Fatal(err, q)
			}
			if _, err := l.in.Release(t.Context(), sc.Origin); ExitCode(err) != 60 {
				t.Fatal("released though it is not known", err)
			}
			l.mc.Logs = []LogConfig{kc, sc}
			l.reopen()
			show(t, sg, 1500)
			l.pull()
			l.load(l.export(0))
			if h, err := l.in.Head(sc.Origin); err != nil || h.Size != 1500 {
				t.Fatal(h.Size, err)
			}
			if r, err := l.in.Reconcile(t.Context()); err != nil || r.Err() != nil || r.Logs[1].Heads != 3 || r.Logs[1].Leaves == 0 {
				t.Fatalf("%v, %v, %+v", err, r.Err(), r)
			}
			if q, err := l.in.Quarantine(); err != nil || len(q) != 0 {
				t.Fatal(err, q)
			}
			if left, _ := filepath.Glob(filepath.Join(l.mc.Dir, "quarantine", "*", "*")); len(left) != 0 {
				t.Fatal("files are left", left)
			}
		})
	}
}

// TestQuarantineProves: what waits is proven when it is released, whatever happened to it meanwhile, and what does not prove is tried
// by itself only once.
func TestQuarantineProves(t *testing.T) {
	g, c := makeLog(t, smallLog)
	show(t, g, 700)
	l := newLab(t, c)
	l.mc.Logs = nil
	l.reopen()
	l.pull()
	files := l.export(0)
	if _, err := l.in.Import(t.Context(), files); ExitCode(err) != 60 {
		t.Fatal(err)
	}
	entries, _ := filepath.Glob(filepath.Join(l.mc.Dir, "quarantine", "*", "*", "tile", "entries", "*"))
	if len(entries) == 0 {
		t.Fatal("nothing waits")
	}
	b, err := os.ReadFile(entries[0])
	if err != nil {
		t.Fatal(err)
	}
	b[40] ^= 1
	if err := os.WriteFile(entries[0], b, 0o644); err != nil {
		t.Fatal(err)
	}
	l.mc.Logs = []LogConfig{c}
	l.reopen()
	if _, err := l.in.Import(t.Context(), files); ExitCode(err) != 31 {
		t.Fatal(err)
	}
	if _, err := l.in.Head(c.Origin); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	l.load(files)
	if q, err := l.in.Quarantine(); err != nil || len(q) != 1 || q[0].Failed == "" {
		t.Fatal(err, q)
	}
	b[40] ^= 1
	if err := os.WriteFile(entries[0], b, 0o644); err != nil {
		t.Fatal(err)
	}
	if steps, err := l.in.Release(t.Context(), c.Origin); err != nil || len(steps) != 1 || steps[0].To != 700 {
		t.Fatal(err, steps)
	}
}
