package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"redoubt.internal/mirror/tiles"
)

// step is the move of one log from its last good head to a new one, proven but for the entries.
type step struct {
	log  *knownLog
	from Head
	note []byte
	to   Checkpoint
	plan plan
	tree *tiles.Tree // of the new head

	cosigned Cosigned // what the log's witnesses say of the new head
}

// forkFound carries the proof of a fork from where it is found to where the log is frozen.
type forkFound struct{ evidence Evidence }

func (e *forkFound) Error() string { return ErrFork.Error() }
func (e *forkFound) Unwrap() error { return ErrFork }

// contradiction is the evidence that two checkpoints give, before a proof is added.
func (l *knownLog) contradiction(from Head, note []byte) Evidence {
	return Evidence{
		Origin: l.Origin, Former: l.FormerOrigins,
		Smaller: string(from.Note), SmallerKey: from.vkey(l), Larger: string(note), LargerKey: l.key.VKey(),
	}
}

// contradicts refuses a checkpoint that is older than the head, or another root of the same size.
func (l *knownLog) contradicts(from Head, to Checkpoint, note []byte) error {
	switch {
	case to.Size < from.Size:
		return fmt.Errorf("log %q: %w: its checkpoint has %d leaves, %d are held", l.Origin, ErrReplay, to.Size, from.Size)
	case to.Size == from.Size && to.Root != from.Root:
		return &forkFound{l.contradiction(from, note)}
	}
	return nil
}

// thawed refuses a checkpoint of a shard that takes no more entries, beyond or beside where it stopped.
func (l *knownLog) thawed(to Checkpoint) error {
	f := l.Frozen
	switch {
	case f == nil:
		return nil
	case to.Size > f.Size:
		return fmt.Errorf("log %q: %w: it has %d entries, %d are all it may have", l.Origin, ErrThawed, to.Size, f.Size)
	case to.Size == f.Size && !f.Root.Equal(to.Root[:]):
		return fmt.Errorf("log %q: %w: its root is %s, %s is pinned", l.Origin, ErrThawed, to.Root, f.Root)
	}
	return nil
}

// prove verifies that note is the log's own checkpoint, that the tree it signs extends the tree of from, and every tile of
// the plan's spine, which come from fetch and are handed to keep in their order. Errors are ErrProof, ErrUnknownOrigin,
// ErrReplay or a *forkFound.
func prove(ctx context.Context, log *knownLog, from Head, note []byte, scope string, fetch tiles.Fetch, keep func(tiles.Tile, []byte) error) (*step, error) {
	to, err := log.open(note)
	if err != nil {
		return nil, err
	}
	if err := log.contradicts(from, to, note); err != nil {
		return nil, err
	}
	if err := checkStep(scope, from.Size, to.Size); err != nil {
		return nil, fmt.Errorf("log %q: %w", log.Origin, err)
	}
	cosigned, unwitnessed := log.witnessed(note) // a fork is one whoever cosigned it, so this is weighed last
	s := &step{cosigned: cosigned, log: log, from: from, note: note, to: to, plan: planStep(scope, from.Size, to.Size, log.extras())}
	s.tree = tiles.NewTree(to.Size, to.Root, fetch)
	if len(s.plan.spine) == 0 { // the same head again, or an empty log
		if err := log.thawed(to); err != nil {
			return nil, err
		}
		return s, unwitnessed
	}
	prefix, err := s.tree.RootAt(ctx, from.Size)
	if err != nil {
		return nil, s.blame(err)
	}
	if prefix != from.Root {
		proof, err := s.tree.Consistency(ctx, from.Size)
		if err != nil {
			return nil, s.blame(err)
		}
		e := log.contradiction(from, note)
		e.Proof = tiles.Seeded(from.Size, prefix, proof)
		return nil, &forkFound{e}
	}
	if err := log.thawed(to); err != nil { // after the fork, which can be shown to others
		return nil, err
	}
	if unwitnessed != nil {
		return nil, unwitnessed
	}
	for _, t := range s.plan.spine {
		b, err := s.tree.Tile(ctx, t.Level, t.Index)
		if err != nil {
			return nil, s.blame(err)
		}
		if err := keep(t, b); err != nil {
			return nil, err
		}
		if s.plan.streams(t) {
			s.tree.Forget(t.Level, t.Index)
		}
	}
	return s, nil
}

// blame says which log an error belongs to, and that a proof failed if that is what happened.
func (s *step) blame(err error) error {
	if errors.Is(err, tiles.ErrProof) || errors.Is(err, tiles.ErrBundle) {
		return fmt.Errorf("log %q: %w: %w", s.log.Origin, ErrProof, err)
	}
	return fmt.Errorf("log %q: %w", s.log.Origin, err)
}

// take verifies a package against the proven tree and hands it to keep: an entry bundle, or a bundle of extras, which is verified
// against the entries that need returns.
// hashes is room for one tile.
func (s *step) take(ctx context.Context, t tiles.Tile, bundle, hashes []byte, need func(tiles.Tile, []byte) ([]byte, error), keep func(tiles.Tile, []byte) error) error {
	if t.Level == tiles.Extras {
		return s.takeExtras(t, bundle, need, keep)
	}
	hashes, err := tiles.AppendLeafHashes(hashes[:0], bundle, t.Width)
	if err != nil {
		return s.blame(fmt.Errorf("%s: %w", t.Path(), err))
	}
	if err := proveLeaves(ctx, s.tree, t, hashes); err != nil {
		return s.blame(err)
	}
	return keep(t, bundle)
}

// proveLeaves verifies the leaf hashes of a bundle against the tree: a full tile's by the tile above it, so that no tile of level 0 is
// read, a partial one's by the tree's own edge.
func proveLeaves(ctx context.Context, tree *tiles.Tree, t tiles.Tile, hashes []byte) error {
	var good bool
	if t.Full() {
		above, err := tree.Tile(ctx, 1, t.Index/tiles.Width)
		if err != nil {
			return err
		}
		at := t.Index % tiles.Width * tiles.HashSize
		good = tiles.Subtree(hashes) == tiles.Hash(above[at:at+tiles.HashSize])
	} else {
		edge, err := tree.Tile(ctx, 0, t.Index)
		if err != nil {
			return err
		}
		good = bytes.Equal(hashes, edge)
	}
	if !good {
		return fmt.Errorf("%w: %s", tiles.ErrProof, t.Path())
	}
	return nil
}

// takeExtras verifies each extra of a bundle against its entry.
func (s *step) takeExtras(t tiles.Tile, bundle []byte, need func(tiles.Tile, []byte) ([]byte, error), keep func(tiles.Tile, []byte) error) error {
	entries, err := need(tiles.Tile{Level: tiles.Entries, Index: t.Index, Width: t.Width}, nil)
	if err != nil {
		return s.blame(err)
	}
	if err := s.log.checkExtras(t, entries, bundle); err != nil {
		return s.blame(fmt.Errorf("%s: %w", t.Path(), err))
	}
	return keep(t, bundle)
}

// checkExtras verifies what stands beside the entries of a bundle.
func (l *knownLog) checkExtras(t tiles.Tile, entries, extras []byte) error {
	leaves := make([][]byte, t.Width)
	if err := tiles.SplitBundle(entries, t.Width, func(i int, leaf []byte) error { leaves[i] = leaf; return nil }); err != nil {
		return err
	}
	return tiles.SplitBundle(extras, t.Width, func(i int, extra []byte) error {
		return l.checkExtra(Record{Index: t.Index*tiles.Width + uint64(i), Leaf: leaves[i], Extra: extra})
	})
}
