package admission

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/spool"
)

// Rules are policy and trust: what decides, from what lies on this machine.
type Rules struct {
	// Policy decides.
	Policy *policy.Policy
	// Ageless is the same policy with the same trust as if that had been obtained just now. What only it allows is refused for the age of trust
	// alone, and may have a grace.
	Ageless *policy.Policy
	// Version changes whenever policy or trust do.
	Version string
	// AsOf is when the oldest of what is trusted was obtained or confirmed.
	AsOf time.Time
	// Unapproved says that the policy file holds another policy, which nobody approved; the former is in force.
	Unapproved bool
}

// ParseRules reads the text of a policy, and what it trusts, which stands beside file. roots replace the files of their names; what a file holds is as
// old as the file.
func ParseRules(text []byte, file string, roots []verify.Root, upstream *freshness.State, now func() time.Time) (*Rules, error) {
	parse := func(c policy.Config) (*policy.Policy, error) {
		p, err := policy.Parse(text, filepath.Dir(file), c)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", policy.ErrFile, file, err)
		}
		return p, nil
	}
	strict, err := parse(policy.Config{Roots: roots, Upstream: upstream, Now: now})
	if err != nil {
		return nil, err
	}
	ageless, err := parse(policy.Config{Roots: roots, AnyAge: true, Upstream: anyAge(upstream), Now: now})
	if err != nil {
		return nil, err
	}
	r := &Rules{Policy: strict, Ageless: ageless, AsOf: strict.AsOf()}
	known := sha256.New()
	fmt.Fprintf(known, "%s %s\n", strict.Version(), ageless.Version())
	for _, root := range roots {
		fmt.Fprintf(known, "%s %d\n", root.Name, root.AsOf.Unix())
	}
	if upstream != nil {
		known.Write(upstream.Note)
	}
	r.Version = hex.EncodeToString(known.Sum(nil))
	return r, nil
}

// anyAge is what a mirror knows without the limits on its age. A log that showed two histories is no matter of age, and stays frozen.
func anyAge(known *freshness.State) *freshness.State {
	if known == nil {
		return nil
	}
	out := *known
	out.Logs, out.TUF = slices.Clone(known.Logs), slices.Clone(known.TUF)
	for i := range out.Logs {
		out.Logs[i].Limits = freshness.Limits{}
	}
	for i := range out.TUF {
		out.TUF[i].Limits = freshness.Limits{}
	}
	return &out
}

// lookUp fetches what vouches for a digest and has the rules decide.
func (g *Gate) lookUp(ctx context.Context, rules *Rules, source *images.Source, ref images.Reference) (verdict, error) {
	artifact := policy.Artifact{Kind: policy.Image, Name: ref.Host() + "/" + ref.Repository(), Digest: ref.Digest()}
	if d := rules.Policy.Decide(ctx, artifact); d.Rule == "" { // nothing that vouches for it could count
		return verdict{}, fmt.Errorf("%w: %w", ErrRefused, d.Err())
	}
	found, err := gather(ctx, source, ref)
	if err != nil {
		return verdict{}, err
	}
	d := rules.Policy.Decide(ctx, artifact, found.Evidence...)
	if ctx.Err() != nil {
		return verdict{}, fmt.Errorf("%w: the time for this review is up", ErrUnanswered)
	}
	g.leave(ctx, d.Observations())
	v := verdict{Digest: ref.Digest(), Rule: d.Rule, Signer: strings.Join(d.Reasons, "; ")}
	if d.Allow {
		v.Shaky = warnings(d.Results)
		return v, g.admitted(ctx, ref, v, rules)
	}
	if held := rules.Ageless.Decide(ctx, artifact, found.Evidence...); held.Allow {
		v.Rule = held.Rule
		return g.onceAdmitted(ctx, ref, v)
	}
	if len(found.Left) > 0 {
		return verdict{}, fmt.Errorf("%w: %w; not taken: %s", ErrRefused, d.Err(), strings.Join(found.Left, "; "))
	}
	return verdict{}, fmt.Errorf("%w: %w", ErrRefused, d.Err())
}

// warnings are what verification says beside "verified", each once.
func warnings(results []*verify.Result) string {
	var all []string
	for _, r := range results {
		for _, w := range r.Warnings() {
			if !slices.Contains(all, w) {
				all = append(all, w)
			}
		}
	}
	return strings.Join(all, "; ")
}

// gather fetches what vouches for a digest.
func gather(ctx context.Context, source *images.Source, ref images.Reference) (policy.Gathered, error) {
	found, err := policy.Gather(ctx, source, ref, "")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return found, fmt.Errorf("%w: %w", ErrImage, err)
	case err != nil:
		return found, unanswered(err)
	case found.Artifact.Digest != ref.Digest():
		return found, fmt.Errorf("%w: %s was asked for, %s came", ErrUnanswered, ref.Digest(), found.Artifact.Digest)
	}
	return found, nil
}

// leave leaves log proofs to the mirror, as `redoubt verify --observe` does. The verdict stands whether or not that works.
func (g *Gate) leave(ctx context.Context, observed []spool.Observation) {
	if g.c.Spool == "" {
		return
	}
	for _, o := range observed {
		if err := spool.Leave(g.c.Spool, o); err != nil {
			g.metrics.bundles.WithLabelValues("failed").Inc()
			g.c.Logger.WarnContext(ctx, "a log proof could not be left to the mirror", "folder", g.c.Spool, "error", err)
			continue
		}
		g.metrics.bundles.WithLabelValues("left").Inc()
	}
}
