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
