package mirror

import (
	"context"
	"testing"

	"redoubt.internal/mirror/generate"
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
