package generate

import (
	"context"
	"fmt"
	"io/fs"
	"slices"

	"redoubt.internal/mirror/tiles"
)

// Vast is a log too large to be made: every file of its directory is made when it is read. A few entries are those of its Config,
// all others are one bundle of filling entries again and again, so that almost all subtrees of a size are one. It is a tree like
// any other to whoever reads it.
type Vast struct {
	c     Config
	picks []uint64            // ascending: entries that are the Config's own
	low   [9][]tiles.Hash     // filling subtrees below a tile, by level and place in it
	high  [45]tiles.Hash      // filling subtrees of a tile and above, by level
	leaf  [tiles.Width][]byte // filling entries
}

// NewVast returns the log of c whose entries at picks are c's own. The last of c.Sizes is its size.
func NewVast(c Config, picks []uint64) *Vast {
	v := &Vast{c: c, picks: slices.Compact(slices.Sorted(slices.Values(picks)))}
	v.low[0] = make([]tiles.Hash, tiles.Width)
	for i := range v.leaf {
		v.leaf[i] = fmt.Appendf(nil, `{"filling":%d}`, i)
		v.low[0][i] = tiles.LeafHash(v.leaf[i])
	}
	for level := 1; level < len(v.low); level++ {
		for i := 0; i < len(v.low[level-1]); i += 2 {
			v.low[level] = append(v.low[level], tiles.HashChildren(v.low[level-1][i], v.low[level-1][i+1]))
		}
	}
	v.high[len(v.low)-1] = v.low[len(v.low)-1][0]
	for level := len(v.low); level < len(v.high); level++ {
		v.high[level] = tiles.HashChildren(v.high[level-1], v.high[level-1])
	}
	return v
}

// Size is the number of entries.
func (v *Vast) Size() uint64 { return v.c.Sizes[len(v.c.Sizes)-1] }

// picked tells whether any of the entries [from, to) is the Config's own.
func (v *Vast) picked(from, to uint64) bool {
	i, _ := slices.BinarySearch(v.picks, from)
	return i < len(v.picks) && v.picks[i] < to
}

// Entry returns entry i.
func (v *Vast) Entry(i uint64) []byte {
	if v.picked(i, i+1) {
		return v.c.Entry(i)
	}
	return v.leaf[i%tiles.Width]
}

func (v *Vast) node(n tiles.Node) tiles.Hash {
	switch {
	case n.Level == 0 && v.picked(n.Index, n.Index+1):
		return tiles.LeafHash(v.c.Entry(n.Index))
	case v.picked(n.Index<<n.Level, (n.Index+1)<<n.Level):
		return tiles.HashChildren(v.node(tiles.Node{Level: n.Level - 1, Index: n.Index << 1}), v.node(tiles.Node{Level: n.Level - 1, Index: n.Index<<1 | 1}))
	case n.Level < len(v.low):
		return v.low[n.Level][n.Index%uint64(len(v.low[n.Level]))]
	}
	return v.high[n.Level]
}

// Root is the root of the first size entries.
func (v *Vast) Root(size uint64) (tiles.Hash, error) {
	tree := tiles.NewSparse(v.Size(), func(_ context.Context, n tiles.Node) (tiles.Hash, error) { return v.node(n), nil })
	return tree.RootAt(context.Background(), size)
}

// Tile returns a hash tile or an entry bundle.
func (v *Vast) Tile(t tiles.Tile) []byte {
	var b []byte
	for i := range uint64(t.Width) {
		if t.Level < 0 {
			b = tiles.AppendEntry(b, v.Entry(t.Index*tiles.Width+i))
			continue
		}
		h := v.node(tiles.Node{Level: 8 * t.Level, Index: t.Index*tiles.Width + i})
		b = append(b, h[:]...)
	}
	return b
}

// File returns a file of the log's directory as it was at one of its sizes: checkpoint, or a tile by its path.
func (v *Vast) File(name string, size uint64) ([]byte, error) {
	if name == "checkpoint" {
		root, err := v.Root(size)
		if err != nil {
			return nil, err
		}
		return v.c.checkpoint(size, root)
	}
	t, err := tiles.Parse(name)
	if err != nil || t.Level == tiles.Extras || !t.In(size) {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return v.Tile(t), nil
}
