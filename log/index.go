package log

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"redoubt.internal/log/store"
)

// The derived index: leaf hash to index (table 'l'), and search key to indices (table 's'). It is a hint and nothing
// else: every hit is checked against the entry it names, it may be deleted at any time, and Open brings it up to the
// published head: the first before it returns, because uniqueness hangs on it, the second in the background when it lacks
// much. See table.go for how it is kept.

const (
	maxIndexKeys   = 2048
	maxIndexKeyLen = 1024
)

// indexing is how the search index catches up with the published head.
type indexing struct {
	ready atomic.Bool        // it has, and the writer adds what it publishes
	stop  context.CancelFunc // of Open and Run; nil when nothing runs in the background

	mu   sync.Mutex    // held while entries are published, and to guard:
	done chan struct{} // closed when the catching up has ended
	err  error         // why it ended early
}

const (
	indexAtOnce = 1 << 13 // entries that Open does not hand to the background: a fraction of a second
	indexWait   = 10 * time.Second
)

// indexKeys calls the configured function and keeps its limits.
func (l *Log) indexKeys(leaf, extra []byte) [][]byte {
	keys := l.c.IndexKeys(leaf, extra)
	keys = keys[:min(len(keys), maxIndexKeys)]
	return slices.DeleteFunc(keys, func(k []byte) bool { return len(k) > maxIndexKeyLen })
}

// addToIndex takes entries in the order of their index.
func (l *Log) addToIndex(index uint64, hash [32]byte, keys [][]byte) {
	l.leaves.add(index, hash)
	if l.c.IndexKeys != nil && l.indexing.ready.Load() {
		hashes := make([][32]byte, len(keys))
		for i, k := range keys {
			hashes[i] = sha256.Sum256(k)
		}
		l.search.add(index, hashes...)
	}
}

// openIndex loads what is stored of the index and adds the entries of the published head that it lacks.
func (l *Log) openIndex(ctx context.Context) error {
	v := l.view.Load()
	l.leaves.init(l.c.DB, l.keys, 'l', 0, l.c.Logger)
	if err := l.leaves.load(v.size); err != nil {
		return err
	}
	for l.leaves.next < v.size {
		if err := ctx.Err(); err != nil {
			return err
		}
		first := l.leaves.next &^ (tileWidth - 1)
		t, err := l.tileAt(v, 0, first/tileWidth)
		if err != nil {
			return err
		}
		for i := l.leaves.next; i < min(v.size, first+tileWidth); i++ {
			l.leaves.add(i, *t.at(0, i-first))
		}
		l.leaves.await()
	}
	if l.c.IndexKeys == nil {
		return nil
	}
	l.search.init(l.c.DB, l.keys, 's', l.c.IndexVersion, l.c.Logger)
	if err := l.search.load(v.size); err != nil {
		return err
	}
	if v.size-l.search.next <= indexAtOnce {
		return l.catchUp(ctx)
	}
	l.c.Logger.Info("building the search index; searches wait for it", "origin", l.c.Origin, "from", l.search.next, "to", v.size)
	l.startIndexing()
	return nil
}

// startIndexing catches up in the background, unless that is done, or being done.
func (l *Log) startIndexing() {
	if l.c.IndexKeys == nil || l.indexing.ready.Load() || l.indexing.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	l.indexing.mu.Lock()
	l.indexing.stop, l.indexing.done = stop, done
	l.indexing.mu.Unlock()
	go func() {
		defer close(done)
		err := l.catchUp(ctx)
		if err == nil {
			return
		}
		l.indexing.mu.Lock()
		l.indexing.err = err
		l.indexing.mu.Unlock()
		if errors.Is(err, ErrCorrupt) || errors.Is(err, store.ErrCorrupt) {
			l.c.Logger.Error("building the search index", "origin", l.c.Origin, "err", err)
		}
	}()
}

// stopIndexing ends the catching up, and waits for what it began.
func (l *Log) stopIndexing() {
	if l.indexing.stop != nil {
		l.indexing.stop()
		<-l.indexing.done
		l.indexing.stop = nil
	}
	l.search.await()
}

// catchUp adds the entries of the published head that the search index lacks, until none is published that it lacks.
func (l *Log) catchUp(ctx context.Context) error {
	for {
		l.indexing.mu.Lock()
		size := l.view.Load().size
		if l.search.next >= size {
			l.indexing.ready.Store(true) // from now on the writer adds what it publishes
			l.indexing.mu.Unlock()
			return nil
		}
		l.indexing.mu.Unlock()
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.searchKeys(ctx, min(size, l.search.next+4096)); err != nil {
			return err
		}
		l.search.await()
	}
}

// awaitSearch waits, not for ever, until the search index covers the published head.
func (l *Log) awaitSearch(ctx context.Context) error {
	if l.indexing.ready.Load() {
		return nil
	}
	l.indexing.mu.Lock()
	done := l.indexing.done
	l.indexing.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, indexWait)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrIndexing, ctx.Err())
	}
	l.indexing.mu.Lock()
	defer l.indexing.mu.Unlock()
	if !l.indexing.ready.Load() {
		return fmt.Errorf("%w: it ended early: %w", ErrIndexing, l.indexing.err)
	}
	return nil
}

// searchKeys adds the keys of the entries up to to.
func (l *Log) searchKeys(ctx context.Context, to uint64) error {
	from := l.search.next
	return l.c.DB.View(func(tx store.Tx) error {
		return scanEntries(tx, l.keys, from, to, func(c chunk) error {
			for i, leaf := range c.leaves {
				n := c.first + uint64(i)
				if n < from || n >= to {
					continue
				}
				var extra []byte
				if c.extras != nil {
					extra = c.extras[i]
				}
				var hashes [][32]byte
				for _, k := range l.indexKeys(leaf, extra) {
					hashes = append(hashes, sha256.Sum256(k))
				}
				l.search.add(n, hashes...)
			}
			return ctx.Err()
		})
	})
}

// LeafIndex finds an entry of the published head by its leaf hash; of several the first.
func (l *Log) LeafIndex(ctx context.Context, hash [32]byte) (uint64, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	return l.leafIndex(hash)
}

func (l *Log) leafIndex(hash [32]byte) (uint64, bool, error) {
	v := l.view.Load()
	vals, err := l.leaves.find(hash, 0, 64)
	for _, i := range vals {
		ok, err := l.holds(v, i, hash)
		if err != nil {
			return 0, false, fmt.Errorf("looking up a leaf hash: %w", err)
		}
		if ok {
			return i, true, nil
		}
	}
	if err != nil {
		return 0, false, fmt.Errorf("looking up a leaf hash: %w", err)
	}
	return 0, false, nil
}

// Find returns the indices of at most limit entries of the published head that Config.IndexKeys gives key, ascending.
// Each was checked against its entry. ErrIndexing when the index is not complete within some seconds.
func (l *Log) Find(ctx context.Context, key []byte, limit int) ([]uint64, error) {
	var out []uint64
	if l.c.IndexKeys == nil || limit <= 0 {
		return nil, nil
	}
	if err := l.awaitSearch(ctx); err != nil {
		return nil, fmt.Errorf("searching: %w", err)
	}
	size := l.view.Load().size
	hash := sha256.Sum256(key)
	for from := uint64(0); ; {
		const step = 256
		vals, err := l.search.find(hash, from, step)
		if err != nil {
			return nil, fmt.Errorf("searching: %w", err)
		}
		for _, i := range vals {
			if len(out) == limit || i >= size {
				return out, nil
			}
			e, err := l.Entry(ctx, i)
			if err != nil {
				return nil, fmt.Errorf("searching: %w", err)
			}
			if slices.ContainsFunc(l.indexKeys(e.Leaf, e.Extra), func(k []byte) bool { return bytes.Equal(k, key) }) {
				out = append(out, i)
			}
		}
		if len(vals) < step {
			return out, nil
		}
		from = vals[len(vals)-1] + 1
	}
}
