// Package freshness is what a mirror says of itself to whoever verifies beside it: how far it knows each log, and how old that is.
//
// It guarantees that a claim read by Open is the one that the mirror signed, and that age is judged in one way everywhere. It holds no mirror:
// a verifier takes this package and nothing else of one. Start at State and at Log.Judge.
package freshness

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// ErrStale says that the last known state of a log is older than its limit.
var ErrStale = errors.New("the mirrored state is older than the policy allows")

// ErrState says that a claim is none of a mirror, or not signed by the one that was asked for.
var ErrState = errors.New("this is no state that the mirror signed")

// Thresholds say what the age of the last observed state of a log or repository does. Zero sets no limit. There is no switch that
// makes an old state young.
type Thresholds struct {
	Warn    time.Duration // status and reconcile say so
	DenyNew time.Duration // what was signed after the state was observed is not accepted by it any more
	DenyAll time.Duration // nothing is accepted by it
}

// Level is what thresholds make of an age. Its values are stable.
type Level string

// Levels, each graver than the one before.
const (
	Fresh   Level = "fresh"
	Warn    Level = "warn"
	DenyNew Level = "deny-new"
	DenyAll Level = "deny-all"
)

// Levels are all of them, ascending.
var Levels = []Level{Fresh, Warn, DenyNew, DenyAll}

// Never is the age of what was never observed.
const Never = time.Duration(math.MaxInt64)

// Of judges an age.
func (t Thresholds) Of(age time.Duration) Level {
	switch {
	case t.DenyAll > 0 && age > t.DenyAll:
		return DenyAll
	case t.DenyNew > 0 && age > t.DenyNew:
		return DenyNew
	case t.Warn > 0 && age > t.Warn:
		return Warn
	}
	return Fresh
}

// Check refuses thresholds that do not ascend.
func (t Thresholds) Check() error {
	last := time.Duration(0)
	for _, d := range []time.Duration{t.Warn, t.DenyNew, t.DenyAll} {
		if d < 0 || d > 0 && d < last {
			return fmt.Errorf("thresholds %v, %v, %v; warn, deny-new and deny-all ascend", t.Warn, t.DenyNew, t.DenyAll)
		}
		last = max(last, d)
	}
	return nil
}

// Allow says whether something signed at that time may be accepted by a state observed at another: ErrStale if not.
func (l Level) Allow(signed, observed time.Time) error {
	switch {
	case observed.IsZero() && (l == DenyAll || l == DenyNew):
		return fmt.Errorf("%w: nothing of it was imported yet", ErrStale)
	case l == DenyAll:
		return fmt.Errorf("%w: it was last observed at %s, nothing is accepted by it any more", ErrStale, observed.UTC().Format(time.RFC3339))
	case l == DenyNew && signed.After(observed):
		return fmt.Errorf("%w: it was last observed at %s, nothing signed later is accepted by it", ErrStale, observed.UTC().Format(time.RFC3339))
	}
	return nil
}
