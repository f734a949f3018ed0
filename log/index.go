package log

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"redoubt.internal/log/store"
)

// The derived index: leaf hash to index (table 'l'), and search key to indices (table 's'). It is a hint and nothing
// else: every hit is checked against the entry it names, it may be deleted at any time, and Open brings it up to the
// published head. See table.go for how it is kept.

const (
	maxIndexKeys   = 2048
	maxIndexKeyLen = 1024
)

// indexKeys calls the configured function and keeps its limits.
func (l *Log) indexKeys(leaf, extra []byte) [][]byte {
	keys := l.c.IndexKeys(leaf, extra)
	keys = keys[:min(len(keys), maxIndexKeys)]
	return slices.DeleteFunc(keys, func(k []byte) bool { return len(k) > maxIndexKeyLen })
}

// addToIndex takes entries in the order of their index.
func (l *Log) addToIndex(index uint64, hash [32]byte, keys [][]byte) {
	l.leaves.add(index, hash)
	if l.c.IndexKeys != nil {
		hashes := make([][32]byte, len(keys))
		for i, k := range keys {
			hashes[i] = sha256.Sum256(k)
		}
		l.search.add(index, hashes...)
	}
}

// openIndex loads what is stored of the index and adds the entries of the published head that it lacks.
func (l *Log) openIndex(ctx context.Context) error {
	v := l.view.Load()
	l.leaves.init(l.c.DB, l.keys, 'l', 0, l.c.Logger)
	if err := l.leaves.load(v.size); err != nil {
		return err
	}
	for l.leaves.next < v.size {
		if err := ctx.Err(); err != nil {
			return err
		}
		first := l.leaves.next &^ (tileWidth - 1)
		t, err := l.tileAt(v, 0, first/tileWidth)
		if err != nil {
			return err
		}
		for i := l.leaves.next; i < min(v.size, first+tileWidth); i++ {
			l.leaves.add(i, *t.at(0, i-first))
		}
		l.leaves.await()
	}
	if l.c.IndexKeys == nil {
		return nil
	}
	l.search.init(l.c.DB, l.keys, 's', l.c.IndexVersion, l.c.Logger)
	if err := l.search.load(v.size); err != nil {
		return err
	}
	for l.search.next < v.size {
		if err := l.searchKeys(ctx, min(v.size, l.search.next+4096)); err != nil {
			return err
		}
		l.search.await()
	}
	return nil
}

// searchKeys adds the keys of the entries up to to.
func (l *Log) searchKeys(ctx context.Context, to uint64) error {
	from := l.search.next
	return l.c.DB.View(func(tx store.Tx) error {
		return scanEntries(tx, l.keys, from, to, func(c chunk) error {
			for i, leaf := range c.leaves {
				n := c.first + uint64(i)
				if n < from || n >= to {
					continue
				}
				var extra []byte
				if c.extras != nil {
					extra = c.extras[i]
				}
				var hashes [][32]byte
				for _, k := range l.indexKeys(leaf, extra) {
					hashes = append(hashes, sha256.Sum256(k))
				}
				l.search.add(n, hashes...)
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
	vals, err := l.leaves.find(hash, 0, 64)
	for _, i := range vals {
		ok, err := l.holds(v, i, hash)
		if err != nil {
			return 0, false, fmt.Errorf("looking up a leaf hash: %w", err)
		}
		if ok {
			return i, true, nil
		}
	}
	if err != nil {
		return 0, false, fmt.Errorf("looking up a leaf hash: %w", err)
	}
	return 0, false, nil
}

// Find returns the indices of at most limit entries of the published head that Config.IndexKeys gives key, ascending.
// Each was checked against its entry.
func (l *Log) Find(ctx context.Context, key []byte, limit int) ([]uint64, error) {
	var out []uint64
	if l.c.IndexKeys == nil || limit <= 0 {
		return nil, nil
	}
	size := l.view.Load().size
	hash := sha256.Sum256(key)
	for from := uint64(0); ; {
		const step = 256
		vals, err := l.search.find(hash, from, step)
		if err != nil {
			return nil, fmt.Errorf("searching: %w", err)
		}
		for _, i := range vals {
			if len(out) == limit || i >= size {
				return out, nil
			}
			e, err := l.Entry(ctx, i)
			if err != nil {
				return nil, fmt.Errorf("searching: %w", err)
			}
			if slices.ContainsFunc(l.indexKeys(e.Leaf, e.Extra), func(k []byte) bool { return bytes.Equal(k, key) }) {
				out = append(out, i)
			}
		}
		if len(vals) < step {
			return out, nil
		}
		from = vals[len(vals)-1] + 1
	}
}
