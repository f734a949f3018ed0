package mirror

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"redoubt.internal/mirror/parcel"
)

// backdated has an exporter whose clock was put back to a day on which expired metadata was valid make a parcel.
func (l *lab) backdated(t testing.TB, to time.Time) []string {
	t.Helper()
	now := l.now
	defer func() { l.now = now }()
	l.now = to
	realTUF(t, l.sub("upstream"), 6, 78)
	if r, err := l.out.Pull(context.Background()); err != nil && len(r.TUF) == 0 {
		t.Fatal(err)
	}
	return l.export(0)
}

func (l *lab) carryPublicGood(t testing.TB) {
	c := TUFConfig{Name: "public-good", Root: realRoot(t, "tuf-public-good", 5), Floors: oldFloors, Source: l.sub("upstream")}
	l.ec.TUF, l.mc.TUF = []TUFConfig{c}, []TUFConfig{c}
	l.reopen()
}

// TestFirstParcelFromThePast: the first parcel with a TUF repository that expired years ago says it was made when it was valid, and carries what
// contradicts that: an entry's timestamp by a Rekor v1 log, at either scope; a certificate log's tree head; what a quorum of witnesses saw.
// Nothing is taken. A parcel that carries none of it is taken, as old as it says it is: floors bound that.
func TestFirstParcelFromThePast(t *testing.T) {
	refused := func(t *testing.T, l *lab, by string) {
		t.Helper()
		l.carryPublicGood(t)
		err := l.refused(51, l.backdated(t, state2At)...)
		t.Log(err)
		if !errors.Is(err, ErrClock) || !strings.Contains(err.Error(), "made at 2023-04-10") || !strings.Contains(err.Error(), by) {
			t.Fatal(err)
		}
		if _, err := l.in.TUF("public-good"); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	}
	for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSparse} {
		t.Run("Rekor v1 "+scope, func(t *testing.T) {
			s := newShard(t, 7)
			s.add(3)
			url, _ := v1Server(t, s, nil)
			c := s.config(url, scope)
			if scope == parcel.ScopeSparse {
				c.Records = []uint64{1}
			}
			refused(t, newLab(t, c), `an entry of log "rekor.example - 7" is signed at 2026-11-20T11:00:00Z`)
		})
	}
	t.Run("certificate log", func(t *testing.T) {
		c := newCTLog(t)
		c.add(3, plain)
		refused(t, newLab(t, LogConfig{Origin: ctOrigin, VKey: c.vkey(), Source: c.dir, Layout: layoutStaticCT}), "the tree head of log")
	})
	t.Run("witnesses", func(t *testing.T) {
		log := tinyLog(t, 300)
		plain, err := os.ReadFile(log.Source + "/checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		if err := os.WriteFile(log.Source+"/checkpoint", cosignBy(t, cosignBy(t, bytes.Clone(plain), "w1.example", 21, at), "w2.example", 22, at), 0o644); err != nil {
			t.Fatal(err)
		}
		outside := log // an exporter that looks at no witness lies about their times
		log.Witnesses = threePolicy(t)
		l := newLab(t, outside)
		l.mc.Logs = []LogConfig{log}
		refused(t, l, "what a quorum of witnesses saw of log")
	})
	t.Run("nothing", func(t *testing.T) {
		l := newLab(t, tinyLog(t, 300))
		l.carryPublicGood(t)
		r := l.load(l.backdated(t, state2At))
		s := r.Transfers[0].TUF[0]
		if s.StaleBy == "" || !s.Observed.Equal(state2At) {
			t.Fatalf("%+v", s)
		}
		t.Logf("observed %s, stale by %s", s.Observed, s.StaleBy)
	})
}

// TestStreamFromThePast: of a stream that ran already, the first parcel with a TUF repository is no older than what the parcels before it carried,
// and than the one before it.
func TestStreamFromThePast(t *testing.T) {
	s := newShard(t, 7)
	s.add(3)
	url, _ := v1Server(t, s, nil)
	l := newLab(t, s.config(url, parcel.ScopeFull), tinyLog(t, 5))
	l.pull()
	l.load(l.export(0))
	if at := l.in.signedSoFar(t); !at.Time.Equal(s.now) {
		t.Fatal(at)
	}
	l.carryPublicGood(t)
	err := l.refused(51, l.backdated(t, state2At)...)
	if !strings.Contains(err.Error(), "parcel 1, the one before it, is signed at 2026-11-20T12:00:00Z") {
		t.Fatal(err)
	}
	t.Log(err)
}

func (m *Mirror) signedSoFar(t testing.TB) signedAt {
	t.Helper()
	s, err := m.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s.stream.Signed
}

// TestEntriesFromTheFuture: an entry that a log signed next year says that the clock here is behind.
func TestEntriesFromTheFuture(t *testing.T) {
	s := newShard(t, 7)
	s.now = s.now.AddDate(1, 0, 0)
	s.add(3)
	url, _ := v1Server(t, s, nil)
	l := newLab(t, s.config(url, parcel.ScopeFull))
	l.pull()
	err := l.refused(51, l.export(0)...)
	if !strings.Contains(err.Error(), "it is 2026-11-20T12:00:00Z, but an entry of log") {
		t.Fatal(err)
	}
	l.now = l.now.AddDate(1, 0, 0)
	if r, err := l.in.Resume(context.Background()); err != nil || len(r.Transfers) != 1 {
		t.Fatal(r, err)
	}
}
