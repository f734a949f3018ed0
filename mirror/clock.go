package mirror

import (
	"context"
	"fmt"
	"time"

	"redoubt.internal/log/store"
)

// The local clock is an upper bound of the truth and has a floor, the time of the last commit, that only rises. A clock that
// is ahead once would raise the floor for good and lock every later import out. So it may not run away either: time passes
// between parcels, but of the last commit and the new parcel's own time one is recent. A month is more than a volume spends on
// its way, and less than a mistyped year or a dead battery makes.
const (
	clockSlack = 5 * time.Minute     // how far the local clock may lie behind the last commit
	clockAhead = 24 * time.Hour      // how far a parcel may come from the future
	clockLeap  = 30 * 24 * time.Hour // how far the local clock may lie past both the last commit and the parcel's time
)

// judgeClock refuses a clock that cannot be right. floor is zero before the first import, which has nothing to go by.
func judgeClock(now, floor, created time.Time) error {
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case now.Before(floor.Add(-clockSlack)):
		return fmt.Errorf("%w: it is %s, but the last import was at %s; set it, or if it is right: redoubt mirror accept-clock", ErrClock, at(now), at(floor))
	case created.After(now.Add(clockAhead)):
		return fmt.Errorf("%w: it is %s, but the parcel was made at %s", ErrClock, at(now), at(created))
	case !floor.IsZero() && now.After(laterOf(floor, created).Add(clockLeap)):
		return fmt.Errorf("%w: it is %s, but the last import was at %s and the parcel was made at %s; set it, or if it is right: redoubt mirror accept-clock",
			ErrClock, at(now), at(floor), at(created))
	}
	return nil
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// AcceptClock makes the present local time the floor, be it before or after the one that was stored, which it returns. It is the
// way out when an import was committed under a clock that was ahead, and when the mirror rested for long: a person has looked
// at the clock. It is recorded. Nothing to accept before the first import is ErrNothing.
func (m *Mirror) AcceptClock(ctx context.Context) (was, now time.Time, err error) {
	unlock, err := lockDir(m.root)
	if err != nil {
		return was, now, err
	}
	defer unlock()
	if err := m.finishPublish(ctx); err != nil { // with the time it was begun at
		return was, now, full(err)
	}
	s, err := m.snapshot()
	if err != nil {
		return was, now, err
	}
	if s.stream.Sequence == 0 {
		return was, now, fmt.Errorf("%w: no import has set a floor", ErrNothing)
	}
	was, now = s.stream.Floor, m.c.Now().UTC()
	detail := map[string]string{"was": was.Format(time.RFC3339), "now": now.Format(time.RFC3339)}
	s.stream.Floor = now
	if s.stream.Signed.Time.After(now.Add(clockAhead)) { // taken under the clock that was ahead, of a log whose clock is
		s.stream.Signed = signedAt{}
	}
	return was, now, m.record(ctx, Event{Action: "mirror.clock", Object: m.c.Stream, Outcome: "success", Detail: detail}, func(tx store.Tx) error {
		return put(tx, keyStream, s.stream)
	})
}
