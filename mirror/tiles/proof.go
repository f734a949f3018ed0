package tiles

import "fmt"

// PrefixRoots computes, from one list of hashes, the root of the first size1 leaves and the root of all size2 leaves (RFC
// 9162, section 2.1.4.2). The list starts with the subtree that ends the smaller tree even where that is the whole smaller
// tree (see Seeded). 0 < size1 < size2.
//
// Who can show a list that gives a log's signed root for size2, and another root for size1 than the log signed, has proven
// that the log forked.
func PrefixRoots(size1, size2 uint64, list []Hash) (root1, root2 Hash, err error) {
	if size1 == 0 || size1 >= size2 || size2 > MaxSize || len(list) == 0 || len(list) > 128 {
		return Hash{}, Hash{}, fmt.Errorf("%w: consistency of %d and %d by %d hashes", ErrRange, size1, size2, len(list))
	}
	fn, sn := size1-1, size2-1
	for fn&1 == 1 {
		fn, sn = fn>>1, sn>>1
	}
	root1, root2 = list[0], list[0]
	for _, c := range list[1:] {
		if sn == 0 {
			return Hash{}, Hash{}, fmt.Errorf("%w: the consistency proof is too long", ErrProof)
		}
		if fn&1 == 1 || fn == sn {
			root1, root2 = NodeHash(c, root1), NodeHash(c, root2)
			for fn != 0 && fn&1 == 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			root2 = NodeHash(root2, c)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 {
		return Hash{}, Hash{}, fmt.Errorf("%w: the consistency proof is too short", ErrProof)
	}
	return root1, root2, nil
}

// Seeded returns a consistency proof in the form PrefixRoots takes: with the smaller tree's root before it where RFC 9162
// leaves that out because the smaller tree is complete.
func Seeded(size1 uint64, root1 Hash, proof []Hash) []Hash {
	if size1&(size1-1) == 0 {
		return append([]Hash{root1}, proof...)
	}
	return proof
}

// CheckConsistency tells whether proof shows that the tree of size2 and root2 extends the tree of size1 and root1.
func CheckConsistency(size1, size2 uint64, root1, root2 Hash, proof []Hash) error {
	switch {
	case size1 > size2:
		return fmt.Errorf("%w: size %d is not before %d", ErrRange, size1, size2)
	case size1 == size2 && (root1 != root2 || len(proof) != 0):
		return fmt.Errorf("%w: two roots of size %d", ErrProof, size1)
	case size1 == 0 && len(proof) != 0:
		return fmt.Errorf("%w: nothing is proven of an empty tree", ErrProof)
	case size1 == size2 || size1 == 0:
		return nil
	}
	r1, r2, err := PrefixRoots(size1, size2, Seeded(size1, root1, proof))
	if err != nil {
		return err
	}
	if r1 != root1 || r2 != root2 {
		return fmt.Errorf("%w: sizes %d and %d are not consistent", ErrProof, size1, size2)
	}
	return nil
}

// CheckInclusion tells whether proof shows that leaf stands at index in the tree of size leaves and the given root (RFC
// 9162, section 2.1.3.2).
func CheckInclusion(index, size uint64, leaf, root Hash, proof []Hash) error {
	if index >= size || size > MaxSize {
		return fmt.Errorf("%w: leaf %d of %d", ErrRange, index, size)
	}
	fn, sn, r := index, size-1, leaf
	for _, c := range proof {
		if sn == 0 {
			return fmt.Errorf("%w: the inclusion proof is too long", ErrProof)
		}
		if fn&1 == 1 || fn == sn {
			r = NodeHash(c, r)
			for fn != 0 && fn&1 == 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			r = NodeHash(r, c)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 || r != root {
		return fmt.Errorf("%w: leaf %d is not in the tree of %d", ErrProof, index, size)
	}
	return nil
}
