package mirror

import (
	"context"
	"errors"
	"fmt"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// watchEvery is the number of entries after which hits, and how far the watches came, are kept.
const watchEvery = 64 * tiles.Width

// looking is one pass of all watches over what is new of one log.
type looking struct {
	m      *Mirror
	head   Head
	states []watchState // of m.watches
	hits   []Hit
}

// Watch lets every watch look at what was mirrored since it last looked, and reports. Nil without watches. It may be cut short at any
// entry; the next run goes on from what was kept.
func (m *Mirror) Watch(ctx context.Context) (*WatchReport, error) {
	if len(m.watches) == 0 {
		return nil, nil
	}
	m.watching.Lock()
	defer m.watching.Unlock()
	heads, err := readHeads(m.c.DB)
	if err != nil {
		return nil, err
	}
	r := &WatchReport{Watches: len(m.watches), Newest: []Hit{}, Coverage: []WatchedOf{}}
	origins, err := m.Origins()
	if err != nil {
		return nil, err
	}
	for _, origin := range origins {
		l := &looking{m: m, head: heads[origin]}
		if err := l.run(ctx); err != nil {
			return nil, fmt.Errorf("looking through %q: %w", origin, err)
		}
		of := WatchedOf{Origin: origin, Scope: l.head.Scope, Size: l.head.Size, Looked: l.states[0].Looked}
		for _, s := range l.states {
			of.Looked, of.Opaque = min(of.Looked, s.Looked), max(of.Opaque, s.Opaque)
			r.Dropped += s.Dropped
		}
		of.Proves = l.head.Scope == parcel.ScopeFull && of.Looked == of.Size && of.Opaque == 0
		r.Coverage = append(r.Coverage, of)
	}
	hits, err := m.Hits(false)
	if err != nil {
		return nil, err
	}
	r.Hits = len(hits)
	r.Newest = append(r.Newest, hits[max(0, len(hits)-maxShown):]...)
	return r, nil
}

func (l *looking) run(ctx context.Context) error {
	l.states = make([]watchState, len(l.m.watches))
	if err := l.m.c.DB.View(func(tx store.Tx) error {
		for i, w := range l.m.watches {
			l.states[i] = watchState{}
			if _, err := get(tx, watchKey(w.Name, l.head.Origin), &l.states[i]); err != nil {
				return err
			}
			if l.states[i].Rule != w.rule {
				l.states[i] = watchState{Rule: w.rule}
			}
		}
		return nil
	}); err != nil {
		return err
	}
	switch l.head.Scope {
	case parcel.ScopeFull:
		return l.entries(ctx)
	case parcel.ScopeSparse:
		return l.records(ctx)
	}
	return nil
}

// entries looks at the bundles of a full log from where the watch that came least far stands.
func (l *looking) entries(ctx context.Context) error {
	from := l.head.Size
	for _, s := range l.states {
		from = min(from, s.Next)
	}
	sh, err := l.m.shelf(l.head.Origin)
	if err != nil {
		return err
	}
	var buf []byte
	for i := from / tiles.Width; i*tiles.Width < l.head.Size; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		t, _ := tiles.At(tiles.Entries, i, l.head.Size)
		if buf, err = sh.need(t, buf); err != nil {
			return err
		}
		err := tiles.SplitBundle(buf, t.Width, func(k int, leaf []byte) error {
			at := i*tiles.Width + uint64(k)
			l.look(at, leaf, func(s *watchState) bool { return at >= s.Next })
			return nil
		})
		if err != nil {
			return err
		}
		end := i*tiles.Width + uint64(t.Width)
		for k := range l.states {
			l.states[k].Next = max(l.states[k].Next, end)
		}
		if end%watchEvery == 0 || end == l.head.Size {
			if err := l.keep(); err != nil {
				return err
			}
		}
	}
	return nil
}

// records looks at the records that parcels brought to a sparse log since.
func (l *looking) records(ctx context.Context) error {
	var new []recordState
	last := uint64(0)
	if err := l.m.c.DB.View(func(tx store.Tx) error {
		new = new[:0]
		return scan(tx, keyRecord+l.head.Origin+"\x00", func(_ string, r recordState) error {
			last = max(last, r.Sequence)
			for _, s := range l.states {
				if r.Sequence > s.Sequence {
					new = append(new, r)
					break
				}
			}
			return nil
		})
	}); err != nil {
		return err
	}
	for _, r := range new {
		if err := ctx.Err(); err != nil {
			return err
		}
		rec, err := l.m.Record(l.head.Origin, r.Index)
		if err != nil {
			return err
		}
		l.look(r.Index, rec.Leaf, func(s *watchState) bool { return r.Sequence > s.Sequence })
	}
	if len(new) == 0 {
		return nil
	}
	for k := range l.states {
		l.states[k].Sequence = max(l.states[k].Sequence, last)
	}
	return l.keep()
}

// look lets the watches that have not seen an entry see it.
func (l *looking) look(at uint64, leaf []byte, unseen func(*watchState) bool) {
	f, err := entry.Read(leaf)
	for k := range l.states {
		s, w := &l.states[k], &l.m.watches[k]
		if !unseen(s) {
			continue
		}
		s.Looked++
		if err != nil || f.Opaque {
			s.Opaque++
		}
		if err != nil || !w.agrees(&f) {
			continue
		}
		h := Hit{
			Watch: w.Name, Origin: l.head.Origin, Index: at, Leaf: tiles.LeafHash(leaf), Kind: f.Kind + " " + f.APIVersion, Issuer: f.Issuer,
			Identities: append([]string{}, f.Identities[:min(len(f.Identities), maxHitNames)]...), Digests: append([]string{}, f.Digests[:min(len(f.Digests), maxHitNames)]...), Found: l.m.c.Now().UTC(),
		}
		if len(f.Signers) > 0 {
			h.Signed = f.Signers[0].NotBefore
		}
		if s.Hits++; s.Hits > maxHits {
			s.Dropped++
			continue
		}
		l.hits = append(l.hits, h)
	}
}

// keep makes hits and progress durable in one transaction. A hit that was found before stays as it is, with its acknowledgement.
func (l *looking) keep() error {
	err := l.m.c.DB.Update(func(tx store.Tx) error {
		for _, h := range l.hits {
			var old Hit
			if known, err := get(tx, hitKey(h), &old); err != nil {
				return err
			} else if known && old.Leaf == h.Leaf {
				continue
			}
			if err := put(tx, hitKey(h), h); err != nil {
				return err
			}
		}
		var errs []error
		for i, w := range l.m.watches {
			errs = append(errs, put(tx, watchKey(w.Name, l.head.Origin), l.states[i]))
		}
		return errors.Join(errs...)
	})
	if err == nil {
		l.hits = l.hits[:0]
	}
	return full(err)
}
