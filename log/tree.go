package log

import (
	"crypto/sha256"
	"math/bits"
)

// RFC 6962 2.1: MTH({}) = SHA-256(); a leaf is SHA-256(0x00 || leaf); a node is SHA-256(0x01 || left || right).

func leafHash(leaf []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(leaf)
	var out [32]byte
	h.Sum(out[:0])
	return out
}

func nodeHash(left, right *[32]byte) [32]byte {
	var b [65]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[33:], right[:])
	return sha256.Sum256(b[:])
}

var emptyRoot = sha256.Sum256(nil)

const (
	tileHeight = 8 // C2SP tlog-tiles
	tileWidth  = 1 << tileHeight
)

// tile is one C2SP hash tile with every complete interior node above its hashes: row 0 is what is stored and served,
// row r holds 256>>r nodes, row 8 the tile's root. Slots are only ever filled, left to right, by the writer; readers
// look only at slots their view's size makes complete, so no lock is needed.
type tile struct {
	nodes [2*tileWidth - 1][32]byte
}

// row is where row r begins in nodes: 256 + 128 + ... before it.
func row(r int) int { return 2*tileWidth - (2*tileWidth)>>r }

func (t *tile) at(r int, i uint64) *[32]byte { return &t.nodes[row(r)+int(i)] }

// set fills slot i of row 0, after slots 0..i-1, and the interior nodes that become complete with it.
func (t *tile) set(i int, h [32]byte) {
	t.nodes[i] = h
	for r := 0; i&1 == 1; r++ {
		up := nodeHash(&t.nodes[row(r)+i-1], &t.nodes[row(r)+i])
		i >>= 1
		t.nodes[row(r+1)+i] = up
	}
}

func (t *tile) root() [32]byte { return t.nodes[row(tileHeight)] }

// tree is the right edge of a Merkle tree: edge[l] is the last, not yet full tile of level l and holds
// (size >> 8l) & 255 hashes. A tree value is forked, then appended to by one goroutine; the tiles are shared.
type tree struct {
	size uint64
	edge []*tile
}

// fullTile is a tile that became full during an append.
type fullTile struct {
	level int
	index uint64
	tile  *tile
}

// fork gives a tree that can be appended to without changing t. Of several forks of one t only the last appended to is
// good, because they share the free slots.
func (t tree) fork() tree {
	return tree{t.size, append([]*tile(nil), t.edge...)}
}

// append adds one leaf hash and returns full with the tiles it completed added.
func (t *tree) append(h [32]byte, full []fullTile) []fullTile {
	n := t.size
	t.size++
	for l := 0; ; l++ {
		if l == len(t.edge) {
			t.edge = append(t.edge, new(tile))
		}
		e, slot := t.edge[l], int(n%tileWidth)
		e.set(slot, h)
		if slot != tileWidth-1 {
			return full
		}
		n /= tileWidth
		full = append(full, fullTile{l, n, e})
		t.edge[l] = new(tile)
		h = e.root()
	}
}

// root computes the root from the edge alone: the complete subtrees of size, joined from the right.
func (t tree) root() [32]byte {
	if t.size == 0 {
		return emptyRoot
	}
	var acc [32]byte
	have := false
	for h := 0; h < 64 && t.size>>h > 0; h++ {
		if t.size>>h&1 == 0 {
			continue
		}
		// The complete subtree of height h ends at the last set bits: its index among those of height h.
		i := t.size>>h - 1
		n := t.edge[h/tileHeight].at(h%tileHeight, i&(1<<(tileHeight-h%tileHeight)-1))
		if !have {
			acc, have = *n, true
		} else {
			acc = nodeHash(n, &acc)
		}
	}
	return acc
}

// nodes finds the hash of a complete subtree: 2^height leaves beginning at leaf index<<height.
type nodes func(height int, index uint64) ([32]byte, error)

// rangeHash is MTH(D[from:to]) for a range of the shape RFC 6962 splits into: from is a multiple of the power of two
// not below to-from.
func (n nodes) rangeHash(from, to uint64) ([32]byte, error) {
	size := to - from
	if size == 0 {
		return emptyRoot, nil
	}
	if size&(size-1) == 0 {
		h := bits.TrailingZeros64(size)
		return n(h, from>>h)
	}
	k := splitPoint(size)
	left, err := n.rangeHash(from, from+k)
	if err != nil {
		return left, err
	}
	right, err := n.rangeHash(from+k, to)
	if err != nil {
		return right, err
	}
	return nodeHash(&left, &right), nil
}

// splitPoint is the largest power of two below n, n > 1.
func splitPoint(n uint64) uint64 { return 1 << (bits.Len64(n-1) - 1) }

// inclusion is PATH(index, D[size]) of RFC 6962 2.1.1.
func (n nodes) inclusion(index, size uint64) ([][]byte, error) {
	depth := bits.Len64(size)
	proof := make([][]byte, 0, depth)
	room := make([]byte, 0, 32*depth) // of all hashes in one piece
	var from, to uint64 = 0, size
	for to-from > 1 {
		k := splitPoint(to - from)
		var h [32]byte
		var err error
		if index < from+k {
			h, err = n.rangeHash(from+k, to)
			to = from + k
		} else {
			h, err = n.rangeHash(from, from+k)
			from += k
		}
		if err != nil {
			return nil, err
		}
		room = append(room, h[:]...)
		proof = append(proof, room[len(room)-32:len(room):len(room)])
	}
	reverse(proof)
	return proof, nil
}

// consistency is PROOF(from, D[to]) of RFC 6962 2.1.2, 0 < from <= to.
func (n nodes) consistency(m, size uint64) ([][]byte, error) {
	var proof [][]byte
	var from, to uint64 = 0, size
	whole := true // the b of SUBPROOF: the old root is known to the asker
	for m != to {
		k := splitPoint(to - from)
		var h [32]byte
		var err error
		if m <= from+k {
			h, err = n.rangeHash(from+k, to)
			to = from + k
		} else {
			h, err = n.rangeHash(from, from+k)
			from += k
			whole = false
		}
		if err != nil {
			return nil, err
		}
		proof = append(proof, h[:])
	}
	if !whole {
		h, err := n.rangeHash(from, to)
		if err != nil {
			return nil, err
		}
		proof = append(proof, h[:])
	}
	reverse(proof)
	return proof, nil
}

func reverse(p [][]byte) {
	for i, j := 0, len(p)-1; i < j; i, j = i+1, j-1 {
		p[i], p[j] = p[j], p[i]
	}
}

// rootFromInclusion computes the root a proof leads to (RFC 9162 2.1.3.2), and whether its length fits.
func rootFromInclusion(leaf [32]byte, index, size uint64, proof [][]byte) ([32]byte, bool) {
	if index >= size {
		return leaf, false
	}
	fn, sn, r := index, size-1, leaf
	for _, p := range proof {
		if sn == 0 || len(p) != 32 {
			return r, false
		}
		h := (*[32]byte)(p)
		if fn&1 == 1 || fn == sn {
			r = nodeHash(h, &r)
			for fn&1 == 0 && fn != 0 {
				fn >>= 1
				sn >>= 1
			}
		} else {
			r = nodeHash(&r, h)
		}
		fn >>= 1
		sn >>= 1
	}
	return r, sn == 0
}
