package verify

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/spool"
	"redoubt.internal/mirror/tiles"
)

// Upstream is how fresh the verifier's knowledge of a log is, and whose word that is. It is there whenever a mirror's state was given: a log
// the mirror does not carry is shown as one.
type Upstream struct {
	Observed *time.Time      `json:"upstream_observed_at"` // when the log was last seen outside; null: the mirror does not carry it
	By       string          `json:"observed_by,omitempty"`
	Claimed  string          `json:"claimed_by"` // key of the mirror that says so
	Size     uint64          `json:"mirrored_size,omitempty"`
	Age      string          `json:"age,omitempty"`
	Level    freshness.Level `json:"level,omitempty"` // what the operator's thresholds make of the age
	Frozen   bool            `json:"frozen,omitempty"`
}

// judgeUpstream adds to each proven entry what the mirror says of its log, and applies the thresholds. The latest of the signed times counts:
// whoever signs late cannot hide behind an earlier stamp.
func (v *Verifier) judgeUpstream(out *report) error {
	if v.upstream == nil {
		return nil
	}
	var signed time.Time
	for _, t := range out.Times {
		if t.Time.After(signed) {
			signed = t.Time
		}
	}
	now := v.now()
	for _, t := range []time.Time{v.upstream.Time, signed} { // a clock that is behind what is signed makes nothing young
		if t.After(now) {
			now = t
		}
	}
	if signed.IsZero() { // a key without bounds needs no signed time; then it may have been signed just now
		signed = now
	}
	for i := range out.Log.Proven {
		p := &out.Log.Proven[i]
		p.Upstream = &Upstream{Claimed: v.upstream.By}
		claim := v.upstream.Find(p.Origin, p.LogID)
		if claim == nil {
			continue
		}
		var index *uint64
		if p.Index != nil { // proven, so not negative
			n := uint64(*p.Index)
			index = &n
		}
		level, err := claim.Judge(now, signed, index)
		*p.Upstream = Upstream{By: claim.Exporter, Claimed: v.upstream.By, Size: claim.Size, Level: level, Frozen: claim.Frozen}
		if seen := claim.Observed.UTC(); !seen.IsZero() {
			p.Upstream.Observed, p.Upstream.Age = &seen, now.Sub(seen).Truncate(time.Second).String()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrStale, err)
		}
	}
	return v.judgeTrust(out, now, signed)
}

// judgeTrust applies the thresholds of the TUF repository that holds the trusted root, if the mirror carries one that does.
func (v *Verifier) judgeTrust(out *report, now, signed time.Time) error {
	for _, t := range v.upstream.TUF {
		if !t.Vouches(out.Root.SHA256) {
			continue
		}
		seen := t.Observed.UTC()
		level := t.Limits.Thresholds().Of(now.Sub(seen))
		out.Root.Upstream = &Upstream{Observed: &seen, Claimed: v.upstream.By, Age: now.Sub(seen).Truncate(time.Second).String(), Level: level}
		if err := level.Allow(signed, seen); err != nil {
			return fmt.Errorf("%w: TUF repository %q, which holds the trusted root: %w", ErrStale, t.Name, err)
		}
	}
	return nil
}

// Warnings are what a person should read beside "verified": states that are old, and logs the mirror does not carry.
func (r *Result) Warnings() (out []string) {
	say := func(what string, u *Upstream) {
		switch {
		case u == nil:
		case u.Observed == nil:
			out = append(out, what+" is not mirrored here: how fresh it is, nobody says")
		case u.Frozen:
			out = append(out, what+" is frozen: it showed two histories")
		case u.Level != freshness.Fresh:
			out = append(out, fmt.Sprintf("%s was last observed at %s, %s ago", what, u.Observed.Format(time.RFC3339), u.Age))
		}
	}
	for _, p := range r.report.Log.Proven {
		say("the log "+p.name(), p.Upstream)
	}
	say("the trusted root's repository", r.report.Root.Upstream)
	return out
}

// RootUpstream is how fresh the repository is that the trusted root came from, nil where no mirror carries one that holds it.
func (r *Result) RootUpstream() *Upstream { return r.report.Root.Upstream }

func (p LogProof) name() string {
	if p.Origin != "" {
		return fmt.Sprintf("%q", p.Origin)
	}
	return p.BaseURL
}

// Observations are the log proofs of the bundle, for a mirror to compare with what it knows (mirror.Mirror.Observe).
func (r *Result) Observations() []spool.Observation { return slices.Clone(r.report.observed) }

// observe keeps what the verified proofs of a bundle fix. An entry with a promise alone fixes nothing, nor does one whose proof was not
// asked for.
func (r *report) observe(b *decoded) {
	for _, e := range b.GetVerificationMaterial().GetTlogEntries() {
		o, ok := observation(e)
		if !ok || !slices.ContainsFunc(r.Log.Proven, func(p LogProof) bool {
			return p.Origin == o.Origin && p.Index != nil && uint64(*p.Index) == o.Index && p.LogID == hex.EncodeToString(e.GetLogId().GetKeyId())
		}) {
			continue
		}
		o.Source = "bundle sha256:" + r.BundleSHA256
		r.observed = append(r.observed, o)
	}
}

// observation reads the proof of an entry; ok is false where it is none that can have been verified.
func observation(e *protorekor.TransparencyLogEntry) (o spool.Observation, ok bool) {
	proof := e.GetInclusionProof()
	note := proof.GetCheckpoint().GetEnvelope()
	origin, _, _, err := parseCheckpoint(note)
	if err != nil {
		return o, false
	}
	o = spool.Observation{Origin: origin, Note: []byte(note), Index: uint64(proof.GetLogIndex()), Leaf: tiles.LeafHash(e.GetCanonicalizedBody())}
	for _, h := range proof.GetHashes() {
		if len(h) != tiles.HashSize {
			return o, false
		}
		o.Proof = append(o.Proof, tiles.Hash(h))
	}
	return o, true
}
