package serve

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"redoubt.internal/log/rekor"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// Index finds mirrored entries by what they say. It is made of the entries alone and kept in memory: 16 bytes for each term of each entry. It
// is never believed: whoever finds an entry reads it again and looks (see hit).
type Index struct {
	m *mirror.Mirror

	mu    sync.Mutex
	logs  map[string]*logIndex
	first map[string]uint64 // index over all shards of a log's first entry, as the log signed it for one of them
}

// NewIndex returns an empty index. It fills as it is asked, or when Update is called.
func NewIndex(m *mirror.Mirror) *Index {
	return &Index{m: m, logs: make(map[string]*logIndex), first: make(map[string]uint64)}
}

// posting says that the entry at an index has a term, by the first eight bytes of the term's hash.
type posting struct{ term, at uint64 }

// logIndex are the postings of one log in sorted runs, each more than twice as long as the next.
type logIndex struct {
	mu   sync.Mutex
	next uint64          // scope full: entries before it are in
	have map[uint64]bool // scope sparse: entries that are in
	runs [][]posting
}

// Update takes in what was mirrored since. It is what makes the first question after a start slow when it was not called before.
func (x *Index) Update(ctx context.Context) error {
	origins, err := x.m.Origins()
	if err != nil {
		return err
	}
	for _, o := range origins {
		if _, err := x.of(ctx, o); err != nil && !errors.Is(err, mirror.ErrNotFound) {
			return err
		}
	}
	return nil
}

// of returns the index of one log, up to its present head.
func (x *Index) of(ctx context.Context, origin string) (*logIndex, error) {
	x.mu.Lock()
	l := x.logs[origin]
	if l == nil {
		l = &logIndex{have: make(map[uint64]bool)}
		x.logs[origin] = l
	}
	x.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := x.m.Head(origin)
	if err != nil {
		return nil, err
	}
	if h.Scope == parcel.ScopeFull {
		err = l.takeAll(ctx, x.m, h)
	} else {
		err = l.takeRecords(ctx, x.m, origin)
	}
	if err != nil {
		return nil, fmt.Errorf("indexing %q: %w", origin, err)
	}
	return l, nil
}

// takeAll takes in the entries of a log that is kept in full.
func (l *logIndex) takeAll(ctx context.Context, m *mirror.Mirror, h mirror.Head) error {
	if l.next >= h.Size {
		return nil
	}
	var run []posting
	next := l.next
	done := func() { l.keep(run); run, l.next = nil, next }
	err := m.Each(ctx, h.Origin, l.next, func(r mirror.Record) error {
		run, next = addPostings(run, r), r.Index+1
		if len(run) >= 1<<20 {
			done()
		}
		return nil
	})
	done()
	return err
}

// takeRecords takes in the records of a log that is kept in part.
func (l *logIndex) takeRecords(ctx context.Context, m *mirror.Mirror, origin string) error {
	records, err := m.Records(origin)
	if err != nil || len(records) == len(l.have) {
		return err
	}
	var run []posting
	for _, i := range records {
		if l.have[i] {
			continue
		}
		r, err := m.Record(origin, i)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		run = addPostings(run, r)
	}
	for _, i := range records {
		l.have[i] = true
	}
	l.keep(run)
	return nil
}

// addPostings appends the postings of an entry.
func addPostings(run []posting, r mirror.Record) []posting {
	run = append(run, posting{hashTerm(leafTerm(tiles.LeafHash(r.Leaf))), r.Index})
	for _, t := range termsOf(r) {
		run = append(run, posting{hashTerm(t), r.Index})
	}
	return run
}

// termsOf are the texts an entry is found by, with what stands beside it. What cannot be read adds none.
func termsOf(r mirror.Record) []string {
	f, _ := entry.Read(r.Leaf)
	terms := f.Terms()
	if x, err := entry.ParseExtra(r.Extra); err == nil && len(x.Attestation) > 0 {
		terms = append(terms, entry.Subjects(x.Attestation)...)
	}
	return terms
}

func leafTerm(leaf tiles.Hash) string { return "leaf:" + hex.EncodeToString(leaf[:]) }

func hashTerm(term string) uint64 {
	sum := sha256.Sum256([]byte(strings.ToLower(term)))
	return binary.BigEndian.Uint64(sum[:])
}

// keep sorts a run and merges the last runs until each is more than twice as long as the next.
func (l *logIndex) keep(run []posting) {
	if len(run) == 0 {
		return
	}
	order := func(a, b posting) int { return cmp.Or(cmp.Compare(a.term, b.term), cmp.Compare(a.at, b.at)) }
	slices.SortFunc(run, order)
	l.runs = append(l.runs, run)
	for n := len(l.runs); n > 1 && len(l.runs[n-2]) <= 2*len(l.runs[n-1]); n = len(l.runs) {
		merged := merge(l.runs[n-2], l.runs[n-1], order)
		l.runs = append(l.runs[:n-2], merged)
	}
}

func merge(a, b []posting, order func(a, b posting) int) []posting {
	out := make([]posting, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if order(a[0], b[0]) <= 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// candidates are the entries that may have a term, at most limit+1 of them.
func (l *logIndex) candidates(term string, limit int) (out []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	want := hashTerm(term)
	for _, run := range l.runs {
		i, _ := slices.BinarySearchFunc(run, want, func(p posting, want uint64) int { return cmp.Compare(p.term, want) })
		for ; i < len(run) && run[i].term == want && len(out) <= limit; i++ {
			out = append(out, run[i].at)
		}
	}
	return out
}

// Find returns the entries of a log that have a term, ascending: an e-mail or URI, a digest as "sha256:HEX", the bare SHA-256 of a key's PEM. More
// than rekor.MaxMatches are refused.
func (x *Index) Find(ctx context.Context, origin, term string) ([]uint64, error) {
	l, err := x.of(ctx, origin)
	if err != nil {
		return nil, err
	}
	var out []uint64
	found := l.candidates(term, rekor.MaxMatches)
	if len(found) > rekor.MaxMatches {
		return nil, errTooMany
	}
	for _, i := range found {
		r, err := x.m.Record(origin, i)
		if err != nil {
			return nil, err
		}
		if hit(r, term) {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Some returns entries of a log that have a term, ascending and at most limit of them; all says that there are no more.
func (x *Index) Some(ctx context.Context, origin, term string, limit int) (out []mirror.Record, all bool, err error) {
	l, err := x.of(ctx, origin)
	if err != nil {
		return nil, false, err
	}
	found := l.candidates(term, 4*limit) // some may only share the hash
	all = len(found) <= 4*limit
	slices.Sort(found)
	for _, i := range slices.Compact(found) {
		r, err := x.m.Record(origin, i)
		if err != nil {
			return nil, false, err
		}
		switch {
		case !hit(r, term):
		case len(out) == limit:
			return out, false, nil
		default:
			out = append(out, r)
		}
	}
	return out, all, nil
}

// hit tells whether an entry really has a term.
func hit(r mirror.Record, term string) bool {
	if strings.EqualFold(term, leafTerm(tiles.LeafHash(r.Leaf))) {
		return true
	}
	return slices.ContainsFunc(termsOf(r), func(t string) bool { return strings.EqualFold(t, term) })
}

// firstOf is the index over all shards of a log's first entry, as the log signed it for one of its entries.
func (x *Index) firstOf(h mirror.Head) (first uint64, known bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if first, known = x.first[h.Origin]; known {
		return first, true, nil
	}
	var some []uint64
	switch h.Scope {
	case parcel.ScopeFull:
		some = []uint64{0}
	case parcel.ScopeSparse:
		if some, err = x.m.Records(h.Origin); err != nil {
			return 0, false, err
		}
	}
	if len(some) == 0 || h.Size == 0 {
		return 0, false, nil
	}
	r, err := x.m.Record(h.Origin, some[0])
	if err != nil {
		return 0, false, err
	}
	if e, err := entry.ParseExtra(r.Extra); err == nil && e.LogIndex >= r.Index {
		first, known = e.LogIndex-r.Index, true
		x.first[h.Origin] = first
	}
	return first, known, nil
}
