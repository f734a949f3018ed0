package mirror

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"redoubt.internal/mirror/generate"
)

// TestDiskFull fills the mirror's file system, a small tmpfs of its own namespace, in the middle of an import, leaving a few
// pages more each time. The import ends with exit code 42, nothing readers see has moved, and with room made it goes on.
func TestDiskFull(t *testing.T) {
	if os.Getenv("REDOUBT_TEST_NAMESPACE") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
		cmd.Env = append(os.Environ(), "REDOUBT_TEST_NAMESPACE=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if _, ran := err.(*exec.ExitError); err != nil && !ran {
			t.Skipf("THIS KERNEL GIVES NO USER NAMESPACE, a full disk was not tested: %v", err)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !strings.Contains(string(out), "--- PASS: TestDiskFull") {
			t.Skipf("%s", out)
		}
		return
	}
	g, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300, 8_000}})
	calm := newLab(t, c)
	calm.pull()
	first := calm.export(0)
	calm.load(first)
	show(t, g, 8_000)
	calm.pull()
	second := calm.export(0)
	calm.load(second)
	l := newLab(t, c)
	base := l.mc.Dir
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, "size=96m"); err != nil {
		t.Skipf("NO TMPFS CAN BE MOUNTED HERE, a full disk was not tested: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(base, unix.MNT_DETACH) })
	for _, leave := range []int64{0, 3, 40, 1000, 3000} {
		at := filepath.Join(base, fmt.Sprint(leave))
		filler := filepath.Join(base, "filler")
		l.inDB = newDB(t, filepath.Join(l.dir, fmt.Sprint(leave, ".db")))
		l.mc.DB, l.mc.Dir, l.mc.Progress = l.inDB, at, nil
		l.reopen()
		l.load(first)
		l.mc.Progress = func(p Progress) {
			if p.Stage == "pending" {
				fill(t, base, filler, leave)
			}
		}
		l.reopen()
		before, err := l.in.Head(c.Origin)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.in.Import(context.Background(), second); ExitCode(err) != 42 {
			t.Fatalf("%d pages left: exit code %d: %v", leave, ExitCode(err), err)
		}
		if after, err := l.in.Head(c.Origin); err != nil || after.Size != before.Size {
			t.Fatal("the head moved", err)
		}
		if r, err := l.in.Reconcile(context.Background()); err != nil || r.Err() != nil {
			t.Fatal(err, r.Err())
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		l.mc.Progress = nil
		l.reopen()
		l.load(second)
		if l.mirrorContent(at) != calm.content() {
			t.Fatalf("%d pages left: another final state", leave)
		}
		os.RemoveAll(at)
	}
}

// fill writes a file until the file system has that many pages left.
func fill(t *testing.T, dir, filler string, leave int64) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n := int64(st.Bavail) - leave; n > 0 {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, n*st.Bsize); err != nil {
			t.Fatal(err)
		}
	}
}

// mirrorContent is content for a mirror whose folder is dir.
func (l *lab) mirrorContent(dir string) string {
	l.t.Helper()
	old := l.filesBase
	l.filesBase = dir
	defer func() { l.filesBase = old }()
	return l.content()
}
