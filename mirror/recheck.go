package mirror

import (
	"context"
	"fmt"

	"redoubt.internal/mirror/tiles"
)

// recheck hashes all stored tiles and entries of a log and reproduces all its accepted checkpoints. Findings go into out; an error is
// returned only when the context ends or the database fails.
func (m *Mirror) recheck(ctx context.Context, log *knownLog, h Head, out *LogReport) error {
	c, err := m.checking(log, h, out)
	if err != nil {
		return err
	}
	if held, err := log.openHeld(h.Note, h.VKey); err != nil || held.Size != h.Size || held.Root != h.Root {
		out.problem(fmt.Errorf("the stored head is not the checkpoint it was taken from: %v", err))
	}
	return c.everything(ctx, func(_ unit, err error) error {
		if err != nil {
			out.problem(err)
		}
		return nil
	})
}

// recheckRecord proves a record of a sparse log up to its head, from the kept hashes.
func recheckRecord(ctx context.Context, log *knownLog, tree *tiles.Sparse, h Head, sh *shelf, index uint64) error {
	r, _, err := sh.record(index)
	if err != nil {
		return err
	}
	if err := log.checkExtra(r); err != nil {
		return err
	}
	_, proof, err := tree.Inclusion(ctx, index)
	if err != nil {
		return err
	}
	root, _, err := tiles.Path(index, h.Size, tiles.LeafHash(r.Leaf), proof)
	if err == nil && root != h.Root {
		err = fmt.Errorf("%w: it does not hash up to the head", ErrDamaged)
	}
	return err
}

// reproduce verifies the signature of an accepted checkpoint and computes its root from what is stored of the head's tree.
func reproduce(ctx context.Context, log *knownLog, rootAt func(context.Context, uint64) (tiles.Hash, error), s seenHead) error {
	c, err := log.openHeld(s.Note, s.VKey)
	if err != nil {
		return err
	}
	if c.Size != s.Size || c.Root != s.Root {
		return fmt.Errorf("%w: stored as size %d, signed for %d", ErrDamaged, s.Size, c.Size)
	}
	root, err := rootAt(ctx, s.Size)
	if err != nil {
		return err
	}
	if root != s.Root {
		return fmt.Errorf("%w: what is stored gives root %s", ErrDamaged, root)
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

// rehashTile hashes a tile, and at level 0 its entries with what stands beside them. buf is room for a bundle, hashes for a tile.
func rehashTile(ctx context.Context, log *knownLog, tree *tiles.Tree, sh *shelf, level int, i uint64, buf *[]byte, hashes []byte, out *LogReport) error {
	out.Tiles++
	if level > 0 {
		_, err := tree.Tile(ctx, level, i)
		return err
	}
	if sh.exists(tiles.Tile{Level: 0, Index: i, Width: tiles.Width}.Path()) { // as it was kept once
		if _, err := tree.Tile(ctx, 0, i); err != nil {
			return err
		}
	}
	t, _ := tiles.At(tiles.Entries, i, tree.Size())
	b, err := sh.need(t, *buf)
	if err == nil {
		*buf = b
		hashes, err = tiles.AppendLeafHashes(hashes[:0], b, t.Width)
	}
	if err == nil {
		err = proveLeaves(ctx, tree, t, hashes)
	}
	if err == nil && log.extras() {
		var extras []byte
		if extras, err = sh.need(tiles.Tile{Level: tiles.Extras, Index: i, Width: t.Width}, nil); err == nil {
			err = log.checkExtras(t, b, extras)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.Path(), err)
	}
	out.Leaves += uint64(t.Width)
	return nil
}
