package log

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"

	"redoubt.internal/log/store"
)

// What of a log is carried outside its database, by a backup, are its chunks and heads as they are stored: they are written once,
// so a copy is continued and never made anew. Tiles and the derived index follow from them. Whatever else a database holds is the
// caller's to carry, of one moment with the Extent.

// Extent is how far a log reaches at one moment.
type Extent struct {
	// Head is the newest head with a good signature. The entries below it and the heads up to it never change.
	Head Head
	// Entries are durable; those from Head.Size on have no head yet.
	Entries uint64
}

// ReadExtent reads how far the log of c reaches in tx. Of Config it uses Prefix, Origin and the Signer's public key.
func ReadExtent(tx store.Tx, c Config) (Extent, error) {
	l := &Log{c: c, keys: newLayout(c.Prefix)}
	var err error
	if l.key, err = newNoteKey(c.Origin, c.Signer.Public()); err != nil {
		return Extent{}, err
	}
	meta, err := tx.Get(l.keys.meta())
	if err != nil {
		return Extent{}, err
	}
	if meta == nil {
		return Extent{}, ErrAbsent
	}
	if want, err := metaRecord(c.Origin, l.key.pub); err != nil {
		return Extent{}, err
	} else if !bytes.Equal(want, meta) {
		return Extent{}, fmt.Errorf("%w: %s", ErrWrongKey, c.Origin)
	}
	head, err := l.loadLast(tx)
	if err != nil {
		head, err = l.loadGood(tx, head.Size)
	}
	if err != nil {
		return Extent{}, err
	}
	e := Extent{Head: head}
	last, found, err := l.keys.last(tx, 'e')
	if found {
		e.Entries = last + 1
	}
	if err == nil && e.Entries < head.Size {
		err = fmt.Errorf("%w: it ends at %d and has a head of size %d", ErrCorrupt, e.Entries, head.Size)
	}
	return e, err
}

// CopyChunks calls fn with the stored chunks of entries from to to-1, where both are ends of chunks, in order, until it errs or
// says enough.
func CopyChunks(tx store.Tx, prefix string, from, to uint64, fn func(end uint64, key, value []byte) (enough bool, err error)) error {
	keys := newLayout(prefix)
	next, stop := from, false
	var ferr error
	err := tx.Scan(keys.chunk(from), keys.after('e'), func(k, v []byte) bool {
		if next >= to {
			return false
		}
		last, ok := keys.number(k)
		if !ok || last >= to {
			ferr = fmt.Errorf("%w: no chunk ends at entry %d", ErrCorrupt, to)
			return false
		}
		next = last + 1
		stop, ferr = fn(next, k, v)
		return ferr == nil && !stop
	})
	if err == nil {
		err = ferr
	}
	if err == nil && next < to && !stop {
		err = fmt.Errorf("%w: entry %d is missing", ErrCorrupt, next)
	}
	return err
}

// CopyHeads calls fn with the stored heads of sizes from to to, both included.
func CopyHeads(tx store.Tx, prefix string, from, to uint64, fn func(key, value []byte) error) error {
	keys := newLayout(prefix)
	var ferr error
	err := tx.Scan(keys.head(from), append(keys.head(to), 0), func(k, v []byte) bool {
		ferr = fn(k, v)
		return ferr == nil
	})
	if err == nil {
		err = ferr
	}
	return err
}

// Follows says whether key, of the log at prefix, is a chunk, a head, or follows from them.
func Follows(prefix string, key []byte) bool {
	rest, ours := bytes.CutPrefix(key, newLayout(prefix).prefix)
	return ours && len(rest) > 0 && bytes.IndexByte([]byte("aceh"), rest[0]) >= 0
}

// IsHead says whether key, which Follows, is a head.
func IsHead(prefix string, key []byte) bool {
	rest, ours := bytes.CutPrefix(key, newLayout(prefix).prefix)
	return ours && len(rest) > 0 && rest[0] == 'h'
}

// Beyond is the first key after those of the kind of key, which Follows.
func Beyond(prefix string, key []byte) []byte {
	keys := newLayout(prefix)
	return keys.after(key[len(keys.prefix)])
}

// Replay builds a log anew from its chunks and heads, and believes none of them: every leaf is hashed, every extra compared with its
// digest, every head with the root of the entries at its size and with the log's key.
//
// It holds at most the heads it was given ahead of their entries.
type Replay struct {
	c     Config
	keys  layout
	key   *noteKey
	tree  tree
	heads []storedHead // ahead of the entries, ascending
	last  Head
	seen  uint64 // heads compared
	root  []byte // the last chunk's

	check   chan storedHead
	workers sync.WaitGroup
	mu      sync.Mutex
	bad     error // the first head whose signature is bad
}

// NewReplay begins a log of c, of which Prefix, Origin and the Signer's public key are used. Finish must be called.
func NewReplay(c Config) (*Replay, error) {
	key, err := newNoteKey(c.Origin, c.Signer.Public())
	if err != nil {
		return nil, err
	}
	r := &Replay{c: c, keys: newLayout(c.Prefix), key: key, check: make(chan storedHead, 256)}
	for range runtime.GOMAXPROCS(0) {
		r.workers.Go(func() {
			for s := range r.check {
				if err := r.key.verify(s.h.Size, s.h.Root, s.sig); err != nil {
					r.mu.Lock()
					r.bad = fmt.Errorf("%w: the head of size %d: %w", ErrCorrupt, s.h.Size, err)
					r.mu.Unlock()
				}
			}
		})
	}
	return r, nil
}

// Head takes a stored head, before the chunk that reaches beyond its size.
func (r *Replay) Head(key, value []byte) error {
	size, ok := r.keys.number(key)
	if !ok || !bytes.Equal(key, r.keys.head(size)) {
		return fmt.Errorf("%w: a stray key among the heads", ErrCorrupt)
	}
	h, sig, err := parseHead(size, value)
	if err != nil {
		return err
	}
	before := r.last
	if n := len(r.heads); n > 0 {
		before = r.heads[n-1].h
	}
	first := r.seen == 0 && len(r.heads) == 0
	if size < r.tree.size || !first && size <= before.Size || first != (size == 0) {
		return fmt.Errorf("%w: the head of size %d is out of order", ErrCorrupt, size)
	}
	if h.Time.Before(before.Time) {
		return fmt.Errorf("%w: the head of size %d is older than the one below it", ErrCorrupt, size)
	}
	h.Note = renderNote(r.c.Origin, size, h.Root, sig)
	r.heads = append(r.heads, storedHead{h, sig})
	return r.reached()
}

// reached compares the heads of the size the entries have come to.
func (r *Replay) reached() error {
	for len(r.heads) > 0 && r.heads[0].h.Size == r.tree.size {
		s := r.heads[0]
		r.heads = r.heads[1:]
		if root := r.tree.root(); s.h.Root != root {
			return fmt.Errorf("%w: the head of size %d has root %x, the entries have %x", ErrCorrupt, s.h.Size, s.h.Root, root)
		}
		r.check <- s
		r.last = s.h
		r.seen++
	}
	return nil
}

// Chunk takes the next stored chunk and gives put the full tiles that follow from it.
func (r *Replay) Chunk(key, value []byte, put func(key, value []byte) error) error {
	last, ok := r.keys.number(key)
	if !ok || !bytes.Equal(key, r.keys.chunk(last)) {
		return fmt.Errorf("%w: a stray key among the entries", ErrCorrupt)
	}
	c, err := parseChunk(last, value)
	if err != nil {
		return err
	}
	if c.first != r.tree.size || r.seen == 0 {
		return fmt.Errorf("%w: entry %d is missing, or no head of size 0 came first", ErrCorrupt, r.tree.size)
	}
	var full []fullTile
	for i, leaf := range c.leaves {
		h := leafHash(leaf)
		if _, err := c.extra(i, h); err != nil {
			return err
		}
		full = r.tree.append(h, full[:0])
		for _, t := range full {
			if err := put(r.keys.tile(t.level, t.index), t.tile.encode(tileWidth)); err != nil {
				return err
			}
		}
		if err := r.reached(); err != nil {
			return err
		}
	}
	if root := r.tree.root(); c.root != nil && !bytes.Equal(c.root, root[:]) {
		return fmt.Errorf("%w: the chunk ending at entry %d names another root than the entries lead to", ErrCorrupt, last)
	}
	r.root = bytes.Clone(c.root)
	return nil
}

// Finish returns the newest head and how many entries there are. The entries beyond the head lead to the root that was stored
// with the last of them.
func (r *Replay) Finish() (Extent, error) {
	close(r.check)
	r.workers.Wait()
	e := Extent{Head: r.last, Entries: r.tree.size}
	switch {
	case r.bad != nil:
		return e, r.bad
	case len(r.heads) > 0:
		return e, fmt.Errorf("%w: a head of size %d and %d entries", ErrCorrupt, r.heads[0].h.Size, r.tree.size)
	case r.seen == 0:
		return e, fmt.Errorf("%w: it has no head", ErrCorrupt)
	case r.tree.size > 0 && r.root == nil:
		return e, fmt.Errorf("%w: the last chunk names no root", ErrCorrupt)
	}
	return e, nil
}
