package mirror

import (
	"context"
	"errors"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// How far a mirror is behind is known only by what somebody showed: a checkpoint that the log signed, in a bundle that was verified here or
// in what another enclave holds, or the heads that a parcel names which cannot be taken yet. A lag of 0 says that nobody showed more, not
// that there is no more; the age of the head says how long nobody could have.

// Who says how large a log is.
const (
	ByCheckpoint = "checkpoint" // the log: it signed the checkpoint
	ByExporter   = "exporter"   // the exporter: its parcel waits for those before it
)

// Upstream is the largest state of a log that was shown here. Its JSON form is stable.
type Upstream struct {
	Size   uint64    `json:"size"`
	By     string    `json:"by"`     // checkpoint: the log signed it; exporter: a parcel names it that waits for those before it
	Source string    `json:"source"` // what showed it
	Seen   time.Time `json:"seen"`   // local time
}

// Reconciled is how the last reconcile ended. Its JSON form is stable.
type Reconciled struct {
	Time      time.Time `json:"time,omitzero"`      // of the last report; zero before the first
	Outcome   string    `json:"outcome"`            // clean, findings, or failed when the last report could not be made
	Code      int       `json:"code"`               // exit code of the gravest finding, 0 without one
	Finding   string    `json:"finding,omitempty"`  // the findings
	Problems  int       `json:"problems"`           // of stored bytes
	Conflicts int       `json:"conflicts"`          // logs that stood still because they showed two histories
	Failed    time.Time `json:"failed_at,omitzero"` // when a report could not be made last
	Error     string    `json:"error,omitempty"`    // and why
	Scrubbed  time.Time `json:"scrubbed,omitzero"`  // everything that is stored was hashed at this time or later
}

// Outcomes of a reconcile.
const (
	Clean    = "clean"
	Findings = "findings"
	Failed   = "failed"
)

const (
	keyUpstream   = "mirror/upstream/"      // Upstream per origin, signed by the log
	keyReconciled = "mirror/reconcile/last" // Reconciled
)

// noteUpstream remembers a checkpoint that the log signed, if it is the largest seen of it.
func noteUpstream(tx store.Tx, origin string, u Upstream) error {
	var old Upstream
	if _, err := get(tx, keyUpstream+origin, &old); err != nil || u.Size <= old.Size {
		return err
	}
	return put(tx, keyUpstream+origin, u)
}

// shown is noteUpstream in a transaction of its own, which is left out where there is nothing to write.
func (m *Mirror) shown(c Checkpoint, origin, source string) error {
	u := Upstream{Size: c.Size, By: ByCheckpoint, Source: oneLine(errors.New(source)), Seen: m.c.Now().UTC()}
	var old Upstream
	if err := m.c.DB.View(func(tx store.Tx) (err error) { _, err = get(tx, keyUpstream+origin, &old); return err }); err != nil || u.Size <= old.Size {
		return err
	}
	return full(m.c.DB.Update(func(tx store.Tx) error { return noteUpstream(tx, origin, u) }))
}

// claimedBy are the heads that the manifest of a refused parcel names.
func claimedBy(p *parcel.Parcel) (out []ClaimedHead) {
	for _, l := range p.Manifest.Logs {
		out = append(out, ClaimedHead{l.Origin, l.To.Size})
	}
	return out
}

// ClaimedHead is a head that a parcel names which was not taken.
type ClaimedHead struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
}

// upstream is the largest head known of each log: signed by the log, or else named by a parcel that came too early.
func upstream(s *snapshot, incidents []Incident) map[string]Upstream {
	out := make(map[string]Upstream)
	for origin, u := range s.upstream {
		out[origin] = u
	}
	for _, i := range incidents {
		if i.Kind != "gap" || i.Sequence <= s.stream.Sequence {
			continue
		}
		for _, h := range i.Heads {
			if h.Size > out[h.Origin].Size {
				out[h.Origin] = Upstream{Size: h.Size, By: ByExporter, Source: fromParcel(i.Sequence), Seen: i.Seen}
			}
		}
	}
	return out
}

// behind fills in how far the head is behind what was shown.
func (l *LogStatus) behind(known map[string]Upstream) {
	u, ok := known[l.Origin]
	if !ok || u.Size <= l.Size {
		return
	}
	l.Lag, l.Upstream = u.Size-l.Size, &u
}

// conflicts counts the logs that stand still because they showed two histories.
func conflicts(logs []LogStatus) (n int) {
	for _, l := range logs {
		if l.Frozen != nil && l.Frozen.Retired == nil {
			n++
		}
	}
	return n
}

// outcome is what is remembered of a report.
func (r *ReconcileReport) outcome() Reconciled {
	out := Reconciled{Time: r.Time, Outcome: Clean, Scrubbed: r.Scrubbed}
	for _, l := range r.Logs {
		out.Problems += len(l.Problems)
		if l.Frozen != nil && l.Frozen.Retired == nil {
			out.Conflicts++
		}
	}
	for _, t := range r.TUF {
		out.Problems += len(t.Problems)
	}
	if err := r.Err(); err != nil {
		out.Outcome, out.Code, out.Finding = Findings, ExitCode(err), oneLine(err)
	}
	return out
}

// couldNot remembers that a report could not be made. A run that was told to end is none that failed.
func (m *Mirror) couldNot(ctx context.Context, why error) {
	if ctx.Err() != nil {
		return
	}
	err := m.c.DB.Update(func(tx store.Tx) error {
		var last Reconciled
		if _, err := get(tx, keyReconciled, &last); err != nil {
			return err
		}
		last.Outcome, last.Failed, last.Error = Failed, m.c.Now().UTC(), oneLine(why)
		return put(tx, keyReconciled, last)
	})
	if err != nil {
		m.c.Logger.ErrorContext(ctx, "remembering that a report could not be made", "error", err)
	}
}

// lastReconcile is how the last reconcile ended, nil before the first.
func (m *Mirror) lastReconcile() (*Reconciled, error) {
	var last Reconciled
	var ok bool
	err := m.c.DB.View(func(tx store.Tx) (err error) { ok, err = get(tx, keyReconciled, &last); return err })
	if err != nil || !ok {
		return nil, err
	}
	return &last, nil
}
