package mirror

import (
	"context"
	"crypto"
	"fmt"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// Between proves from what is stored that the first size leaves of a log are a prefix of its first upTo (RFC 9162, section 2.1.4.1), both
// within the tree of its head. A size that is not proven here is ErrNotFound: at scope sparse any but those of accepted heads.
func (m *Mirror) Between(ctx context.Context, origin string, size, upTo uint64) (proof []tiles.Hash, head Head, err error) {
	if head, err = m.Head(origin); err != nil {
		return
	}
	if size > upTo || upTo > head.Size {
		return nil, head, fmt.Errorf("%w: sizes %d and %d of %q", ErrNotFound, size, upTo, origin)
	}
	if carriesRecords(head.Scope) {
		proof, err = sparseTree(m.c.DB, keyNode, origin, upTo).Consistency(ctx, size)
		return
	}
	sh, err := m.shelf(origin)
	if err != nil {
		return
	}
	root, err := m.tree(head, sh).RootAt(ctx, upTo)
	if err != nil {
		return
	}
	proof, err = tiles.NewTree(upTo, root, sh.fetch).Consistency(ctx, size)
	return
}

// PublicKey returns the key a log's head was accepted under.
func (m *Mirror) PublicKey(origin string) (crypto.PublicKey, error) {
	h, err := m.Head(origin)
	if err != nil {
		return nil, err
	}
	vkey := h.VKey
	if log := m.log(origin); log != nil {
		vkey = h.vkey(log)
	}
	v, err := parcel.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("%w: key of %q: %w", ErrDamaged, origin, err)
	}
	return v.Public(), nil
}

// Each calls fn with every entry of a log that is kept and stands at from or later, ascending. Entries are not verified here. A log whose
// scope has no entries has none.
func (m *Mirror) Each(ctx context.Context, origin string, from uint64, fn func(Record) error) error {
	h, err := m.Head(origin)
	if err != nil || h.Scope == parcel.ScopeSpine {
		return err
	}
	if carriesRecords(h.Scope) {
		indexes, err := m.Records(origin)
		if err != nil {
			return err
		}
		for _, i := range indexes {
			if i < from {
				continue
			}
			r, err := m.Record(origin, i)
			if err == nil {
				err = fn(r)
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	sh, err := m.shelf(origin)
	if err != nil {
		return err
	}
	log := m.log(origin)
	for i := from / tiles.Width; i*tiles.Width < h.Size; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := sh.eachOf(i, from, h.Size, log != nil && log.extras(), fn); err != nil {
			return err
		}
	}
	return nil
}

// eachOf calls fn with the entries of bundle i from an index on.
func (s *shelf) eachOf(i, from, size uint64, extras bool, fn func(Record) error) error {
	t, ok := tiles.At(tiles.Entries, i, size)
	if !ok {
		return fmt.Errorf("%w: entry bundle %d", ErrNotFound, i)
	}
	b, err := s.need(t, nil)
	if err != nil {
		return err
	}
	beside := make([][]byte, t.Width)
	if extras {
		e, err := s.need(tiles.Tile{Level: tiles.Extras, Index: i, Width: t.Width}, nil)
		if err == nil {
			err = tiles.SplitBundle(e, t.Width, func(n int, x []byte) error { beside[n] = x; return nil })
		}
		if err != nil {
			return err
		}
	}
	return tiles.SplitBundle(b, t.Width, func(n int, leaf []byte) error {
		if index := i*tiles.Width + uint64(n); index >= from {
			return fn(Record{Index: index, Leaf: leaf, Extra: beside[n]})
		}
		return nil
	})
}
