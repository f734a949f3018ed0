// Package storetest is the conformance test of store.DB. Every engine runs it:
//
//	storetest.Run(t, storetest.Engine{Create: ..., Open: ...})
//
// It checks the sentences of package store one by one: atomicity, isolation, order and bounds of Scan, errors passed
// through unchanged, durability over a reopening, limits, and the snapshot stream.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"redoubt.internal/log/store"
)

// Engine makes databases in dir. Create makes one, Open opens what Create made there and Close closed.
type Engine struct {
	Create func(dir string) (store.DB, error)
	Open   func(dir string) (store.DB, error)
}

// Run runs every check against fresh databases.
func Run(t *testing.T, e Engine) {
	for name, check := range map[string]func(*testing.T, *bench){
		"PutGetDelete":    putGetDelete,
		"Atomic":          atomic,
		"ErrorsPass":      errorsPass,
		"Scan":            scan,
		"Limits":          limits,
		"ReadOnlyView":    readOnlyView,
		"Isolation":       isolation,
		"SerialUpdates":   serialUpdates,
		"Durable":         durable,
		"Snapshot":        snapshot,
		"SnapshotWhileOn": snapshotWhileOn,
		"Random":          random,
	} {
		t.Run(name, func(t *testing.T) {
			b := &bench{Engine: e, dir: t.TempDir()}
			db, err := e.Create(b.dir)
			if err != nil {
				t.Fatal(err)
			}
			b.db = db
			t.Cleanup(func() { b.db.Close() })
			check(t, b)
		})
	}
}

type bench struct {
	Engine
	dir string
	db  store.DB
}

func (b *bench) put(t *testing.T, kv ...string) {
	t.Helper()
	err := b.db.Update(func(tx store.Tx) error {
		for i := 0; i < len(kv); i += 2 {
			if err := tx.Put([]byte(kv[i]), []byte(kv[i+1])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// dump reads everything as "k=v" strings.
func dump(t *testing.T, db store.DB, from, to []byte) []string {
	t.Helper()
	out := []string{}
	err := db.View(func(tx store.Tx) error {
		return tx.Scan(from, to, func(k, v []byte) bool {
			out = append(out, string(k)+"="+string(v))
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func want(t *testing.T, got []string, w ...string) {
	t.Helper()
	if !slices.Equal(got, w) {
		t.Fatalf("got %q, want %q", got, w)
	}
}

func putGetDelete(t *testing.T, b *bench) {
	err := b.db.Update(func(tx store.Tx) error {
		if v, err := tx.Get([]byte("a")); v != nil || err != nil {
			t.Errorf("absent key: %q, %v", v, err)
		}
		if err := tx.Put([]byte("a"), []byte("1")); err != nil {
			return err
		}
		if v, err := tx.Get([]byte("a")); string(v) != "1" || err != nil {
			t.Errorf("own write is not seen: %q, %v", v, err)
		}
		if err := tx.Put([]byte("empty"), nil); err != nil {
			return err
		}
		if v, err := tx.Get([]byte("empty")); v == nil || len(v) != 0 || err != nil {
			t.Errorf("an empty value comes back as %v, %v", v, err)
		}
		return tx.Delete([]byte("absent"))
	})
	if err != nil {
		t.Fatal(err)
	}
	want(t, dump(t, b.db, nil, nil), "a=1", "empty=")
	b.db.Update(func(tx store.Tx) error { return tx.Delete([]byte("a")) })
	want(t, dump(t, b.db, nil, nil), "empty=")
}

var errBoom = errors.New("boom")

func atomic(t *testing.T, b *bench) {
	b.put(t, "a", "1", "b", "2")
	err := b.db.Update(func(tx store.Tx) error {
		tx.Put([]byte("a"), []byte("9"))
		tx.Delete([]byte("b"))
		tx.Put([]byte("c"), []byte("3"))
		return errBoom
	})
	if err != errBoom {
		t.Fatalf("got %v", err)
	}
	want(t, dump(t, b.db, nil, nil), "a=1", "b=2")
}

func errorsPass(t *testing.T, b *bench) {
	for _, e := range []error{errBoom, store.ErrConflict} {
		if err := b.db.Update(func(store.Tx) error { return e }); err != e {
			t.Errorf("Update made %v of %v", err, e)
		}
		if err := b.db.View(func(store.Tx) error { return e }); err != e {
			t.Errorf("View made %v of %v", err, e)
		}
	}
	b.put(t, "after", "1") // an error latches nothing
}

func scan(t *testing.T, b *bench) {
	b.put(t, "b", "2", "a", "1", "c\x00", "4", "c", "3", "\xff", "5")
	want(t, dump(t, b.db, nil, nil), "a=1", "b=2", "c=3", "c\x00=4", "\xff=5")
	want(t, dump(t, b.db, []byte("b"), []byte("c\x00")), "b=2", "c=3")
	want(t, dump(t, b.db, []byte("bb"), nil), "c=3", "c\x00=4", "\xff=5")
	want(t, dump(t, b.db, []byte("c"), []byte("c")))
	want(t, dump(t, b.db, []byte("z"), []byte("a")))
	n := 0
	b.db.View(func(tx store.Tx) error {
		return tx.Scan(nil, nil, func(_, _ []byte) bool { n++; return n < 2 })
	})
	if n != 2 {
		t.Errorf("Scan called on %d times after false", n)
	}
	// A scan inside an Update sees its writes.
	b.db.Update(func(tx store.Tx) error {
		tx.Put([]byte("aa"), []byte("x"))
		tx.Delete([]byte("b"))
		var got []string
		tx.Scan([]byte("a"), []byte("c"), func(k, v []byte) bool { got = append(got, string(k)); return true })
		want(t, got, "a", "aa")
		return errBoom
	})
}

func limits(t *testing.T, b *bench) {
	err := b.db.Update(func(tx store.Tx) error {
		for _, k := range [][]byte{nil, {}, make([]byte, store.MaxKey+1)} {
			if err := tx.Put(k, nil); !errors.Is(err, store.ErrInvalid) {
				t.Errorf("a key of %d bytes: %v", len(k), err)
			}
			if _, err := tx.Get(k); !errors.Is(err, store.ErrInvalid) {
				t.Errorf("reading a key of %d bytes: %v", len(k), err)
			}
		}
		return tx.Put(bytes.Repeat([]byte{7}, store.MaxKey), bytes.Repeat([]byte{8}, 4<<20))
	})
	if err != nil {
		t.Fatal(err)
	}
	b.db.View(func(tx store.Tx) error {
		if v, _ := tx.Get(bytes.Repeat([]byte{7}, store.MaxKey)); len(v) != 4<<20 {
			t.Errorf("a value of 4 MiB comes back with %d bytes", len(v))
		}
		return nil
	})
}

func readOnlyView(t *testing.T, b *bench) {
	b.put(t, "a", "1")
	b.db.View(func(tx store.Tx) error {
		if err := tx.Put([]byte("a"), []byte("2")); !errors.Is(err, store.ErrReadOnlyTx) {
			t.Errorf("Put in a View: %v", err)
		}
		if err := tx.Delete([]byte("a")); !errors.Is(err, store.ErrReadOnlyTx) {
			t.Errorf("Delete in a View: %v", err)
		}
		return nil
	})
	want(t, dump(t, b.db, nil, nil), "a=1")
}

// isolation: a View sees one state while writers go on.
func isolation(t *testing.T, b *bench) {
	b.put(t, "x", "0", "y", "0")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			v := []byte(fmt.Sprint(i))
			b.db.Update(func(tx store.Tx) error {
				tx.Put([]byte("x"), v)
				return tx.Put([]byte("y"), v)
			})
		}
	})
	for range 200 {
		b.db.View(func(tx store.Tx) error {
			x, _ := tx.Get([]byte("x"))
			y, _ := tx.Get([]byte("y"))
			if !bytes.Equal(x, y) {
				t.Errorf("half a transaction is seen: %s and %s", x, y)
			}
			return nil
		})
	}
	close(stop)
	wg.Wait()
}

func serialUpdates(t *testing.T, b *bench) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				err := b.db.Update(func(tx store.Tx) error {
					v, err := tx.Get([]byte("n"))
					if err != nil {
						return err
					}
					return tx.Put([]byte("n"), append(bytes.Clone(v), '+'))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.db.View(func(tx store.Tx) error {
		if v, _ := tx.Get([]byte("n")); len(v) != 80 {
			t.Errorf("%d of 80 updates are there", len(v))
		}
		return nil
	})
}

func durable(t *testing.T, b *bench) {
	b.put(t, "a", "1", "b", "2")
	if err := b.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.db.View(func(store.Tx) error { return nil }); err == nil {
		t.Error("a closed database still answers")
	}
	db, err := b.Open(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	b.db = db
	want(t, dump(t, db, nil, nil), "a=1", "b=2")
}

func snapshot(t *testing.T, b *bench) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 5 {
		b.db.Update(func(tx store.Tx) error {
			for range 100 {
				v := make([]byte, r.IntN(3000))
				tx.Put(fmt.Appendf(nil, "k%d", r.IntN(1000)), v)
			}
			return nil
		})
	}
	var one, two bytes.Buffer
	if err := b.db.Snapshot(&one); err != nil {
		t.Fatal(err)
	}
	other, err := b.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := store.Restore(bytes.NewReader(one.Bytes()), other); err != nil {
		t.Fatal(err)
	}
	want(t, dump(t, other, nil, nil), dump(t, b.db, nil, nil)...)
	if err := other.Snapshot(&two); err != nil || !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Errorf("the snapshot of a restored snapshot differs (%v)", err)
	}
	if err := store.Restore(bytes.NewReader(one.Bytes()), other); !errors.Is(err, store.ErrExists) {
		t.Errorf("restoring over data: %v", err)
	}
	// Every flipped bit and every cut is noticed.
	for range 200 {
		bad := bytes.Clone(one.Bytes())
		bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		if err := store.ReadSnapshot(bytes.NewReader(bad), func(_, _ []byte) error { return nil }); !errors.Is(err, store.ErrSnapshot) {
			t.Fatalf("a flipped bit: %v", err)
		}
		cut := one.Bytes()[:r.IntN(one.Len())]
		if err := store.ReadSnapshot(bytes.NewReader(cut), func(_, _ []byte) error { return nil }); !errors.Is(err, store.ErrSnapshot) {
			t.Fatalf("a cut: %v", err)
		}
	}
	long := append(bytes.Clone(one.Bytes()), 0)
	if err := store.ReadSnapshot(bytes.NewReader(long), func(_, _ []byte) error { return nil }); !errors.Is(err, store.ErrSnapshot) {
		t.Errorf("a trailing byte: %v", err)
	}
}

// snapshotWhileOn: a snapshot taken under writes is one state.
func snapshotWhileOn(t *testing.T, b *bench) {
	b.put(t, "x", "0", "y", "0")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			v := []byte(fmt.Sprint(i))
			b.db.Update(func(tx store.Tx) error {
				tx.Put([]byte("x"), v)
				return tx.Put([]byte("y"), v)
			})
		}
	})
	for range 20 {
		var buf bytes.Buffer
		if err := b.db.Snapshot(&buf); err != nil {
			t.Error(err)
		}
		var vals []string
		if err := store.ReadSnapshot(&buf, func(_, v []byte) error { vals = append(vals, string(v)); return nil }); err != nil {
			t.Error(err)
		}
		if len(vals) != 2 || vals[0] != vals[1] {
			t.Errorf("the snapshot holds %q", vals)
		}
	}
	close(stop)
	wg.Wait()
}

// random compares the engine with a map over many transactions, some of which fail.
func random(t *testing.T, b *bench) {
	r := rand.New(rand.NewPCG(3, 4))
	model := map[string]string{}
	for step := range 60 {
		next := map[string]string{}
		for k, v := range model {
			next[k] = v
		}
		fail := r.IntN(4) == 0
		seed := r.Uint64()
		err := b.db.Update(func(tx store.Tx) error {
			rr := rand.New(rand.NewPCG(seed, 0))
			for range 1 + rr.IntN(40) {
				k := fmt.Sprintf("k%03d", rr.IntN(300))
				if rr.IntN(3) == 0 {
					delete(next, k)
					if err := tx.Delete([]byte(k)); err != nil {
						return err
					}
					continue
				}
				v := string(bytes.Repeat([]byte{byte(rr.Uint32())}, rr.IntN(2000)))
				next[k] = v
				if err := tx.Put([]byte(k), []byte(v)); err != nil {
					return err
				}
			}
			if fail {
				return errBoom
			}
			return nil
		})
		if fail != (err != nil) {
			t.Fatal(err)
		}
		if !fail {
			model = next
		}
		if step%20 == 19 {
			if err := b.db.Close(); err != nil {
				t.Fatal(err)
			}
			if b.db, err = b.Open(b.dir); err != nil {
				t.Fatal(err)
			}
		}
		w := []string{}
		for k, v := range model {
			w = append(w, k+"="+v)
		}
		slices.Sort(w)
		want(t, dump(t, b.db, nil, nil), w...)
	}
}
