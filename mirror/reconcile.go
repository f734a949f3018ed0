package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
)

// LogStatus says where one log stands. Its JSON form is stable.
type LogStatus struct {
	Origin   string          `json:"origin"`
	Scope    string          `json:"scope"`
	Size     uint64          `json:"size"`
	Root     string          `json:"root,omitempty"`
	Observed time.Time       `json:"upstream_observed_at,omitzero"` // when the exporter says it last saw this head; unproven
	Proven   time.Time       `json:"observed_proven_by,omitzero"`   // a quorum of the log's witnesses saw it there then or later
	Imported time.Time       `json:"imported_at,omitzero"`
	Scrubbed time.Time       `json:"scrubbed_at,omitzero"` // everything that is stored of it was hashed at this time or later
	Age      string          `json:"age,omitempty"`        // since Observed
	Seconds  int64           `json:"age_seconds"`          // the same as a number, 0 before anything was imported
	Lag      uint64          `json:"lag_entries"`          // entries that are known to exist upstream and are not here; 0 where nobody showed more
	Upstream *Upstream       `json:"upstream,omitempty"`   // what is known to exist, where that is more than is held
	Stale    bool            `json:"stale"`
	Level    freshness.Level `json:"level"` // what the thresholds make of the age
	Frozen   *Freeze         `json:"frozen,omitempty"`
}

// Status says where the stream and its logs stand. Its JSON form is stable.
type Status struct {
	Stream   string        `json:"stream"`
	Sequence uint64        `json:"sequence"` // of the last parcel committed, 0 before the first
	Digest   parcel.Digest `json:"digest"`
	Pending  uint64        `json:"pending,omitempty"` // sequence of an import that was not finished
	Missing  []Range       `json:"missing"`           // parcels that later ones showed to be missing
	Logs     []LogStatus   `json:"logs"`
	TUF      []TUFStatus   `json:"tuf,omitempty"`

	Outside *ExporterStatus `json:"outside,omitempty"` // of the connected side, where this is one
	Inbox   *InboxStatus    `json:"inbox,omitempty"`   // what the inbox held at the last look

	Conflicts int         `json:"conflicts"`                // logs that stand still because they showed two histories
	Reconcile *Reconciled `json:"last_reconcile,omitempty"` // how the last one ended; left out before the first
	Absent    *Absence    `json:"absent,omitempty"`         // what is not here that one would expect; parcels are in missing
}

// err says how old a log is that is too old.
func (l LogStatus) err() error {
	if l.Observed.IsZero() {
		return fmt.Errorf("log %q: %w: nothing of it was imported", l.Origin, freshness.ErrStale)
	}
	return fmt.Errorf("log %q: %w: %s, age %s", l.Origin, freshness.ErrStale, l.Level, l.Age)
}

// Range is a run of sequence numbers, both ends included.
type Range struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Status reads where everything stands. It proves nothing; Reconcile does.
func (m *Mirror) Status(ctx context.Context) (Status, error) {
	s, err := m.snapshot()
	if err != nil {
		return Status{}, err
	}
	incidents, err := m.Incidents()
	if err != nil {
		return Status{}, err
	}
	out := m.status(s, incidents)
	if out.TUF, err = m.TUFStatuses(); err != nil {
		return out, err
	}
	if out.Inbox, err = m.InboxStatus(); err != nil {
		return out, err
	}
	if out.Reconcile, err = m.lastReconcile(); err != nil {
		return out, err
	}
	out.Absent, err = m.absence(s, incidents)
	return out, err
}

func (m *Mirror) status(s *snapshot, incidents []Incident) Status {
	out := Status{Stream: m.c.Stream, Sequence: s.stream.Sequence, Digest: s.stream.Digest, Missing: []Range{}, Logs: []LogStatus{}}
	if s.pending != nil {
		out.Pending = s.pending.Sequence
	}
	// A gap stays open until the parcels it names are in. Only parcels of a known exporter and this stream get this far.
	last := s.stream.Sequence
	for _, i := range incidents {
		if i.Kind == "gap" && i.Last > last {
			out.Missing = append(out.Missing, Range{max(i.First, last+1), i.Last})
		}
	}
	out.Missing = mergeRanges(out.Missing)
	now, known := m.c.Now(), upstream(s, incidents)
	origins := sortedKeys(m.logs)
	for origin := range s.heads { // a log that was mirrored once and is not configured any more
		if m.logs[origin] == nil {
			origins = append(origins, origin)
		}
	}
	slices.Sort(origins)
	for _, origin := range origins {
		l := LogStatus{Origin: origin, Scope: s.heads[origin].Scope, Level: freshness.Fresh}
		var limit time.Duration
		var thresholds freshness.Thresholds
		log := m.log(origin)
		if log == nil {
			log = m.logs[origin] // its key is not known yet
		}
		if log != nil {
			l.Scope, limit, thresholds = log.Scope, log.MaxAge, log.Stale
		}
		if h, ok := s.heads[origin]; ok {
			age := now.Sub(h.Observed)
			l.Size, l.Root, l.Observed, l.Proven, l.Imported, l.Age = h.Size, h.Root.String(), h.Observed.UTC(), h.Proven, h.Imported.UTC(), age.Truncate(time.Second).String()
			l.Seconds = int64(age / time.Second)
			l.Stale, l.Level = limit > 0 && age > limit, thresholds.Of(age)
		} else {
			l.Stale = limit > 0
			l.Level = thresholds.Of(freshness.Never)
		}
		if f, ok := s.frozen[origin]; ok {
			l.Frozen = &f
		}
		l.Scrubbed = s.scrubbed[origin]
		l.behind(known)
		out.Logs = append(out.Logs, l)
	}
	out.Conflicts = conflicts(out.Logs)
	return out
}

func mergeRanges(in []Range) []Range {
	slices.SortFunc(in, func(a, b Range) int { return int(min(max(int64(a.First)-int64(b.First), -1), 1)) })
	out := []Range{}
	for _, r := range in {
		if n := len(out); n > 0 && r.First <= out[n-1].Last+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Incidents lists the parcels that were refused, the oldest first.
func (m *Mirror) Incidents() ([]Incident, error) {
	out := []Incident{}
	err := m.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		return scan(tx, keyIncident, func(_ string, i Incident) error { out = append(out, i); return nil })
	})
	slices.SortStableFunc(out, func(a, b Incident) int { return a.Seen.Compare(b.Seen) })
	return out, err
}

// LogReport is what Reconcile found of one log.
type LogReport struct {
	LogStatus
	Leaves   uint64   `json:"leaves_rehashed"`
	Tiles    uint64   `json:"tiles_rehashed"`
	Heads    uint64   `json:"heads_reproduced"` // accepted checkpoints whose root and signature were found right once more
	Problems []string `json:"problems"`

	Scrub *ScrubReport `json:"scrub,omitempty"` // what part of the log that was
}

// ReconcileReport answers: do the stored entries still give the accepted roots, how old is each log, what is missing, and
// which log showed two histories. Its JSON form is stable.
type ReconcileReport struct {
	Stream   string        `json:"stream"`
	Time     time.Time     `json:"time"`
	Sequence uint64        `json:"sequence"`
	Digest   parcel.Digest `json:"digest"`
	Logs     []LogReport   `json:"logs"`
	TUF      []TUFReport   `json:"tuf,omitempty"`
	Images   *ImageReport  `json:"images,omitempty"` // of what vouches for images, where there is any
	Watched  *WatchReport  `json:"watched,omitempty"`
	Waiting  int           `json:"quarantined"` // parts of parcels in quarantine
	Missing  []Range       `json:"missing"`
	Refused  []Incident    `json:"refused"`           // the newest of them
	Refusals int           `json:"refused_total"`     // how many are remembered
	Scrubbed time.Time     `json:"scrubbed,omitzero"` // everything that is stored was hashed at this time or later
	Note     []byte        `json:"-"`                 // the report as a C2SP note signed by this mirror, nil without a key

	Claims   *ClaimsReport   `json:"claims,omitempty"`   // do bundles seen inside stand in the mirror
	Coverage *CoverageReport `json:"coverage,omitempty"` // is what runs signed
	Absent   *Absence        `json:"absent,omitempty"`   // what is not here that one would expect
}

// A report is a note, and a note has at most a million bytes.
const (
	maxRefused  = 100 // refusals in a report
	maxProblems = 10  // problems of one log in a report
)

// Err is the gravest finding as an error that ExitCode knows: a fork, damage, a gap, staleness. Nil if all is well.
func (r *ReconcileReport) Err() error {
	var forks, damaged, stale []error
	for _, l := range r.Logs {
		if l.Frozen != nil && l.Frozen.Retired == nil {
			forks = append(forks, &ForkError{Origin: l.Origin, Evidence: l.Frozen.Evidence, Frozen: true})
		}
		if len(l.Problems) > 0 {
			damaged = append(damaged, fmt.Errorf("log %q: %w: %s", l.Origin, ErrDamaged, strings.Join(l.Problems, "; ")))
		}
		if l.Stale || l.Level == freshness.DenyNew || l.Level == freshness.DenyAll {
			stale = append(stale, l.err())
		}
	}
	for _, t := range r.TUF {
		if len(t.Problems) > 0 {
			damaged = append(damaged, fmt.Errorf("TUF repository %q: %w: %s", t.Name, ErrDamaged, strings.Join(t.Problems, "; ")))
		}
		if err := t.Err(); err != nil {
			stale = append(stale, err)
		}
	}
	if err := r.Claims.err(); err != nil {
		damaged = append(damaged, err)
	}
	if r.Images != nil && r.Images.Err() != nil {
		damaged = append(damaged, r.Images.Err())
	}
	all := append(forks, damaged...)
	for _, g := range r.Missing {
		all = append(all, &GapError{Stream: r.Stream, First: g.First, Last: g.Last, Offered: g.Last + 1})
	}
	if err := r.Absent.err(); err != nil {
		stale = append(stale, err)
	}
	if all = append(all, stale...); r.Watched != nil && r.Watched.Hits > 0 {
		all = append(all, fmt.Errorf("%w: %d of them; redoubt mirror watch list", ErrWatched, r.Watched.Hits))
	}
	return errors.Join(all...)
}

// Reconcile hashes what is stored anew, leaf by leaf, compares with the checkpoints ever accepted, and reports that with ages, gaps
// and conflicts. With Config.Scrub that is what is new and a part of the rest (see scrub.go), else everything. The report is signed and
// recorded. An error means that it could not be made; what it found is in the report (see Err).
func (m *Mirror) Reconcile(ctx context.Context) (*ReconcileReport, error) {
	return m.reconcile(ctx, false)
}

// ReconcileAll is Reconcile that hashes everything.
func (m *Mirror) ReconcileAll(ctx context.Context) (*ReconcileReport, error) {
	return m.reconcile(ctx, true)
}

func (m *Mirror) reconcile(ctx context.Context, everything bool) (r *ReconcileReport, err error) {
	m.reconciling.Lock()
	defer m.reconciling.Unlock()
	defer func() {
		if err != nil {
			m.couldNot(ctx, err)
		}
	}()
	s, err := m.snapshot()
	if err != nil {
		return nil, err
	}
	incidents, err := m.Incidents()
	if err != nil {
		return nil, err
	}
	st := m.status(s, incidents)
	r = &ReconcileReport{
		Stream: st.Stream, Time: m.c.Now().UTC().Truncate(time.Second), Sequence: st.Sequence, Digest: st.Digest, Missing: st.Missing,
		Refused: incidents[max(0, len(incidents)-maxRefused):], Refusals: len(incidents), Logs: []LogReport{},
	}
	for i, l := range st.Logs {
		lr := LogReport{LogStatus: l, Problems: []string{}}
		h, ok := s.heads[l.Origin]
		if ok && m.log(l.Origin) == nil { // without a head it may be one that no trusted root explains yet
			lr.Problems = append(lr.Problems, "it is not configured any more, so nothing of it can be verified")
		} else if ok {
			if err := m.scrub(ctx, m.log(l.Origin), h, everything, &lr); err != nil {
				return nil, err
			}
		}
		if r.Logs = append(r.Logs, lr); ok && (i == 0 || lr.Scrubbed.Before(r.Scrubbed)) {
			r.Scrubbed = lr.Scrubbed
		}
	}
	if r.TUF, err = m.recheckTUF(ctx); err != nil {
		return nil, err
	}
	images, err := m.FsckImages(ctx)
	if err != nil {
		return nil, err
	}
	if images.Files+len(images.Problems) > 0 {
		images.Problems = images.Problems[:min(len(images.Problems), maxProblems)]
		r.Images = &images
	}
	if err := m.lookAround(ctx, r); err != nil {
		return nil, err
	}
	if r.Absent, err = m.absence(s, incidents); err != nil {
		return nil, err
	}
	if err := m.sign(r); err != nil {
		return nil, fmt.Errorf("signing the report: %w", err)
	}
	outcome := "success"
	detail := map[string]string{"sequence": fmt.Sprint(r.Sequence)}
	if err := r.Err(); err != nil {
		outcome, detail["finding"] = "failed", oneLine(err)
	}
	digest := parcel.Sum(r.Note).String()
	if err := m.record(ctx, Event{Action: "mirror.reconcile", Object: digest, Outcome: outcome, Detail: detail}, func(tx store.Tx) error { return put(tx, keyReconciled, r.outcome()) }); err != nil {
		return nil, fmt.Errorf("recording the report: %w", err)
	}
	return r, nil
}

// sign renders the report as the text "redoubt.reconcile/v1 <stream>", the time, one line of JCS JSON, and signs it.
func (m *Mirror) sign(r *ReconcileReport) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	line, err := jsoncanonicalizer.Transform(raw)
	if err != nil {
		return err
	}
	if m.c.Signer == nil {
		return nil
	}
	text := fmt.Appendf(nil, "redoubt.reconcile/v1 %s\n%s\n%s\n", r.Stream, r.Time.Format(time.RFC3339), line)
	r.Note, err = parcel.SignNote(text, m.c.Name, m.c.Signer)
	return err
}

// OpenReport verifies a signed report by the mirror's verifier key and reads it.
func OpenReport(note []byte, vkey string) (*ReconcileReport, error) {
	v, err := parcel.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	text, _, err := parcel.OpenNote(note, []*parcel.Verifier{v})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "redoubt.reconcile/v1 ") {
		return nil, fmt.Errorf("%w: this is no reconcile report", ErrProof)
	}
	r := &ReconcileReport{Note: note}
	if err := json.Unmarshal([]byte(lines[2]), r); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrProof, err)
	}
	return r, nil
}

// Run reconciles every so often until the context ends, and hands each report to done. A failure to reconcile is logged and
// tried again after the same pause.
func (m *Mirror) Run(ctx context.Context, every time.Duration, done func(*ReconcileReport)) error {
	if every <= 0 {
		return fmt.Errorf("%w: reconcile every %v", ErrConfig, every)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		r, err := m.Reconcile(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			m.c.Logger.ErrorContext(ctx, "reconciling", "error", err)
		default:
			if err := r.Err(); err != nil {
				m.c.Logger.WarnContext(ctx, "reconcile found", "finding", oneLine(err))
			}
			if done != nil {
				done(r)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
