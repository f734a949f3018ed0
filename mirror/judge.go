package mirror

import (
	"fmt"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// judge decides by the manifest alone. It returns a Transfer when there is nothing to do.
func (m *Mirror) judge(p *parcel.Parcel, s *snapshot, newerFollows bool) (*Transfer, error) {
	n, last := p.Manifest, s.stream
	if n.Stream != m.c.Stream {
		return nil, fmt.Errorf("%w: %q instead of %q", ErrWrongStream, n.Stream, m.c.Stream)
	}
	switch {
	case n.Sequence <= last.Sequence:
		var t Transfer
		if err := m.c.DB.View(func(tx store.Tx) error { _, err := get(tx, transferKey(n.Sequence), &t); return err }); err != nil {
			return nil, err
		}
		if !t.Digest.Equal(p.Digest) {
			return nil, fmt.Errorf("%w: parcel %d has digest %s, the one imported %s", ErrForkedStream, n.Sequence, p.Digest, t.Digest)
		}
		if n.Sequence < last.Sequence && !newerFollows {
			return nil, fmt.Errorf("%w: parcel %d, the last is %d", ErrReplay, n.Sequence, last.Sequence)
		}
		t.Outcome = "already imported"
		return &t, nil
	case n.Sequence > last.Sequence+1:
		return nil, &GapError{Stream: n.Stream, First: last.Sequence + 1, Last: n.Sequence - 1, Offered: n.Sequence}
	case !n.Previous.Equal(last.Digest):
		return nil, fmt.Errorf("%w: parcel %d follows %s, the last one imported is %s", ErrForkedStream, n.Sequence, n.Previous, last.Digest)
	}
	if err := m.mayExport(p); err != nil {
		return nil, err
	}
	if err := judgeClock(m.c.Now(), last.Floor, n.Created.Time); err != nil {
		return nil, err
	}
	if err := m.judgeTUF(n); err != nil {
		return nil, err
	}
	signed, err := m.heldSigned(s)
	if err != nil {
		return nil, err
	}
	if err := judgeMade(n, signed); err != nil {
		return nil, err
	}
	for _, l := range n.Logs {
		if err := m.judgeLog(s, l); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// judgeLog decides by the manifest alone whether a log's step can be taken. Logs that stand still or are not known are not judged:
// nothing of them is taken.
func (m *Mirror) judgeLog(s *snapshot, l parcel.Log) error {
	if err := checkStep(l.Scope, l.From.Size, l.To.Size); err != nil {
		return fmt.Errorf("log %q: %w", l.Origin, err)
	}
	known, own := m.log(l.Origin), s.head(l.Origin)
	if _, frozen := s.frozen[l.Origin]; frozen || known == nil || s.quarantined[l.Origin] {
		return nil
	}
	if err := floors(m.c.Floors).admit(l.Origin, own, l.To.Size); err != nil {
		return err
	}
	switch {
	case l.Scope != known.Scope:
		return fmt.Errorf("log %q: %w: scope %q is carried, %q is required", l.Origin, ErrProof, l.Scope, known.Scope)
	case l.Extras != known.extras():
		return fmt.Errorf("log %q: %w: what stands beside entries is carried: %t, required: %t", l.Origin, ErrProof, l.Extras, known.extras())
	case l.From.Size > own.Size:
		return fmt.Errorf("log %q: %w: the parcel starts at %d leaves, %d are held", l.Origin, ErrProof, l.From.Size, own.Size)
	case l.From.Size < own.Size:
		return fmt.Errorf("log %q: %w: the parcel starts at %d leaves, %d are held", l.Origin, ErrReplay, l.From.Size, own.Size)
	}
	return nil
}
