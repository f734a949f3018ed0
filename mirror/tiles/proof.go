package tiles

import (
	"fmt"
	"math/bits"
)

// maxProof is the longest proof of a tree of MaxSize leaves, with room.
const maxProof = 128

// Path verifies nothing but shape: it computes the root that an inclusion proof (RFC 9162, section 2.1.3.2) gives for the leaf at
// index of a tree of size leaves, and every complete subtree whose hash that fixes: the leaf, the siblings and the ancestors that
// are complete. Nodes of the right edge, which the next leaf changes, are left out. If the root is one the log signed, whoever
// accepts the root accepts those hashes.
func Path(index, size uint64, leaf Hash, proof []Hash) (root Hash, nodes []NodeHash, err error) {
	root, err = path(index, size, leaf, proof, func(n NodeHash, _ Hash, _ []Hash) { nodes = append(nodes, n) })
	return root, nodes, err
}

// PathTo is the part of an inclusion proof that proves a subtree it fixes (see Path): the subtree's hash and the proof of it, as
// NodeRoot takes it. ok is false where the proof does not fix it.
func PathTo(index, size uint64, leaf Hash, proof []Hash, n Node) (hash Hash, rest []Hash, ok bool) {
	_, err := path(index, size, leaf, proof, func(f NodeHash, beside Hash, after []Hash) {
		if f.Node != n || ok {
			return
		}
		hash, ok = f.Hash, true
		if beside != (Hash{}) {
			rest = append(rest, beside)
		}
		rest = append(rest, after...)
	})
	return hash, rest, ok && err == nil
}

func path(index, size uint64, leaf Hash, proof []Hash, keep func(NodeHash, Hash, []Hash)) (Hash, error) {
	if index >= size || size > MaxSize || len(proof) > maxProof {
		return Hash{}, fmt.Errorf("%w: inclusion of leaf %d in %d by %d hashes", ErrRange, index, size, len(proof))
	}
	return climb(size, Node{0, index}, leaf, proof, func(Hash) {}, keep)
}

// NodeRoot is the root that a proof gives for a complete subtree: an inclusion proof of leaf Index in the tree whose leaves are the
// subtrees of that level, the last of which may be incomplete. Any verifier of inclusion proofs verifies it as such, for a tree of
// size>>Level leaves, rounded up.
func NodeRoot(n Node, size uint64, hash Hash, proof []Hash) (Hash, error) {
	if !n.In(size) || len(proof) > maxProof {
		return Hash{}, fmt.Errorf("%w: inclusion of %s in %d leaves by %d hashes", ErrRange, n, size, len(proof))
	}
	return climb(size, n, hash, proof, func(Hash) {}, func(NodeHash, Hash, []Hash) {})
}

// PrefixRoots computes, from one list of hashes, the root of the first size1 leaves and the root of all size2 leaves (RFC
// 9162, section 2.1.4.2). The list starts with the subtree that ends the smaller tree even where that is the whole smaller
// tree (see Seeded). 0 < size1 < size2.
//
// Who can show a list that gives a log's signed root for size2, and another root for size1 than the log signed, has proven
// that the log forked.
func PrefixRoots(size1, size2 uint64, list []Hash) (root1, root2 Hash, err error) {
	root1, root2, _, err = PrefixPath(size1, size2, list)
	return root1, root2, err
}

// PrefixPath is PrefixRoots, with the complete subtrees of the larger tree whose hashes the list fixes, as in Path: all peaks of
// the smaller tree are among them.
func PrefixPath(size1, size2 uint64, list []Hash) (root1, root2 Hash, nodes []NodeHash, err error) {
	if size1 == 0 || size1 >= size2 || size2 > MaxSize || len(list) == 0 || len(list) > maxProof {
		return Hash{}, Hash{}, nil, fmt.Errorf("%w: consistency of %d and %d by %d hashes", ErrRange, size1, size2, len(list))
	}
	level := bits.TrailingZeros64(size1)
	root1 = list[0]
	root2, err = climb(size2, Node{level, (size1 - 1) >> level}, list[0], list[1:], func(left Hash) { root1 = HashChildren(left, root1) },
		func(n NodeHash, _ Hash, _ []Hash) { nodes = append(nodes, n) })
	return root1, root2, nodes, err
}

// climb combines the hash of a complete subtree with its siblings, from below, up to the root of size leaves. left is told of each
// sibling on the left. keep is told of each complete subtree that is fixed by it, with its sibling, none for those on the way
// itself, and the siblings that follow.
func climb(size uint64, at Node, hash Hash, siblings []Hash, left func(Hash), keep func(n NodeHash, beside Hash, after []Hash)) (root Hash, err error) {
	fix := func(n Node, h, beside Hash, after []Hash) {
		from := n.Index << n.Level
		if rest := size - from; !n.In(size) && rest&(rest-1) == 0 { // the right edge is one subtree, lower than its place
			level := bits.Len64(rest) - 1
			n = Node{level, from >> level}
		}
		if n.In(size) {
			keep(NodeHash{n, h}, beside, after)
		}
	}
	last := (size - 1) >> at.Level
	root = hash
	fix(at, root, Hash{}, siblings)
	for i, s := range siblings {
		if last == 0 {
			return Hash{}, fmt.Errorf("%w: the proof is too long", ErrProof)
		}
		if at.Index&1 == 1 || at.Index == last {
			for at.Index&1 == 0 { // no sibling on the right: the node stands for its parent too
				at, last = at.parent(), last>>1
			}
			fix(at.sibling(), s, root, siblings[i+1:])
			left(s)
			root = HashChildren(s, root)
		} else {
			fix(at.sibling(), s, root, siblings[i+1:])
			root = HashChildren(root, s)
		}
		at, last = at.parent(), last>>1
		if at.In(size) {
			fix(at, root, Hash{}, siblings[i+1:])
		}
	}
	if last != 0 {
		return Hash{}, fmt.Errorf("%w: the proof is too short", ErrProof)
	}
	return root, nil
}

// Seeded returns a consistency proof in the form PrefixRoots takes: with the smaller tree's root before it where RFC 9162
// leaves that out because the smaller tree is complete.
func Seeded(size1 uint64, root1 Hash, proof []Hash) []Hash {
	if size1&(size1-1) == 0 {
		return append([]Hash{root1}, proof...)
	}
	return proof
}
