package tiles

import (
	"context"
	"fmt"
	"math/bits"
	"slices"
)

// Node names a complete subtree: the 2^Level leaves from Index<<Level on. Its hash never changes once the tree has them all.
type Node struct {
	Level int // 0 is a leaf
	Index uint64
}

// NodeHash is a node and its hash.
type NodeHash struct {
	Node
	Hash Hash
}

func (n Node) String() string { return fmt.Sprintf("node %d/%d", n.Level, n.Index) }

// In tells whether a tree of size leaves has all leaves of the node.
func (n Node) In(size uint64) bool {
	return n.Level >= 0 && n.Level <= 44 && size <= MaxSize && n.Index < size>>n.Level
}

func (n Node) parent() Node  { return Node{n.Level + 1, n.Index >> 1} }
func (n Node) sibling() Node { return Node{n.Level, n.Index ^ 1} }

// Peaks are the nodes that cover a tree of size leaves, from the left: one for each bit of size.
func Peaks(size uint64) []Node { return peaks(0, size) }

// peaks returns the complete subtrees that cover the leaves [lo, hi), from the left. lo is a multiple of the largest of
// them, as in every RFC 6962 subtree.
func peaks(lo, hi uint64) []Node {
	var out []Node
	for lo < hi {
		level := bits.Len64(hi-lo) - 1
		if lo != 0 {
			level = min(level, bits.TrailingZeros64(lo))
		}
		out = append(out, Node{level, lo >> level})
		lo += 1 << level
	}
	return out
}

// fold combines subtrees from the right: RFC 6962 trees lean to the left.
func fold(hashes []Hash) Hash {
	root := hashes[len(hashes)-1]
	for i := len(hashes) - 2; i >= 0; i-- {
		root = HashChildren(hashes[i], root)
	}
	return root
}

// split is the largest power of two smaller than n.
func split(n uint64) uint64 { return 1 << (bits.Len64(n-1) - 1) }

// walk answers for a tree of size leaves by its nodes.
type walk struct {
	size uint64
	node func(context.Context, Node) (Hash, error)
}

// span returns the root over the leaves [lo, hi) of an RFC 6962 subtree.
func (w walk) span(ctx context.Context, lo, hi uint64) (Hash, error) {
	var hashes []Hash
	for _, p := range peaks(lo, hi) {
		h, err := w.node(ctx, p)
		if err != nil {
			return Hash{}, err
		}
		hashes = append(hashes, h)
	}
	return fold(hashes), nil
}

func (w walk) rootAt(ctx context.Context, size uint64) (Hash, error) {
	switch {
	case size > w.size:
		return Hash{}, fmt.Errorf("%w: size %d of %d", ErrRange, size, w.size)
	case size == 0:
		return EmptyRoot(), nil
	}
	return w.span(ctx, 0, size)
}

func (w walk) inclusion(ctx context.Context, index uint64) (leaf Hash, proof []Hash, err error) {
	if index >= w.size {
		return Hash{}, nil, fmt.Errorf("%w: leaf %d of %d", ErrRange, index, w.size)
	}
	return w.subtree(ctx, Node{0, index})
}

// subtree returns the hash of a node and the proof that it is in the tree, as NodeRoot takes it.
func (w walk) subtree(ctx context.Context, n Node) (hash Hash, proof []Hash, err error) {
	if !n.In(w.size) {
		return Hash{}, nil, fmt.Errorf("%w: %s of %d leaves", ErrRange, n, w.size)
	}
	if hash, err = w.node(ctx, n); err != nil {
		return Hash{}, nil, err
	}
	from, whole := n.Index<<n.Level, uint64(1)<<n.Level
	lo, hi := uint64(0), w.size
	for hi-lo > whole {
		mid := lo + split(hi-lo)
		var h Hash
		if from < mid {
			h, err = w.span(ctx, mid, hi)
			hi = mid
		} else {
			h, err = w.span(ctx, lo, mid)
			lo = mid
		}
		if err != nil {
			return Hash{}, nil, err
		}
		proof = append(proof, h)
	}
	slices.Reverse(proof)
	return hash, proof, nil
}

func (w walk) consistency(ctx context.Context, size uint64) (proof []Hash, err error) {
	if size > w.size {
		return nil, fmt.Errorf("%w: size %d of %d", ErrRange, size, w.size)
	}
	if size == 0 || size == w.size {
		return nil, nil
	}
	lo, hi, whole := uint64(0), w.size, true
	for hi != size { // SUBPROOF(size, D[lo:hi], whole): down to the subtree that ends where the old tree ends
		mid := lo + split(hi-lo)
		var h Hash
		if size <= mid {
			h, err = w.span(ctx, mid, hi)
			hi = mid
		} else {
			h, err = w.span(ctx, lo, mid)
			lo, whole = mid, false
		}
		if err != nil {
			return nil, err
		}
		proof = append(proof, h)
	}
	if !whole { // a part of the old tree, whose hash the old root does not give
		h, err := w.span(ctx, lo, hi)
		if err != nil {
			return nil, err
		}
		proof = append(proof, h)
	}
	slices.Reverse(proof)
	return proof, nil
}
