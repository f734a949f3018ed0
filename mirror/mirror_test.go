package mirror

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// TestRealSmallLog carries the real 47-entry log in three transfers and reproduces all 21 of its signed checkpoints from the
// tiles that arrived.
func TestRealSmallLog(t *testing.T) {
	dir, c, sizes := serverlessLog(t)
	l := newLab(t, c)
	for i, size := range []uint64{16, 35, 47} {
		if err := generate.Rewind(dir, size); err != nil {
			t.Fatal(err)
		}
		l.pull()
		r := l.load(l.export(0))
		if len(r.Transfers) != 1 || r.Transfers[0].Sequence != uint64(i+1) || r.Transfers[0].Logs[0].To != size {
			t.Fatalf("%+v", r)
		}
	}
	sh, err := l.in.shelf(c.Origin)
	if err != nil {
		t.Fatal(err)
	}
	known := l.in.logs[c.Origin]
	head, err := l.in.Head(c.Origin)
	if err != nil {
		t.Fatal(err)
	}
	tree := l.in.tree(head, sh)
	for _, size := range sizes {
		note := readFile(t, dir, size)
		signed, err := known.open(note)
		if err != nil {
			t.Fatal(err)
		}
		root, err := tree.RootAt(context.Background(), size)
		if err != nil || root != signed.Root {
			t.Fatalf("size %d: root %s, signed %s, %v", size, root, signed.Root, err)
		}
	}
	t.Logf("%d real checkpoints reproduced from %d leaves", len(sizes), head.Size)
}

// TestArmoryDriveLog carries the other real small log: two firmware releases under a checkpoint of an origin that is not the
// name of its key.
func TestArmoryDriveLog(t *testing.T) {
	data := publicData(t, "armory-drive-log")
	key, err := os.ReadFile(filepath.Join(data, "keys", "armory-drive-log.pub"))
	if err != nil {
		t.Fatal(err)
	}
	note, err := os.ReadFile(filepath.Join(data, "log", "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "log")
	b, err := generate.NewBuilder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, n := range []string{"00", "01"} {
		leaf, err := os.ReadFile(filepath.Join(data, "log", "seq", "00", "00", "00", "00", n))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Add(leaf); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Publish(note); err != nil {
		t.Fatal(err)
	}
	c := LogConfig{Origin: "Armory Drive Prod 2", VKey: string(key), Source: dir}
	l := newLab(t, c)
	l.pull()
	l.load(l.export(0))
	if r, err := l.in.Reconcile(context.Background()); err != nil || r.Err() != nil || r.Logs[0].Leaves != 2 {
		t.Fatal(err, r.Err())
	}
	// The log's history has checkpoints of test origins, signed by other keys: none of them is taken for this log.
	old, _ := filepath.Glob(filepath.Join(data, "checkpoints", "*"))
	refused := 0
	for _, f := range old {
		note, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.in.logs[c.Origin].open(note); err != nil {
			if ExitCode(err) != 60 && ExitCode(err) != 31 {
				t.Fatal(err)
			}
			refused++
		}
	}
	if len(old) != 47 || refused < 30 {
		t.Fatalf("%d of %d checkpoints refused", refused, len(old))
	}
	t.Logf("%d of %d checkpoints of other origins and keys refused", refused, len(old))
}

// TestOneKeyTwoLogs swaps the checkpoints of two logs that one key signs for, as the shards of a public log are: a log is
// known by its origin.
func TestOneKeyTwoLogs(t *testing.T) {
	ga, a := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{10, 20}})
	c := generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{20}}
	root := tiles.Hash(ga.Heads[1].Root)
	swapped, err := parcel.SignNote(generate.CheckpointText("other.example", 20, root), "log.example", c.Key())
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, a)
	l.pull()
	if err := os.WriteFile(filepath.Join(ga.Dir, "checkpoint"), swapped, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.out.Pull(context.Background()); ExitCode(err) != 60 {
		t.Fatal(err)
	}
}

// TestForgottenLog takes a mirrored log out of the configuration: reconcile says that nobody vouches for it any more.
func TestForgottenLog(t *testing.T) {
	_, a := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{10}})
	l := newLab(t, a)
	l.pull()
	l.load(l.export(0))
	l.mc.Logs = nil
	l.reopen()
	if r, err := l.in.Reconcile(context.Background()); err != nil || ExitCode(r.Err()) != 31 {
		t.Fatal(err, r.Err())
	}
}

// TestTwoRootsOneLog: a log that two trusted roots give two keys is nobody's; with one key in both it is known.
func TestTwoRootsOneLog(t *testing.T) {
	l := newLab(t)
	c := LogConfig{Origin: "shared.example", VKey: mustKey(t, "shared.example", 5)}
	other := c
	other.VKey = mustKey(t, "shared.example", 6)
	for _, step := range []struct {
		repository string
		log        LogConfig
		known      bool
	}{{"one", c, true}, {"two", other, false}, {"two", c, true}} {
		if err := l.in.learn(step.repository, []LogConfig{step.log}); err != nil {
			t.Fatal(err)
		}
		for range 20 { // whatever the order in which they are asked
			if got := l.in.log(c.Origin); (got != nil) != step.known {
				t.Fatalf("%s: %v", step.repository, got)
			}
		}
	}
}
