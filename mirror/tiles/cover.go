package tiles

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// Cover is the least set of subtree hashes that proves some leaves and subtrees to be in a tree of size leaves, all at once: a
// hash that several proofs share stands in it once, and one that follows from others not at all. It is a function of its
// arguments alone, so the hashes need no names when they are carried in the order of Carried.
type Cover struct {
	size    uint64
	leaves  []uint64
	carried []Node // ascending
	path    []Node // those whose hashes follow from their children, ascending
}

// NewCover plans the cover of leaves, ascending, whose hashes the reader will have, and of nodes, whose hashes he will not. All of
// them are in a tree of size leaves.
func NewCover(size uint64, leaves []uint64, nodes []Node) (*Cover, error) {
	c := &Cover{size: size, leaves: leaves}
	wanted := make(map[Node]bool)
	for i, l := range leaves {
		if l >= size || i > 0 && leaves[i-1] >= l {
			return nil, fmt.Errorf("%w: leaf %d of %d", ErrRange, l, size)
		}
		wanted[Node{0, l}] = true
	}
	for _, n := range append(Peaks(size), nodes...) {
		if !n.In(size) {
			return nil, fmt.Errorf("%w: %s of %d leaves", ErrRange, n, size)
		}
		wanted[n] = true
	}
	path := make(map[Node]bool)
	for n := range wanted {
		for p := n.parent(); p.In(size) && !path[p]; p = p.parent() {
			path[p] = true
		}
	}
	need := func(n Node) {
		if !path[n] && !(n.Level == 0 && wanted[n] && c.hasLeaf(n.Index)) {
			c.carried = append(c.carried, n)
		}
	}
	for n := range path {
		c.path = append(c.path, n)
		need(Node{n.Level - 1, n.Index << 1})
		need(Node{n.Level - 1, n.Index<<1 | 1})
	}
	for _, n := range Peaks(size) {
		need(n)
	}
	slices.SortFunc(c.path, compareNodes)
	slices.SortFunc(c.carried, compareNodes)
	return c, nil
}

func (c *Cover) hasLeaf(i uint64) bool {
	_, ok := slices.BinarySearch(c.leaves, i)
	return ok
}

func compareNodes(a, b Node) int {
	return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.Index, b.Index))
}

// Carried are the nodes whose hashes have to be carried, in their order.
func (c *Cover) Carried() []Node { return c.carried }

// Prove computes every node of the cover from the hashes of its leaves and of Carried, in their orders, and requires that they
// hash up to root, each of them: ErrProof otherwise.
func (c *Cover) Prove(root Hash, leaves, carried []Hash) ([]NodeHash, error) {
	if len(leaves) != len(c.leaves) || len(carried) != len(c.carried) {
		return nil, fmt.Errorf("%w: %d leaves and %d hashes instead of %d and %d", ErrProof, len(leaves), len(carried), len(c.leaves), len(c.carried))
	}
	known := make(map[Node]Hash, len(leaves)+len(carried)+len(c.path))
	out := make([]NodeHash, 0, len(leaves)+len(carried)+len(c.path))
	add := func(n Node, h Hash) { known[n], out = h, append(out, NodeHash{n, h}) }
	for i, h := range leaves {
		add(Node{0, c.leaves[i]}, h)
	}
	for i, h := range carried {
		add(c.carried[i], h)
	}
	for _, n := range c.path { // children stand before their parents
		add(n, HashChildren(known[Node{n.Level - 1, n.Index << 1}], known[Node{n.Level - 1, n.Index<<1 | 1}]))
	}
	var hashes []Hash
	for _, p := range Peaks(c.size) {
		hashes = append(hashes, known[p])
	}
	if len(hashes) == 0 && root != EmptyRoot() || len(hashes) > 0 && fold(hashes) != root {
		return nil, fmt.Errorf("%w: the subtrees carried of %d leaves", ErrProof, c.size)
	}
	return out, nil
}

// Sparse is a tree of which some complete subtrees are known and were proven before (see Cover.Prove, Path).
type Sparse struct{ walk }

// NewSparse returns the tree of size leaves whose subtrees get returns. A subtree that is not known is an error of get, and
// whatever needs it fails with that error.
func NewSparse(size uint64, get func(context.Context, Node) (Hash, error)) *Sparse {
	return &Sparse{walk{size, get}}
}

// RootAt returns the root that the first size leaves of the tree have.
func (s *Sparse) RootAt(ctx context.Context, size uint64) (Hash, error) { return s.rootAt(ctx, size) }

// Inclusion returns the proof that the leaf at index is in the tree and the leaf's hash.
func (s *Sparse) Inclusion(ctx context.Context, index uint64) (leaf Hash, proof []Hash, err error) {
	return s.inclusion(ctx, index)
}

// Subtree returns the hash of a complete subtree and the proof that it is in the tree, as NodeRoot takes it.
func (s *Sparse) Subtree(ctx context.Context, n Node) (hash Hash, proof []Hash, err error) {
	return s.subtree(ctx, n)
}

// Consistency returns the proof between the first size leaves and the tree.
func (s *Sparse) Consistency(ctx context.Context, size uint64) ([]Hash, error) {
	return s.consistency(ctx, size)
}
