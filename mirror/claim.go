package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// How a head that somebody else names stands to what is held here.
const (
	StandsSame     = "same"     // the same size and root
	StandsBehind   = "behind"   // smaller, and a prefix of the tree held here
	StandsAhead    = "ahead"    // larger than anything held here: nothing can be said yet
	StandsUnproven = "unproven" // smaller, and too little of the tree is held here to tell
	StandsUnknown  = "unknown"  // the log is not known here, or nothing of it is held
	StandsConflict = "conflict" // another root than the tree held here has at that size
)

// claim is a head that somebody else names, by the log's own signed checkpoint or by an enclave's signed statement alone.
type claim struct {
	size      uint64
	root      tiles.Hash
	note      []byte // the log's checkpoint, nil when only the statement is there
	statement []byte // the signed statement it stands in
	vkey      string // of who signed the checkpoint, or without one the statement
}

// prefix computes, of the newest head held of a log, the root of its first size leaves and the proof that they are its prefix. What
// too little is kept for is ErrNotFound.
type prefix func(ctx context.Context, size uint64) (root tiles.Hash, proof []tiles.Hash, err error)

// weigh compares a claim with the signed heads held of a log, the newest of which is last. A contradiction comes with its evidence.
func weigh(ctx context.Context, log *knownLog, held []Head, of prefix, c claim) (stands string, against *Evidence, err error) {
	if len(held) == 0 {
		return StandsUnknown, nil, nil
	}
	newest := held[len(held)-1]
	if i := slices.IndexFunc(held, func(h Head) bool { return h.Size == c.size }); i >= 0 {
		if held[i].Root == c.root {
			return StandsSame, nil, nil
		}
		return StandsConflict, log.against(c, held[i], nil), nil
	}
	switch {
	case c.size == 0 && c.root == tiles.EmptyRoot():
		return StandsBehind, nil, nil
	case c.size == 0:
		return StandsConflict, nil, fmt.Errorf("%w: a tree of no leaves with root %s", ErrProof, c.root)
	case c.size > newest.Size:
		return StandsAhead, nil, nil
	}
	root, proof, err := of(ctx, c.size)
	switch {
	case err == nil && root == c.root:
		return StandsBehind, nil, nil
	case errors.Is(err, ErrNotFound) && newest.Scope != parcel.ScopeFull:
		return StandsUnproven, nil, nil
	case err != nil:
		return "", nil, fmt.Errorf("log %q: computing its root at %d leaves: %w", log.Origin, c.size, err)
	}
	return StandsConflict, log.against(c, newest, tiles.Seeded(c.size, root, proof)), nil
}

// against is the evidence that a claim of at most h's size and the signed head h cannot both be true.
func (l *knownLog) against(c claim, h Head, proof []tiles.Hash) *Evidence {
	e := &Evidence{Origin: l.Origin, Former: l.FormerOrigins, Larger: string(h.Note), LargerKey: h.vkey(l), Proof: proof}
	if c.note != nil {
		e.Smaller, e.SmallerKey = string(c.note), c.vkey
	} else {
		e.Claim, e.ClaimKey = string(c.statement), c.vkey
	}
	return e
}

// prefixOf computes prefixes of a head from what is kept of it: tiles, or at scope sparse the subtrees under nodes.
func prefixOf(db store.DB, nodes string, h Head, sh *shelf) prefix {
	return func(ctx context.Context, size uint64) (root tiles.Hash, proof []tiles.Hash, err error) {
		if carriesRecords(h.Scope) {
			tree := sparseTree(db, nodes, h.Origin, h.Size)
			if root, err = tree.RootAt(ctx, size); err == nil {
				proof, err = tree.Consistency(ctx, size)
			}
			return root, proof, err
		}
		tree := tiles.NewTree(h.Size, h.Root, sh.fetch)
		if root, err = tree.RootAt(ctx, size); err == nil {
			proof, err = tree.Consistency(ctx, size)
		}
		return root, proof, err
	}
}

// verifiers reads the verifier keys of one sort of the configuration.
func verifiers(lines []string, what string) (out []*parcel.Verifier, err error) {
	for _, l := range lines {
		v, err := parcel.NewVerifier(l)
		if err != nil {
			return nil, fmt.Errorf("%w: %s key: %w", ErrConfig, what, err)
		}
		out = append(out, v)
	}
	return out, nil
}
