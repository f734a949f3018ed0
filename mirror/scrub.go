package mirror

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// What is stored of a log is checked in units: an accepted checkpoint, a tile with its entries, a record. A reconcile checks those that are
// new since the last one, those found damaged before, and a window of the rest that moves on with time, so that everything is checked once
// in a period and each run is short. Where the window stands is durable: a run that was cut short goes on where its last mark is, and
// what was found damaged is looked at in every run until it is whole.
//
// The window of a run is total * e / (period - e) units, where e is the time since the run before: with runs e apart a unit that was checked
// is checked again before a period is over. It is larger where a log grew so fast that the pass would not end in a period after it began.

// unit is one thing to check. At is the size of a checkpoint, the index of a tile or the number of a record.
type unit struct {
	Stage int    `json:"stage"` // 0 are checkpoints; then records, or tiles from the lowest level up
	At    uint64 `json:"at"`
}

// scrubState is how far the checks of a log are, under mirror/scrub/<origin>.
type scrubState struct {
	Scope    string     `json:"scope"`
	Size     uint64     `json:"size"` // of the head up to which every unit was checked once, or is by the pass under way
	Root     tiles.Hash `json:"root"`
	Sequence uint64     `json:"sequence"`      // scope sparse: records of parcels up to this one were
	Last     time.Time  `json:"last"`          // of the last run
	Begun    time.Time  `json:"begun"`         // of the pass under way
	Seen     time.Time  `json:"seen"`          // everything was checked at this time or later; zero before the first whole pass
	Next     unit       `json:"next"`          // where the window goes on
	Whole    bool       `json:"whole"`         // the pass under way ends in one run
	New      *newState  `json:"new,omitempty"` // a check of what is new that was cut short
	Bad      []unit     `json:"bad,omitempty"`
	Again    bool       `json:"again,omitempty"` // more was found damaged than Bad has room for
}

// newState is how far the check is of what a head brought.
type newState struct {
	Size     uint64 `json:"size"`     // of the head
	Sequence uint64 `json:"sequence"` // of the parcel that brought it
	Next     unit   `json:"next"`
}

const (
	keyScrub   = "mirror/scrub/"
	scrubEvery = 1024 // units after which progress is made durable
	maxBad     = 256
)

// ScrubReport says what part of a log a reconcile checked. Its JSON form is stable.
type ScrubReport struct {
	Units  uint64    `json:"units"`             // accepted checkpoints, and tiles or records, that there are
	New    uint64    `json:"new"`               // of them, those that came since the last run
	Again  uint64    `json:"again"`             // those that were found damaged before
	Window uint64    `json:"window"`            // those of the rest that it was the turn of
	Whole  bool      `json:"whole"`             // everything was checked
	Done   uint64    `json:"done"`              // units that the pass under way has behind it
	Begun  time.Time `json:"begun"`             // of that pass
	Seen   time.Time `json:"seen,omitzero"`     // everything was checked at this time or later
	Due    time.Time `json:"due,omitzero"`      // when everything has to have been checked again; left out where every run checks everything
	Late   bool      `json:"overdue,omitempty"` // that time is past
}

// checking is one pass over units of a log.
type checking struct {
	log     *knownLog
	h       Head
	sh      *shelf
	seen    []seenHead    // ascending by size
	records []recordState // ascending by index; scope sparse
	tree    *tiles.Tree   // nil at scope sparse
	sparse  *tiles.Sparse
	lowest  int // level of tiles
	out     *LogReport
	buf     []byte // room for a bundle
	hashes  []byte // and for a tile
}

func (m *Mirror) checking(log *knownLog, h Head, out *LogReport) (*checking, error) {
	c := &checking{log: log, h: h, out: out, hashes: make([]byte, 0, tiles.Width*tiles.HashSize)}
	var err error
	if c.sh, err = m.shelf(log.Origin); err != nil {
		return nil, err
	}
	if carriesRecords(h.Scope) {
		c.sparse = sparseTree(m.c.DB, keyNode, log.Origin, h.Size)
	} else {
		c.tree = m.tree(h, c.sh)
	}
	if h.Scope == parcel.ScopeSpine {
		c.lowest = 1
	}
	return c, m.c.DB.View(func(tx store.Tx) error {
		c.seen, c.records = c.seen[:0], c.records[:0]
		if err := scan(tx, keySeen+log.Origin+"\x00", func(_ string, s seenHead) error { c.seen = append(c.seen, s); return nil }); err != nil || c.sparse == nil {
			return err
		}
		return scan(tx, keyRecord+log.Origin+"\x00", func(_ string, r recordState) error { c.records = append(c.records, r); return nil })
	})
}

// count is the number of units of a stage; 0 from the first that there is not.
func (c *checking) count(stage int) uint64 {
	switch {
	case stage == 0:
		return uint64(len(c.seen))
	case c.sparse != nil && stage == 1:
		return uint64(len(c.records))
	case c.sparse != nil:
		return 0
	}
	return (tiles.Count(c.lowest+stage-1, c.h.Size) + tiles.Width - 1) / tiles.Width
}

func (c *checking) total() (n uint64) {
	for stage := 0; stage == 0 || c.count(stage) > 0; stage++ {
		n += c.count(stage)
	}
	return n
}

// at is the i-th unit of a stage.
func (c *checking) at(stage int, i uint64) unit {
	switch {
	case stage == 0:
		return unit{stage, c.seen[i].Size}
	case c.sparse != nil:
		return unit{stage, c.records[i].Index}
	}
	return unit{stage, i}
}

// place is the place in its stage of a unit, or of the first after it.
func (c *checking) place(u unit) uint64 {
	var i int
	switch {
	case u.Stage == 0:
		i, _ = slices.BinarySearchFunc(c.seen, u.At, func(s seenHead, at uint64) int { return cmp.Compare(s.Size, at) })
	case c.sparse != nil:
		i, _ = slices.BinarySearchFunc(c.records, u.At, func(r recordState, at uint64) int { return cmp.Compare(r.Index, at) })
	default:
		return u.At
	}
	return uint64(i)
}

// check checks the i-th unit of a stage. A finding is an error that names it; one of the context or the database as it is.
func (c *checking) check(ctx context.Context, stage int, i uint64) error {
	if stage == 0 {
		s := c.seen[i]
		if err := reproduce(ctx, c.log, c.rootAt, s); err != nil {
			return fmt.Errorf("checkpoint %d of %d, size %d: %w", i+1, len(c.seen), s.Size, err)
		}
		c.out.Heads++
		return nil
	}
	if c.sparse != nil {
		if err := recheckRecord(ctx, c.log, c.sparse, c.h, c.sh, c.records[i].Index); err != nil {
			return fmt.Errorf("record %d: %w", c.records[i].Index, err)
		}
		c.out.Leaves++
		return nil
	}
	return rehashTile(ctx, c.log, c.tree, c.sh, c.lowest+stage-1, i, &c.buf, c.hashes, c.out)
}

func (c *checking) rootAt(ctx context.Context, size uint64) (tiles.Hash, error) {
	if c.sparse != nil {
		return c.sparse.RootAt(ctx, size)
	}
	return c.tree.RootAt(ctx, size)
}

// leave drops the tiles in memory that the unit after the i-th of a stage does not need.
func (c *checking) leave(stage int, i uint64) {
	switch {
	case c.tree == nil:
	case stage > 0:
		level := c.lowest + stage - 1
		leavePath(c.tree, i<<(8*(level+1)), (i+1)<<(8*(level+1)))
	case i+1 < uint64(len(c.seen)):
		leavePath(c.tree, c.seen[i].Size, c.seen[i+1].Size)
	default:
		leavePath(c.tree, c.seen[i].Size, tiles.MaxSize)
	}
}

// run checks the units of a stage from one place on, before another, and hands findings to found. It ends early when found says so.
func (c *checking) run(ctx context.Context, stage int, from, to uint64, found func(unit, error) error) error {
	for i := from; i < min(to, c.count(stage)); i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := c.check(ctx, stage, i)
		if ended := ctx.Err(); ended != nil {
			return ended
		}
		if err := found(c.at(stage, i), err); err != nil {
			return err
		}
		c.leave(stage, i)
	}
	return nil
}

// everything checks every unit.
func (c *checking) everything(ctx context.Context, found func(unit, error) error) error {
	for stage := 0; stage == 0 || c.count(stage) > 0; stage++ {
		if err := c.run(ctx, stage, 0, tiles.MaxSize, found); err != nil {
			return err
		}
	}
	return nil
}

// problem adds a finding to a report.
func (r *LogReport) problem(err error) {
	if len(r.Problems) < maxProblems {
		text := oneLine(err)
		r.Problems = append(r.Problems, strings.ToValidUTF8(text[:min(len(text), 300)], "?"))
	}
}
