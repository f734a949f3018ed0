package ca

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"redoubt.internal/log/store"
)

// floorKey holds the highest notBefore ever put into an intent, seconds since
// 1970, 8 octets big-endian. It is written in the intent's own transaction.
var floorKey = []byte(prefix + "floor")

// clock hands out issuing times that never go back, also across restarts.
type clock struct {
	now        func() time.Time
	back, jump time.Duration

	mu    sync.Mutex
	floor int64     // seconds since 1970; no time below it is handed out
	start time.Time // wall and monotonic reading of the first use; jumps are measured against it
}

func newClock(now func() time.Time, floor int64, p Profile) *clock {
	return &clock{now: now, floor: floor, back: p.ClockBack, jump: p.ClockJump, start: now()}
}

// stamp returns the time to issue at: now in whole seconds, or the floor when
// the clock is a little behind it. Further behind, or leapt ahead, is ErrClock.
func (c *clock) stamp() (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	// Sub uses the monotonic readings when both have one; Round(0) drops them.
	leap := now.Round(0).Sub(c.start.Round(0)) - now.Sub(c.start)
	if c.jump > 0 && leap > c.jump {
		return time.Time{}, fmt.Errorf("%w: it leapt %s ahead while running; check the time source and start again", ErrClock, leap.Round(time.Second))
	}
	t := now.Unix()
	if t < c.floor {
		if behind := time.Duration(c.floor-t) * time.Second; behind > c.back {
			return time.Time{}, fmt.Errorf("%w: it is %s behind the highest time ever issued, %s", ErrClock, behind, time.Unix(c.floor, 0).UTC().Format(time.RFC3339))
		}
		t = c.floor
	}
	c.floor = t
	return time.Unix(t, 0).UTC(), nil
}

// readFloor returns the stored floor, 0 when nothing was issued yet.
func readFloor(db store.DB) (floor int64, err error) {
	err = db.View(func(tx store.Tx) error {
		floor, err = storedFloor(tx)
		return err
	})
	return floor, err
}

func storedFloor(tx store.Tx) (int64, error) {
	v, err := tx.Get(floorKey)
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("time floor of %d octets", len(v))
	}
	return int64(binary.BigEndian.Uint64(v)), nil
}

// raiseFloor puts t as the floor unless a higher one is there: requests commit
// in another order than they took their times.
func raiseFloor(tx store.Tx, t time.Time) error {
	stored, err := storedFloor(tx)
	if err != nil || t.Unix() <= stored {
		return err
	}
	return tx.Put(floorKey, binary.BigEndian.AppendUint64(nil, uint64(t.Unix())))
}
