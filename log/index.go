package log

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"

	"redoubt.internal/log/store"
)

// The derived index: leaf hash to index, and search key to indices. It is a hint and nothing else: every hit is checked
// against the entry it names, and it is rebuilt at start from tiles and entries. A table is a map of the newest records
// over sorted runs of older ones; a full map becomes a run, and runs of like size are merged, off the writer.

const (
	maxIndexKeys   = 2048
	maxIndexKeyLen = 1024
	memRecords     = 1 << 16
)

// record is one pair of a truncated hash and an index. Equal hashes are no error: the caller checks hits.
type record struct {
	key [16]byte
	val uint64
}

func compareRecords(a, b record) int {
	if c := bytes.Compare(a.key[:], b.key[:]); c != 0 {
		return c
	}
	switch {
	case a.val < b.val:
		return -1
	case a.val > b.val:
		return 1
	}
	return 0
}

type table struct {
	mu      sync.RWMutex
	mem     map[[16]byte][]uint64
	n       int
	frozen  map[[16]byte][]uint64 // being turned into a run
	runs    [][]record            // sorted; older and larger first
	merging sync.WaitGroup
}

func (t *table) add(h [32]byte, val uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mem == nil {
		t.mem = map[[16]byte][]uint64{}
	}
	k := [16]byte(h[:16])
	t.mem[k] = append(t.mem[k], val)
	t.n++
	if t.n >= memRecords && t.frozen == nil {
		t.frozen, t.mem, t.n = t.mem, nil, 0
		t.merging.Go(t.settle)
	}
}

// settle turns the frozen map into a run and merges runs of like size.
func (t *table) settle() {
	t.mu.RLock()
	frozen, runs := t.frozen, slices.Clone(t.runs)
	t.mu.RUnlock()
	run := make([]record, 0, len(frozen))
	for k, vs := range frozen {
		for _, v := range vs {
			run = append(run, record{k, v})
		}
	}
	slices.SortFunc(run, compareRecords)
	for len(runs) > 0 && len(runs[len(runs)-1]) < 2*len(run) {
		run = mergeRuns(runs[len(runs)-1], run)
		runs = runs[:len(runs)-1]
	}
	t.mu.Lock()
	t.runs, t.frozen = append(runs, run), nil
	t.mu.Unlock()
}

func mergeRuns(a, b []record) []record {
	out := make([]record, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if compareRecords(a[0], b[0]) <= 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// all returns the values of h in ascending order.
func (t *table) all(h [32]byte) []uint64 {
	k := [16]byte(h[:16])
	t.mu.RLock()
	defer t.mu.RUnlock()
	var vals []uint64
	for _, run := range t.runs {
		i, _ := slices.BinarySearchFunc(run, record{key: k}, compareRecords)
		for ; i < len(run) && run[i].key == k; i++ {
			vals = append(vals, run[i].val)
		}
	}
	vals = append(append(vals, t.frozen[k]...), t.mem[k]...)
	slices.Sort(vals)
	return slices.Compact(vals)
}

// indexKeys calls the configured function and keeps its limits.
func (l *Log) indexKeys(leaf, extra []byte) [][]byte {
	keys := l.c.IndexKeys(leaf, extra)
	keys = keys[:min(len(keys), maxIndexKeys)]
	return slices.DeleteFunc(keys, func(k []byte) bool { return len(k) > maxIndexKeyLen })
}

func (l *Log) addToIndex(r *request) {
	l.leaves.add(r.hash, r.index)
	for _, k := range r.keys {
		l.search.add(sha256.Sum256(k), r.index)
	}
}

// rebuildIndex fills the index with the entries of the published head.
func (l *Log) rebuildIndex(ctx context.Context) error {
	v := l.view.Load()
	for first := uint64(0); first < v.size; first += tileWidth {
		if err := ctx.Err(); err != nil {
			return err
		}
		t, err := l.tileAt(v, 0, first/tileWidth)
		if err != nil {
			return err
		}
		for i := first; i < min(v.size, first+tileWidth); i++ {
			l.leaves.add(*t.at(0, i-first), i)
		}
	}
	if l.c.IndexKeys == nil || v.size == 0 {
		return nil
	}
	return l.c.DB.View(func(tx store.Tx) error {
		return scanEntries(tx, l.keys, 0, v.size, func(c chunk) error {
			for i, leaf := range c.leaves {
				n := c.first + uint64(i)
				if n >= v.size {
					break
				}
				var extra []byte
				if c.extras != nil {
					extra = c.extras[i]
				}
				for _, k := range l.indexKeys(leaf, extra) {
					l.search.add(sha256.Sum256(k), n)
				}
			}
			return ctx.Err()
		})
	})
}

// LeafIndex finds an entry of the published head by its leaf hash; of several the first.
func (l *Log) LeafIndex(ctx context.Context, hash [32]byte) (uint64, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	return l.leafIndex(hash)
}

func (l *Log) leafIndex(hash [32]byte) (uint64, bool, error) {
	v := l.view.Load()
	for _, i := range l.leaves.all(hash) {
		ok, err := l.holds(v, i, hash)
		if err != nil {
			return 0, false, fmt.Errorf("looking up a leaf hash: %w", err)
		}
		if ok {
			return i, true, nil
		}
	}
	return 0, false, nil
}

// Find returns the indices of at most limit entries of the published head that Config.IndexKeys gives key, ascending.
// Each was checked against its entry.
func (l *Log) Find(ctx context.Context, key []byte, limit int) ([]uint64, error) {
	var out []uint64
	if l.c.IndexKeys == nil {
		return nil, nil
	}
	size := l.view.Load().size
	for _, i := range l.search.all(sha256.Sum256(key)) {
		if len(out) >= limit || i >= size {
			break
		}
		e, err := l.Entry(ctx, i)
		if err != nil {
			return nil, fmt.Errorf("searching: %w", err)
		}
		if slices.ContainsFunc(l.indexKeys(e.Leaf, e.Extra), func(k []byte) bool { return bytes.Equal(k, key) }) {
			out = append(out, i)
		}
	}
	return out, nil
}
