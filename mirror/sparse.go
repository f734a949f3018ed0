package mirror

import (
	"context"
	"fmt"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// Record is one leaf of a log with what stands beside it.
type Record struct {
	Index uint64
	Leaf  []byte // what is hashed into the tree
	Extra []byte // what is not hashed but belongs to the entry; empty where the log has none
}

// encode is the form of a record in a parcel and on a shelf: two strings framed as in an entry bundle.
func (r Record) encode() ([]byte, error) {
	if len(r.Leaf) > tiles.MaxEntry || len(r.Extra) > tiles.MaxEntry {
		return nil, fmt.Errorf("record %d: %w: %d and %d bytes, at most %d each", r.Index, tiles.ErrBundle, len(r.Leaf), len(r.Extra), tiles.MaxEntry)
	}
	return tiles.AppendEntry(tiles.AppendEntry(nil, r.Leaf), r.Extra), nil
}

func decodeRecord(index uint64, b []byte) (Record, error) {
	r := Record{Index: index}
	err := tiles.SplitBundle(b, 2, func(i int, part []byte) error {
		if i == 0 {
			r.Leaf = part
		} else {
			r.Extra = part
		}
		return nil
	})
	if err != nil {
		return r, fmt.Errorf("record %d: %w", index, err)
	}
	return r, nil
}

// sparseStep is the move of one log at scope sparse, on its way to be proven.
type sparseStep struct {
	log     *knownLog
	from    Head
	note    []byte
	to      Checkpoint
	records []uint64
	cover   *tiles.Cover

	cosigned Cosigned // what the log's witnesses say of the new head, once it is proven
}

// openSparse verifies the checkpoint a sparse step leads to and plans what proves it. Errors are those of prove.
func openSparse(log *knownLog, from Head, note []byte, records []uint64) (*sparseStep, error) {
	to, err := log.open(note)
	if err != nil {
		return nil, err
	}
	if err := log.contradicts(from, to, note); err != nil {
		return nil, err
	}
	s := &sparseStep{log: log, from: from, note: note, to: to, records: records}
	if s.cover, err = tiles.NewCover(to.Size, records, tiles.Peaks(from.Size)); err != nil {
		return nil, fmt.Errorf("log %q: %w: %w", log.Origin, ErrProof, err)
	}
	return s, nil
}

// prove proves the step from the hashes of its records and the subtrees carried: all of them hash up to the signed root, and the
// subtrees of the old head up to its root. It returns every subtree hash that is proven by it.
func (s *sparseStep) prove(ctx context.Context, leaves, carried []tiles.Hash) ([]tiles.NodeHash, error) {
	nodes, err := s.cover.Prove(s.to.Root, leaves, carried)
	if err != nil {
		return nil, fmt.Errorf("log %q: %w: %w", s.log.Origin, ErrProof, err)
	}
	tree := s.tree(nodes)
	prefix, err := tree.RootAt(ctx, s.from.Size)
	if err != nil {
		return nil, err
	}
	if prefix != s.from.Root {
		proof, err := tree.Consistency(ctx, s.from.Size)
		if err != nil {
			return nil, err
		}
		e := s.log.contradiction(s.from, s.note)
		e.Proof = tiles.Seeded(s.from.Size, prefix, proof)
		return nil, &forkFound{e}
	}
	if err := s.log.thawed(s.to); err != nil {
		return nil, err
	}
	s.cosigned, err = s.log.witnessed(s.note) // a fork is one whoever cosigned it, so this is weighed last
	return nodes, err
}

// tree is the new tree as far as nodes give it.
func (s *sparseStep) tree(nodes []tiles.NodeHash) *tiles.Sparse {
	known := make(map[tiles.Node]tiles.Hash, len(nodes))
	for _, n := range nodes {
		known[n.Node] = n.Hash
	}
	return tiles.NewSparse(s.to.Size, func(_ context.Context, n tiles.Node) (tiles.Hash, error) {
		h, ok := known[n]
		if !ok {
			return h, fmt.Errorf("log %q: %w: %s is not carried", s.log.Origin, ErrProof, n)
		}
		return h, nil
	})
}

// checkRecord verifies what stands beside a leaf and returns the leaf's hash.
func (s *sparseStep) checkRecord(r Record) (tiles.Hash, error) {
	if err := s.log.checkExtra(r); err != nil {
		return tiles.Hash{}, fmt.Errorf("log %q: %w", s.log.Origin, err)
	}
	return tiles.LeafHash(r.Leaf), nil
}

// recordName is a record's file on a shelf.
func recordName(index uint64) string { return tiles.Numbered("record", index) }

// nodesName is the file on a shelf with the subtree hashes that a parcel proved.
func nodesName(sequence uint64) string { return tiles.Numbered("nodes", sequence) }

// carriesRecords tells whether a scope carries single records with subtree hashes instead of tiles.
func carriesRecords(scope string) bool { return scope == parcel.ScopeSparse }
