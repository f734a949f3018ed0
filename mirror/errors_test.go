package mirror

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// TestExitCodes pins what scripts rely on (docs/parcel.md, "Exit codes").
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{nil, 0}, {errors.New("anything"), 1}, {ErrRemote, 3}, {ErrNothing, 10}, {&GapError{First: 1, Last: 2}, 20}, {ErrReplay, 21},
		{ErrForkedStream, 22}, {ErrWrongStream, 23}, {&ForkError{}, 30}, {&ForkError{Frozen: true}, 30}, {ErrProof, 31}, {tiles.ErrProof, 31},
		{ErrDamaged, 31}, {&parcel.VolumeError{Err: errors.New("torn")}, 40}, {&parcel.VolumeError{Err: parcel.ErrMedium}, 41},
		{ErrFull, 42}, {syscall.ENOSPC, 42}, {freshness.ErrStale, 50}, {ErrClock, 51}, {ErrUnknownOrigin, 60}, {parcel.ErrForeignKey, 61}, {ErrBusy, 75},
		{errors.Join(freshness.ErrStale, &GapError{}, &ForkError{}), 30}, {errors.Join(freshness.ErrStale, &GapError{}), 20},
	} {
		if got := ExitCode(c.err); got != c.code {
			t.Errorf("%v: %d instead of %d", c.err, got, c.code)
		}
		if c.err != nil && ExitCode(fmt.Errorf("wrapped: %w", c.err)) != c.code {
			t.Errorf("%v loses its code when wrapped", c.err)
		}
	}
}

// TestStale lets a log age beyond its limit: status says so, reconcile ends with 50, and a parcel that only says "nothing
// new" makes it fresh again, but only if the exporter looked.
func TestStale(t *testing.T) {
	ctx := context.Background()
	_, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{10}})
	c.MaxAge = time.Hour
	l := newLab(t, c)
	if st, err := l.in.Status(ctx); err != nil || !st.Logs[0].Stale {
		t.Fatal("a log never seen is not stale", err)
	}
	l.pull()
	l.load(l.export(0))
	if r, err := l.in.Reconcile(ctx); err != nil || r.Err() != nil {
		t.Fatal(err, r.Err())
	}
	l.now = l.now.Add(61 * time.Minute)
	if r, err := l.in.Reconcile(ctx); err != nil || ExitCode(r.Err()) != 50 {
		t.Fatal(err, r.Err())
	}
	refresh := func(want int) {
		t.Helper()
		p, err := l.out.Export(ctx, ExportOptions{Out: l.medium, Refresh: true})
		if err != nil {
			t.Fatal(err)
		}
		l.load([]string{l.medium + "/" + p.Files[0]})
		if r, err := l.in.Reconcile(ctx); err != nil || ExitCode(r.Err()) != want {
			t.Fatal(err, r.Err())
		}
	}
	refresh(50) // the exporter has not looked since
	if _, err := l.out.Pull(ctx); !errors.Is(err, ErrNothing) {
		t.Fatal(err)
	}
	refresh(0)
}

// TestBadConfigurations: each is refused at Open with a reason.
func TestBadConfigurations(t *testing.T) {
	db := newDB(t, t.TempDir()+"/x.db")
	key := mustKey(t, "log.example", 1)
	good := Config{DB: db, Dir: t.TempDir(), Stream: "s", Exporters: []string{key}, Logs: []LogConfig{{Origin: "log.example", VKey: key}}}
	if m, err := Open(good); err != nil {
		t.Fatal(err)
	} else {
		m.Close()
	}
	for name, change := range map[string]func(*Config){
		"no stream":       func(c *Config) { c.Stream = "" },
		"upper case":      func(c *Config) { c.Stream = "Outside" },
		"no database":     func(c *Config) { c.DB = nil },
		"no folder":       func(c *Config) { c.Dir = "" },
		"exporter key":    func(c *Config) { c.Exporters = []string{"x"} },
		"log key":         func(c *Config) { c.Logs = []LogConfig{{Origin: "a", VKey: "x"}} },
		"no origin":       func(c *Config) { c.Logs = []LogConfig{{VKey: key}} },
		"origin of lines": func(c *Config) { c.Logs = []LogConfig{{Origin: "a\nb", VKey: key}} },
		"log twice":       func(c *Config) { c.Logs = append(c.Logs, c.Logs[0]) },
		"scope":           func(c *Config) { c.Logs = []LogConfig{{Origin: "a", VKey: key, Scope: "some"}} },
	} {
		c := good
		change(&c)
		if _, err := Open(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
