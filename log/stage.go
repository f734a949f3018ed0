package log

import (
	"bytes"
	"errors"
	"fmt"

	"redoubt.internal/log/store"
)

// stage is what one transaction A is going to make true. It is computed anew on each run of the transaction.
type stage struct {
	tree   tree
	root   [32]byte
	full   []fullTile
	added  []*request
	chunks [][]*request // added, as stored
	seen   map[[32]byte]uint64
}

// appendBatch is transaction A. Entries whose `with` errs and duplicates take no index.
func (l *Log) appendBatch(tx store.Tx, b *batch, st *stage) error {
	if err := l.checkTip(tx); err != nil {
		return err
	}
	if l.c.Unique {
		st.seen = make(map[[32]byte]uint64, len(b.reqs))
	}
	for _, r := range b.reqs {
		if r.known || r.failed != nil {
			continue
		}
		r.dup, r.err = false, nil
		if i, ok := st.seen[r.hash]; ok {
			r.index, r.dup = i, true
			continue
		}
		if r.with != nil {
			if err := runWith(tx, l.keys.prefix, r.with); err != nil {
				var fatal *fatalError
				if errors.As(err, &fatal) {
					return err
				}
				r.err = err
				continue
			}
		}
		r.index = st.tree.size
		st.full = st.tree.append(r.hash, st.full)
		st.added = append(st.added, r)
		if l.c.Unique {
			st.seen[r.hash] = r.index
		}
	}
	if len(st.added) == 0 {
		return nil
	}
	st.root = st.tree.root()
	st.chunks = splitChunks(st.added)
	for i, rs := range st.chunks {
		var root *[32]byte
		if i == len(st.chunks)-1 {
			root = &st.root
		}
		if err := tx.Put(l.keys.chunk(rs[len(rs)-1].index), encodeChunk(rs, root)); err != nil {
			return err
		}
	}
	for _, f := range st.full {
		if err := tx.Put(l.keys.tile(f.level, f.index), f.tile.encode(tileWidth)); err != nil {
			return err
		}
	}
	return nil
}

// checkTip compares: the last chunk stored is the last one this writer stored.
func (l *Log) checkTip(tx store.Tx) error {
	size := l.w.tree.size
	_, more, err := l.keys.first(tx, 'e', size)
	if err != nil {
		return err
	}
	if size > 0 && !more {
		v, err := tx.Get(l.keys.chunk(size - 1))
		if err != nil {
			return err
		}
		more = len(v) < chunkHeader+32 || v[1] != 1 || [32]byte(v[chunkHeader:]) != l.w.root
	}
	if more {
		return fmt.Errorf("appending at size %d: %w", size, store.ErrConflict)
	}
	return nil
}

// swapHead is transaction B: head replaces the last one, if that is still the one this writer knows.
func (l *Log) swapHead(tx store.Tx, head *signed) error {
	w := &l.w
	stored, err := tx.Get(l.keys.head(w.last.Size))
	if err != nil {
		return err
	}
	_, more, err := l.keys.first(tx, 'h', w.last.Size+1)
	if err != nil {
		return err
	}
	if more || !bytes.Equal(stored, w.lastRec) {
		return fmt.Errorf("the head of size %d: %w", w.last.Size, store.ErrConflict)
	}
	if head == nil {
		return nil
	}
	if w.resign && head.v.head.Size != w.last.Size {
		// The last head's signature is bad; this one covers the same entries and takes its place.
		if err := tx.Delete(l.keys.head(w.last.Size)); err != nil {
			return err
		}
	}
	return tx.Put(l.keys.head(head.v.head.Size), head.rec)
}

// readBack compares the stored chunks and tiles of a stage with the tree that is about to be signed.
func (l *Log) readBack(st *stage) error {
	return l.c.DB.View(func(tx store.Tx) error {
		for i, rs := range st.chunks {
			first, last := rs[0].index, rs[len(rs)-1].index
			v, err := tx.Get(l.keys.chunk(last))
			if err != nil {
				return err
			}
			c, err := parseChunk(last, v)
			if err != nil {
				return err
			}
			if c.first != first || i == len(st.chunks)-1 && !bytes.Equal(c.root, st.root[:]) {
				return fmt.Errorf("%w: the chunk ending at entry %d", ErrCorrupt, last)
			}
			t := st.tree.edge[0]
			for _, f := range st.full {
				if f.level == 0 && f.index == first/tileWidth {
					t = f.tile
				}
			}
			for i, leaf := range c.leaves {
				h := leafHash(leaf)
				if h != *t.at(0, (first+uint64(i))%tileWidth) {
					return fmt.Errorf("%w: entry %d does not hash to its leaf", ErrCorrupt, first+uint64(i))
				}
				if _, err := c.extra(i, h); err != nil {
					return err
				}
			}
		}
		for _, f := range st.full {
			v, err := tx.Get(l.keys.tile(f.level, f.index))
			if err != nil {
				return err
			}
			if !bytes.Equal(v, f.tile.encode(tileWidth)) {
				return fmt.Errorf("%w: tile %d/%d is not what was computed", ErrCorrupt, f.level, f.index)
			}
		}
		return nil
	})
}
