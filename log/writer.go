package log

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"redoubt.internal/log/store"
)

// view is one published state: the head and the right edge of its tree. It never changes.
type view struct {
	tree
	head Head
}

// signed is a head that exists in memory only: signed over durable entries, not durable itself.
type signed struct {
	v     *view
	sig   []byte
	rec   []byte     // as stored
	check chan error // gives the verdict on sig once
	batch *batch     // who waits for it; nil after a restart or a failed attempt
}

// writer is the state of the one goroutine that runs Run. Nobody else touches it while Run runs.
type writer struct {
	tree    tree // everything durable
	root    [32]byte
	last    Head    // the last durable head
	lastRec []byte  // its stored record
	pending *signed // signed, waiting for its transaction
	// flight holds the leaf hashes of entries durable but not yet published (Config.Unique).
	flight map[[32]byte]uint64
	fresh  []*request // the entries durable but not yet published, for the index
	// headFirst asks for a transaction with the pending head alone: there was no room for more.
	headFirst bool
	// stuck says that the pending head alone could not be stored: the next try waits for an Add, or a while.
	stuck bool
	// resign says that the last head's signature did not verify: the next head takes its place.
	resign bool
	// loaded is the last durable head as Open met it. The published one is older when its signature was bad.
	loaded *view
}

// retryAfter is how long an idle log waits before it tries again to sign or store a head that it owes.
const retryAfter = 10 * time.Second

// uncovered says that something durable lacks a good head.
func (w *writer) uncovered() bool { return w.resign || w.tree.size > w.last.Size }

// Run is the one writer. It returns ctx's error when ctx ends, after the batch in work is answered, or the reason when
// the log latches; Adds still waiting then get ErrClosed, or ErrReadOnly with the reason. One Run at a time.
func (l *Log) Run(ctx context.Context) error {
	if !l.running.CompareAndSwap(false, true) {
		return fmt.Errorf("running the log %s: a writer runs already", l.c.Origin)
	}
	defer l.running.Store(false)
	defer func() {
		// Nothing of this log touches the database after Run. Only a log that latched is made ready for searches all the same.
		if ctx.Err() != nil || l.indexing.ready.Load() {
			l.stopIndexing()
		}
	}()
	defer l.leaves.await()
	l.startIndexing()
	l.queue.reopen()
	err := l.run(ctx)
	if e := l.Err(); e != nil {
		err = e
		l.queue.close(e)
	} else {
		l.queue.close(ErrClosed)
	}
	return err
}

func (l *Log) run(ctx context.Context) error {
	for {
		if err := l.Err(); err != nil {
			return err
		}
		var b *batch
		if ctx.Err() == nil && !l.w.headFirst {
			// Where processors are scarce, Adds that are about to come get theirs first: fewer, larger batches. As long as
			// a yield brought more of them, there may be more to come.
			for n := -1; n < l.queue.size(); {
				n = l.queue.size()
				runtime.Gosched()
			}
			b = l.queue.take()
		}
		if b == nil && (l.w.pending == nil || l.w.stuck) {
			var retry <-chan time.Time
			if l.w.stuck || l.w.uncovered() {
				retry = time.After(retryAfter)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-l.queue.filled:
				continue
			case <-retry:
			}
		}
		l.w.headFirst, l.w.stuck = false, false
		l.cycle(ctx, b)
	}
}

// cycle is the commit path. b may be nil: then only the pending head is made durable.
//
// A crash may fall between any two steps. Before 2 nothing happened. After 2 entries are durable that no head covers:
// Open signs a head over them, nobody was promised anything. After 3 and 4 likewise: a signature that is not durable was
// not published and is forgotten. After the transaction that carries the head, the head is durable and the mark behind
// it: Open raises the mark. After 5 everything is as if answered.
func (l *Log) cycle(ctx context.Context, b *batch) {
	w := &l.w

	// 1. A head that could not be signed or stored earlier comes first: entries must not pile up without one.
	if w.pending == nil && w.uncovered() {
		if err := l.signHead(nil); err != nil {
			if b != nil {
				b.fail(err)
			}
			return
		}
	}

	// 2. Transaction A: the batch's entries, tiles and callers' writes; and, if one waits, B: the last batch's head.
	// Both compare what they replace, so that a second writer is noticed before anything is signed over its work.
	head := w.pending
	if b != nil && l.c.Unique {
		l.findDuplicates(b)
	}
	var st stage
	err := l.c.DB.Update(func(tx store.Tx) error {
		if err := l.swapHead(tx, head); err != nil {
			return err
		}
		st = stage{tree: w.tree.fork(), root: w.root}
		if b == nil {
			return nil
		}
		return l.appendBatch(tx, b, &st)
	})
	if err != nil {
		l.commitFailed(err, head, b)
		return
	}

	if b != nil {
		w.tree, w.root = st.tree, st.root
	}

	// 5. (of the batch before) The head is durable: raise the marks outside, publish, answer.
	if head != nil {
		w.last, w.lastRec, w.pending, w.resign = head.v.head, head.rec, nil, false
		l.publish(ctx, head)
	}
	if b == nil {
		return
	}
	l.keepFlight(&st)
	if err := l.Err(); err != nil {
		b.fail(err)
		return
	}
	if !w.uncovered() {
		// Nothing was added: refusals and duplicates of published entries are answered now.
		b.covered = l.view.Load()
		close(b.done)
		return
	}

	// 3. What was stored is read back and hashed a second time: a bit that flipped in memory is not signed over.
	if err := l.readBack(&st); err != nil {
		b.fail(l.halt(fmt.Errorf("reading back what was stored: %w", err)))
		return
	}
	for _, f := range st.full {
		l.cache.put(f.level, f.index, f.tile)
	}
	l.at("stored")

	// 4. Sign. The head becomes durable with the next transaction, of the next batch if there is one waiting.
	if err := l.signHead(b); err != nil {
		b.fail(err)
	}
	l.at("signed")
}

// findDuplicates marks the entries that are published or in flight already. It runs before the transaction: only this
// goroutine adds entries, so what it finds stays true.
func (l *Log) findDuplicates(b *batch) {
	for _, r := range b.reqs {
		i, found := l.w.flight[r.hash]
		if !found {
			i, found, r.failed = l.leafIndex(r.hash)
		}
		if found {
			r.index, r.known = i, true
		}
	}
}

// commitFailed decides what a failed transaction means. A full disk passes; everything else ends the writing.
func (l *Log) commitFailed(err error, head *signed, b *batch) {
	err = fmt.Errorf("storing a batch: %w", err)
	switch {
	case errors.Is(err, store.ErrFull):
		if b != nil && head != nil {
			// The head alone may fit: its batch goes on waiting for that.
			l.w.headFirst = true
			b.fail(err)
			return
		}
		l.w.stuck = true
	case errors.Is(err, store.ErrSync), errors.Is(err, store.ErrCorrupt), errors.Is(err, ErrCorrupt):
		err = l.halt(err)
	default:
		// Another writer, or a database closed under the log: this process must stop, the next one may not have to.
		err = l.latch(err)
	}
	// A signed head stays pending and unpublished; its entries are durable. Those who wait are told now.
	if head != nil && head.batch != nil {
		head.batch.fail(err)
		head.batch = nil
	}
	if b != nil {
		b.fail(err)
	}
}

// signHead signs the durable tree and makes the head pending. b waits for it.
func (l *Log) signHead(b *batch) error {
	w := &l.w
	h := Head{Size: w.tree.size, Root: w.root, Time: l.now()}
	if h.Time.Before(w.last.Time) {
		h.Time = w.last.Time
	}
	sig, err := l.key.sign(l.c.Signer, h.Size, h.Root)
	if err != nil {
		// The key may heal (a token put back): the entries stay durable and the next batch tries again first.
		l.c.Logger.Error("signing a head", "origin", l.c.Origin, "size", h.Size, "err", err)
		return err
	}
	h.Note = renderNote(l.c.Origin, h.Size, h.Root, sig)
	w.pending = &signed{v: &view{tree: w.tree.fork(), head: h}, sig: sig, rec: encodeHead(h, sig), check: make(chan error, 1), batch: b}
	// Verifying takes as long as half a flush, so it runs beside the transaction. Nothing is published before its verdict.
	go func(s *signed) { s.check <- l.key.verify(h.Size, h.Root, s.sig) }(w.pending)
	return nil
}

// publish raises the marks over a durable head, shows the head to readers and answers its batch.
func (l *Log) publish(ctx context.Context, s *signed) {
	h := s.v.head
	if err := <-s.check; err != nil {
		err = fmt.Errorf("%w: %w", ErrSigning, err)
		l.c.Logger.Error("signing a head", "origin", l.c.Origin, "size", h.Size, "err", err)
		l.w.resign = true
		if s.batch != nil {
			s.batch.fail(err)
		}
		return
	}
	for _, m := range l.c.HighWater {
		if err := m.Raise(context.WithoutCancel(ctx), Mark{Origin: l.c.Origin, Size: h.Size, Root: h.Root}); err != nil {
			err = l.latch(fmt.Errorf("raising the high-water mark: %w", err))
			if s.batch != nil {
				s.batch.fail(err)
			}
			return
		}
	}
	l.at("raised")
	l.indexing.mu.Lock()
	for _, r := range l.w.fresh {
		l.addToIndex(r.index, r.hash, r.keys)
	}
	clear(l.w.fresh) // lets go of the entries
	l.w.fresh = l.w.fresh[:0]
	clear(l.w.flight)
	l.view.Store(s.v)
	l.indexing.mu.Unlock()
	if s.batch != nil {
		s.batch.covered = s.v
		close(s.batch.done)
	}
}

// keepFlight notes entries that are durable and not yet published.
func (l *Log) keepFlight(st *stage) {
	for _, r := range st.added {
		l.w.fresh = append(l.w.fresh, r)
		if l.c.Unique {
			l.w.flight[r.hash] = r.index
		}
	}
}
