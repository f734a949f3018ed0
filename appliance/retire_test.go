package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"redoubt.internal/installer/backup"
	"redoubt.internal/log"
)

// TestIndexesThatMayBeTaken: what a surviving mark says counts, and where one is gone a gap comes on top of it.
func TestIndexesThatMayBeTaken(t *testing.T) {
	for _, c := range []struct {
		lost lostEntries
		want uint64
	}{
		{lostEntries{Size: 100, Mark: 100, Sure: true}, 100},
		{lostEntries{Size: 100, Mark: 130, Sure: true}, 130},
		{lostEntries{Size: 100, Mark: 100}, 100 + lostGap},
		{lostEntries{Size: 100, Mark: 2_000_000}, 2_000_000 + lostGap},
	} {
		if got := c.lost.taken(); got != c.want {
			t.Errorf("%+v: %d, want %d", c.lost, got, c.want)
		}
	}
}

// TestMarksAfterARestore: a mark that is older than the backup is a copy, and never says that all is here.
func TestMarksAfterARestore(t *testing.T) {
	dir := newStateDir(t)
	cfg, err := loadConfig(dir.config())
	if err != nil {
		t.Fatal(err)
	}
	in, err := openState(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	head, origin := in.auditLog.Head(), cfg.origin(roleAudit)
	if head.Size < 1 {
		t.Fatal("the audit log is empty")
	}
	other := head.Root
	other[0] ^= 1
	for want, l := range map[string]backup.LogHead{
		logWhole:  {Origin: origin, Size: head.Size, Root: head.Root[:]},
		logForked: {Origin: origin, Size: head.Size, Root: other[:]},
		logBehind: {Origin: origin, Size: head.Size - 1, Root: other[:]},
		logStale:  {Origin: origin, Size: head.Size + 1, Root: other[:]},
	} {
		if got := compareMarks(cfg, dir, []backup.LogHead{l}); len(got) != 1 || got[0].State != want {
			t.Errorf("%+v, want %s", got, want)
		}
	}
	if got := compareMarks(cfg, dir, []backup.LogHead{{Origin: "another.example"}}); got[0].State != logUnmarked {
		t.Errorf("%+v", got)
	}
	if err := os.Remove(dir.highWater()); err != nil {
		t.Fatal(err)
	}
	if got := compareMarks(cfg, dir, []backup.LogHead{{Origin: origin, Size: head.Size}}); got[0].State != logUnmarked {
		t.Errorf("%+v", got)
	}
}

// TestAnotherCopyIsNotRetired: a directory whose log went another way than a smaller mark says is refused, not retired.
func TestAnotherCopyIsNotRetired(t *testing.T) {
	dir := newStateDir(t)
	in, err := openState(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := in.record(t.Context(), "test", "test.record", "x", nil); err != nil {
			t.Fatal(err)
		}
	}
	head, origin := in.auditLog.Head(), in.cfg.origin(roleAudit)
	in.close()
	for _, c := range []struct {
		mark    log.Mark
		refused bool
	}{
		{log.Mark{Origin: origin, Size: 1, Root: [32]byte{1}}, true},
		{log.Mark{Origin: origin, Size: head.Size, Root: [32]byte{1}}, true},
		{log.Mark{Origin: origin, Size: head.Size + 5, Root: [32]byte{1}}, false}, // the control: behind, as after a restore
	} {
		if err := os.Remove(dir.highWater()); err != nil {
			t.Fatal(err)
		}
		file, err := log.OpenHighWaterFile(dir.highWater())
		if err != nil {
			t.Fatal(err)
		}
		if err := file.For(origin).Raise(t.Context(), c.mark); err != nil {
			t.Fatal(err)
		}
		file.Close()
		if in, err = openState(t, dir); err != nil {
			t.Fatal(err)
		}
		if _, err := in.behind(t.Context()); (err != nil) != c.refused {
			t.Errorf("size %d of %d: %v", c.mark.Size, head.Size, err)
		}
		in.close()
	}
}

// TestNoCredentialIsCopied: a backup passes over every file that unlocks something.
func TestNoCredentialIsCopied(t *testing.T) {
	in, err := openState(t, newStateDir(t))
	if err != nil {
		t.Fatal(err)
	}
	in.cfg.Mirror.Images = []MirrorImages{{DockerConfig: "docker"}, {DockerConfig: filepath.Join(in.dir.root, "other")}, {}}
	skip := in.notCopied()
	for _, path := range []string{in.dir.path("docker"), in.dir.path("other"), in.dir.resolve(in.cfg.Keys.PassphraseFile)} {
		if !slices.Contains(skip, path) {
			t.Errorf("%s is copied", path)
		}
	}
	if slices.Contains(skip, in.dir.root) {
		t.Error("everything is passed over")
	}
}
