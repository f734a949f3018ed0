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
	var seen []seenHead
	if err := m.c.DB.View(func(tx store.Tx) error {
		seen = seen[:0]
		return scan(tx, keySeen+log.Origin+"\x00", func(_ string, s seenHead) error { seen = append(seen, s); return nil })
	}); err != nil {
		return err
	}
	if carriesRecords(h.Scope) {
		return m.recheckRecords(ctx, log, h, sh, seen, out, problem)
	}
	tree := m.tree(h, sh)
	if err := m.reproduceAll(ctx, log, h, tree, sh, seen, out, problem); err != nil {
		return err
	}
	return rehash(ctx, log, tree, sh, h.Scope, out, problem)
}

// recheckRecords proves every record of a sparse log up to its head, and reproduces every accepted checkpoint, from the kept hashes.
func (m *Mirror) recheckRecords(ctx context.Context, log *knownLog, h Head, sh *shelf, seen []seenHead, out *LogReport, problem func(string, ...any)) error {
	tree := sparseTree(m.c.DB, keyNode, log.Origin, h.Size)
	for i, s := range seen {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := reproduce(ctx, log, tree.RootAt, s); err != nil {
			problem("checkpoint %d of %d, size %d: %w", i+1, len(seen), s.Size, err)
			continue
		}
		out.Heads++
	}
	records, err := m.Records(log.Origin)
	if err != nil {
		return err
	}
	for _, index := range records {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := recheckRecord(ctx, log, tree, h, sh, index); err != nil {
			problem("record %d: %w", index, err)
			continue
		}
		out.Leaves++
	}
	return nil
}

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

// reproduceAll reproduces accepted checkpoints, ascending by size, and keeps in memory only the tiles over the next one.
func (m *Mirror) reproduceAll(ctx context.Context, log *knownLog, h Head, tree *tiles.Tree, sh *shelf, seen []seenHead, out *LogReport, problem func(string, ...any)) error {
	for i, s := range seen {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := reproduce(ctx, log, tree.RootAt, s); err != nil {
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

// rehash reads every bundle and every tile that a scope keeps, and keeps in memory only the tiles above the one it is at.
func rehash(ctx context.Context, log *knownLog, tree *tiles.Tree, sh *shelf, scope string, out *LogReport, problem func(string, ...any)) error {
	size, lowest := tree.Size(), 0
	if scope == parcel.ScopeSpine {
		lowest = 1
	}
	hashes, buf := make([]byte, 0, tiles.Width*tiles.HashSize), []byte(nil)
	for level := lowest; tiles.Count(level, size) > 0; level++ {
		for i := uint64(0); i*tiles.Width < tiles.Count(level, size); i++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := rehashTile(ctx, log, tree, sh, level, i, &buf, hashes, out); err != nil {
				problem("%w", err)
			}
			leavePath(tree, i<<(8*(level+1)), (i+1)<<(8*(level+1)))
		}
	}
	return nil
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
