package log

import (
	"bytes"
	"errors"
	"fmt"

	"redoubt.internal/log/store"
)

// load reads the last head, rebuilds the right edge under it and appends what is durable beyond it.
func (l *Log) load(tx store.Tx) (tail []*request, err error) {
	meta, err := tx.Get(l.keys.meta())
	if err != nil {
		return nil, err
	}
	if meta == nil {
		return nil, ErrAbsent
	}
	if err := checkFormat(meta); err != nil {
		return nil, err
	}
	if string(meta[33:]) != l.c.Origin {
		return nil, fmt.Errorf("%w: the log there is %q", ErrConfig, meta[33:])
	}
	if l.key != nil {
		if want, err := metaRecord(l.c.Origin, l.key.pub); err != nil {
			return nil, err
		} else if !bytes.Equal(want, meta) {
			return nil, ErrWrongKey
		}
	}
	if reason, err := tx.Get(l.keys.latch()); err != nil {
		return nil, err
	} else if reason != nil {
		l.latch(fmt.Errorf("halted until an operator resumes it (`redoubt log resume`): %s", reason))
	}
	h, err := l.loadLast(tx)
	good := h
	if errors.Is(err, errBadSignature) {
		// Signatures are verified while their transaction runs, so this one was perhaps never published. Its size and root
		// are checked below; signing the same again forks nothing.
		l.c.Logger.Warn("the last head's signature does not verify; signing anew", "origin", l.c.Origin, "size", h.Size)
		l.w.resign = true
		good, err = l.loadGood(tx, h.Size)
	}
	if err != nil {
		return nil, err
	}
	t, err := l.loadTree(tx, h.Size)
	if err != nil {
		return nil, err
	}
	if t.root() != h.Root {
		return nil, fmt.Errorf("%w: the entries do not lead to the root of the head of size %d", ErrCorrupt, h.Size)
	}
	l.w.last = h
	l.w.loaded = &view{tree: t, head: h}
	if good.Size != h.Size {
		if t, err = l.loadTree(tx, good.Size); err != nil {
			return nil, err
		}
		if t.root() != good.Root {
			return nil, fmt.Errorf("%w: the entries do not lead to the root of the head of size %d", ErrCorrupt, good.Size)
		}
	}
	l.view.Store(&view{tree: t, head: good})
	return l.loadTail(tx, t.fork())
}

var errBadSignature = fmt.Errorf("%w: a head", ErrCorrupt)

// loadLast returns the last durable head, checked. With errBadSignature everything but its signature is good.
func (l *Log) loadLast(tx store.Tx) (Head, error) {
	size, found, err := l.keys.last(tx, 'h')
	if err != nil {
		return Head{}, err
	}
	if !found {
		return Head{}, fmt.Errorf("%w: it has no head", ErrCorrupt)
	}
	b, err := tx.Get(l.keys.head(size))
	if err != nil {
		return Head{}, err
	}
	l.w.lastRec = bytes.Clone(b)
	return l.checkHead(size, b)
}

// loadGood returns the newest head below size whose signature is good. One bad head is stored at a time, the last; more
// than a few are damage.
func (l *Log) loadGood(tx store.Tx, size uint64) (Head, error) {
	for range 4 {
		below, found, err := l.keys.lastBelow(tx, 'h', size)
		if err != nil {
			return Head{}, err
		}
		if !found {
			break
		}
		b, err := tx.Get(l.keys.head(below))
		if err != nil {
			return Head{}, err
		}
		h, err := l.checkHead(below, b)
		if !errors.Is(err, errBadSignature) {
			return h, err
		}
		size = below
	}
	return Head{}, fmt.Errorf("%w: no head near the last has a good signature", ErrCorrupt)
}

// checkHead parses a head record and verifies its signature, if the key is there.
func (l *Log) checkHead(size uint64, b []byte) (Head, error) {
	h, sig, err := parseHead(size, b)
	if err != nil {
		return h, err
	}
	root := h.Root
	if l.key != nil {
		if err := l.key.verify(size, root, sig); err != nil {
			return h, fmt.Errorf("%w: %w", errBadSignature, err)
		}
	}
	h.Note = renderNote(l.c.Origin, size, root, sig)
	return h, nil
}

// loadTree rebuilds the right edge of the tree of size: at most 255 leaves are hashed, and for each level above at most
// 255 tiles of the level below.
func (l *Log) loadTree(tx store.Tx, size uint64) (tree, error) {
	t := tree{size: size}
	if size == 0 {
		return t, nil
	}
	for level := 0; size>>(tileHeight*level) > 0; level++ {
		e := new(tile)
		n := size >> (tileHeight * level)
		for i := n &^ (tileWidth - 1); level > 0 && i < n; i++ {
			sub, err := readTile(tx, l.keys, level-1, i)
			if err != nil {
				return t, err
			}
			e.set(int(i%tileWidth), sub.root())
		}
		t.edge = append(t.edge, e)
	}
	err := scanEntries(tx, l.keys, size&^(tileWidth-1), size, func(c chunk) error {
		for i, leaf := range c.leaves {
			if n := c.first + uint64(i); n < size {
				t.edge[0].set(int(n%tileWidth), leafHash(leaf))
			}
		}
		return nil
	})
	return t, err
}

// loadTail appends the entries durable beyond the last head to t.
func (l *Log) loadTail(tx store.Tx, t tree) ([]*request, error) {
	last, found, err := l.keys.last(tx, 'e')
	if err != nil {
		return nil, err
	}
	size := uint64(0)
	if found {
		size = last + 1
	}
	if size < t.size {
		return nil, fmt.Errorf("%w: it ends at %d and has a head of size %d", ErrCorrupt, size, t.size)
	}
	var root []byte // of the last chunk
	var tail []*request
	var full []fullTile
	err = scanEntries(tx, l.keys, t.size, size, func(c chunk) error {
		root = c.root
		for i, leaf := range c.leaves {
			n := c.first + uint64(i)
			if n < t.size {
				continue
			}
			r := &request{leaf: bytes.Clone(leaf), hash: leafHash(leaf), index: n}
			extra, err := c.extra(i, r.hash)
			if err != nil {
				return err
			}
			r.extra = bytes.Clone(extra)
			if l.c.IndexKeys != nil {
				r.keys = l.indexKeys(r.leaf, r.extra)
			}
			full = t.append(r.hash, full)
			tail = append(tail, r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.w.tree, l.w.root = t, t.root()
	if len(tail) > 0 && !bytes.Equal(l.w.root[:], root) {
		return nil, fmt.Errorf("%w: the entries stored beyond the last head do not lead to their root", ErrCorrupt)
	}
	for _, f := range full {
		if stored, err := readTile(tx, l.keys, f.level, f.index); err != nil {
			return nil, err
		} else if stored.root() != f.tile.root() {
			return nil, fmt.Errorf("%w: tile %d/%d", ErrCorrupt, f.level, f.index)
		}
		l.cache.put(f.level, f.index, f.tile)
	}
	return tail, nil
}
