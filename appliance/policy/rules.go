package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// rule is a Rule ready to decide.
type rule struct {
	Rule
	deny       bool
	images     []glob
	artifacts  []glob
	signatures *demand
	attested   []attestation
}

// demand is how often and by whom something must be signed.
type demand struct {
	signers   []signer
	by        []string
	threshold int
	logs      int
	maxAge    time.Duration
}

// compile makes everything ready that Decide needs, and refuses what could never decide anything.
func (p *Policy) compile() error {
	for _, name := range slices.Sorted(maps.Keys(p.file.Signers)) {
		if len(p.file.Signers[name]) == 0 {
			return fmt.Errorf("signers.%s: nobody is in it", name)
		}
		for i, in := range p.file.Signers[name] {
			s, err := p.compileSigner(in)
			if err != nil {
				return fmt.Errorf("signers.%s[%d]: %w", name, i, err)
			}
			p.signers[name] = append(p.signers[name], s)
		}
	}
	for i, in := range p.file.Deny {
		all, err := p.group(in.By)
		if err != nil {
			return fmt.Errorf("deny[%d]: %w", i, err)
		}
		if !in.Since.IsZero() && !in.Until.IsZero() && in.Until.Before(in.Since) {
			return fmt.Errorf("deny[%d]: it ends before it begins", i)
		}
		p.denied = append(p.denied, denial{in, all})
	}
	names := map[string]bool{}
	for i, in := range p.file.Rules {
		if in.Name == "" || names[in.Name] {
			return fmt.Errorf("rules[%d]: name %q is missing, or another rule has it", i, in.Name)
		}
		names[in.Name] = true
		r, err := p.compileRule(in)
		if err != nil {
			return fmt.Errorf("rule %q: %w", in.Name, err)
		}
		p.rules = append(p.rules, r)
	}
	return p.reachable()
}

func (p *Policy) compileRule(in Rule) (r rule, err error) {
	r = rule{Rule: in, deny: in.Action == "deny"}
	if in.Action != "" && in.Action != "allow" && !r.deny {
		return r, fmt.Errorf("action %.40q; allow or deny is needed", in.Action)
	}
	if r.images, err = compileGlobs(in.Images, true); err != nil {
		return r, fmt.Errorf("images: %w", err)
	}
	if r.artifacts, err = compileGlobs(in.Artifacts, false); err != nil {
		return r, fmt.Errorf("artifacts: %w", err)
	}
	if len(r.images)+len(r.artifacts) == 0 {
		return r, errors.New("it has neither images nor artifacts, so it is for nothing")
	}
	if asks := in.Signatures != nil || len(in.Attestations) > 0; asks == r.deny {
		return r, errors.New("a rule asks for signatures or attestations, or its action is deny, and never both")
	}
	if in.Signatures != nil {
		if r.signatures, err = p.demand(*in.Signatures); err != nil {
			return r, fmt.Errorf("signatures: %w", err)
		}
	}
	if len(in.Attestations) > maxDemands {
		return r, fmt.Errorf("more than %d attestations", maxDemands)
	}
	for i, a := range in.Attestations {
		t, err := p.attestation(a)
		if err != nil {
			return r, fmt.Errorf("attestations[%d]: %w", i, err)
		}
		r.attested = append(r.attested, t)
	}
	return r, nil
}

func (p *Policy) demand(in Signatures) (*demand, error) {
	all, err := p.group(in.By)
	if err != nil {
		return nil, err
	}
	if in.Threshold < 0 || in.Threshold > MaxEvidence || in.Logs < 0 || in.Logs > 32 {
		return nil, fmt.Errorf("threshold is from 1 to %d, logs from 0 to 32", MaxEvidence)
	}
	return &demand{all, in.By, max(in.Threshold, 1), in.Logs, time.Duration(in.MaxAge)}, nil
}

func (r *rule) matches(a Artifact) bool {
	of := r.artifacts
	if a.Kind == Image {
		of = r.images
	}
	return slices.ContainsFunc(of, func(g glob) bool { return g.matches(a.Name) })
}

// count finds the facts that meet the demand and by which why says nothing: each signer once. why says what is missing, empty when nothing is.
func (d *demand) count(p *Policy, facts []fact, refuse func(fact) string) (found []fact, why string) {
	signers := map[string]bool{}
	var not []string
	for _, f := range facts {
		reason := d.refuses(p, f)
		if reason == "" {
			reason = refuse(f)
		}
		if reason != "" {
			not = append(not, clip(fmt.Sprintf("%s by %s under root %s: %s", f.source, f.who(), f.result.Root(), reason)))
			continue
		}
		if !signers[f.who()] {
			signers[f.who()] = true
			found = append(found, f)
		}
	}
	if len(found) >= d.threshold {
		return found, ""
	}
	why = fmt.Sprintf("%d of %d needed from %s", len(found), d.threshold, strings.Join(d.by, ", "))
	if len(not) > 0 {
		why += "; " + strings.Join(not[:min(len(not), 10)], "; ")
	}
	return found, why
}

// refuses says why f does not count towards the demand.
func (d *demand) refuses(p *Policy, f fact) string {
	if !slices.ContainsFunc(d.signers, func(s signer) bool { return s.matches(f) }) {
		return "not one of the signers asked for, or not under their root"
	}
	if n := f.logs(); n < d.logs {
		return fmt.Sprintf("it stands in %d different logs, %d are asked for", n, d.logs)
	}
	if d.maxAge > 0 {
		if f.signed.IsZero() {
			return "it bears no signed time, and an age is asked for"
		}
		if age := p.now().Sub(f.signed); age > d.maxAge {
			return fmt.Sprintf("signed %s, %s ago, at most %s is asked for", f.signed.Format(time.RFC3339), age.Truncate(time.Second), d.maxAge)
		}
	}
	return ""
}

// names are the signers of facts.
func names(facts []fact) string {
	all := make([]string, len(facts))
	for i, f := range facts {
		all[i] = f.who() + " under root " + f.result.Root()
	}
	return strings.Join(all, ", ")
}
