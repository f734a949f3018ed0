package log

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// rig is a log in a directory of its own, as an appliance would hold it.
type rig struct {
	t      testing.TB
	dir    string
	db     *bolt.DB
	hw     *File
	c      Config
	l      *Log
	cancel context.CancelFunc
	done   chan struct{}
	ran    error
}

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: t.TempDir(), c: Config{Prefix: "t/", Origin: "log.example.test", Signer: key}}
	if change != nil {
		change(&r.c)
	}
	r.db, err = bolt.Create(r.path())
	if err != nil {
		t.Fatal(err)
	}
	r.openHW()
	r.c.DB = r.db
	r.flatten()
	if err := Create(t.Context(), r.c); err != nil {
		t.Fatal(err)
	}
	r.open()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) path() string { return filepath.Join(r.dir, "log.db") }

func (r *rig) openHW() {
	r.t.Helper()
	var err error
	if r.hw, err = OpenHighWaterFile(r.path() + ".highwater"); err != nil {
		r.t.Fatal(err)
	}
	r.c.HighWater = []HighWater{r.hw.For(r.c.Origin)}
}

func (r *rig) open() {
	r.t.Helper()
	r.flatten()
	l, err := Open(r.t.Context(), r.c)
	if err != nil {
		r.t.Fatal(err)
	}
	r.l = l
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan struct{})
	go func(done chan struct{}) { r.ran = l.Run(ctx); close(done) }(r.done)
}

// flatten puts the watch for nested transactions before the engine.
func (r *rig) flatten() {
	if db, ok := r.c.DB.(*bolt.DB); ok {
		r.c.DB = &flatDB{DB: db, t: r.t}
	}
}

// flatDB fails the test on a transaction begun inside another one of the same goroutine.
type flatDB struct {
	store.DB
	t      testing.TB
	inside sync.Map // by goroutine
}

func (d *flatDB) enter() (leave func()) {
	var b [40]byte
	g := string(bytes.Fields(b[:runtime.Stack(b[:], false)])[1])
	if _, nested := d.inside.LoadOrStore(g, true); nested {
		d.t.Errorf("a transaction inside another one\n%s", debug.Stack())
		return func() {}
	}
	return func() { d.inside.Delete(g) }
}

func (d *flatDB) View(fn func(store.Tx) error) error {
	defer d.enter()()
	return d.DB.View(fn)
}

func (d *flatDB) Update(fn func(store.Tx) error) error {
	defer d.enter()()
	return d.DB.Update(fn)
}

func (r *rig) stop() {
	if r.cancel == nil {
		return
	}
	r.cancel()
	<-r.done
	r.cancel = nil
	r.l.leaves.working.Wait()
	r.l.search.working.Wait()
	r.db.Close()
	r.hw.Close()
}

func (r *rig) reopen() {
	r.t.Helper()
	r.stop()
	var err error
	if r.db, err = bolt.Open(r.path()); err != nil {
		r.t.Fatal(err)
	}
	r.c.DB = r.db
	r.openHW()
	r.open()
}

func (r *rig) add(leaf, extra string) Receipt {
	r.t.Helper()
	rc, err := r.l.Add(r.t.Context(), []byte(leaf), []byte(extra), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return rc
}

func TestAddReopenProve(t *testing.T) {
	r := newRig(t, nil)
	var mu sync.Mutex
	got := map[uint64]Receipt{}
	leaves := map[uint64]string{}
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			for i := range 40 {
				leaf := fmt.Sprintf("leaf %d %d", g, i)
				rc, err := r.l.Add(t.Context(), []byte(leaf), []byte("x"+leaf), nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if _, dup := got[rc.Index]; dup {
					t.Errorf("index %d given twice", rc.Index)
				}
				got[rc.Index], leaves[rc.Index] = rc, leaf
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for range 2 {
		if n := r.l.Head().Size; n != 1280 {
			t.Fatalf("size %d", n)
		}
		for i, rc := range got {
			e, err := r.l.Entry(t.Context(), i)
			if err != nil || string(e.Leaf) != leaves[i] || string(e.Extra) != "x"+leaves[i] {
				t.Fatalf("entry %d: %q %v", i, e.Leaf, err)
			}
			if root, err := r.l.Root(t.Context(), rc.Checkpoint.Size); err != nil || root != rc.Checkpoint.Root {
				t.Fatalf("root of %d: %v", rc.Checkpoint.Size, err)
			}
			size, root, err := VerifyNote(r.c.Origin, r.l.key.pub, rc.Checkpoint.Note)
			if err != nil || size != rc.Checkpoint.Size || root != rc.Checkpoint.Root {
				t.Fatal(err)
			}
			if j, ok, err := r.l.LeafIndex(t.Context(), rc.LeafHash); err != nil || !ok || j != i {
				t.Fatalf("leaf index of %d: %d %v %v", i, j, ok, err)
			}
		}
		rep, err := Fsck(t.Context(), r.c, nil)
		if err != nil || rep.Entries != 1280 || rep.Extras != 1280 || rep.Tiles != 5 || rep.Unsigned != 0 {
			t.Fatal(rep, err)
		}
		r.reopen()
	}
}

func TestWith(t *testing.T) {
	r := newRig(t, nil)
	boom := errors.New("boom")
	_, err := r.l.Add(t.Context(), []byte("a"), nil, func(tx store.Tx) error {
		if err := tx.Put([]byte("room/a"), []byte("1")); err != nil {
			return err
		}
		return boom
	})
	if err != boom {
		t.Fatal(err)
	}
	rc, err := r.l.Add(t.Context(), []byte("b"), nil, func(tx store.Tx) error {
		return tx.Put([]byte("room/b"), []byte("2"))
	})
	if err != nil || rc.Index != 0 {
		t.Fatal(rc.Index, err)
	}
	r.db.View(func(tx store.Tx) error {
		if v, _ := tx.Get([]byte("room/a")); v != nil {
			t.Error("the failed write is there")
		}
		if v, _ := tx.Get([]byte("room/b")); string(v) != "2" {
			t.Error("the write is not there")
		}
		return nil
	})
	_, err = r.l.Add(t.Context(), []byte("c"), nil, func(tx store.Tx) error {
		return tx.Put([]byte("t/log/e"), nil)
	})
	if !errors.Is(err, store.ErrInvalid) {
		t.Fatal(err)
	}
}
