package log

import (
	"bytes"
	"context"

	"redoubt.internal/log/store"
)

// entries walks all entries once and compares everything that depends on them.
func (f *fsck) entries(ctx context.Context, check chan<- storedHead) error {
	if err := f.c.DB.View(func(tx store.Tx) error { return f.atSize(tx, check) }); err != nil {
		return err
	}
	for first := uint64(0); first < f.tip; first += fsckStep * tileWidth {
		if err := ctx.Err(); err != nil {
			return err
		}
		to := min(f.tip, first+fsckStep*tileWidth)
		err := f.c.DB.View(func(tx store.Tx) error {
			return scanEntries(tx, f.keys, first, to, func(c chunk) error {
				if err := f.reachable(tx, c); err != nil {
					return err
				}
				for i, leaf := range c.leaves {
					n := c.first + uint64(i)
					if n >= f.tip {
						break
					}
					if err := f.entry(tx, c, i, leafHash(leaf)); err != nil {
						return err
					}
					if err := f.atSize(tx, check); err != nil {
						return err
					}
				}
				if root := f.tree.root(); c.root != nil && !bytes.Equal(c.root, root[:]) {
					f.problem("the chunk ending at entry %d names another root than the entries lead to", f.tree.size-1)
				}
				if c.root == nil && f.tree.size == f.tip {
					f.problem("the last chunk names no root")
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		f.progress(to, f.tip)
	}
	if len(f.heads) > 0 {
		f.problem("a head of size %d that the log never reached", f.heads[0].h.Size)
	}
	return nil
}

// reachable looks a chunk up as readers do. A damaged inner page leaves a walk whole and leads a lookup astray.
func (f *fsck) reachable(tx store.Tx, c chunk) error {
	last := c.first + uint64(len(c.leaves)) - 1
	n, found, err := f.keys.first(tx, 'e', c.first)
	if err != nil {
		return err
	}
	v, err := tx.Get(f.keys.chunk(last))
	if err != nil {
		return err
	}
	if !found || n != last || v == nil {
		f.problem("the chunk of entries %d to %d is there and is not found by its key", c.first, last)
	}
	return nil
}

func (f *fsck) entry(tx store.Tx, c chunk, i int, h [32]byte) error {
	n := c.first + uint64(i)
	f.rep.Entries++
	if c.extras != nil {
		f.rep.Extras++
		if _, err := c.extra(i, h); err != nil {
			f.problem("%v", err)
		}
	}
	for _, full := range f.tree.append(h, nil) {
		f.rep.Tiles++
		b, err := tx.Get(f.keys.tile(full.level, full.index))
		if err != nil {
			return err
		}
		want := full.tile.encode(tileWidth)
		if len(b) != len(want) {
			f.problem("tile %d/%d has %d bytes", full.level, full.index, len(b))
			continue
		}
		for s := 0; s < tileWidth; s++ {
			if !bytes.Equal(b[s*32:s*32+32], want[s*32:s*32+32]) {
				f.problem("tile %d/%d slot %d is not the hash of what lies below it (entry %d came last)", full.level, full.index, s, n)
			}
		}
	}
	return nil
}

// atSize compares the heads and marks of the size the walk has reached.
func (f *fsck) atSize(tx store.Tx, check chan<- storedHead) error {
	size := f.tree.size
	if len(f.heads) == 0 && f.nextKey != nil {
		if err := f.readHeads(tx); err != nil {
			return err
		}
	}
	if len(f.heads) > 0 && f.heads[0].h.Size == size {
		s := f.heads[0]
		f.heads = f.heads[1:]
		if s.h.Root != f.tree.root() {
			f.problem("the head of size %d has root %x, the entries have %x", size, s.h.Root, f.tree.root())
		}
		check <- s
	} else if size == 0 {
		f.problem("the head of size 0 is missing")
	}
	for _, m := range f.marks[size] {
		if m.Root != f.tree.root() {
			f.problem("a high-water mark of size %d has root %x, the entries have %x", size, m.Root, f.tree.root())
		}
	}
	return nil
}

// readHeads reads the next heads up to the last one Fsck began with.
func (f *fsck) readHeads(tx store.Tx) error {
	var ferr error
	next := f.nextKey
	f.nextKey = nil
	err := tx.Scan(next, f.keys.after('h'), func(k, v []byte) bool {
		if len(f.heads) == 1024 {
			f.nextKey = bytes.Clone(k)
			return false
		}
		size, ok := f.keys.number(k)
		if !ok {
			f.problem("a stray key among the heads")
			return true
		}
		if size > f.last.Size {
			return false
		}
		var s storedHead
		if s.h, s.sig, ferr = parseHead(size, v); ferr != nil {
			return false
		}
		if s.h.Time.Before(f.prev) {
			f.problem("the head of size %d is older than the one below it", size)
		}
		f.prev = s.h.Time
		f.heads = append(f.heads, s)
		return true
	})
	if err == nil {
		err = ferr
	}
	return err
}

// strays looks at every key of the log for what the walk did not account for.
func (f *fsck) strays(ctx context.Context) error {
	from := f.keys.prefix
	var tiles uint64
	for from != nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, next := 0, []byte(nil)
		err := f.c.DB.View(func(tx store.Tx) error {
			return tx.Scan(from, f.keys.end(), func(k, _ []byte) bool {
				if n++; n > 1<<14 {
					next = bytes.Clone(k)
					return false
				}
				if f.stray(k, &tiles) {
					f.problem("a key that belongs to nothing: %q", k)
				}
				return true
			})
		})
		if err != nil {
			return err
		}
		from = next
	}
	if tiles < f.rep.Tiles {
		f.problem("%d tiles are stored, %d belong to the log", tiles, f.rep.Tiles)
	}
	return nil
}

func (f *fsck) stray(k []byte, tiles *uint64) bool {
	rest := k[len(f.keys.prefix):]
	if len(rest) == 0 {
		return true
	}
	switch rest[0] {
	case 'm', 'z':
		return len(rest) != 1
	case 'c':
		return false
	case 'e', 'h':
		return len(rest) != 9
	case 'a':
		if len(rest) != 10 || rest[1] > 7 {
			return true
		}
		*tiles++
		return false
	}
	return true
}
