package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"redoubt.internal/log/store"
)

const (
	// maxBatch and maxBatchBytes bound what one commit carries, and with it what may wait: a further Add waits in its
	// caller until the writer has taken the batch.
	maxBatch      = 8192
	maxBatchBytes = 16 << 20
)

// request is one Add. The caller fills the first part, the writer the second; batch.done lies between.
type request struct {
	leaf, extra []byte
	hash        [32]byte
	with        func(store.Tx) error
	keys        [][]byte

	index  uint64
	known  bool  // index is that of an entry that was there before this batch
	dup    bool  // index is that of an earlier entry of this batch
	err    error // what with returned
	failed error // the look for duplicates failed
}

// batch is what one commit carries. Once taken by the writer nothing is added to it.
type batch struct {
	reqs  []*request
	bytes int
	// done is closed when all of reqs are answered: their err, or failed, or covered is set before.
	done    chan struct{}
	failed  error
	covered *view // the published state that covers every entry of the batch
}

// queue is where Adds meet the writer: the batch being filled. There is no timer; the writer takes what came together
// during its last commit.
type queue struct {
	mu     sync.Mutex
	open   *batch
	room   chan struct{} // closed when the writer takes the open batch
	filled chan struct{} // one token: the open batch is not empty
	closed error         // why nothing is accepted any more
}

func newQueue() *queue {
	return &queue{open: newBatch(), room: make(chan struct{}), filled: make(chan struct{}, 1)}
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// put adds r to the open batch and waits while that is full.
func (q *queue) put(ctx context.Context, r *request) (*batch, error) {
	for {
		q.mu.Lock()
		if q.closed != nil {
			err := q.closed
			q.mu.Unlock()
			return nil, err
		}
		b := q.open
		size := len(r.leaf) + len(r.extra)
		if len(b.reqs) == 0 || len(b.reqs) < maxBatch && b.bytes+size <= maxBatchBytes {
			b.reqs = append(b.reqs, r)
			b.bytes += size
			first := len(b.reqs) == 1
			q.mu.Unlock()
			if first {
				select {
				case q.filled <- struct{}{}:
				default:
				}
			}
			return b, nil
		}
		room := q.room
		q.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// size is how many requests the open batch holds.
func (q *queue) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.open.reqs)
}

// take returns the open batch, nil when it is empty, and opens the next one.
func (q *queue) take() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.open
	if len(b.reqs) == 0 {
		return nil
	}
	q.open = &batch{done: make(chan struct{}), reqs: make([]*request, 0, len(b.reqs))}
	close(q.room)
	q.room = make(chan struct{})
	select {
	case <-q.filled:
	default:
	}
	return b
}

// close refuses everything from now on, and what waits.
func (q *queue) close(err error) {
	q.mu.Lock()
	b := q.open
	q.open = newBatch()
	q.closed = err
	close(q.room)
	q.room = make(chan struct{})
	q.mu.Unlock()
	b.fail(err)
}

func (q *queue) reopen() {
	q.mu.Lock()
	q.closed = nil
	q.mu.Unlock()
}

func (b *batch) fail(err error) {
	b.failed = err
	close(b.done)
}

// Add appends one entry and returns when it is durable and covered by a published head. `with` runs inside the batch's
// transaction, sees what earlier entries of the batch wrote, may run more than once and writes only through its Tx; its
// error drops this entry alone and is returned unchanged. The log copies leaf and extra.
//
// Errors: ErrTooLarge, ErrReadOnly, ErrClosed, ErrSigning, store.ErrFull, a *DuplicateError, ctx's error. After ctx's
// error or ErrSigning the entry may still be, or become, part of the log; nothing was promised.
func (l *Log) Add(ctx context.Context, leaf, extra []byte, with func(store.Tx) error) (Receipt, error) {
	if len(leaf) > MaxLeaf || len(extra) > MaxExtra {
		return Receipt{}, fmt.Errorf("adding an entry of %d bytes with an extra of %d: %w", len(leaf), len(extra), ErrTooLarge)
	}
	if err := l.Err(); err != nil {
		return Receipt{}, err
	}
	if err := ctx.Err(); err != nil {
		return Receipt{}, err
	}
	r := &request{leaf: bytes.Clone(leaf), extra: bytes.Clone(extra), hash: leafHash(leaf), with: with}
	if l.c.Unique {
		// The writer looks again; this look keeps repeated uploads off the writer.
		switch i, found, err := l.LeafIndex(ctx, r.hash); {
		case err != nil:
			return Receipt{}, err
		case found:
			return Receipt{}, &DuplicateError{Index: i}
		}
	}
	if l.c.IndexKeys != nil {
		r.keys = l.indexKeys(r.leaf, r.extra)
	}
	b, err := l.queue.put(ctx, r)
	if err != nil {
		return Receipt{}, err
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		return Receipt{}, ctx.Err()
	}
	switch {
	case b.failed != nil:
		return Receipt{}, b.failed
	case r.failed != nil:
		return Receipt{}, r.failed
	case r.err != nil:
		return Receipt{}, r.err
	case r.dup, r.known:
		return Receipt{}, &DuplicateError{Index: r.index}
	}
	return l.receipt(b.covered, r)
}

// receipt proves the entry in its caller's goroutine and checks the proof against the head that was signed.
func (l *Log) receipt(v *view, r *request) (Receipt, error) {
	proof, err := l.nodes(v).inclusion(r.index, v.size)
	if err == nil {
		err = VerifyInclusion(r.hash, r.index, v.size, proof, v.head.Root)
	}
	if err != nil {
		return Receipt{}, fmt.Errorf("proving entry %d: %w", r.index, errors.Join(ErrCorrupt, err))
	}
	return Receipt{Index: r.index, Time: v.head.Time, LeafHash: r.hash, Proof: proof, Checkpoint: v.head}, nil
}
