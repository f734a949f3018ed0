package log

import (
	"context"
	"errors"
	"fmt"
	"time"

	"redoubt.internal/log/store"
)

// now is the wall clock alone: without the monotonic reading a time is what it will be when read back.
func (l *Log) now() time.Time { return l.c.Now().UTC().Round(0) }

// Head is the last published head.
func (l *Log) Head() Head { return l.view.Load().head }

// StoredAtOpen is how many entries were durable when the log was opened. That is more than its head says where the key did not
// sign since they were stored: what is numbered after this log leaves them room.
func (l *Log) StoredAtOpen() uint64 { return l.stored }

// Err says why the log is read-only: latched by a failed write, behind a high-water mark, opened without its key. Nil
// when it is writable.
func (l *Log) Err() error {
	if e := l.reason.Load(); e != nil {
		return *e
	}
	return nil
}

// latch makes the log read-only for this process and returns the reason; the first one stays.
func (l *Log) latch(err error) error {
	if !errors.Is(err, ErrReadOnly) {
		err = fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	l.reason.CompareAndSwap(nil, &err)
	return l.Err()
}

// halt latches over restarts too, wherever that can still be written: in the marks and in the database.
func (l *Log) halt(err error) error {
	err = l.latch(err)
	l.c.Logger.Error("log halted", "origin", l.c.Origin, "err", err)
	reason := l.now().Format(time.RFC3339) + " " + err.Error()
	for _, m := range l.c.HighWater {
		mark, e := m.Read(context.Background())
		if e == nil {
			mark.Halted = reason
			e = m.Raise(context.Background(), mark)
		}
		if e != nil {
			l.c.Logger.Error("halting at a high-water mark", "origin", l.c.Origin, "err", e)
		}
	}
	if e := l.c.DB.Update(func(tx store.Tx) error { return tx.Put(l.keys.latch(), []byte(reason)) }); e != nil {
		l.c.Logger.Error("halting in the database", "origin", l.c.Origin, "err", e)
	}
	return err
}

// Resume takes the halt off a log after an operator has seen to its cause: it runs Fsck first and refuses when that
// finds anything. The log must not be open.
func Resume(ctx context.Context, c Config) (FsckReport, error) {
	rep, err := Fsck(ctx, c, nil)
	if err != nil {
		return rep, fmt.Errorf("resuming: %w", err)
	}
	for _, m := range c.HighWater {
		var err error
		switch m := m.(type) {
		case *fileMark:
			err = m.resume()
		case *slowMark:
			err = m.resume()
		}
		if err != nil {
			return rep, fmt.Errorf("resuming: %w", err)
		}
	}
	keys := newLayout(c.Prefix)
	if err := c.DB.Update(func(tx store.Tx) error { return tx.Delete(keys.latch()) }); err != nil {
		return rep, fmt.Errorf("resuming: %w", err)
	}
	rep.Halted = ""
	return rep, nil
}
