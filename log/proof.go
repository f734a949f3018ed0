package log

import (
	"context"
	"errors"
	"fmt"
)

// ErrProof says that a Merkle proof does not prove what it is said to.
var ErrProof = errors.New("the Merkle proof does not verify")

// VerifyInclusion checks that a leaf hash is entry index of the tree of size and root (RFC 9162 2.1.3.2).
func VerifyInclusion(leaf [32]byte, index, size uint64, proof [][]byte, root [32]byte) error {
	got, ok := rootFromInclusion(leaf, index, size, proof)
	if !ok || got != root {
		return fmt.Errorf("%w: entry %d in size %d", ErrProof, index, size)
	}
	return nil
}

// VerifyConsistency checks that the tree of size from and fromRoot is a prefix of the tree of size to and toRoot
// (RFC 9162 2.1.4.2). From size 0 every tree is consistent with an empty proof; equal sizes need equal roots.
func VerifyConsistency(from, to uint64, fromRoot, toRoot [32]byte, proof [][]byte) error {
	bad := fmt.Errorf("%w: size %d to size %d", ErrProof, from, to)
	switch {
	case from > to:
		return bad
	case from == to || from == 0:
		if len(proof) != 0 || from == to && fromRoot != toRoot || from == 0 && fromRoot != emptyRoot {
			return bad
		}
		return nil
	}
	fn, sn := from-1, to-1
	for fn&1 == 1 {
		fn >>= 1
		sn >>= 1
	}
	fr := fromRoot
	if from&(from-1) != 0 {
		if len(proof) == 0 || len(proof[0]) != 32 {
			return bad
		}
		fr = [32]byte(proof[0])
		proof = proof[1:]
	}
	sr := fr
	for _, p := range proof {
		if sn == 0 || len(p) != 32 {
			return bad
		}
		h := (*[32]byte)(p)
		if fn&1 == 1 || fn == sn {
			fr = nodeHash(h, &fr)
			sr = nodeHash(h, &sr)
			for fn&1 == 0 && fn != 0 {
				fn >>= 1
				sn >>= 1
			}
		} else {
			sr = nodeHash(&sr, h)
		}
		fn >>= 1
		sn >>= 1
	}
	if sn != 0 || fr != fromRoot || sr != toRoot {
		return bad
	}
	return nil
}

// InclusionProof proves entry index in the tree of size (index < size <= Head().Size), leaf side first.
func (l *Log) InclusionProof(ctx context.Context, index, size uint64) ([][]byte, error) {
	v := l.view.Load()
	if size > v.size || index >= size {
		return nil, fmt.Errorf("proving inclusion of %d in size %d: %w", index, size, ErrNotFound)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	proof, err := l.nodes(v).inclusion(index, size)
	if err != nil {
		return nil, fmt.Errorf("proving inclusion of %d in size %d: %w", index, size, err)
	}
	return proof, nil
}

// ConsistencyProof proves that the tree of size from is a prefix of that of size to (from <= to <= Head().Size). It is
// empty when from is 0 or equals to.
func (l *Log) ConsistencyProof(ctx context.Context, from, to uint64) ([][]byte, error) {
	v := l.view.Load()
	if to > v.size || from > to {
		return nil, fmt.Errorf("proving consistency of %d with %d: %w", from, to, ErrNotFound)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if from == 0 {
		return nil, nil
	}
	proof, err := l.nodes(v).consistency(from, to)
	if err != nil {
		return nil, fmt.Errorf("proving consistency of %d with %d: %w", from, to, err)
	}
	return proof, nil
}

// Root is the root of the first size entries (size <= Head().Size), whether or not that size was ever signed.
func (l *Log) Root(ctx context.Context, size uint64) ([32]byte, error) {
	v := l.view.Load()
	if size > v.size {
		return [32]byte{}, fmt.Errorf("computing the root of size %d: %w", size, ErrNotFound)
	}
	if err := ctx.Err(); err != nil {
		return [32]byte{}, err
	}
	if size == v.size {
		return v.head.Root, nil
	}
	root, err := l.nodes(v).rangeHash(0, size)
	if err != nil {
		return root, fmt.Errorf("computing the root of size %d: %w", size, err)
	}
	return root, nil
}
