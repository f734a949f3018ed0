// Package inventory says of many images at once what a policy makes of each: who signed it, by which rule it may be used, and what it lacks.
//
// It guarantees that an image counts as allowed only where the policy allows it now, by what was found beside it and in the receipts that were given. What
// could not be read is counted as such and never left out: the share that is covered is one of everything that was asked about. It fetches nothing
// itself but through the images.Source it is handed, which asks no registry but its own.
//
// Start at Scan.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/mirror/images"
)

// Schema names the schema of a Report in JSON. Within it, fields may be added and never change their meaning.
const Schema = "redoubt.inventory/v1"

// MaxImages is the largest number of images in one scan.
const MaxImages = 100_000

const (
	atOnce    = 8  // images that are looked at side by side
	maxPlaces = 20 // places where an image is used that are told
)

// Status is what became of an image.
type Status string

// Statuses, in the order in which they are counted.
const (
	Allowed    Status = "allowed"    // by a rule of the policy
	Denied     Status = "denied"     // something verifies, and the policy asks for something else, or a rule denies it
	Unverified Status = "unverified" // something is said to vouch for it, and nothing of that verifies
	Unsigned   Status = "unsigned"   // nothing is said to vouch for it
	Unreadable Status = "unreadable" // it could not be looked at
)

// Statuses are all there are.
var Statuses = []Status{Allowed, Denied, Unverified, Unsigned, Unreadable}

// Target is an image to look at.
type Target struct {
	Reference string           // as it is named
	Ref       images.Reference // zero where Problem is set
	Source    *images.Source   // where it stands
	Name      string           // for the policy's rules; empty is the reference's own
	Places    []string         // where it is used
	Problem   string           // why it cannot be looked at
}

// Report is the JSON of `redoubt inventory -o json`.
type Report struct {
	Schema  string         `json:"schema"` // Schema
	Sources []string       `json:"sources"`
	Time    time.Time      `json:"time"`
	Policy  string         `json:"policy"` // policy.Policy.Version
	Total   int            `json:"total"`
	Counts  map[Status]int `json:"counts"` // of every status
	Ratio   float64        `json:"ratio"`  // allowed of total, 0 to 1; 0 where there is nothing
	Images  []Image        `json:"images"`
}

// Image is one image and what there is to say of it.
type Image struct {
	Reference string           `json:"reference"`
	Digest    string           `json:"digest,omitempty"`
	Places    []string         `json:"places,omitempty"` // where it is used
	Status    Status           `json:"status"`
	Rule      string           `json:"rule,omitempty"` // the rule that decided
	Code      int              `json:"code"`           // as the exit code of verify: 0, 3 unreadable, 23, 25
	Signers   []Signer         `json:"signers"`        // of everything that verified
	Reasons   []string         `json:"reasons"`        // of a denial every reason
	Refused   []policy.Refused `json:"refused"`        // what did not verify, with every reason
}

// Signer is who vouches for an image.
type Signer struct {
	Identity string `json:"identity"` // e-mail or URI, or key: and its SHA-256
	Issuer   string `json:"issuer,omitempty"`
	Root     string `json:"root"`
	Type     string `json:"type,omitempty"` // predicate type of an attestation
}

// Scan looks at every target. receipts are further evidence, by the digest that each is about.
func Scan(ctx context.Context, p *policy.Policy, sources []string, targets []Target, receipts map[string][]policy.Evidence, now time.Time) (Report, error) {
	if len(targets) > MaxImages {
		return Report{}, fmt.Errorf("%d images, at most %d are looked at in one scan", len(targets), MaxImages)
	}
	r := Report{Schema: Schema, Sources: sources, Time: now.UTC().Truncate(time.Second), Policy: p.Version(), Total: len(targets), Counts: map[Status]int{}, Images: make([]Image, len(targets))}
	var work errgroup.Group
	work.SetLimit(atOnce)
	for i, t := range targets {
		work.Go(func() error {
			r.Images[i] = look(ctx, p, t, receipts)
			return nil
		})
	}
	if err := errors.Join(work.Wait(), ctx.Err()); err != nil {
		return Report{}, err
	}
	slices.SortStableFunc(r.Images, func(a, b Image) int { return strings.Compare(a.Reference, b.Reference) })
	for _, s := range Statuses {
		r.Counts[s] = 0
	}
	for _, i := range r.Images {
		r.Counts[i.Status]++
	}
	if r.Total > 0 {
		r.Ratio = float64(r.Counts[Allowed]) / float64(r.Total)
	}
	return r, nil
}

// look judges one image.
func look(ctx context.Context, p *policy.Policy, t Target, receipts map[string][]policy.Evidence) Image {
	out := Image{Reference: t.Reference, Places: t.Places, Signers: []Signer{}, Reasons: []string{}, Refused: []policy.Refused{}}
	if more := len(out.Places) - maxPlaces; more > 0 {
		out.Places = append(slices.Clone(out.Places[:maxPlaces]), fmt.Sprintf("%d more", more))
	}
	unreadable := func(why string) Image {
		out.Status, out.Code, out.Reasons = Unreadable, 3, append(out.Reasons, why)
		return out
	}
	if t.Problem != "" {
		return unreadable(t.Problem)
	}
	found, err := policy.Gather(ctx, t.Source, t.Ref, t.Name)
	if err != nil {
		return unreadable(err.Error())
	}
	evidence := append(found.Evidence, receipts[found.Artifact.Digest]...)
	d := p.Decide(ctx, found.Artifact, evidence...)
	out.Digest, out.Rule, out.Code, out.Reasons, out.Refused = found.Artifact.Digest, d.Rule, d.Code, d.Reasons, d.Refused
	for _, left := range found.Left {
		out.Reasons = append(out.Reasons, "left out: "+left)
	}
	for _, r := range d.Verified() {
		if s := signerOf(r); !slices.Contains(out.Signers, s) {
			out.Signers = append(out.Signers, s)
		}
	}
	switch {
	case d.Allow:
		out.Status = Allowed
	case len(out.Signers) > 0 || d.Code == verify.ExitCode(verify.ErrDenied):
		out.Status = Denied
	case len(evidence) > 0 && len(d.Refused) == 0: // nobody looked: no rule is for it, or one that denies
		out.Status = Denied
	case len(evidence)+len(found.Left) > 0:
		out.Status = Unverified
	default:
		out.Status = Unsigned
	}
	return out
}

func signerOf(r *verify.Result) Signer {
	san, issuer := r.Signer()
	if k := r.Key(); k != "" {
		san = "key:" + k
	}
	return Signer{san, issuer, r.Root(), r.PredicateType()}
}
