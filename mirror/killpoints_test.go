package mirror

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror/generate"
)

// deadline counts the places where an import can be killed, and kills its process with SIGKILL at one of them.
type deadline struct{ left int }

func (d *deadline) pass() {
	if d.left--; d.left == 0 {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// mortalContext has such a place wherever somebody asks whether it ended: at every read of a volume.
type mortalContext struct {
	context.Context
	d *deadline
}

func (m mortalContext) Err() error { m.d.pass(); return m.Context.Err() }

// mortalDB has such places before, in and after every transaction. torn makes it the negative control: it keeps no transaction
// together, so that a kill falls between two writes that belong together.
type mortalDB struct {
	store.DB
	d    *deadline
	torn bool
}

func (m *mortalDB) Update(fn func(store.Tx) error) error {
	m.d.pass()
	if m.torn {
		return m.updateTorn(fn)
	}
	err := m.DB.Update(func(tx store.Tx) error {
		err := fn(tx)
		m.d.pass()
		return err
	})
	m.d.pass()
	return err
}

// tornTx hands each write over by itself.
type tornTx struct {
	store.Tx
	writes *[]func(store.Tx) error
}

func (t tornTx) Put(k, v []byte) error {
	k, v = append([]byte{}, k...), append([]byte{}, v...)
	*t.writes = append(*t.writes, func(tx store.Tx) error { return tx.Put(k, v) })
	return nil
}

func (t tornTx) Delete(k []byte) error {
	k = append([]byte{}, k...)
	*t.writes = append(*t.writes, func(tx store.Tx) error { return tx.Delete(k) })
	return nil
}

func (m *mortalDB) updateTorn(fn func(store.Tx) error) error {
	var writes []func(store.Tx) error
	if err := m.DB.View(func(tx store.Tx) error { writes = nil; return fn(tornTx{tx, &writes}) }); err != nil {
		return err
	}
	for _, w := range writes {
		if err := m.DB.Update(w); err != nil {
			return err
		}
		m.d.pass()
	}
	return nil
}

// importUntilPoint is the process that is killed. spec is "<n> <torn> <dir> <vkey> <log origin> <log vkey>", separated by tabs.
func importUntilPoint(spec string) int {
	f := strings.Split(spec, "\t")
	n, _ := strconv.Atoi(f[0])
	db, err := bolt.Open(filepath.Join(f[2], "in.db"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer db.Close()
	d := &deadline{n}
	m, err := Open(Config{
		DB: &mortalDB{db, d, f[1] == "torn"}, Dir: filepath.Join(f[2], "in"), Stream: labStream, Exporters: []string{f[3]}, Logs: []LogConfig{{Origin: f[4], VKey: f[5]}},
		Now:      func() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) },
		Progress: func(Progress) { d.pass() },
	})
	if err == nil {
		_, err = m.Import(mortalContext{context.Background(), d}, []string{filepath.Join(f[2], "medium")})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return ExitCode(err)
}

// standing is what a mirror holds: "old", "new", or what lies between, judged by heads, sequence, history and every file a head covers.
func (l *lab) standing(oldContent, newContent string, sizes [2]uint64, last uint64) string {
	s, err := l.in.snapshot()
	if err != nil {
		return err.Error()
	}
	h := s.heads["log.example"]
	transfers := 0
	var t Transfer
	err = l.inDB.View(func(tx store.Tx) error {
		found, err := get(tx, transferKey(last), &t)
		if found {
			transfers = 1
		}
		return err
	})
	switch {
	case err != nil:
		return err.Error()
	case s.stream.Sequence == last-1 && h.Size == sizes[0] && transfers == 0:
		return "old"
	case s.stream.Sequence == last && h.Size == sizes[1] && transfers == 1 && s.pending == nil && l.content() == newContent:
		return "new"
	}
	return fmt.Sprintf("sequence %d, size %d, %d transfers, pending %t", s.stream.Sequence, h.Size, transfers, s.pending != nil)
}

// TestKilledAtAHundredPoints kills an import with SIGKILL at a hundred different points: at progress reports, at reads of the medium,
// before, in and after transactions. Each process starts from the same state. What is left is the state before or the one after;
// a second run ends where an undisturbed import ends. The negative control, a database that keeps no transaction together, is caught.
func TestKilledAtAHundredPoints(t *testing.T) {
	inMemory(t)
	sizes := [2]uint64{300, 12_000}
	lc := tinyLog(t, sizes[0], sizes[1])
	if err := generate.Rewind(lc.Source, sizes[0]); err != nil {
		t.Fatal(err)
	}
	calm := newLab(t, lc)
	calm.pull()
	calm.load(calm.export(0))
	before, oldContent := calm.dir, calm.content()
	shop := newShop(t, true) // the parcel that is killed brings what vouches for an image, too
	image := shop.image("team/app", "1.0", "killed")
	shop.vouch("team/app", image, lc.Origin, 7)
	calm.ec.Images = []ImageConfig{shop.config(shop.host + "/team/app:1.0")}
	calm.reopen()
	if err := generate.Rewind(lc.Source, sizes[1]); err != nil {
		t.Fatal(err)
	}
	calm.pull()
	files := calm.export(64 << 10)
	calm.inDB.Close()
	template := filepath.Join(t.TempDir(), "template")
	for _, name := range []string{"in", "medium"} {
		if err := os.CopyFS(filepath.Join(template, name), os.DirFS(filepath.Join(before, name))); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, filepath.Join(before, "in.db"), filepath.Join(template, "in.db"))
	calm.reopenDB()
	calm.load(files)
	newContent := calm.content()
	if all, err := calm.in.Images(); err != nil || len(all) != 1 || len(all[0].Artifacts) != 2 {
		t.Fatal(all, err)
	}

	run := func(n int, torn string) (l *lab, killed bool) {
		t.Helper()
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
			t.Fatal(err)
		}
		os.Chmod(filepath.Join(dir, "in.db"), 0o600)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "REDOUBT_TEST_KILL_POINT="+strings.Join([]string{strconv.Itoa(n), torn, dir, calm.vkey, lc.Origin, lc.VKey}, "\t"))
		out, err := cmd.CombinedOutput()
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		killed = status.Signaled() && status.Signal() == syscall.SIGKILL
		if err != nil && !killed {
			t.Fatalf("point %d: %v: %s", n, err, out)
		}
		l = &lab{t: t, dir: dir, now: calm.now, key: calm.key, vkey: calm.vkey, medium: filepath.Join(dir, "medium"), ec: calm.ec, mc: calm.mc, outDB: calm.outDB}
		l.mc.Dir = filepath.Join(dir, "in")
		l.reopenDB()
		return l, killed
	}
	// How many points there are is found by doubling; then a hundred of them are spread over all.
	total := 0
	for low, high := 1, 64; ; {
		if total > 0 {
			break
		}
		if l, killed := run(high, ""); killed {
			l.inDB.Close()
			low, high = high, high*2
			continue
		}
		for high-low > 1 {
			mid := (low + high) / 2
			if l, killed := run(mid, ""); killed {
				low = mid
				l.inDB.Close()
			} else {
				high = mid
				l.inDB.Close()
			}
		}
		total = low
	}
	if total < 100 {
		t.Fatalf("an import has only %d points", total)
	}
	kills, olds, news := 0, 0, 0
	for i := range 100 {
		n := total - 99 + i // the last ones, down to after the commit
		if i < 70 {
			n = 1 + i*(total-30)/70 // and seventy spread over the rest
		}
		l, killed := run(n, "")
		if !killed {
			t.Fatalf("point %d of %d was not reached", n, total)
		}
		kills++
		switch got := l.standing(oldContent, newContent, sizes, 2); got {
		case "old":
			olds++
		case "new":
			news++
		default:
			t.Fatalf("killed at point %d of %d: %s", n, total, got)
		}
		if i%10 == 9 || i > 90 {
			l.load([]string{l.medium})
			if got := l.standing(oldContent, newContent, sizes, 2); got != "new" {
				t.Fatalf("run again after a kill at point %d: %s", n, got)
			}
		}
		l.inDB.Close()
		os.RemoveAll(l.dir)
	}
	caught := 0
	for n := total - 4; n < total+40 && caught == 0; n++ {
		l, killed := run(n, "torn")
		if got := l.standing(oldContent, newContent, sizes, 2); killed && got != "old" && got != "new" {
			caught++
		}
		l.inDB.Close()
	}
	if caught == 0 {
		t.Fatal("the negative control was not caught: a state between the two went unnoticed")
	}
	t.Logf("%d kills at different points of %d: %d left the state before, %d the one after, 0 between; the control was caught", kills, total, olds, news)
}

// inMemory lets a test's folders lie in memory where there is such a place: kill -9 loses no page, so nothing is tested less.
func inMemory(t *testing.T) {
	t.Helper()
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm")
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, mustRead(t, from), 0o600); err != nil {
		t.Fatal(err)
	}
}
