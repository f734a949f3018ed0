package mirror

import (
	"context"
	"fmt"
	"strings"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// recheck hashes the stored tiles and entries of a log and reproduces its accepted checkpoints. Findings go into out; an
// error is returned only when the context ends or the database fails.
func (m *Mirror) recheck(ctx context.Context, log *knownLog, h Head, out *LogReport) error {
	problem := func(format string, a ...any) {
		if len(out.Problems) < maxProblems {
			text := oneLine(fmt.Errorf(format, a...))
			out.Problems = append(out.Problems, strings.ToValidUTF8(text[:min(len(text), 300)], "?"))
		}
	}
	sh, err := m.shelf(log.Origin)
	if err != nil {
		return err
	}
	if c, err := log.openHeld(h.Note, h.VKey); err != nil || c.Size != h.Size || c.Root != h.Root {
		problem("the stored head is not the checkpoint it was taken from: %v", err)
	}
	tree := m.tree(h, sh)
	var seen []seenHead
	if err := m.c.DB.View(func(tx store.Tx) error {
		seen = seen[:0]
		return scan(tx, keySeen+log.Origin+"\x00", func(_ string, s seenHead) error { seen = append(seen, s); return nil })
	}); err != nil {
		return err
	}
	if err := m.reproduceAll(ctx, log, h, tree, sh, seen, out, problem); err != nil {
		return err
	}
	if h.Scope == parcel.ScopeFull {
		return rehash(ctx, tree, sh, out, problem)
	}
	for _, t := range planStep(h.Scope, 0, h.Size, h.Records).spine {
		if _, err := tree.Tile(ctx, t.Level, t.Index); err != nil {
			problem("%s: %w", t.Path(), err)
			continue
		}
		out.Tiles++
	}
	return ctx.Err()
}

// reproduceAll reproduces accepted checkpoints, ascending by size, and keeps in memory only the tiles over the next one.
func (m *Mirror) reproduceAll(ctx context.Context, log *knownLog, h Head, tree *tiles.Tree, sh *shelf, seen []seenHead, out *LogReport, problem func(string, ...any)) error {
	for i, s := range seen {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := m.reproduce(ctx, log, h, tree, sh, s); err != nil {
			problem("checkpoint %d of %d, size %d: %w", i+1, len(seen), s.Size, err)
		} else {
			out.Heads++
		}
		next := uint64(tiles.MaxSize) // what the next one does not share is done with
		if i+1 < len(seen) {
			next = seen[i+1].Size
		}
		leavePath(tree, s.Size, next)
	}
	return nil
}

// reproduce verifies the signature of an accepted checkpoint and computes its root from stored tiles: of the head's tree at
// scope full, and of its own tree, as far as the step to it carried tiles, at scope heads.
func (m *Mirror) reproduce(ctx context.Context, log *knownLog, h Head, tree *tiles.Tree, sh *shelf, s seenHead) error {
	c, err := log.openHeld(s.Note, s.VKey)
	if err != nil {
		return err
	}
	if c.Size != s.Size || c.Root != s.Root {
		return fmt.Errorf("%w: stored as size %d, signed for %d", ErrDamaged, s.Size, c.Size)
	}
	if h.Scope != parcel.ScopeFull {
		tree = tiles.NewTree(s.Size, s.Root, sh.fetch)
	}
	root, err := tree.RootAt(ctx, s.Size)
	if err != nil {
		return err
	}
	if root != s.Root {
		return fmt.Errorf("%w: the stored tiles give root %s", ErrDamaged, root)
	}
	return nil
}

// leavePath drops the tiles over the end of size leaves that are not over the end of next leaves as well.
func leavePath(tree *tiles.Tree, size, next uint64) {
	for level := 0; level <= tiles.MaxLevel; level++ {
		if i := tiles.Count(level, size) / tiles.Width; i != tiles.Count(level, next)/tiles.Width {
			tree.Forget(level, i)
		}
	}
}

// rehash reads every bundle and every tile of a full log, and keeps in memory only the tiles above the one it is at.
func rehash(ctx context.Context, tree *tiles.Tree, sh *shelf, out *LogReport, problem func(string, ...any)) error {
	size := tree.Size()
	hashes, buf := make([]byte, 0, tiles.Width*tiles.HashSize), []byte(nil)
	for level := 0; tiles.Count(level, size) > 0; level++ {
		for i := uint64(0); i*tiles.Width < tiles.Count(level, size); i++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := rehashTile(ctx, tree, sh, level, i, &buf, hashes, out); err != nil {
				problem("%w", err)
			}
			leavePath(tree, i<<(8*(level+1)), (i+1)<<(8*(level+1)))
		}
	}
	return nil
}

// rehashTile hashes a tile, and at level 0 its entries. buf is room for a bundle, hashes for a tile.
func rehashTile(ctx context.Context, tree *tiles.Tree, sh *shelf, level int, i uint64, buf *[]byte, hashes []byte, out *LogReport) error {
	tile, err := tree.Tile(ctx, level, i)
	if err != nil {
		return err
	}
	out.Tiles++
	if level > 0 {
		return nil
	}
	t, _ := tiles.At(tiles.Entries, i, tree.Size())
	b, err := sh.need(t, *buf)
	if err == nil {
		*buf = b
		hashes, err = tiles.AppendLeafHashes(hashes[:0], b, t.Width)
	}
	if err == nil && string(hashes) != string(tile) {
		err = fmt.Errorf("%w: entries that do not hash to the tree", ErrDamaged)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.Path(), err)
	}
	out.Leaves += uint64(t.Width)
	return nil
}
