package mirror

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"redoubt.internal/mirror/parcel"
)

// ErrQuorum says that a checkpoint is the log's own but that too few of its witnesses cosigned it: the log may be showing it to
// this reader alone.
var ErrQuorum = errors.New("too few witnesses cosigned the checkpoint")

// Cosigned is what the witnesses of a policy say about a checkpoint.
type Cosigned struct {
	// By are the names of the policy's witnesses that cosigned, each key once, in the policy's order.
	By []string
	// Quorum tells whether they are enough. "quorum none" asks for nobody.
	Quorum bool
	// Time is the latest time of which a quorum says that the log stood at this checkpoint then or later, zero where no quorum
	// names a time.
	Time time.Time
}

// adopt takes a policy over for a log. The log is no witness of itself, under any of its keys.
func (l *knownLog) adopt(text string) error {
	p, err := ParsePolicy([]byte(text))
	if err != nil {
		return fmt.Errorf("%w: log %q: %w", ErrConfig, l.Origin, err)
	}
	if len(p.Logs) > 0 && !slices.ContainsFunc(p.Logs, l.key.SameKey) {
		return fmt.Errorf("%w: log %q: its witness policy is for other logs: none of them has the key %s", ErrConfig, l.Origin, l.key.ID())
	}
	for _, w := range p.Witnesses {
		for _, k := range append([]*parcel.Verifier{l.key}, l.former...) {
			if w.Cosigner.SameKey(k) {
				return fmt.Errorf("%w: log %q: witness %.80q has the log's own key", ErrConfig, l.Origin, w.Name)
			}
		}
	}
	l.policy = p
	return nil
}

// cosigned reads the cosignatures of a checkpoint by the witnesses of a policy. Lines of others are ignored, a wrong line of a
// known witness refuses the checkpoint with ErrProof. Which log signed it is not asked here.
func (p *Policy) cosigned(signed []byte) (Cosigned, error) {
	var out Cosigned
	var list []note.Verifier
	of := make(map[string]int) // witness by the id of a line
	timed := make(map[string]*parcel.Cosigner)
	for i, w := range p.Witnesses {
		for _, c := range []*parcel.Cosigner{w.Cosigner, w.Cosigner.Timed()} {
			if _, ok := of[c.ID()]; !ok {
				of[c.ID()], timed[c.ID()] = i, c
				list = append(list, c)
			}
		}
	}
	n, err := note.Open(signed, note.VerifierList(list...))
	var unknown *note.UnverifiedNoteError
	if err != nil && !errors.As(err, &unknown) {
		return out, fmt.Errorf("%w: cosignatures: %w", ErrProof, err)
	}
	at := make(map[int]time.Time)
	if err == nil {
		for _, s := range n.Sigs {
			id := fmt.Sprintf("%s+%08x", s.Name, s.Hash)
			raw, err := base64.StdEncoding.DecodeString(s.Base64)
			if err != nil || len(raw) < 4 {
				return out, fmt.Errorf("%w: cosignature of %.80q", ErrProof, s.Name)
			}
			at[of[id]] = laterOf(at[of[id]], timed[id].TimeOf(raw[4:]))
		}
	}
	all := make(map[int]bool)
	for i, w := range p.Witnesses {
		if _, ok := at[i]; ok {
			all[i] = true
			out.By = append(out.By, w.Name)
		}
	}
	out.Quorum = p.quorum == nil || p.quorum.satisfied(all)
	if p.quorum != nil {
		out.Time = p.quorum.latest(at)
	}
	return out, nil
}

// latest is the latest of the times at which, leaving out the witnesses that cosigned earlier or name no time, a quorum is left.
func (g *group) latest(at map[int]time.Time) (out time.Time) {
	for _, t := range at {
		since := make(map[int]bool)
		for w, o := range at {
			since[w] = !o.IsZero() && !o.Before(t)
		}
		if !t.IsZero() && g.satisfied(since) {
			out = laterOf(out, t)
		}
	}
	return out
}

// witnessed demands the log's quorum of a checkpoint that is about to become its head. Without a policy nothing is demanded. now
// bounds what a witness can have seen.
func (l *knownLog) witnessed(signed []byte) (Cosigned, error) {
	if l.policy == nil {
		return Cosigned{Quorum: true}, nil
	}
	c, err := l.policy.cosigned(signed)
	if err != nil {
		return c, fmt.Errorf("log %q: %w", l.Origin, err)
	}
	if !c.Quorum {
		by := "nobody"
		if len(c.By) > 0 {
			by = strings.Join(c.By, ", ")
		}
		return c, fmt.Errorf("log %q: %w: %s did, of %d witnesses of its policy; pull again later, or show the checkpoint to the witnesses' operators",
			l.Origin, ErrQuorum, by, len(l.policy.Witnesses))
	}
	return c, nil
}

// inTime refuses a checkpoint that a quorum of witnesses saw later than the local clock says it is.
func (c Cosigned) inTime(now time.Time) error {
	if c.Time.After(now.Add(clockAhead)) {
		return fmt.Errorf("%w: it is %s, but a quorum of witnesses saw the checkpoint at %s", ErrClock, now.UTC().Format(time.RFC3339), c.Time.Format(time.RFC3339))
	}
	return nil
}
