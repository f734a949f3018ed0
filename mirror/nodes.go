package mirror

import (
	"context"
	"encoding/binary"
	"fmt"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/tiles"
)

// The hashes of complete subtrees never change, so whoever accepted one keeps it for ever: a sparse mirror proves its records by
// them, and another value for one of them, from wherever, proves that the log showed two histories.
//
//	<prefix><origin>\x00 <level: 1 byte> <index: 8 bytes>   <hash: 32 bytes> <origin of the hash: 8 bytes>
//
// The last eight bytes are the number of the parcel that brought the hash, or with the highest bit set the number of the
// observation (see crosscheck.go) that did.
const (
	keyNode        = "mirror/node/"
	keyCollectNode = "exporter/node/"
	observed       = 1 << 63
)

func nodeKey(prefix, origin string, n tiles.Node) []byte {
	b := append([]byte(prefix+origin), 0, byte(n.Level))
	return binary.BigEndian.AppendUint64(b, n.Index)
}

// decodeNodeKey reads the part of a key behind the origin.
func decodeNodeKey(b []byte) (tiles.Node, error) {
	if len(b) != 9 {
		return tiles.Node{}, fmt.Errorf("%w: the key of a subtree hash", ErrDamaged)
	}
	return tiles.Node{Level: int(b[0]), Index: binary.BigEndian.Uint64(b[1:])}, nil
}

// node is a hash that was accepted and what brought it.
type node struct {
	tiles.NodeHash
	by uint64
}

// getNode reads a hash that was accepted.
func getNode(tx store.Tx, prefix, origin string, n tiles.Node) (node, bool, error) {
	b, err := tx.Get(nodeKey(prefix, origin, n))
	if err != nil || b == nil {
		return node{}, false, err
	}
	if len(b) != tiles.HashSize+8 {
		return node{}, false, fmt.Errorf("%w: %s of %q", ErrDamaged, n, origin)
	}
	return node{tiles.NodeHash{Node: n, Hash: tiles.Hash(b[:tiles.HashSize])}, binary.BigEndian.Uint64(b[tiles.HashSize:])}, true, nil
}

// putNodes keeps the hashes that are new. One that contradicts a kept one is ErrFork: whoever calls has compared them before.
func putNodes(tx store.Tx, prefix, origin string, nodes []tiles.NodeHash, by uint64) error {
	for _, n := range nodes {
		held, ok, err := getNode(tx, prefix, origin, n.Node)
		switch {
		case err != nil:
			return err
		case ok && held.Hash != n.Hash:
			return fmt.Errorf("%w: %s of %q", ErrFork, n.Node, origin)
		case ok:
			continue
		}
		if err := tx.Put(nodeKey(prefix, origin, n.Node), binary.BigEndian.AppendUint64(n.Hash[:], by)); err != nil {
			return err
		}
	}
	return nil
}

// sparseTree is the tree of a head as far as its subtrees are kept. A subtree that is not is ErrNotFound.
func sparseTree(db store.DB, prefix, origin string, size uint64) *tiles.Sparse {
	return tiles.NewSparse(size, sparseNode(db, prefix, origin))
}

// sparseNode returns the subtrees that are kept.
func sparseNode(db store.DB, prefix, origin string) func(context.Context, tiles.Node) (tiles.Hash, error) {
	return func(_ context.Context, n tiles.Node) (h tiles.Hash, err error) {
		err = db.View(func(tx store.Tx) error {
			held, ok, err := getNode(tx, prefix, origin, n)
			if err == nil && !ok {
				err = fmt.Errorf("%w: %s of %q", ErrNotFound, n, origin)
			}
			h = held.Hash
			return err
		})
		return h, err
	}
}

// encodeNodes writes nodes as a file: {level: 1 byte, index: 8 bytes, hash: 32 bytes} each.
func encodeNodes(nodes []tiles.NodeHash) []byte {
	b := make([]byte, 0, len(nodes)*nodeSize)
	for _, n := range nodes {
		b = append(b, byte(n.Level))
		b = binary.BigEndian.AppendUint64(b, n.Index)
		b = append(b, n.Hash[:]...)
	}
	return b
}

const nodeSize = 1 + 8 + tiles.HashSize

func decodeNodes(b []byte) ([]tiles.NodeHash, error) {
	if len(b)%nodeSize != 0 {
		return nil, fmt.Errorf("%w: a file of subtree hashes of %d bytes", ErrDamaged, len(b))
	}
	out := make([]tiles.NodeHash, 0, len(b)/nodeSize)
	for ; len(b) > 0; b = b[nodeSize:] {
		n := tiles.Node{Level: int(b[0]), Index: binary.BigEndian.Uint64(b[1:])}
		if !n.In(tiles.MaxSize) {
			return nil, fmt.Errorf("%w: a file of subtree hashes names %s", ErrDamaged, n)
		}
		out = append(out, tiles.NodeHash{Node: n, Hash: tiles.Hash(b[9:nodeSize])})
	}
	return out, nil
}
