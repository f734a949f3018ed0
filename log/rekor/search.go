package rekor

import (
	"context"
	"fmt"
	"net/http"
	"slices"
)

// MaxMatches is the most entry ids one index search returns, and the most matches of each term it weighs. A search that exceeds it is
// refused rather than answered in part.
const MaxMatches = 2000

var errTooMany = badRequest("more than %d entries match: use a more telling term", MaxMatches)

// serveRetrieve answers POST /api/v1/log/entries/retrieve: entries by id, by proposed content, by index; absent ones are left out.
func (l *Log) serveRetrieve(w http.ResponseWriter, r *http.Request) error {
	body, err := l.readBody(w, r)
	if err != nil {
		return err
	}
	found, err := l.processRetrieve(r.Context(), body)
	if err != nil {
		return err
	}
	answer := make([]map[string]LogEntry, 0, len(found))
	for _, at := range found {
		id, e, err := at.log.read(r.Context(), at.index)
		if err == errAbsent {
			continue
		}
		if err != nil {
			return err
		}
		answer = append(answer, map[string]LogEntry{id: e})
	}
	WriteJSON(w, http.StatusOK, answer)
	return nil
}

func (l *Log) processRetrieve(ctx context.Context, body []byte) ([]place, error) {
	asked, err := ParseRetrieval(ctx, body)
	if err != nil {
		return nil, err
	}
	var found []place
	for _, id := range asked.IDs {
		at, err := l.lookup(ctx, id)
		if err == errAbsent {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, at)
	}
	for _, index := range asked.Indexes {
		if at, err := l.locate(index); err == nil {
			found = append(found, at)
		}
	}
	return found, nil
}

// serveSearchIndex answers POST /api/v1/index/retrieve: the ids of entries that match any term ("or", the default) or all of them ("and"), in
// log order, one log after the other.
func (l *Log) serveSearchIndex(w http.ResponseWriter, r *http.Request) error {
	body, err := l.readBody(w, r)
	if err != nil {
		return err
	}
	q, err := ParseQuery(body)
	if err != nil {
		return err
	}
	ids := []string{}
	for _, in := range l.readable() {
		found, err := in.processSearch(r.Context(), q)
		if err != nil {
			return err
		}
		ids = append(ids, found...)
	}
	if len(ids) > MaxMatches {
		return errTooMany
	}
	WriteJSON(w, http.StatusOK, ids)
	return nil
}

func (l *Log) processSearch(ctx context.Context, q Query) ([]string, error) {
	size := l.c.Log.Head().Size
	hits := make(map[uint64]int) // entry to number of distinct terms that match
	terms := make(map[searchKey]bool)
	for _, term := range q.Terms {
		key := newSearchKey(term)
		if terms[key] {
			continue
		}
		terms[key] = true
		indexes, err := l.c.Log.Find(ctx, key[:], MaxMatches+1)
		if err != nil {
			return nil, fmt.Errorf("searching: %w", err)
		}
		if len(indexes) > MaxMatches {
			return nil, badRequest("more than %d entries match one of the terms: use a more telling one", MaxMatches)
		}
		for _, i := range indexes {
			hits[i]++
		}
	}
	var matches []uint64
	for i, n := range hits {
		if i < size && (!q.And || n == len(terms)) {
			matches = append(matches, i)
		}
	}
	if len(matches) > MaxMatches {
		return nil, errTooMany
	}
	slices.Sort(matches)
	ids := make([]string, 0, len(matches))
	for _, i := range matches {
		e, err := l.c.Log.Entry(ctx, i)
		if err != nil {
			return nil, fmt.Errorf("reading entry %d: %w", i, err)
		}
		ids = append(ids, l.entryID(hashLeaf(e.Leaf)))
	}
	return ids, nil
}
