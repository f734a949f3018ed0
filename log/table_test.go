package log

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// A table against a map: many runs and merges, reopened now and then at a size the runs do not cover.
func TestTableAgainstMap(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "kv.db")
	db, err := bolt.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(11, 12))
	hash := func(k int) [32]byte { return sha256.Sum256(fmt.Append(nil, k)) }
	model := map[int][]uint64{}
	var entries [][]int // keys of each entry
	tb := &table{}
	open := func() {
		tb = &table{}
		tb.init(db, newLayout("t/"), 's', 1, slog.New(slog.DiscardHandler))
		tb.limit = 64
		if err := tb.load(uint64(len(entries))); err != nil {
			t.Fatal(err)
		}
	}
	add := func(index uint64) {
		var hs [][32]byte
		for _, k := range entries[index] {
			hs = append(hs, hash(k))
		}
		tb.add(index, hs...)
	}
	catchUp := func() {
		for tb.next < uint64(len(entries)) {
			add(tb.next)
			tb.await()
		}
	}
	open()
	for step := range 6000 {
		var keys []int
		for range rnd.IntN(4) {
			if k := rnd.IntN(400); !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
		if step%3 == 0 {
			keys = append(keys, 1<<20) // a key half the world has
		}
		entries = append(entries, keys)
		for _, k := range keys {
			model[k] = append(model[k], uint64(step))
		}
		add(uint64(step))
		if step%1500 == 1499 {
			tb.await()
			if step > 4000 {
				db.Close()
				if db, err = bolt.Open(path); err != nil {
					t.Fatal(err)
				}
			}
			open()
			if tb.covered == 0 || tb.covered > uint64(len(entries)) {
				t.Fatalf("covered %d of %d", tb.covered, len(entries))
			}
			catchUp()
		}
		if step%500 == 499 {
			for k := range 401 {
				if k == 400 {
					k = 1 << 20
				}
				got, err := tb.find(hash(k), 0, 1<<30)
				if err != nil || !slices.Equal(got, model[k]) {
					t.Fatalf("step %d key %d: found %v, want %v, %v (%d %d %d)", step, k, got, model[k], err, tb.covered, tb.next, len(tb.runs))
				}
			}
		}
	}
	tb.await()
	if len(tb.runs) > 12 {
		t.Errorf("%d runs", len(tb.runs))
	}
	// In pages, as Find asks.
	var got []uint64
	for from := uint64(0); ; {
		vals, err := tb.find(hash(1<<20), from, 100)
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, vals...); len(vals) < 100 {
			break
		}
		from = vals[99] + 1
	}
	if !slices.Equal(got, model[1<<20]) {
		t.Fatalf("%d in pages, want %d", len(got), len(model[1<<20]))
	}
	// Nothing of replaced runs stays behind.
	stored := uint64(0)
	db.View(func(tx store.Tx) error {
		return tx.Scan(tb.runKey(0, 0), tb.manifestEnd(), func(k, v []byte) bool {
			if k[len(tb.prefix)+9] == 'r' {
				stored += uint64(len(v)-4)/recordSize - 1
			}
			return true
		})
	})
	want := uint64(0)
	for _, r := range tb.runs {
		want += r.n
	}
	if stored != want {
		t.Errorf("%d records stored, %d belong to runs", stored, want)
		for _, r := range tb.runs {
			t.Logf("run %d of %d records", r.id, r.n)
		}
		db.View(func(tx store.Tx) error {
			return tx.Scan(tb.runKey(0, 0), tb.manifestEnd(), func(k, v []byte) bool {
				t.Logf("stored: run %x kind %c, %d bytes", k[len(tb.prefix)+1:len(tb.prefix)+9], k[len(tb.prefix)+9], len(v)-4)
				return true
			})
		})
	}
	// Another version, and any damage, means a new index and never a wrong answer.
	tb2 := &table{}
	tb2.init(db, newLayout("t/"), 's', 2, slog.New(slog.DiscardHandler))
	if err := tb2.load(uint64(len(entries))); err != nil || tb2.covered != 0 || len(tb2.runs) != 0 {
		t.Fatal(tb2.covered, err)
	}
	db.Close()
}

// Changed bytes in the stored index: a lookup fails or is right, and the next start has a whole index again.
func TestDamagedIndex(t *testing.T) {
	t.Parallel()
	const entries = 500
	rnd := rand.New(rand.NewPCG(13, 14))
	for round := range 36 {
		path := filepath.Join(t.TempDir(), "kv.db")
		db, err := bolt.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		hash := func(i uint64) [32]byte { return sha256.Sum256(fmt.Append(nil, i)) }
		open := func() *table {
			tb := &table{}
			tb.init(db, newLayout(""), 'l', 0, slog.New(slog.DiscardHandler))
			tb.limit = 32
			if err := tb.load(entries); err != nil {
				t.Fatal(err)
			}
			return tb
		}
		tb := open()
		for i := range uint64(entries) {
			tb.add(i, hash(i))
			tb.await()
		}
		var keys [][]byte
		db.View(func(tx store.Tx) error {
			return tx.Scan(tb.prefix, nil, func(k, _ []byte) bool { keys = append(keys, slices.Clone(k)); return true })
		})
		victim := keys[rnd.IntN(len(keys))]
		db.Update(func(tx store.Tx) error {
			v, _ := tx.Get(victim)
			v = slices.Clone(v)
			k := slices.Clone(victim)
			switch round % 3 {
			case 0:
				v[rnd.IntN(len(v))] ^= 1 << rnd.IntN(8)
			case 1:
				k[rnd.IntN(len(k))] ^= 1 << rnd.IntN(8)
			}
			if err := tx.Delete(victim); err != nil || round%3 == 2 {
				return err
			}
			return tx.Put(k, v)
		})
		tb = open()
		failed := 0
		for i := range tb.covered {
			got, err := tb.find(hash(i), 0, 10)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) {
					t.Fatal(err)
				}
				failed++
			} else if !slices.Equal(got, []uint64{i}) {
				t.Fatalf("round %d, %q damaged: entry %d is found at %v", round, victim, i, got)
			}
		}
		if failed == 0 && tb.covered == entries {
			t.Fatalf("round %d: the damage was not noticed", round)
		}
		tb = open()
		for tb.next < entries {
			tb.add(tb.next, hash(tb.next))
			tb.await()
		}
		for i := range uint64(entries) {
			if got, err := tb.find(hash(i), 0, 10); err != nil || !slices.Equal(got, []uint64{i}) {
				t.Fatalf("rebuilt: entry %d is found at %v, %v", i, got, err)
			}
		}
		db.Close()
	}
}

// Lookups while runs are written, replaced and deleted.
func TestTableLookupsDuringMerges(t *testing.T) {
	t.Parallel()
	db, err := bolt.Create(filepath.Join(t.TempDir(), "kv.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tb := &table{}
	tb.init(db, newLayout(""), 'l', 0, slog.New(slog.DiscardHandler))
	tb.limit = 32
	hash := func(i uint64) [32]byte { return sha256.Sum256(fmt.Append(nil, i)) }
	const entries = 3000
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var added uint64
	for g := range 3 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				n := added
				mu.Unlock()
				if n == 0 {
					continue
				}
				i := rnd.Uint64N(n)
				if got, err := tb.find(hash(i), 0, 10); err != nil || !slices.Equal(got, []uint64{i}) {
					t.Errorf("entry %d of %d is found at %v, %v", i, n, got, err)
					return
				}
			}
		})
	}
	for i := range uint64(entries) {
		tb.add(i, hash(i))
		mu.Lock()
		added = i + 1
		mu.Unlock()
		if i%200 == 0 {
			tb.await()
		}
	}
	tb.await()
	close(stop)
	wg.Wait()
}

// hookDB calls before ahead of each update.
type hookDB struct {
	store.DB
	before func() error
}

func (d *hookDB) Update(fn func(store.Tx) error) error {
	if err := d.before(); err != nil {
		return err
	}
	return d.DB.Update(fn)
}

func hookedTable(t *testing.T) (*table, *hookDB) {
	t.Helper()
	db, err := bolt.Create(filepath.Join(t.TempDir(), "kv.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &hookDB{DB: db, before: func() error { return nil }}
	tb := &table{}
	tb.init(h, newLayout(""), 'l', 0, slog.New(slog.DiscardHandler))
	tb.limit = 16
	if err := tb.load(1 << 20); err != nil {
		t.Fatal(err)
	}
	return tb, h
}

// A disk that is full at any one of the index's writes leaves it findable, and when there is room again it goes to disk.
func TestTableOnAFullDisk(t *testing.T) {
	t.Parallel()
	hash := func(i uint64) [32]byte { return sha256.Sum256(fmt.Append(nil, i)) }
	for at := range 12 {
		tb, db := hookedTable(t)
		n := 0
		db.before = func() error {
			if n++; n > at && n <= at+3 {
				return fmt.Errorf("%w: injected", store.ErrFull)
			}
			return nil
		}
		for i := range uint64(400) {
			tb.add(i, hash(i))
			tb.await()
			for _, j := range []uint64{0, i / 2, i} {
				if got, err := tb.find(hash(j), 0, 10); err != nil || !slices.Equal(got, []uint64{j}) {
					t.Fatalf("full at write %d: entry %d of %d is found at %v, %v", at, j, i, got, err)
				}
			}
		}
		if tb.broken || tb.covered < 350 {
			t.Fatalf("full at write %d: %d of 400 entries went to disk", at, tb.covered)
		}
		covered := tb.covered
		tb = &table{}
		tb.init(db, newLayout(""), 'l', 0, slog.New(slog.DiscardHandler))
		if err := tb.load(400); err != nil || tb.covered != covered {
			t.Fatalf("full at write %d: %d loaded of %d, %v", at, tb.covered, covered, err)
		}
		for i := range covered {
			if got, err := tb.find(hash(i), 0, 10); err != nil || !slices.Equal(got, []uint64{i}) {
				t.Fatalf("full at write %d, loaded: entry %d is found at %v, %v", at, i, got, err)
			}
		}
	}
}

// Damage met while a run is being written: the dropped manifest does not come back with the run.
func TestTableDropStands(t *testing.T) {
	t.Parallel()
	for at := 1; at <= 8; at++ {
		tb, db := hookedTable(t)
		n := 0
		db.before = func() error {
			if n++; n == at {
				tb.drop()
			}
			return nil
		}
		for i := range uint64(16 * 6) {
			tb.add(i, sha256.Sum256(fmt.Append(nil, i)))
			tb.await()
		}
		if !tb.broken {
			t.Fatalf("not dropped at write %d", at)
		}
		db.View(func(tx store.Tx) error {
			if v, _ := tx.Get(tb.manifestKey()); v != nil {
				t.Errorf("dropped before write %d: the manifest is back", at)
			}
			return nil
		})
	}
}
