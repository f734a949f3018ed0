package mirror

import (
	"context"
	"errors"
	"fmt"

	"redoubt.internal/mirror/parcel"
)

// Rehearse proves the next parcel as Import would, steps 1 to 7, and takes nothing in: no head, no record, no file is left. Of several
// parcels it proves the first that is new, because the others start where that one ends.
func (m *Mirror) Rehearse(ctx context.Context, paths []string) (Report, error) {
	report := Report{Stream: m.c.Stream, Transfers: []Transfer{}}
	unlock, err := lockDir(m.root)
	if err != nil {
		return report, err
	}
	defer unlock()
	s, err := m.snapshot()
	if err != nil {
		return report, err
	}
	if s.pending != nil {
		return report, fmt.Errorf("%w: an import of parcel %d is not finished; run redoubt mirror import --resume first", ErrBusy, s.pending.Sequence)
	}
	parcels, err := m.scan(paths)
	if err != nil {
		return report, err
	}
	defer func() {
		for _, p := range parcels {
			p.Close()
		}
	}()
	for i, p := range parcels {
		t, err := m.rehearse(ctx, p, s, i < len(parcels)-1)
		if t != nil {
			report.Transfers = append(report.Transfers, *t)
		}
		if err != nil || t != nil && t.Outcome != "already imported" {
			return report, full(err)
		}
	}
	return report, fmt.Errorf("%w: no new parcel there", ErrNothing)
}

func (m *Mirror) rehearse(ctx context.Context, p *parcel.Parcel, s *snapshot, newerFollows bool) (*Transfer, error) {
	in, done, err := m.admit(ctx, p, s, newerFollows)
	if err != nil || done != nil {
		return done, err
	}
	defer in.close()
	in.rehearsal = true
	err = in.begin(&pendingState{Digest: in.digest, Sequence: in.sequence, Done: make([]uint64, len(p.Manifest.Logs))})
	if err == nil {
		err = in.readAll(ctx, p.Manifest)
	}
	if err = errors.Join(in.unlearn(err), m.root.RemoveAll("staging")); err != nil {
		return nil, err
	}
	t := in.transfer()
	t.Outcome = "proven, not imported"
	return t, errors.Join(in.blocked...)
}

// Resume goes on with an import that was cut short, from the volumes it was called with. ErrNothing when none was.
func (m *Mirror) Resume(ctx context.Context) (Report, error) {
	s, err := m.snapshot()
	if err != nil {
		return Report{}, err
	}
	switch p := s.pending; {
	case p == nil:
		return Report{Stream: m.c.Stream, Transfers: []Transfer{}}, fmt.Errorf("%w: no import was cut short", ErrNothing)
	case p.Publish, len(p.Paths) == 0: // all is proven, or we do not know where its volumes are: finish what needs no volume
		if err := m.finish(ctx); err != nil {
			return Report{}, err
		}
		if p.Publish && p.Transfer != nil {
			return Report{Stream: m.c.Stream, Transfers: []Transfer{*p.Transfer}}, nil
		}
		return Report{}, fmt.Errorf("%w: it is not known which volumes the import of parcel %d was called with; name them", ErrNothing, p.Sequence)
	default:
		return m.Import(ctx, p.Paths)
	}
}

// finish is what every import begins with.
func (m *Mirror) finish(ctx context.Context) error {
	unlock, err := lockDir(m.root)
	if err != nil {
		return err
	}
	defer unlock()
	return full(m.finishPublish(ctx))
}
