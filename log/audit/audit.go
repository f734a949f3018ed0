// Package audit is the record of who did what: every issuance and refusal, every administrative verb, every change of trust or keys,
// as one leaf each in an append-only Merkle log of its own.
//
// Contract: Add returns nil only when the event is durable and covered by a signed head, together with whatever the caller's `with`
// wrote in the same transaction; on any error nothing was recorded and the caller must not go on. What cannot be recorded is not done.
// The leaf is the RFC 8785 (JCS) form of the event and Parse accepts exactly the bytes Encode makes, so an event has one spelling and
// one leaf hash.
//
// Not promised: that an actor's name is true (the caller establishes it) and that two events of the same instant are told apart by
// anything but their index. The log beneath must therefore be opened without log.Config.Unique.
//
// Start at Event, then Log.Add and Log.List.
package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"redoubt.internal/log"
	"redoubt.internal/log/store"
)

// ErrInvalidEvent: an event breaks the limits of this package, or a leaf is not the encoding of any event.
var ErrInvalidEvent = errors.New("invalid audit event")

// Outcomes every room uses, so that a reader can search for them. Others are allowed.
const (
	Intent  = "intent"  // about to happen; an outcome event follows unless the process died between
	Success = "success" // happened
	Refused = "refused" // asked for and not allowed
	Failed  = "failed"  // allowed, tried, did not work
)

// MaxList is the most records one call of List returns.
const MaxList = 1000

// Log is the audit room over one Merkle log.
type Log struct {
	// Now gives an event without a time its time. New sets time.Now.
	Now func() time.Time

	log *log.Log
}

// New returns the audit log kept in l. The caller runs l.
func New(l *log.Log) *Log { return &Log{Now: time.Now, log: l} }

// Log returns the Merkle log beneath, for its head, proofs and tiles.
func (a *Log) Log() *log.Log { return a.log }

// Add records e and runs with (which may be nil) in the same transaction. It returns after the event is durable and in a signed head;
// any error means that neither the event nor the writes of with happened.
func (a *Log) Add(ctx context.Context, e Event, with func(store.Tx) error) (log.Receipt, error) {
	if e.Time.IsZero() {
		e.Time = a.Now()
	}
	leaf, err := Encode(e)
	if err != nil {
		return log.Receipt{}, err
	}
	r, err := a.log.Add(ctx, leaf, nil, with)
	if err != nil {
		return log.Receipt{}, fmt.Errorf("recording %s of %q: %w", e.Action, e.Object, err)
	}
	return r, nil
}

// Record is an event with its place in the log.
type Record struct {
	Index uint64 `json:"index"`
	Event
}

// List returns the events from up to, not including, to, in log order: at most MaxList of them, and none past the current head.
func (a *Log) List(ctx context.Context, from, to uint64) ([]Record, error) {
	if to > from && to-from > MaxList {
		to = from + MaxList
	}
	var records []Record
	err := a.Scan(ctx, from, to, func(r Record) bool {
		records = append(records, r)
		return true
	})
	return records, err
}

// Scan calls fn with the events of [from, to) in log order until fn returns false, the range ends or the current head is reached. A
// leaf that is not an event ends it with ErrInvalidEvent and the index: the log beneath was written by something else.
func (a *Log) Scan(ctx context.Context, from, to uint64, fn func(Record) bool) error {
	to = min(to, a.log.Head().Size)
	for i := from; i < to; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		entry, err := a.log.Entry(ctx, i)
		if err != nil {
			return fmt.Errorf("reading audit entry %d: %w", i, err)
		}
		e, err := Parse(entry.Leaf)
		if err != nil {
			return fmt.Errorf("audit entry %d: %w", i, err)
		}
		if !fn(Record{Index: i, Event: e}) {
			return nil
		}
	}
	return nil
}
