package mirror

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"redoubt.internal/mirror/generate"
)

// TestDiskFillsUp lets the disk fill up while a parcel is taken in: 42, the state does not move; with room made, the same command goes on and
// ends as it should.
func TestDiskFillsUp(t *testing.T) {
	small := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("redoubt-test", small, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	lc := tinyLog(t, 300, 45_000)
	if err := generate.Rewind(lc.Source, 300); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, lc)
	l.mc.Dir, l.filesBase = filepath.Join(small, "in"), filepath.Join(small, "in")
	l.reopen()
	l.pull()
	l.load(l.export(0))
	if err := generate.Rewind(lc.Source, 45_000); err != nil {
		t.Fatal(err)
	}
	l.pull()
	files := l.export(0)
	filler := filepath.Join(small, "filler")
	fill := func() {
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for size := 1 << 20; size >= 4096; size /= 2 {
			for err = nil; err == nil; {
				_, err = f.Write(make([]byte, size))
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
		}
	}
	for _, stage := range []string{"quarantined", "pending", "package"} {
		filled := false
		l.mc.Progress = func(p Progress) {
			if p.Stage == stage && !filled {
				filled = true
				fill()
			}
		}
		l.reopen()
		l.refused(42, files...)
		if !filled {
			t.Fatalf("the disk was not full at %q", stage)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	l.mc.Progress = nil
	fill() // full before anything begins
	l.reopen()
	l.refused(42, files...)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	l.load(files)
	if r, err := l.in.Reconcile(context.Background()); err != nil || r.Err() != nil || r.Logs[0].Leaves != 45_000 {
		t.Fatal(err, r.Err())
	}
}

// TestMediumFailsMidVolume reads a volume whose medium fails somewhere in it: the kernel answers EIO to a read, by strace. 41, the volume named,
// and nothing moves.
func TestMediumFailsMidVolume(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed: no read can be made to fail")
	}
	if out, err := exec.Command("strace", "-qq", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		t.Skipf("strace cannot trace here: %v: %s", err, out)
	}
	_, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{1500}})
	l := newLab(t, c)
	l.pull()
	files := l.export(1 << 20)
	if len(files) < 2 {
		t.Fatalf("%d volumes", len(files))
	}
	before := l.fingerprint()
	l.inDB.Close()
	spec := strings.Join([]string{"0", l.dir, l.vkey, c.Origin, c.VKey}, "\t")
	trace := filepath.Join(l.dir, "trace")
	cmd := exec.Command("strace", "-f", "-qq", "-o", trace, "-P", files[1], "-e", "trace=pread64", "-e", "inject=pread64:error=EIO:when=1+", os.Args[0])
	cmd.Env = append(os.Environ(), "REDOUBT_TEST_KILL="+spec)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 41 {
		t.Fatalf("exit code 41 is expected: %v: %s", err, out)
	}
	if !bytes.Contains(out, []byte(filepath.Base(files[1]))) || bytes.Contains(out, []byte(filepath.Base(files[0]))) || !bytes.Contains(out, []byte("input/output error")) {
		t.Fatalf("the volume is not named: %s", out)
	}
	if seen, _ := os.ReadFile(trace); !bytes.Contains(seen, []byte("INJECTED")) {
		t.Fatal("no read failed")
	}
	l.reopenDB()
	if l.fingerprint() != before {
		t.Fatal("it moved the state")
	}
	l.load(files)
}
