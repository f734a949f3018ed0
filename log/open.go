package log

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"redoubt.internal/hsm"
	"redoubt.internal/log/store"
)

// Log is an open log. All methods are safe for concurrent use.
type Log struct {
	c    Config
	keys layout
	key  *noteKey // of the signer; nil without one

	queue   *queue
	running atomic.Bool
	w       writer // of the goroutine in Run
	stored  uint64 // entries durable when the log was opened

	view     atomic.Pointer[view]  // the published state
	reason   atomic.Pointer[error] // why the log is read-only, nil when it is not
	cache    tileCache
	leaves   table    // leaf hash -> index
	search   table    // digest of an index key -> indices
	indexing indexing // of search

	// at is called at the named points of the commit path. Tests set it; it does nothing otherwise.
	at func(point string)
}

// Open opens a log that Create made. Damage to what a head covers is an error. A log that must not be signed on opens
// all the same, read-only, and Err says why: behind a mark, latched, or without a key. Entries that were durable when
// a crash came, and not yet covered by a head, are covered now. A search index that lacks many entries is completed in the
// background, until Run returns.
func Open(ctx context.Context, c Config) (*Log, error) {
	c, err := setup(c)
	if err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	l := &Log{c: c, keys: newLayout(c.Prefix), queue: newQueue(), at: func(string) {}}
	l.w.flight = map[[32]byte]uint64{}
	if c.Signer != nil {
		if l.key, err = newNoteKey(c.Origin, c.Signer.Public()); err != nil {
			return nil, fmt.Errorf("opening a log: %w", err)
		}
		l.key.own = hsm.NewVerifier(l.key.pub)
	}
	if err := l.open(ctx); err != nil {
		return nil, fmt.Errorf("opening the log %s: %w", c.Origin, err)
	}
	return l, nil
}

func (l *Log) open(ctx context.Context) error {
	var tail []*request
	if err := l.c.DB.View(func(tx store.Tx) (err error) {
		tail, err = l.load(tx)
		return err
	}); err != nil {
		return err
	}
	l.stored = l.w.tree.size
	if err := l.openIndex(ctx); err != nil {
		return err
	}
	l.keepFlight(&stage{added: tail})
	if err := l.checkMarks(ctx); err != nil {
		l.c.Logger.Error("log opens read-only", "origin", l.c.Origin, "err", l.latch(err))
		return nil
	}
	if l.c.Signer == nil {
		l.latch(errors.New("it was opened without its key"))
		return nil
	}
	if l.Err() == nil && l.w.uncovered() {
		l.c.Logger.Info("covering entries stored before the last stop", "origin", l.c.Origin, "from", l.w.last.Size, "to", l.w.tree.size)
		// Without a signature now the log still opens: the first batch tries again.
		if err := l.signHead(nil); err == nil {
			l.cycle(ctx, nil)
		}
	}
	h := l.Head()
	l.c.Logger.Info("log open", "origin", l.c.Origin, "size", h.Size, "root", fmt.Sprintf("%x", h.Root))
	return nil
}

// checkMarks compares every configured mark with the last durable head, and raises those behind it.
func (l *Log) checkMarks(ctx context.Context) error {
	v := l.w.loaded
	for i, m := range l.c.HighWater {
		mark, err := m.Read(ctx)
		if errors.Is(err, ErrNoMark) {
			return fmt.Errorf("%w: %w: high-water mark %d of %d is missing; the log stands at size %d", ErrRolledBack, ErrNoMark, i+1, len(l.c.HighWater), v.size)
		}
		if err != nil {
			return fmt.Errorf("reading high-water mark %d: %w", i+1, err)
		}
		switch {
		case mark.Origin != l.c.Origin:
			return fmt.Errorf("%w: high-water mark %d is of %q", ErrConfig, i+1, mark.Origin)
		case mark.Size > v.size:
			return fmt.Errorf("%w: a high-water mark stands at size %d, the log at size %d", ErrRolledBack, mark.Size, v.size)
		}
		root, err := l.nodes(v).rangeHash(0, mark.Size)
		if err != nil {
			return err
		}
		if root != mark.Root {
			return fmt.Errorf("%w: at size %d a high-water mark has root %x, the log %x (size %d)", ErrRolledBack, mark.Size, mark.Root, root, v.size)
		}
		if err := l.warnBehind(i+1, mark.Size, v.size); err != nil {
			return err
		}
		if why := mark.Fenced(); why != "" {
			return fmt.Errorf("%w: %s", ErrFenced, why)
		}
		if mark.Halted != "" {
			return fmt.Errorf("halted until an operator resumes it (`redoubt log resume`): %s", mark.Halted)
		}
	}
	if l.c.Signer == nil || l.Err() != nil {
		return nil
	}
	if l.w.resign {
		return nil // with the head that takes its place
	}
	for _, m := range l.c.HighWater {
		if err := m.Raise(ctx, Mark{Origin: l.c.Origin, Size: v.size, Root: v.head.Root}); err != nil {
			return fmt.Errorf("raising the high-water mark: %w", err)
		}
	}
	return nil
}
