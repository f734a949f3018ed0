package tiles

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

var (
	// ErrProof says that the tiles read do not hash up to the root of the tree.
	ErrProof = errors.New("the tiles do not hash up to the signed root")
	// ErrRange says that a size or index is outside the tree.
	ErrRange = errors.New("that is outside the tree")
)

// A Fetch returns the bytes of a hash tile: exactly t.Width hashes. Nothing it returns is trusted.
type Fetch func(ctx context.Context, t Tile) ([]byte, error)

// Tree reads the tiles of one tree of known size and root. Tiles are hashed when they are first read and kept until Forget;
// the right edge is hashed at the first call of any method. Safe for concurrent use once that first call returned.
type Tree struct {
	size   uint64
	root   Hash
	fetch  Fetch
	height int // log2 of the tile width: always 8, smaller in tests so that small trees have many tiles

	mu   sync.Mutex
	edge bool             // the right edge was read and hashes to root
	held map[place][]byte // tiles that hash up to root, by tile level and index
}

// place is where a tile stands.
type place struct {
	level int
	index uint64
}

// NewTree returns a tree of size leaves with the given root, whose tiles come from fetch.
func NewTree(size uint64, root Hash, fetch Fetch) *Tree {
	return &Tree{size: size, root: root, fetch: fetch, height: height, held: make(map[place][]byte)}
}

// Size returns the number of leaves.
func (t *Tree) Size() uint64 { return t.size }

// width is the number of hashes of the tile at level and index, 0 when there is none.
func (t *Tree) width(level int, index uint64) int {
	n := t.size >> (t.height * level)
	if index > n>>t.height || index<<t.height >= n {
		return 0
	}
	return int(min(n-index<<t.height, 1<<t.height))
}

// Tile returns the hashes of the tile at level and index, as wide as the tree has it, all of them proven.
func (t *Tree) Tile(ctx context.Context, level int, index uint64) ([]byte, error) {
	if level < 0 || t.size > MaxSize || t.width(level, index) == 0 {
		return nil, fmt.Errorf("%w: no tile %d/%d in %d leaves", ErrRange, level, index, t.size)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tile(ctx, level, index)
}

func (t *Tree) tile(ctx context.Context, level int, index uint64) ([]byte, error) {
	if err := t.readEdge(ctx); err != nil {
		return nil, err
	}
	if b, ok := t.held[place{level, index}]; ok {
		return b, nil
	}
	// Every partial tile is in the edge, so this one is full and its root stands in the tile above it.
	above, err := t.tile(ctx, level+1, index>>t.height)
	if err != nil {
		return nil, err
	}
	b, err := t.read(ctx, level, index)
	if err != nil {
		return nil, err
	}
	at := int(index&(1<<t.height-1)) * HashSize
	if Subtree(b) != Hash(above[at:at+HashSize]) {
		return nil, fmt.Errorf("%w: %s", ErrProof, Tile{level, index, Width}.Path())
	}
	t.held[place{level, index}] = b
	return b, nil
}

// readEdge reads the partial tile of each level and hashes them to the root. Every hash of a partial tile stands for a
// complete subtree and so for a part of a peak: all of them enter the root.
func (t *Tree) readEdge(ctx context.Context) error {
	if t.edge {
		return nil
	}
	if t.size == 0 {
		if t.root != EmptyRoot() {
			return fmt.Errorf("%w: the empty tree has another root", ErrProof)
		}
		t.edge = true
		return nil
	}
	edge := make(map[place][]byte)
	for level := 0; t.size>>(t.height*level) > 0; level++ {
		n := t.size >> (t.height * level)
		if n&(1<<t.height-1) == 0 {
			continue
		}
		b, err := t.read(ctx, level, n>>t.height)
		if err != nil {
			return err
		}
		edge[place{level, n >> t.height}] = b
	}
	var hashes []Hash
	for _, p := range peaks(0, t.size) {
		hashes = append(hashes, t.within(edge[place{p.Level / t.height, p.Index >> (t.height - p.Level%t.height)}], p))
	}
	if fold(hashes) != t.root {
		var names []string
		for p := range edge {
			names = append(names, Tile{p.level, p.index, t.width(p.level, p.index)}.Path())
		}
		slices.Sort(names)
		return fmt.Errorf("%w: the right edge of %d leaves (%s)", ErrProof, t.size, strings.Join(names, ", "))
	}
	t.held, t.edge = edge, true
	return nil
}

// within returns the node p from the bytes of its tile.
func (t *Tree) within(tile []byte, p Node) Hash {
	sub := p.Level % t.height
	at := int(p.Index<<sub) & (1<<t.height - 1)
	return Subtree(tile[at*HashSize : (at+1<<sub)*HashSize])
}

func (t *Tree) read(ctx context.Context, level int, index uint64) ([]byte, error) {
	want := t.width(level, index)
	name := Tile{level, index, want}
	b, err := t.fetch(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name.Path(), err)
	}
	if len(b) != want*HashSize {
		return nil, fmt.Errorf("%w: %s has %d bytes instead of %d", ErrProof, name.Path(), len(b), want*HashSize)
	}
	return b, nil
}

func (t *Tree) node(ctx context.Context, p Node) (Hash, error) {
	b, err := t.tile(ctx, p.Level/t.height, p.Index>>(t.height-p.Level%t.height))
	if err != nil {
		return Hash{}, err
	}
	return t.within(b, p), nil
}

// Node returns the hash of a complete subtree.
func (t *Tree) Node(ctx context.Context, n Node) (h Hash, err error) {
	if !n.In(t.size) || t.size > MaxSize {
		return Hash{}, fmt.Errorf("%w: %s in %d leaves", ErrRange, n, t.size)
	}
	err = t.locked(ctx, func(walk) error { h, err = t.node(ctx, n); return err })
	return h, err
}

// locked calls fn with the tree's walk once the right edge is proven.
func (t *Tree) locked(ctx context.Context, fn func(walk) error) error {
	if t.size > MaxSize {
		return fmt.Errorf("%w: %d leaves", ErrRange, t.size)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.readEdge(ctx); err != nil {
		return err
	}
	return fn(walk{t.size, t.node})
}

// RootAt returns the root that the first size leaves of the tree have.
func (t *Tree) RootAt(ctx context.Context, size uint64) (root Hash, err error) {
	err = t.locked(ctx, func(w walk) error { root, err = w.rootAt(ctx, size); return err })
	return root, err
}

// Inclusion returns the proof that the leaf at index is in the tree (RFC 9162, section 2.1.3.1) and the leaf's hash.
func (t *Tree) Inclusion(ctx context.Context, index uint64) (leaf Hash, proof []Hash, err error) {
	err = t.locked(ctx, func(w walk) error { leaf, proof, err = w.inclusion(ctx, index); return err })
	return leaf, proof, err
}

// Subtree returns the hash of a complete subtree and the proof that it is in the tree, as NodeRoot takes it.
func (t *Tree) Subtree(ctx context.Context, n Node) (hash Hash, proof []Hash, err error) {
	err = t.locked(ctx, func(w walk) error { hash, proof, err = w.subtree(ctx, n); return err })
	return hash, proof, err
}

// Consistency returns the proof between the first size leaves and the tree (RFC 9162, section 2.1.4.1).
func (t *Tree) Consistency(ctx context.Context, size uint64) (proof []Hash, err error) {
	err = t.locked(ctx, func(w walk) error { proof, err = w.consistency(ctx, size); return err })
	return proof, err
}

// Forget drops one tile, to bound memory in a long walk. It is read and hashed again when it is asked for again. The right
// edge stays: the rest is proven by it.
func (t *Tree) Forget(level int, index uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.width(level, index) == 1<<t.height {
		delete(t.held, place{level, index})
	}
}

// Held is the number of tiles in memory.
func (t *Tree) Held() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.held)
}
