package mirror

import (
	"fmt"
	"sync"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// The time of a parcel is its exporter's word, and TUF metadata is judged as of it. What the parcel carries of logs says more: a quorum of
// witnesses, a Rekor v1 log beside each entry and a certificate log in each tree head sign a time of their own. A parcel cannot be older than what
// it carries, nor than what its stream carried before.

// signedAt is the latest of the times that logs and witnesses signed. Its JSON form is stable.
type signedAt struct {
	Time time.Time `json:"time"`
	By   string    `json:"by"`
}

func (s signedAt) later(o signedAt) signedAt {
	if o.Time.After(s.Time) {
		return o
	}
	return s
}

// signedTimes gathers them while a parcel is proven, from several goroutines. Nil gathers nothing.
type signedTimes struct {
	mu     sync.Mutex
	latest signedAt
}

func (s *signedTimes) saw(at time.Time, by string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = s.latest.later(signedAt{at.UTC(), by})
}

func (s *signedTimes) get() signedAt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest
}

// watched is the log, telling to what signs the times of what is proven of it.
func (l *knownLog) watched(to *signedTimes) *knownLog {
	c := *l
	c.signed = to
	return &c
}

// heldSigned is the latest signed time of all that was imported, the exporter's own of the last parcel among them.
func (m *Mirror) heldSigned(s *snapshot) (signedAt, error) {
	out := s.stream.Signed
	if last := s.stream.Sequence; last > 0 {
		var t Transfer
		if err := m.c.DB.View(func(tx store.Tx) error { _, err := get(tx, transferKey(last), &t); return err }); err != nil {
			return out, err
		}
		out = out.later(signedAt{t.Created, fmt.Sprintf("parcel %d, the one before it,", last)})
	}
	for _, h := range s.heads {
		out = out.later(signedAt{h.Proven.UTC(), fmt.Sprintf("what a quorum of witnesses saw of log %q", h.Origin)})
	}
	return out, nil
}

// judgeSigned judges by what was proven of the parcel: the local clock is not behind what is signed, and the parcel is not older.
func (in *importing) judgeSigned(n *parcel.Manifest) error {
	signed := in.pending.Signed.later(in.signed.get())
	in.pending.Signed = signed
	if now := in.m.c.Now(); signed.Time.After(now.Add(clockAhead)) {
		return fmt.Errorf("%w: it is %s, but %s is signed at %s", ErrClock, now.UTC().Format(time.RFC3339), signed.By, signed.Time.Format(time.RFC3339))
	}
	return judgeMade(n, signed)
}

// judgeMade refuses a parcel with TUF metadata that says it was made before something it or its stream carries was signed: going back in time is
// how expired metadata would become valid.
func judgeMade(n *parcel.Manifest, signed signedAt) error {
	if len(n.TUF) == 0 || !n.Created.Before(signed.Time.Add(-clockSlack)) {
		return nil
	}
	return fmt.Errorf("TUF repository %q: %w: the parcel says it was made at %s, but %s is signed at %s; set the exporter's clock and export anew",
		n.TUF[0].Name, ErrClock, n.Created.UTC().Format(time.RFC3339), signed.By, signed.Time.UTC().Format(time.RFC3339))
}
