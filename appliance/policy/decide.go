package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"redoubt.internal/appliance/verify"
)

// Decide judges an artifact by what is said to vouch for it. It never fails: what cannot be judged is denied.
func (p *Policy) Decide(ctx context.Context, a Artifact, evidence ...Evidence) (d Decision) {
	// Expressions are evaluated by a library over what strangers sent. A panic there allows nothing.
	defer func() {
		if fault := recover(); fault != nil {
			d = p.undecided(a, d.Rule).deny(fmt.Sprintf("internal error while judging: %v", fault))
		}
	}()
	d = p.undecided(a, "")
	// 1. What is it? Rules that deny by name come first, then the first that matches.
	if err := a.check(); err != nil {
		return d.deny(err.Error())
	}
	r := p.match(a)
	switch {
	case r == nil:
		return d.deny(fmt.Sprintf("no rule is for the %s %q", a.Kind, a.Name))
	case r.deny:
		d.Rule = r.Name
		return d.deny(fmt.Sprintf("the rule denies the %s %q", a.Kind, a.Name))
	}
	d.Rule = r.Name
	// 2. What verifies, and under which root?
	if len(evidence) > MaxEvidence {
		return d.deny(fmt.Sprintf("%d pieces of evidence, at most %d are judged", len(evidence), MaxEvidence))
	}
	facts, err := p.establish(ctx, a, evidence, &d)
	if err != nil {
		return d.deny(err.Error())
	}
	// 3. A denied signer spoils everything.
	if why := p.spoiled(facts); why != "" {
		d.Code = verify.ExitCode(verify.ErrDenied)
		return d.deny(why)
	}
	// 4. Is everything there that the rule asks for?
	return p.require(ctx, r, a, facts, d)
}

// undecided is a decision without a verdict, every list of it empty and none of them null.
func (p *Policy) undecided(a Artifact, rule string) Decision {
	return Decision{Schema: DecisionSchema, Rule: rule, Artifact: a.Digest, Version: p.version, Reasons: []string{}, Ignored: []string{}, Refused: []Refused{}, Results: []*verify.Result{}}
}

// match is the rule that decides about a, nil where none does.
func (p *Policy) match(a Artifact) *rule {
	var first *rule
	for i := range p.rules {
		r := &p.rules[i]
		if !r.matches(a) {
			continue
		}
		if r.deny {
			return r
		}
		if first == nil {
			first = r
		}
	}
	return first
}

// require asks for everything the rule wants, and tells all that is missing.
func (p *Policy) require(ctx context.Context, r *rule, a Artifact, facts []fact, d Decision) Decision {
	var missing, met []string
	if s := r.signatures; s != nil {
		found, why := s.count(p, facts, func(f fact) string {
			if !f.signature() {
				return "an attestation, not a signature"
			}
			return ""
		})
		if why != "" {
			missing = append(missing, "signatures: "+why)
		} else {
			met = append(met, fmt.Sprintf("signed by %s", names(found)))
		}
		d.keep(found)
	}
	for i := range r.attested {
		t := &r.attested[i]
		found, why := t.judge(ctx, p, a, facts)
		if why != "" {
			missing = append(missing, fmt.Sprintf("attestations[%d], %s: %s", i, t.Type, why))
		} else {
			met = append(met, fmt.Sprintf("%s attested by %s", t.Type, names(found)))
		}
		d.keep(found)
	}
	if err := ctx.Err(); err != nil {
		missing = append(missing, fmt.Sprintf("judging the evidence: %v", err))
	}
	if len(missing) > 0 {
		d.Reasons = missing
		return d.deny()
	}
	d.Allow, d.Reasons = true, met
	return d
}

func (d Decision) deny(reasons ...string) Decision {
	d.Allow = false
	if d.Code == 0 {
		d.Code = verify.ExitCode(verify.ErrPolicy)
	}
	d.Reasons = append(d.Reasons, reasons...)
	if len(d.Reasons) > maxReasons {
		d.Reasons = d.Reasons[:maxReasons]
	}
	return d
}

// ignore tells of evidence that does not count.
func (d *Decision) ignore(source string, err error) {
	if len(d.Ignored) < maxReasons {
		d.Ignored = append(d.Ignored, clip(fmt.Sprintf("%s: %v", source, err)))
		d.Refused = append(d.Refused, Refused{source, verify.Reasons(err)})
	}
}

// keep adds what counted, each once.
func (d *Decision) keep(facts []fact) {
	for _, f := range facts {
		if !slices.Contains(d.Results, f.result) {
			d.Results = append(d.Results, f.result)
		}
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// explain is the decision in one line.
func (d Decision) explain() string {
	rule := "no rule"
	if d.Rule != "" {
		rule = fmt.Sprintf("rule %q", d.Rule)
	}
	text := rule + ": " + strings.Join(d.Reasons, "; ")
	if len(d.Ignored) > 0 {
		text += " (not counted: " + strings.Join(d.Ignored, "; ") + ")"
	}
	return text
}

func clip(s string) string {
	if len(s) > maxText {
		return strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
