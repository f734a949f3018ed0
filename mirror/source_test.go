package mirror

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/tiles"
)

func TestSourceLocations(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "checkpoint"), []byte("x"), 0o644)
	os.Symlink("/etc/passwd", filepath.Join(dir, "latest"))
	for _, good := range []string{dir, "file://" + dir} {
		s, err := OpenSource(good, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := s.Checkpoint(context.Background()); err != nil || string(b) != "x" {
			t.Fatal(b, err)
		}
	}
	s, err := OpenSource(dir, "sumdb", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Checkpoint(context.Background()); err == nil {
		t.Fatal("a link out of the folder was followed")
	}
	if _, err := s.Tile(context.Background(), tiles.Tile{Level: tiles.Entries, Width: 256}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, bad := range []string{"ftp://host/x", "http://", "http://user:secret@host/", "http://host/?q", filepath.Join(dir, "absent"), ""} {
		if _, err := OpenSource(bad, "", nil); err == nil {
			t.Errorf("%q is a source", bad)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
	}
	if _, err := OpenSource(dir, "other", nil); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
}

// TestDamagedSources pulls from logs spoiled in every way the generator knows: each is refused for its own reason, and the
// collection stays where it was. A pull of the healed log then goes on.
func TestDamagedSources(t *testing.T) {
	cfg := generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300, 700}}
	want := map[generate.Mode]int{
		generate.Drop: 31, generate.Reorder: 31, generate.FlipEntry: 31, generate.FlipTile: 31, generate.Truncate: 31,
		generate.Rollback: 21, generate.OtherRoot: 30, generate.NewKey: 60,
	}
	for _, mode := range generate.Modes {
		t.Run(string(mode), func(t *testing.T) {
			g, c := makeLog(t, cfg)
			l := newLab(t, c)
			l.pull()
			show(t, g, 700)
			if mode == generate.Rollback || mode == generate.OtherRoot {
				l.pull() // these contradict a head that is held
			}
			before, err := l.out.state()
			if err != nil {
				t.Fatal(err)
			}
			if err := generate.Damage(g.Dir, cfg, mode); err != nil {
				t.Fatal(err)
			}
			if v, err := VerifyLog(context.Background(), c, nil, 2); (err == nil) != (mode == generate.Rollback) {
				t.Fatalf("verifying the log alone: %v, %+v", err, v)
			}
			_, err = l.out.Pull(context.Background())
			if ExitCode(err) != want[mode] {
				t.Fatalf("exit code %d instead of %d: %v", ExitCode(err), want[mode], err)
			}
			after, serr := l.out.state()
			if serr != nil || after.collected[c.Origin].Size != before.collected[c.Origin].Size || !bytes.Equal(after.collected[c.Origin].Note, before.collected[c.Origin].Note) {
				t.Fatal("the collection moved", serr)
			}
			var fork *ForkError
			if errors.As(err, &fork) {
				data, err := os.ReadFile(fork.Evidence)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := CheckEvidence(data, c); err != nil {
					t.Fatal(err)
				}
				return // frozen: it does not go on by itself
			}
			if _, err := generate.Write(context.Background(), g.Dir, cfg); err != nil {
				t.Fatal(err)
			}
			if _, err := l.out.Pull(context.Background()); err != nil && !errors.Is(err, ErrNothing) {
				t.Fatal(err)
			}
			l.load(l.export(0))
		})
	}
}

// TestForkedSource pulls a log that forks below the head held, as a longer tree and as an older checkpoint.
func TestForkedSource(t *testing.T) {
	for _, size := range []uint64{700, 200} {
		good := generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300}}
		g, c := makeLog(t, good)
		l := newLab(t, c)
		l.pull()
		forked, err := generate.Write(context.Background(), filepath.Join(l.dir, "forked"), generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{size}, ForkAt: 150})
		if err != nil || forked.VKey != g.VKey {
			t.Fatal(err)
		}
		l.ec.Logs[0].Source = forked.Dir
		l.reopen()
		_, err = l.out.Pull(context.Background())
		var fork *ForkError
		if !errors.As(err, &fork) || ExitCode(err) != 30 {
			t.Fatalf("size %d: %v", size, err)
		}
		data, err := os.ReadFile(fork.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := CheckEvidence(data, c); err != nil {
			t.Fatal(err)
		}
		if _, err := l.out.Pull(context.Background()); !errors.Is(err, ErrFrozen) {
			t.Fatal(err)
		}
	}
}

// TestPullGoesOn cuts a pull short and counts what the next one fetches again.
func TestPullGoesOn(t *testing.T) {
	g, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{20_000}})
	var limit, served atomic.Int32
	limit.Store(30)
	files := http.FileServer(http.Dir(g.Dir))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "entries") && served.Add(1) > limit.Load() {
			http.Error(w, "gone for today", http.StatusForbidden)
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer srv.Close()
	c.Source = srv.URL
	l := newLab(t, c)
	if _, err := l.out.Pull(context.Background()); ExitCode(err) != 3 {
		t.Fatal(err)
	}
	if _, err := l.out.Export(context.Background(), ExportOptions{Out: l.medium}); !errors.Is(err, ErrNothing) {
		t.Fatal("half a log was exported", err)
	}
	limit.Store(1 << 20)
	served.Store(0)
	r, err := l.out.Pull(context.Background())
	if err != nil || r.Logs[0].Kept < 20 || r.Logs[0].Kept+r.Logs[0].Fetched != 79 {
		t.Fatalf("%v, %+v, %d served", err, r.Logs[0], served.Load())
	}
	l.load(l.export(0))
}
