package tsa

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"redoubt.internal/log/store"
)

// reserveAhead is how far beyond the current token the floor is made durable. A
// longer span means fewer writes and a longer wait after a crash.
const reserveAhead = 3 * time.Second

var floorKey = []byte("tsa/floor")

// floor hands out times that never go back.
//
// Invariant: every time handed out is at or after last, and at or before
// reserved, which is durable. After a crash last restarts at reserved: times
// up to there may have been used. On disk: reserved as big-endian Unix seconds.
type floor struct {
	db       store.DB
	mu       sync.Mutex
	last     time.Time // guarded by mu; whole seconds, UTC
	reserved time.Time // guarded by mu; whole seconds, UTC
	closed   bool      // guarded by mu
}

func openFloor(db store.DB) (*floor, error) {
	f := &floor{db: db}
	err := db.View(func(tx store.Tx) error {
		v, err := tx.Get(floorKey)
		if err != nil || v == nil {
			return err
		}
		if len(v) != 8 {
			return fmt.Errorf("time floor of %d bytes: %w", len(v), store.ErrCorrupt)
		}
		f.reserved = time.Unix(int64(binary.BigEndian.Uint64(v)), 0).UTC()
		return nil
	})
	f.last = f.reserved
	return f, err
}

// next returns the time of the next token in whole seconds: the clock's, or the
// floor when the clock is behind it by no more than Accuracy. Further behind it
// waits for the clock, up to reserveAhead, then fails with ErrClock.
func (f *floor) next(ctx context.Context, now func() time.Time) (time.Time, error) {
	for deadline := time.Now().Add(reserveAhead); ; {
		t, behind, err := f.take(now().UTC())
		if behind == 0 || err != nil {
			return t, err
		}
		if behind > reserveAhead || time.Now().After(deadline) {
			return time.Time{}, fmt.Errorf("%w by %s", ErrClock, behind)
		}
		select {
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		case <-time.After(min(behind, 100*time.Millisecond)):
		}
	}
}

// take claims a time, or says how far the clock is behind.
func (f *floor) take(now time.Time) (t time.Time, behind time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return t, 0, errors.New("timestamp authority is closed")
	}
	t = now.Truncate(time.Second)
	if t.Before(f.last) {
		if behind := f.last.Sub(now); behind > Accuracy {
			return time.Time{}, behind, nil
		}
		t = f.last
	}
	if t.After(f.reserved) {
		// A crash after this write costs the wait described at next, no more.
		if err := f.write(t.Add(reserveAhead)); err != nil {
			return time.Time{}, 0, fmt.Errorf("reserving time: %w", err)
		}
	}
	f.last = t
	return t, 0, nil
}

func (f *floor) write(t time.Time) error {
	v := binary.BigEndian.AppendUint64(nil, uint64(t.Unix()))
	if err := f.db.Update(func(tx store.Tx) error { return tx.Put(floorKey, v) }); err != nil {
		return err
	}
	f.reserved = t
	return nil
}

func (f *floor) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.last.Equal(f.reserved) {
		f.closed = true
		return nil
	}
	f.closed = true
	return f.write(f.last)
}

func (f *floor) state() (last, reserved time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last, f.reserved
}
