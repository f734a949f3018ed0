package mirror

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/freshness"
)

// What is missing: logs that an imported trusted root has clients believe and that are not mirrored, shards that ended, and an exporter that is
// not heard of. Parcels that are missing stand in Status.Missing.

// Absence says what is not here that one would expect. Its JSON form is stable.
type Absence struct {
	Unmirrored []UnmirroredLog `json:"unmirrored"`
	Ended      []EndedLog      `json:"ended"`
	Exporter   *Silence        `json:"exporter,omitempty"` // left out before the first parcel
}

// UnmirroredLog is a log that an imported trusted root names, valid now, of which nothing is held. Its JSON form is stable.
type UnmirroredLog struct {
	Kind       string    `json:"kind"` // rekor, or ct for certificate logs
	Origin     string    `json:"origin"`
	BaseURL    string    `json:"base_url"`
	Repository string    `json:"repository"`
	Start      time.Time `json:"start,omitzero"`
	End        time.Time `json:"end,omitzero"`
	Known      bool      `json:"known"` // it is configured or followed, only nothing of it was carried yet
}

// EndedLog is a mirrored log that takes no more entries. Its JSON form is stable.
type EndedLog struct {
	Origin string    `json:"origin"`
	Size   uint64    `json:"size"`
	Ended  time.Time `json:"ended,omitzero"` // as a trusted root says; left out where it is pinned as frozen
}

// Silence says how long nothing was heard of the exporter. Its JSON form is stable.
type Silence struct {
	Last    time.Time `json:"last"`              // when the last parcel was made, or one was seen that came too early
	Seconds int64     `json:"seconds"`           // since
	Cadence int64     `json:"cadence_seconds"`   // in which a parcel is expected; 0 where too few came to tell
	Derived bool      `json:"derived,omitempty"` // from the parcels that came: twice the median of their distances
	Silent  bool      `json:"silent"`            // it is longer than that
}

// Bounds of what is listed, and of what a cadence is derived from.
const (
	maxUnmirrored = 64
	cadenceOf     = 16 // distances of parcels
	cadenceLeast  = 3
)

// absence says what is missing beside parcels.
func (m *Mirror) absence(s *snapshot, incidents []Incident) (*Absence, error) {
	a := &Absence{Unmirrored: []UnmirroredLog{}, Ended: []EndedLog{}}
	now := m.c.Now()
	ended := make(map[string]EndedLog)
	for origin, h := range s.heads {
		if l := m.log(origin); l != nil && l.Frozen != nil {
			ended[origin] = EndedLog{Origin: origin, Size: h.Size}
		} else if l != nil && !l.NotAfter.IsZero() && l.NotAfter.Before(now) {
			ended[origin] = EndedLog{Origin: origin, Size: h.Size, Ended: l.NotAfter.UTC()}
		}
	}
	m.trusted.Range(func(repository, t any) bool {
		for _, l := range t.(trusted).logs {
			h, held := s.heads[l.Origin]
			past := !l.End.IsZero() && l.End.Before(now)
			switch {
			case past && held:
				ended[l.Origin] = EndedLog{Origin: l.Origin, Size: h.Size, Ended: l.End.UTC()}
			case !past && !l.Start.After(now) && !m.ignored(repository.(string), l.Origin) && !m.holds(s, l.Origin):
				a.Unmirrored = append(a.Unmirrored, UnmirroredLog{
					Kind: l.Kind, Origin: l.Origin, BaseURL: l.BaseURL, Repository: repository.(string), Start: l.Start, End: l.End, Known: m.expects(l.Origin),
				})
			}
		}
		return true
	})
	for _, origin := range slices.Sorted(maps.Keys(ended)) {
		a.Ended = append(a.Ended, ended[origin])
	}
	slices.SortFunc(a.Unmirrored, func(a, b UnmirroredLog) int {
		return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Origin, b.Origin), a.Start.Compare(b.Start))
	})
	a.Unmirrored = slices.CompactFunc(a.Unmirrored, func(a, b UnmirroredLog) bool { // a log with two keys
		return a.Repository == b.Repository && a.Kind == b.Kind && a.Origin == b.Origin
	})
	a.Unmirrored = a.Unmirrored[:min(len(a.Unmirrored), maxUnmirrored)]
	var err error
	a.Exporter, err = m.silence(s, incidents, now)
	return a, err
}

// holds tells whether a log that a trusted root names is mirrored: itself, or shards of a Rekor v1 host.
func (m *Mirror) holds(s *snapshot, origin string) bool {
	for held := range s.heads {
		if host, _ := shardHost(held); held == origin || host == origin {
			return true
		}
	}
	return false
}

// expects tells whether a log is configured, or followed, or shards of it are.
func (m *Mirror) expects(origin string) bool {
	for known := range m.logs {
		if host, _ := shardHost(known); host == origin {
			return true
		}
	}
	return m.log(origin) != nil
}

// ignored tells whether people decided against a log.
func (m *Mirror) ignored(repository, origin string) bool {
	return slices.Contains(m.c.Ignore, origin) || slices.ContainsFunc(m.c.Follow, func(f Follow) bool { return f.TUF == repository && slices.Contains(f.Except, origin) })
}

// silence says how long nothing was heard of the exporter, nil before the first parcel.
func (m *Mirror) silence(s *snapshot, incidents []Incident, now time.Time) (*Silence, error) {
	var made []time.Time // newest first
	err := m.c.DB.View(func(tx store.Tx) error {
		made = made[:0]
		for n := s.stream.Sequence; n > 0 && len(made) <= cadenceOf; n-- {
			var t Transfer
			ok, err := get(tx, transferKey(n), &t)
			if err != nil || !ok {
				return err
			}
			made = append(made, t.Created)
		}
		return nil
	})
	if err != nil || len(made) == 0 {
		return nil, err
	}
	out := &Silence{Last: made[0].UTC(), Cadence: int64(m.c.Cadence / time.Second)}
	for _, i := range incidents {
		if i.Kind == "gap" && i.Sequence > s.stream.Sequence && i.Seen.After(out.Last) {
			out.Last = i.Seen
		}
	}
	if m.c.Cadence == 0 && len(made) > cadenceLeast {
		var apart []time.Duration
		for i := range made[1:] {
			apart = append(apart, made[i].Sub(made[i+1]))
		}
		slices.Sort(apart)
		out.Cadence, out.Derived = 2*int64(apart[len(apart)/2]/time.Second), true
	}
	out.Seconds = max(0, int64(now.Sub(out.Last)/time.Second))
	out.Silent = out.Cadence > 0 && out.Seconds > out.Cadence
	return out, nil
}

// err is ErrStale where the exporter is not heard of for longer than people said it would be. What is derived is no finding.
func (a *Absence) err() error {
	if a == nil || a.Exporter == nil || !a.Exporter.Silent || a.Exporter.Derived {
		return nil
	}
	return fmt.Errorf("%w: nothing was heard of the exporter since %s, a parcel is expected every %v", freshness.ErrStale, a.Exporter.Last.Format(time.RFC3339), time.Duration(a.Exporter.Cadence)*time.Second)
}
