package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror/generate"
)

// TestMain lets the test binary be the process that is killed: with REDOUBT_TEST_KILL set it imports, and kills itself with SIGKILL
// at the n-th report of progress. With REDOUBT_TEST_SCALE it is the process whose memory is measured.
func TestMain(m *testing.M) {
	if spec := os.Getenv("REDOUBT_TEST_KILL"); spec != "" {
		os.Exit(importUntilKilled(spec))
	}
	if os.Getenv("REDOUBT_TEST_SCALE") != "" {
		os.Exit(actScaled())
	}
	if spec := os.Getenv("REDOUBT_TEST_KILL_POINT"); spec != "" {
		os.Exit(importUntilPoint(spec))
	}
	os.Exit(m.Run())
}

// importUntilKilled imports the medium of a lab directory. spec is "<n> <dir> <vkey> <log origin> <log vkey>", separated by
// tabs; at the n-th progress report the process dies.
func importUntilKilled(spec string) int {
	f := strings.Split(spec, "\t")
	n, _ := strconv.Atoi(f[0])
	db, err := bolt.Open(filepath.Join(f[1], "in.db"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer db.Close()
	seen := 0
	logs, tuf := []LogConfig{{Origin: f[3], VKey: f[4]}}, []TUFConfig(nil)
	if pinned, ok := strings.CutPrefix(f[4], "site:"); ok { // believed by the repository whose first root lies there
		root, err := os.ReadFile(pinned)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		logs, tuf = []LogConfig{{Origin: f[3], Trust: "site"}}, []TUFConfig{{Name: "site", Root: root}}
	}
	m, err := Open(Config{
		DB: db, Dir: filepath.Join(f[1], "in"), Stream: labStream, Exporters: []string{f[2]}, Logs: logs, TUF: tuf,
		Now: func() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) },
		Progress: func(Progress) {
			if seen++; seen == n {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		},
	})
	if err == nil {
		_, err = m.Import(context.Background(), []string{filepath.Join(f[1], "medium")})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return ExitCode(err)
}

// TestKilledAnywhere kills an import with SIGKILL at every one of its stages and packages' batches in turn, checks that
// readers see the old state or the new one and nothing between, runs it again, and compares the final state with that of an
// import nobody disturbed.
func TestKilledAnywhere(t *testing.T) {
	sizes := []uint64{1000, 45_000}
	lc := tinyLog(t, sizes...)
	if err := generate.Rewind(lc.Source, sizes[0]); err != nil {
		t.Fatal(err)
	}
	calm := newLab(t, lc)
	calm.pull()
	calm.load(calm.export(0))
	if err := generate.Rewind(lc.Source, sizes[1]); err != nil {
		t.Fatal(err)
	}
	calm.pull()
	files := calm.export(0)
	old := calm.content()
	calm.load(files)
	want := calm.content()

	l := newLab(t, lc)
	l.load([]string{calm.medium + "/outside-000001.001.rdp"})
	if l.content() != old {
		t.Fatal("two labs differ from the start")
	}
	if err := os.CopyFS(l.medium, os.DirFS(calm.medium)); err != nil {
		t.Fatal(err)
	}
	l.inDB.Close()
	kills := 0
	for n := 1; ; n++ {
		spec := strings.Join([]string{strconv.Itoa(n), l.dir, l.vkey, lc.Origin, lc.VKey}, "\t")
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "REDOUBT_TEST_KILL="+spec)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if err != nil && !killed {
			t.Fatalf("run %d: %v: %s", n, err, out)
		}
		l.reopenDB()
		h, err := l.in.Head(lc.Origin)
		if err != nil || h.Size != sizes[0] && h.Size != sizes[1] {
			t.Fatalf("run %d: size %d, %v", n, h.Size, err)
		}
		r, err := l.in.Reconcile(context.Background())
		if err != nil || r.Err() != nil {
			t.Fatalf("run %d: %v, %v", n, err, r.Err())
		}
		done := h.Size == sizes[1]
		l.inDB.Close()
		if !killed {
			if !done {
				t.Fatal("an import that ended well moved nothing")
			}
			break
		}
		kills++
	}
	l.reopenDB()
	if got := l.content(); got != want {
		t.Fatal("the final state differs from that of an undisturbed import")
	}
	if kills < 5 {
		t.Fatalf("only %d kills", kills)
	}
	t.Logf("%d kills", kills)
}

// TestStagedFilesGoMissing cuts an import short, takes files out of staging, and lets it go on: they are staged again.
func TestStagedFilesGoMissing(t *testing.T) {
	c := tinyLog(t, 45_000)
	l := newLab(t, c)
	l.pull()
	files := l.export(0)
	ctx, cancel := context.WithCancel(context.Background())
	l.mc.Progress = func(p Progress) {
		if p.Stage == "package" && p.Done == 128 {
			cancel()
		}
	}
	l.reopen()
	if _, err := l.in.Import(ctx, files); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	var staged []string
	filepath.WalkDir(filepath.Join(l.mc.Dir, "staging"), func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			staged = append(staged, p)
		}
		return err
	})
	if len(staged) < 100 {
		t.Fatalf("%d files staged", len(staged))
	}
	for i, f := range staged {
		switch i % 10 {
		case 3:
			os.Remove(f)
		case 7:
			os.Truncate(f, 5)
		}
	}
	l.mc.Progress = nil
	l.reopen()
	l.load(files)
	if r, err := l.in.Reconcile(context.Background()); err != nil || r.Err() != nil || r.Logs[0].Leaves != 45_000 {
		t.Fatal(err, r.Err())
	}
}

// TestKilledAtRandom kills imports from the start at random instants, between and within packages, flushes and transactions,
// then lets one finish. It runs when REDOUBT_TORTURE is set; its value is the number of kills (default 100).
func TestKilledAtRandom(t *testing.T) {
	kills, err := strconv.Atoi(os.Getenv("REDOUBT_TORTURE"))
	if os.Getenv("REDOUBT_TORTURE") == "" {
		t.Skip("set REDOUBT_TORTURE to kill imports at random instants")
	}
	if err != nil || kills < 2 {
		kills = 100
	}
	g, lc := makeLog(t, generate.Config{Seed: 3, Origin: "log.example", Sizes: []uint64{1000, 45_000}})
	calm := newLab(t, lc)
	calm.pull()
	calm.load(calm.export(0))
	show(t, g, 45_000)
	calm.pull()
	start := time.Now()
	calm.load(calm.export(0))
	span := time.Since(start)
	want := calm.content()
	rng := rand.New(rand.NewPCG(3, 4))
	done := 0
	for done < kills {
		l := newLab(t, lc)
		if err := os.CopyFS(l.medium, os.DirFS(calm.medium)); err != nil {
			t.Fatal(err)
		}
		l.inDB.Close()
		for cut := 0; ; cut++ {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "REDOUBT_TEST_KILL="+strings.Join([]string{"0", l.dir, l.vkey, lc.Origin, lc.VKey}, "\t"))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			if cut < 5 {
				select {
				case <-time.After(time.Duration(rng.Int64N(int64(span)))):
					cmd.Process.Kill()
					done++
				case err := <-ended:
					ended <- err
				}
			}
			err := <-ended
			l.reopenDB()
			h, herr := l.in.Head(lc.Origin)
			if herr != nil && !errors.Is(herr, ErrNotFound) || h.Size != 0 && h.Size != 1000 && h.Size != 45_000 {
				t.Fatalf("size %d, %v", h.Size, herr)
			}
			if r, rerr := l.in.Reconcile(context.Background()); rerr != nil || r.Err() != nil {
				t.Fatal(rerr, r.Err())
			}
			if err == nil {
				if got := l.content(); got != want {
					t.Fatal("the final state differs from that of an undisturbed import")
				}
				l.inDB.Close()
				break
			}
			l.inDB.Close()
		}
		os.RemoveAll(l.dir)
	}
	t.Logf("%d kills at random instants, every final state the same", done)
}

func (l *lab) reopenDB() {
	l.t.Helper()
	db, err := bolt.Open(filepath.Join(l.dir, "in.db"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { db.Close() })
	l.inDB, l.mc.DB = db, db
	l.reopen()
}
