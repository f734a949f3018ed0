package backup

import (
	"context"
	"errors"
	"fmt"

	"redoubt.internal/log"
	"redoubt.internal/log/store"
)

var errUnchanged = errors.New("unchanged")

// database copies one database as one transaction sees it. The segments of its logs are read in transactions of their own, so that a
// slow medium does not hold up the writer: what they copy never changes.
func (r *run) database(ctx context.Context, d Database) error {
	was := r.have.database(d.Name)
	next := &database{Name: d.Name, Rest: []Part{}}
	extents := make([]log.Extent, len(d.Logs))
	var rest *records
	tails := make([]*records, len(d.Logs))
	err := d.DB.View(func(tx store.Tx) error {
		next.Stamp = d.Stamp(tx)
		for i, l := range d.Logs {
			e, err := log.ReadExtent(tx, l.Config)
			if err != nil {
				return fmt.Errorf("the %s log: %w", l.Name, err)
			}
			extents[i] = e
			r.heads = append(r.heads, LogHead{l.Name, l.Config.Origin, e.Head.Size, e.Head.Root[:], e.Entries, string(e.Head.Note)})
		}
		if was != nil && next.Stamp != 0 && next.Stamp == was.Stamp {
			return errUnchanged
		}
		var err error
		if rest, err = r.rest(ctx, tx, d); err != nil {
			return err
		}
		for i, l := range d.Logs {
			if tails[i], err = r.tail(tx, l, extents[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err != nil {
		return err
	}
	if next.Rest, err = rest.stored(); err != nil {
		return err
	}
	for i, l := range d.Logs {
		tail, err := tails[i].stored()
		if err != nil {
			return err
		}
		next.Logs = append(next.Logs, &logPart{Name: l.Name, Prefix: l.Config.Prefix, Origin: l.Config.Origin, Size: extents[i].Head.Size, Tail: tail})
	}
	for i, l := range d.Logs {
		part, from, begun := next.Logs[i], uint64(0), false
		if was != nil {
			if old := was.log(l.Name); old != nil {
				from, begun = old.Size, true
			}
		}
		if part.Segments, err = r.segments(ctx, d.DB, l, from, part.Size, begun); err != nil {
			return fmt.Errorf("the %s log: %w", l.Name, err)
		}
	}
	r.diff.Databases = append(r.diff.Databases, next)
	return nil
}

// rest copies everything that does not follow from the logs.
func (r *run) rest(ctx context.Context, tx store.Tx, d Database) (*records, error) {
	s := r.records()
	s.hold = true
	var err error
	// Chunks and heads are jumped over, not read.
	for from := []byte(nil); ; {
		var jump []byte
		serr := tx.Scan(from, nil, func(k, v []byte) bool {
			for _, l := range d.Logs {
				if log.Follows(l.Config.Prefix, k) {
					jump = log.Beyond(l.Config.Prefix, k)
					return false
				}
			}
			if err = s.put(k, v); err == nil && boundary(s.n, k) {
				if err = s.cut(); err == nil {
					err = ctx.Err()
				}
			}
			return err == nil
		})
		if serr != nil || err != nil {
			return nil, errors.Join(serr, err)
		}
		if jump == nil {
			break
		}
		from = jump
	}
	return s, s.cut()
}

// tail copies the chunks that no head covers yet.
func (r *run) tail(tx store.Tx, l Log, e log.Extent) (*records, error) {
	s := r.records()
	s.hold = true
	err := log.CopyChunks(tx, l.Config.Prefix, e.Head.Size, e.Entries, func(_ uint64, k, v []byte) (bool, error) {
		err := s.put(k, v)
		if err == nil && s.n >= objectBytes {
			err = s.cut()
		}
		return false, err
	})
	if err == nil {
		err = s.cut()
	}
	return s, err
}

// segments copies the chunks of entries from to to-1 and the heads of the sizes they reach. Unless the log was begun by an earlier run
// the head of size 0 is among them.
func (r *run) segments(ctx context.Context, db store.DB, l Log, from, to uint64, begun bool) ([]Part, error) {
	parts := []Part{}
	if from > to {
		return nil, fmt.Errorf("%w: it has %d entries under a head and had %d at the run before", log.ErrCorrupt, to, from)
	}
	for first := !begun; first || from < to; first = false {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s, end := r.records(), from
		err := db.View(func(tx store.Tx) error {
			s, end = r.records(), from
			err := log.CopyChunks(tx, l.Config.Prefix, from, to, func(reached uint64, k, v []byte) (bool, error) {
				end = reached
				return s.n >= objectBytes, s.put(k, v)
			})
			if err != nil {
				return err
			}
			least := from + 1
			if first {
				least = 0
			}
			return log.CopyHeads(tx, l.Config.Prefix, least, end, s.put)
		})
		if err == nil {
			err = s.cut()
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, s.parts...)
		from = end
	}
	return parts, nil
}
