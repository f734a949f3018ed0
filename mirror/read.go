package mirror

import (
	"context"
	"fmt"

	"redoubt.internal/log/store"
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
	if !t.In(h.Size) || t.Level == tiles.Extras || t.Level == tiles.Entries && h.Scope != parcel.ScopeFull {
		return nil, fmt.Errorf("%w: %s of %q", ErrNotFound, t.Path(), origin)
	}
	sh, err := m.shelf(origin)
	if err != nil {
		return nil, err
	}
	return sh.read(t, nil)
}

// Inclusion proves from what is stored that a leaf is in the tree of the log's head, and returns the leaf's hash. A leaf that the
// log's scope does not prove is ErrNotFound.
func (m *Mirror) Inclusion(ctx context.Context, origin string, index uint64) (leaf tiles.Hash, proof []tiles.Hash, head Head, err error) {
	if head, err = m.Head(origin); err != nil {
		return
	}
	if carriesRecords(head.Scope) {
		leaf, proof, err = sparseTree(m.c.DB, keyNode, origin, head.Size).Inclusion(ctx, index)
		return
	}
	if head.Scope != parcel.ScopeFull {
		err = fmt.Errorf("%w: leaf %d of %q, which is kept at scope %s", ErrNotFound, index, origin, head.Scope)
		return
	}
	sh, err := m.shelf(origin)
	if err != nil {
		return
	}
	leaf, proof, err = m.tree(head, sh).Inclusion(ctx, index)
	return
}

// Consistency proves from what is stored that the first size leaves are a prefix of the tree of the log's head (RFC 9162, section
// 2.1.4.1), and returns their root. A size that is not proven here is ErrNotFound: at scope sparse any but those of accepted heads.
func (m *Mirror) Consistency(ctx context.Context, origin string, size uint64) (root tiles.Hash, proof []tiles.Hash, head Head, err error) {
	if head, err = m.Head(origin); err != nil {
		return
	}
	if size > head.Size {
		err = fmt.Errorf("%w: size %d of %q", ErrNotFound, size, origin)
		return
	}
	if carriesRecords(head.Scope) {
		tree := sparseTree(m.c.DB, keyNode, origin, head.Size)
		if root, err = tree.RootAt(ctx, size); err == nil {
			proof, err = tree.Consistency(ctx, size)
		}
		return
	}
	sh, err := m.shelf(origin)
	if err != nil {
		return
	}
	tree := m.tree(head, sh)
	if root, err = tree.RootAt(ctx, size); err == nil {
		proof, err = tree.Consistency(ctx, size)
	}
	return
}

// Records lists the records that a log at scope sparse has, ascending.
func (m *Mirror) Records(origin string) (out []uint64, err error) {
	err = m.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		return scan(tx, keyRecord+origin+"\x00", func(_ string, r recordState) error { out = append(out, r.Index); return nil })
	})
	return out, err
}

// Record returns an entry of a log and what stands beside it. An entry that is not carried here is ErrNotFound. It is not verified
// here: whoever needs a proof asks Inclusion and hashes.
func (m *Mirror) Record(origin string, index uint64) (Record, error) {
	h, err := m.Head(origin)
	if err != nil {
		return Record{}, err
	}
	sh, err := m.shelf(origin)
	if err != nil {
		return Record{}, err
	}
	t, ok := tiles.At(tiles.Entries, index/tiles.Width, h.Size)
	switch {
	case index >= h.Size || !ok || h.Scope == parcel.ScopeSpine:
		return Record{}, fmt.Errorf("%w: entry %d of %q", ErrNotFound, index, origin)
	case carriesRecords(h.Scope):
		var found bool
		if err := m.c.DB.View(func(tx store.Tx) error {
			b, err := tx.Get([]byte(recordKey(keyRecord, origin, index)))
			found = b != nil
			return err
		}); err != nil {
			return Record{}, err
		}
		if !found { // the file may lie there before it is committed
			return Record{}, fmt.Errorf("%w: entry %d of %q", ErrNotFound, index, origin)
		}
		r, _, err := sh.record(index)
		return r, err
	}
	r := Record{Index: index}
	if r.Leaf, err = sh.entry(t, index); err == nil && m.log(origin) != nil && m.log(origin).extras() {
		t.Level = tiles.Extras
		r.Extra, err = sh.entry(t, index)
	}
	return r, err
}

// entry reads one entry of the bundle it lies in.
func (s *shelf) entry(t tiles.Tile, index uint64) (out []byte, err error) {
	b, err := s.need(t, nil)
	if err != nil {
		return nil, err
	}
	err = tiles.SplitBundle(b, t.Width, func(i int, e []byte) error {
		if uint64(i) == index%tiles.Width {
			out = e
		}
		return nil
	})
	return out, err
}
