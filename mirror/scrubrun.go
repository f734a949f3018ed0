package mirror

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/tiles"
)

// scrubbing is the part of a reconcile that is about one log.
type scrubbing struct {
	*checking
	m       *Mirror
	now     time.Time
	state   scrubState
	report  ScrubReport
	pending int // units checked since progress was made durable
}

// scrub checks what a reconcile checks of a log: everything, or what is new and the window it is the turn of. Findings go into out; an
// error is returned only when the context ends or the database fails.
func (m *Mirror) scrub(ctx context.Context, log *knownLog, h Head, everything bool, out *LogReport) error {
	c, err := m.checking(log, h, out)
	if err != nil {
		return err
	}
	if held, err := log.openHeld(h.Note, h.VKey); err != nil || held.Size != h.Size || held.Root != h.Root {
		out.problem(fmt.Errorf("the stored head is not the checkpoint it was taken from: %v", err))
		everything = true // nothing of what was checked before is known to belong to it
	}
	s := &scrubbing{checking: c, m: m, now: m.c.Now().UTC()}
	known := false
	if err := m.c.DB.View(func(tx store.Tx) (err error) {
		s.state = scrubState{}
		known, err = get(tx, keyScrub+log.Origin, &s.state)
		return err
	}); err != nil {
		return err
	}
	s.report = ScrubReport{Units: c.total()}
	if everything || !known || s.anew() {
		err = s.whole(ctx)
	} else {
		err = s.part(ctx)
	}
	if err != nil {
		return errors.Join(err, s.keep()) // the next run goes on from here
	}
	s.state.Last = s.now
	if err := s.keep(); err != nil {
		return err
	}
	s.report.Begun, s.report.Seen = s.state.Begun, s.state.Seen
	s.report.Done = s.behind()
	if period := m.c.Scrub; period > 0 && !s.state.Seen.IsZero() {
		s.report.Due = s.state.Seen.Add(2 * period) // a pass that began then ends a period later, and the next one another
		s.report.Late = s.now.After(s.report.Due)
	}
	out.Scrub, out.Scrubbed = &s.report, s.state.Seen
	return nil
}

// anew tells whether what was checked before says nothing of what is held now, so that everything has to be checked.
func (s *scrubbing) anew() bool {
	st := s.state
	period := s.m.c.Scrub
	return period <= 0 || st.Again || !st.Whole && s.now.Sub(st.Last) >= period/2 || st.Scope != s.h.Scope || st.Size > s.h.Size || st.Size == s.h.Size && st.Root != s.h.Root || st.Last.After(s.now) || st.Seen.After(s.now)
}

// whole begins a pass that ends in this run.
func (s *scrubbing) whole(ctx context.Context) error {
	s.state = scrubState{Scope: s.h.Scope, Size: s.h.Size, Root: s.h.Root, Sequence: s.h.Sequence, Last: s.now, Begun: s.now, Seen: s.state.Seen, Whole: true}
	s.report.Whole = true
	return s.window(ctx, math.MaxUint64)
}

// part checks what was damaged, what is new, and then the window: to its end where a whole pass was cut short.
func (s *scrubbing) part(ctx context.Context) error {
	if err := s.again(ctx); err != nil {
		return err
	}
	if err := s.fresh(ctx); err != nil {
		return err
	}
	s.state.Size, s.state.Root, s.state.Sequence, s.state.New = s.h.Size, s.h.Root, s.h.Sequence, nil
	budget := uint64(math.MaxUint64)
	if !s.state.Whole {
		since, period := s.now.Sub(s.state.Last), s.m.c.Scrub
		budget = max(windowOf(s.report.Units, since, period-since), windowOf(s.report.Units-min(s.report.Units, s.behind()), since, s.state.Begun.Add(period).Sub(s.now)))
	}
	return s.window(ctx, budget)
}

// windowOf is the number of units to check of a total that is to be checked within some time, in runs so far apart.
func windowOf(total uint64, since, within time.Duration) uint64 {
	if since <= 0 {
		return min(total, 1)
	}
	if since >= within {
		return total
	}
	hi, lo := bits.Mul64(total, uint64(since))
	n, rest := bits.Div64(hi, lo, uint64(within)) // hi < since < within
	if rest > 0 {
		n++
	}
	return n
}

// again looks at what was found damaged before.
func (s *scrubbing) again(ctx context.Context) error {
	bad := s.state.Bad
	s.state.Bad = nil
	for _, u := range bad {
		i := s.place(u)
		if i >= s.count(u.Stage) || s.at(u.Stage, i) != u {
			continue // such as a tile of a width that there is not any more
		}
		s.report.Again++
		if err := s.checking.run(ctx, u.Stage, i, i+1, s.found); err != nil {
			s.state.Bad = bad
			return err
		}
	}
	return nil
}

// fresh checks what came since the last run.
func (s *scrubbing) fresh(ctx context.Context) error {
	if s.state.Size == s.h.Size && s.state.Sequence == s.h.Sequence { // records may come without a larger head
		return nil
	}
	if s.state.New == nil || s.state.New.Size != s.h.Size || s.state.New.Sequence != s.h.Sequence {
		s.state.New = &newState{Size: s.h.Size, Sequence: s.h.Sequence}
	}
	next := s.state.New.Next
	count := func(u unit, err error) error {
		s.report.New++
		s.state.New.Next = unit{u.Stage, u.At + 1}
		return s.found(u, err)
	}
	first := func(u unit) uint64 { // the place of a unit, or of the first that a run which was cut short left
		if u.Stage == next.Stage {
			u.At = max(u.At, next.At)
		}
		return s.place(u)
	}
	if next.Stage == 0 {
		if err := s.checking.run(ctx, 0, first(unit{0, s.state.Size + 1}), tiles.MaxSize, count); err != nil {
			return err
		}
	}
	if s.sparse != nil {
		for i, r := range s.records {
			if r.Sequence <= s.state.Sequence || uint64(i) < first(unit{Stage: 1}) {
				continue
			}
			if err := s.checking.run(ctx, 1, uint64(i), uint64(i)+1, count); err != nil {
				return err
			}
		}
		return nil
	}
	for stage := max(1, next.Stage); s.count(stage) > 0; stage++ {
		from := tiles.Count(s.lowest+stage-1, s.state.Size) / tiles.Width // the tile that was not full, if there was one
		if err := s.checking.run(ctx, stage, first(unit{stage, from}), tiles.MaxSize, count); err != nil {
			return err
		}
	}
	return nil
}

// window checks so many units from where the last run ended, and begins the next pass where one ends; none twice.
func (s *scrubbing) window(ctx context.Context, budget uint64) error {
	whole := s.state.Whole
	for left := min(budget, s.report.Units); left > 0; {
		stage := s.state.Next.Stage
		i, n := s.place(s.state.Next), s.count(stage)
		if i >= n {
			if s.state.Next = (unit{stage + 1, 0}); s.count(stage+1) == 0 && stage > 0 {
				s.passed()
				if whole {
					return nil
				}
			}
			continue
		}
		to := min(n, i+left)
		if err := s.checking.run(ctx, stage, i, to, func(u unit, err error) error {
			s.report.Window++
			s.state.Next = unit{stage, u.At + 1}
			return s.found(u, err)
		}); err != nil {
			return err
		}
		left -= to - i
	}
	for stage := s.state.Next.Stage; s.place(unit{stage, s.state.Next.At}) >= s.count(stage); stage = s.state.Next.Stage { // what is left may be nothing
		if s.state.Next = (unit{stage + 1, 0}); s.count(stage+1) == 0 && stage > 0 {
			s.passed()
			break
		}
	}
	return nil
}

// passed ends a pass: everything was checked since it began.
func (s *scrubbing) passed() {
	s.state.Seen, s.state.Begun, s.state.Next, s.state.Whole = s.state.Begun, s.now, unit{}, false
}

// found takes in the outcome of one check, and makes progress durable now and then.
func (s *scrubbing) found(u unit, err error) error {
	if err != nil {
		s.out.problem(err)
		switch {
		case slices.Contains(s.state.Bad, u):
		case len(s.state.Bad) < maxBad:
			s.state.Bad = append(s.state.Bad, u)
		default:
			s.state.Again = true
		}
	}
	if s.pending++; s.pending < scrubEvery {
		return nil
	}
	return s.keep()
}

// keep makes progress durable.
func (s *scrubbing) keep() error {
	s.pending = 0
	return full(s.m.c.DB.Update(func(tx store.Tx) error { return put(tx, keyScrub+s.h.Origin, s.state) }))
}

// behind is the number of units that the pass under way has behind it.
func (s *scrubbing) behind() (n uint64) {
	for stage := range s.state.Next.Stage {
		n += s.count(stage)
	}
	return n + s.place(s.state.Next)
}
