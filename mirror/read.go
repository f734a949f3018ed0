package mirror

import (
	"context"
	"fmt"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// tree reads the stored tree of a head, every byte hashed up to its root.
func (m *Mirror) tree(h Head, sh *shelf) *tiles.Tree { return tiles.NewTree(h.Size, h.Root, sh.fetch) }

// Tile returns the bytes of a hash tile or entry bundle of a log, as wide as asked for. What lies beyond the log's head, or
// outside its scope, is ErrNotFound. Hash tiles and bundles are not verified here: whoever reads them does.
func (m *Mirror) Tile(origin string, t tiles.Tile) ([]byte, error) {
	h, err := m.Head(origin)
	if err != nil {
		return nil, err
	}
	if !t.In(h.Size) || t.Level == tiles.Entries && h.Scope != parcel.ScopeFull {
		return nil, fmt.Errorf("%w: %s of %q", ErrNotFound, t.Path(), origin)
	}
	sh, err := m.shelf(origin)
	if err != nil {
		return nil, err
	}
	return sh.read(t, nil)
}

// Inclusion proves from stored tiles that a leaf is in the tree of the log's head, and returns the leaf's hash.
func (m *Mirror) Inclusion(ctx context.Context, origin string, index uint64) (leaf tiles.Hash, proof []tiles.Hash, head Head, err error) {
	if head, err = m.Head(origin); err != nil {
		return
	}
	sh, err := m.shelf(origin)
	if err != nil {
		return
	}
	leaf, proof, err = m.tree(head, sh).Inclusion(ctx, index)
	return
}
