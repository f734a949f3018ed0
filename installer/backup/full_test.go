package backup

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A medium that fills up at many points: the run that meets it says so and is none, the runs before it stay whole, and with room again
// the next run goes on without a repair.
func TestFullMedium(t *testing.T) {
	if dir := os.Getenv("BACKUP_TEST_FULL"); dir != "" {
		fillMedium(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.Command("unshare", "-rm", "sh", "-c", `mount -t tmpfs -o size=512k tmpfs "$1" && exec "$2" -test.v -test.run '^TestFullMedium$'`, "sh", dir, os.Args[0])
	cmd.Env = append(os.Environ(), "BACKUP_TEST_FULL="+dir)
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("unshare:")) || bytes.Contains(out, []byte("mount:")) || errors.Is(err, exec.ErrNotFound) {
		t.Skipf("NOT TESTED: this machine lets no test mount a small disk of its own: %v %s", err, out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", bytes.TrimSpace(out))
}

// fillMedium runs in a mount namespace of its own, with dir a tmpfs of half a MiB.
func fillMedium(t *testing.T, dir string) {
	s := newSite(t)
	s.add(40)
	full, whole := 0, 0
	for left := 200 << 10; left >= 0; left -= 10 << 10 {
		s.c.To = filepath.Join(dir, "copies")
		check(t, os.RemoveAll(s.c.To))
		s.create()
		s.add(1)
		filler := filepath.Join(dir, "filler")
		check(t, os.WriteFile(filler, make([]byte, 64<<10), 0o600))
		grow(t, filler, int64(left))
		_, err := Create(t.Context(), s.c)
		switch {
		case err == nil:
			whole++
		case errors.Is(err, ErrFull):
			full++
		default:
			t.Fatalf("%d bytes left: %v", left, err)
		}
		_, verr := Verify(t.Context(), s.reading())
		check(t, verr)
		check(t, os.Remove(filler))
		s.create()
		s.restored(s.reading(), s.log.Head().Size)
	}
	if full == 0 || whole == 0 {
		t.Fatalf("%d runs met the full medium, %d did not: the test fills nothing", full, whole)
	}
	t.Logf("%d runs met the full medium, %d did not", full, whole)
}

// grow fills the medium up to left bytes.
func grow(t *testing.T, filler string, left int64) {
	t.Helper()
	f, err := os.OpenFile(filler, os.O_WRONLY|os.O_APPEND, 0)
	check(t, err)
	defer f.Close()
	var size int64 = 64 << 10
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
		size += 4096
	}
	check(t, f.Truncate(max(0, size-4096-left)))
}
