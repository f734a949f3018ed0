package log

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"redoubt.internal/log/store"
)

// maxCachedTiles bounds the tiles kept in memory, 16 KiB each.
const maxCachedTiles = 4096

// tileCache holds full tiles that were checked against their parents.
type tileCache struct {
	mu sync.RWMutex
	m  map[tileID]*tile
}

type tileID struct {
	level int
	index uint64
}

func (c *tileCache) get(level int, index uint64) *tile {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.m[tileID{level, index}]
}

func (c *tileCache) put(level int, index uint64, t *tile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[tileID]*tile{}
	}
	// Something goes at random. Upper tiles are few and soon back.
	for id := range c.m {
		if len(c.m) < maxCachedTiles {
			break
		}
		delete(c.m, id)
	}
	c.m[tileID{level, index}] = t
}

// encode gives the first width hashes of row 0, as stored and served.
func (t *tile) encode(width int) []byte {
	b := make([]byte, 0, width*32)
	for i := range width {
		b = append(b, t.nodes[i][:]...)
	}
	return b
}

// readTile reads a full tile. The caller checks its root.
func readTile(tx store.Tx, keys layout, level int, index uint64) (*tile, error) {
	b, err := tx.Get(keys.tile(level, index))
	if err != nil {
		return nil, err
	}
	if len(b) != tileWidth*32 {
		return nil, fmt.Errorf("%w: tile %d/%d has %d bytes", ErrCorrupt, level, index, len(b))
	}
	t := new(tile)
	for i := range tileWidth {
		t.set(i, [32]byte(b[i*32:]))
	}
	return t, nil
}

// scanEntries calls fn with the chunks that hold entries from..to-1, in order, and checks that none is missing. The
// first and the last chunk may reach beyond the range.
func scanEntries(tx store.Tx, keys layout, from, to uint64, fn func(chunk) error) error {
	next := from
	var ferr error
	err := tx.Scan(keys.chunk(from), keys.after('e'), func(k, v []byte) bool {
		if next >= to {
			return false
		}
		var c chunk
		last, ok := keys.number(k)
		if !ok {
			ferr = fmt.Errorf("%w: a stray key among the entries", ErrCorrupt)
			return false
		}
		if c, ferr = parseChunk(last, v); ferr != nil {
			return false
		}
		if c.first > next || next > from && c.first != next {
			ferr = fmt.Errorf("%w: entry %d is missing", ErrCorrupt, next)
			return false
		}
		next = last + 1
		ferr = fn(c)
		return ferr == nil
	})
	if err != nil {
		return err
	}
	if ferr == nil && next < to {
		ferr = fmt.Errorf("%w: entry %d is missing", ErrCorrupt, next)
	}
	return ferr
}

// nodes finds subtree hashes of the published state v.
func (l *Log) nodes(v *view) nodes {
	return func(height int, index uint64) ([32]byte, error) {
		level, r := height/tileHeight, height%tileHeight
		per := uint64(tileWidth) >> r
		t, err := l.tileAt(v, level, index/per)
		if err != nil {
			return [32]byte{}, err
		}
		return *t.at(r, index%per), nil
	}
}

// tileAt returns a tile of v: the edge from memory, a full one from the cache or, checked against its parent and so up
// to the signed root, from the store.
func (l *Log) tileAt(v *view, level int, index uint64) (*tile, error) {
	if index == v.size>>(tileHeight*(level+1)) {
		return v.edge[level], nil
	}
	if t := l.cache.get(level, index); t != nil {
		return t, nil
	}
	var t *tile
	err := l.c.DB.View(func(tx store.Tx) (err error) {
		t, err = readTile(tx, l.keys, level, index)
		return err
	})
	if err != nil {
		return nil, err
	}
	parent, err := l.tileAt(v, level+1, index/tileWidth)
	if err != nil {
		return nil, err
	}
	if t.root() != *parent.at(0, index%tileWidth) {
		return nil, fmt.Errorf("%w: tile %d/%d does not hash to its parent", ErrCorrupt, level, index)
	}
	l.cache.put(level, index, t)
	return t, nil
}

// holds says whether entry i of v has leaf hash h.
func (l *Log) holds(v *view, i uint64, h [32]byte) (bool, error) {
	if i >= v.size {
		return false, nil
	}
	got, err := l.nodes(v)(0, i)
	return got == h, err
}

// Entry returns entry index (below Head().Size), its leaf checked against the tree and its extra against its digest.
func (l *Log) Entry(ctx context.Context, index uint64) (Entry, error) {
	v := l.view.Load()
	if index >= v.size {
		return Entry{}, fmt.Errorf("reading entry %d of %d: %w", index, v.size, ErrNotFound)
	}
	if err := ctx.Err(); err != nil {
		return Entry{}, err
	}
	want, err := l.nodes(v)(0, index)
	if err != nil {
		return Entry{}, fmt.Errorf("reading entry %d: %w", index, err)
	}
	e := Entry{Index: index}
	err = l.c.DB.View(func(tx store.Tx) error {
		return scanEntries(tx, l.keys, index, index+1, func(c chunk) error {
			i := int(index - c.first)
			if leafHash(c.leaves[i]) != want {
				return fmt.Errorf("%w: it does not hash to its leaf", ErrCorrupt)
			}
			extra, err := c.extra(i, want)
			e.Leaf, e.Extra = bytes.Clone(c.leaves[i]), bytes.Clone(extra)
			return err
		})
	})
	if err != nil {
		return Entry{}, fmt.Errorf("reading entry %d: %w", index, err)
	}
	return e, nil
}

// Tile returns the first width hashes (1 to 256, 32 bytes each) of a C2SP hash tile. All of them must be part of the
// published tree; a narrower width than there is today is served too.
func (l *Log) Tile(ctx context.Context, level int, index uint64, width int) ([]byte, error) {
	t, err := l.servedTile(ctx, level, index, width)
	if err != nil {
		return nil, fmt.Errorf("reading tile %d/%d width %d: %w", level, index, width, err)
	}
	return t.encode(width), nil
}

func (l *Log) servedTile(ctx context.Context, level int, index uint64, width int) (*tile, error) {
	v := l.view.Load()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if level < 0 || level > 7 || width < 1 || width > tileWidth || index >= 1<<56 {
		return nil, ErrNotFound
	}
	if n := v.size >> (tileHeight * level); index*tileWidth+uint64(width) > n {
		return nil, ErrNotFound
	}
	return l.tileAt(v, level, index)
}

// EntryBundle returns the first width entries (1 to 256) of a C2SP entry bundle: uint16 length, leaf, each checked
// against the tree.
func (l *Log) EntryBundle(ctx context.Context, index uint64, width int) ([]byte, error) {
	t, err := l.servedTile(ctx, 0, index, width)
	if err != nil {
		return nil, fmt.Errorf("reading bundle %d width %d: %w", index, width, err)
	}
	var out []byte
	err = l.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		first := index * tileWidth
		return scanEntries(tx, l.keys, first, first+uint64(width), func(c chunk) error {
			for i, leaf := range c.leaves {
				n := c.first + uint64(i)
				if n >= first+uint64(width) {
					break
				}
				if leafHash(leaf) != *t.at(0, n-first) {
					return fmt.Errorf("%w: entry %d does not hash to its leaf", ErrCorrupt, n)
				}
				out = append(out, byte(len(leaf)>>8), byte(len(leaf)))
				out = append(out, leaf...)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("reading bundle %d width %d: %w", index, width, err)
	}
	return out, nil
}
