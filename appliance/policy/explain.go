package policy

import (
	"fmt"
	"strings"
	"time"
)

// Explained is one rule in words.
type Explained struct {
	Rule    string   `json:"rule"`
	Decides bool     `json:"decides"` // about the artifact that was asked for
	For     []string `json:"for"`     // patterns
	Asks    []string `json:"asks"`    // empty for a rule that denies
	Action  string   `json:"action"`  // allow or deny
}

// Explain says every rule in words, in the order in which they are looked at, and which decides about a; the zero Artifact asks about none.
func (p *Policy) Explain(a Artifact) (all []Explained) {
	decides := p.match(a)
	for _, denies := range []bool{true, false} {
		for i := range p.rules {
			r := &p.rules[i]
			if r.deny != denies {
				continue
			}
			e := Explained{Rule: r.Name, Decides: r == decides, Action: "allow", Asks: []string{}}
			for _, g := range r.images {
				e.For = append(e.For, "image "+g.text)
			}
			for _, g := range r.artifacts {
				e.For = append(e.For, "artifact "+g.text)
			}
			if r.deny {
				e.Action = "deny"
			}
			if r.signatures != nil {
				e.Asks = append(e.Asks, "a signature"+r.signatures.words(p))
			}
			for _, t := range r.attested {
				e.Asks = append(e.Asks, t.words(p))
			}
			all = append(all, e)
		}
	}
	return all
}

// SLSALevel is the build level that a rule asks for, 0 where it asks for none. What the rule allows was built at that level at least.
func (p *Policy) SLSALevel(name string) (level int) {
	for i := range p.rules {
		if p.rules[i].Name != name {
			continue
		}
		for _, t := range p.rules[i].attested {
			if t.SLSA != nil {
				level = max(level, t.SLSA.Level)
			}
		}
	}
	return level
}

// words is a demand in words.
func (d *demand) words(p *Policy) string {
	var who []string
	for _, name := range d.by {
		for _, s := range p.signers[name] {
			who = append(who, s.words())
		}
	}
	out := fmt.Sprintf(" of %d different signers of %s: %s", d.threshold, strings.Join(d.by, ", "), strings.Join(who, "; or "))
	if d.threshold == 1 {
		out = fmt.Sprintf(" by one of %s: %s", strings.Join(d.by, ", "), strings.Join(who, "; or "))
	}
	if d.logs > 0 {
		out += fmt.Sprintf(", in %d different logs", d.logs)
	}
	if d.maxAge > 0 {
		out += fmt.Sprintf(", at most %s old", d.maxAge)
	}
	return out
}

// words is a signer in words.
func (s *signer) words() string {
	if s.key != "" {
		return fmt.Sprintf("key %s with the log of root %s", s.Key, s.keyRoot)
	}
	or := func(exact, expression string) string {
		if exact != "" {
			return exact
		}
		return "/" + expression + "/"
	}
	out := fmt.Sprintf("%s (issuer %s) under root %s", or(s.Identity, s.IdentityRegexp), or(s.Issuer, s.IssuerRegexp), s.Root)
	if n := len(s.extensions); n > 0 {
		out += fmt.Sprintf(", with %d certificate extensions", n)
	}
	return out
}

// words is a wanted attestation in words.
func (t *attestation) words(p *Policy) string {
	out := fmt.Sprintf("an attestation of %s%s", t.Type, t.demand.words(p))
	if t.newest {
		out += ", each signer's newest"
	}
	if s := t.SLSA; s != nil {
		var ids []string
		for _, b := range s.Builders {
			if b.Level >= s.Level {
				ids = append(ids, b.ID)
			}
		}
		out += fmt.Sprintf("; built at level %d by %s", s.Level, strings.Join(ids, " or "))
		if len(s.Sources) > 0 {
			out += " from " + strings.Join(s.Sources, " or ")
		}
	}
	if s := t.SBOM; s != nil {
		out += fmt.Sprintf("; at least %d packages", max(s.MinPackages, 1))
		if len(s.DenyPackages) > 0 {
			out += ", none of " + strings.Join(s.DenyPackages, ", ")
		}
	}
	if t.VEX != nil {
		out += "; none of its statements denied"
	}
	if v := t.Vulnerabilities; v != nil {
		out += fmt.Sprintf("; nothing worse than %s", orNone(v.MaxSeverity))
		if v.MaxAge > 0 {
			out += fmt.Sprintf(", scanned at most %s ago", time.Duration(v.MaxAge))
		}
	}
	if t.Tests != nil {
		out += "; its tests passed"
	}
	for _, c := range t.CEL {
		out += "; " + oneLine(c)
	}
	return out
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
