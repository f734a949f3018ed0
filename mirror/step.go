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
	log   *knownLog
	from  Head
	note  []byte
	to    Checkpoint
	plan  plan
	tree  *tiles.Tree           // of the new head
	spine map[tiles.Tile][]byte // every tile of the plan's spine, proven

	cosigned Cosigned // what the log's witnesses say of the new head
}

// forkFound carries the proof of a fork from where it is found to where the log is frozen.
type forkFound struct{ evidence Evidence }

func (e *forkFound) Error() string { return ErrFork.Error() }
func (e *forkFound) Unwrap() error { return ErrFork }

// prove verifies that note is the log's own checkpoint, that the tree it signs extends the tree of from, and every tile of
// the plan's spine, which come from fetch, and that the log's witnesses cosigned as its policy asks. Errors are ErrProof, ErrQuorum,
// ErrUnknownOrigin, ErrReplay or a *forkFound.
func prove(ctx context.Context, log *knownLog, from Head, note []byte, scope string, records []uint64, fetch tiles.Fetch) (*step, error) {
	to, err := log.open(note)
	if err != nil {
		return nil, err
	}
	contradiction := Evidence{
		Origin: log.Origin, Former: log.FormerOrigins,
		Smaller: string(from.Note), SmallerKey: from.vkey(log), Larger: string(note), LargerKey: log.key.VKey(),
	}
	switch {
	case to.Size < from.Size:
		return nil, fmt.Errorf("log %q: %w: its checkpoint has %d leaves, %d are held", log.Origin, ErrReplay, to.Size, from.Size)
	case to.Size == from.Size && to.Root != from.Root:
		return nil, &forkFound{contradiction}
	}
	if err := checkStep(scope, from.Size, to.Size, records); err != nil {
		return nil, fmt.Errorf("log %q: %w", log.Origin, err)
	}
	cosigned, unwitnessed := log.witnessed(note) // a fork is one whoever cosigned it, so this is weighed last
	s := &step{cosigned: cosigned, log: log, from: from, note: note, to: to, plan: planStep(scope, from.Size, to.Size, records), spine: make(map[tiles.Tile][]byte)}
	s.tree = tiles.NewTree(to.Size, to.Root, fetch)
	if len(s.plan.spine) == 0 { // the same head again, or an empty log
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
		contradiction.Proof = tiles.Seeded(from.Size, prefix, proof)
		return nil, &forkFound{contradiction}
	}
	for _, t := range s.plan.spine {
		if s.spine[t], err = s.tree.Tile(ctx, t.Level, t.Index); err != nil {
			return nil, s.blame(err)
		}
	}
	return s, unwitnessed
}

// blame says which log an error belongs to, and that a proof failed if that is what happened.
func (s *step) blame(err error) error {
	if errors.Is(err, tiles.ErrProof) || errors.Is(err, tiles.ErrBundle) {
		return fmt.Errorf("log %q: %w: %w", s.log.Origin, ErrProof, err)
	}
	return fmt.Errorf("log %q: %w", s.log.Origin, err)
}

// take verifies an entry bundle against the proven tree and hands it to keep, followed by its hash tile if that is full (a
// partial one stands in the spine). hashes is room for one tile.
func (s *step) take(ctx context.Context, t tiles.Tile, bundle, hashes []byte, keep func(tiles.Tile, []byte) error) error {
	hashes, err := tiles.AppendLeafHashes(hashes[:0], bundle, t.Width)
	if err != nil {
		return s.blame(fmt.Errorf("%s: %w", t.Path(), err))
	}
	var good bool
	if t.Full() {
		var above []byte
		if above, err = s.tree.Tile(ctx, 1, t.Index/tiles.Width); err == nil {
			at := t.Index % tiles.Width * tiles.HashSize
			good = tiles.Subtree(hashes) == tiles.Hash(above[at:at+tiles.HashSize])
		}
	} else {
		var edge []byte
		edge, err = s.tree.Tile(ctx, 0, t.Index)
		good = bytes.Equal(hashes, edge)
	}
	if err != nil {
		return s.blame(err)
	}
	if !good {
		return s.blame(fmt.Errorf("%w: %s", tiles.ErrProof, t.Path()))
	}
	if err := keep(t, bundle); err != nil || !t.Full() {
		return err
	}
	return keep(tiles.Tile{Level: 0, Index: t.Index, Width: tiles.Width}, hashes)
}
