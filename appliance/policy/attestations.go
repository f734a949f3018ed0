package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"redoubt.internal/log/strictyaml"
)

// maxPredicate is the longest statement whose predicate is read, in bytes.
const maxPredicate = 16 << 20

// predicateTypes are the names a policy may use for predicate types that come in several versions. An expression matches the
// whole type, and is compiled when a policy names it.
var predicateTypes = map[string]string{
	"slsa-provenance":      `https://slsa\.dev/provenance/v(0\.2|1)`,
	"verification-summary": `https://slsa\.dev/verification_summary/v(0\.2|1)`,
	"spdx":                 `https://spdx\.dev/Document(/v[0-9.]+)?`,
	"cyclonedx":            `https://cyclonedx\.org/bom(/v[0-9.]+)?`,
	"sbom":                 `https://(spdx\.dev/Document|cyclonedx\.org/bom)(/v[0-9.]+)?`,
	"openvex":              `https://openvex\.dev/ns(/v[0-9.]+)?`,
	"vulnerabilities":      `https://(cosign\.sigstore\.dev/attestation/vuln/v1|in-toto\.io/attestation/vulns/v0\.[12])`,
	"test-result":          `https://in-toto\.io/attestation/test-result/v0\.1`,
}

// wholly matches what a pattern matches as a whole.
func wholly(pattern string) *regexp.Regexp { return regexp.MustCompile(`\A(?:` + pattern + `)\z`) }

// attestation is an Attestation ready to decide.
type attestation struct {
	Attestation
	demand
	type_  *regexp.Regexp
	checks []check
	newest bool
}

// check says why an attested predicate is not good enough, nothing when it is.
type check func(ctx context.Context, q question) string

// question is what a check sees.
type question struct {
	p         *Policy
	artifact  Artifact
	fact      fact
	predicate any
}

func (p *Policy) attestation(in Attestation) (out attestation, err error) {
	pattern, named := predicateTypes[in.Type]
	if !named {
		if !strings.Contains(in.Type, ":") {
			return out, fmt.Errorf("type %.100q is neither the URI of a predicate type nor one of its names%s", in.Type, nearest(in.Type, predicateTypes))
		}
		pattern = regexp.QuoteMeta(in.Type)
	}
	out = attestation{Attestation: in, type_: wholly(pattern)}
	d, err := p.demand(Signatures{By: in.By, Threshold: in.Threshold, Logs: in.Logs, MaxAge: in.MaxAge})
	if err != nil {
		return out, err
	}
	out.demand, out.newest = *d, in.Newest
	for _, part := range []struct {
		name   string
		asked  bool
		types  []string
		make   func() (check, error)
		newest bool // what was found later counts in place of what was found before
	}{
		{"slsa", in.SLSA != nil, []string{"slsa-provenance"}, func() (check, error) { return in.SLSA.check() }, false},
		{"sbom", in.SBOM != nil, []string{"sbom", "spdx", "cyclonedx"}, func() (check, error) { return in.SBOM.check() }, false},
		{"vex", in.VEX != nil, []string{"openvex"}, func() (check, error) { return in.VEX.check() }, true},
		{"vulnerabilities", in.Vulnerabilities != nil, []string{"vulnerabilities"}, func() (check, error) { return in.Vulnerabilities.check() }, true},
		{"tests", in.Tests != nil, []string{"test-result"}, func() (check, error) { return in.Tests.check() }, true},
	} {
		if !part.asked {
			continue
		}
		if !slices.ContainsFunc(part.types, func(t string) bool { return t == in.Type || wholly(predicateTypes[t]).MatchString(in.Type) }) {
			return out, fmt.Errorf("%s is for the type %s, not for %.100q", part.name, strings.Join(part.types, " or "), in.Type)
		}
		c, err := part.make()
		if err != nil {
			return out, fmt.Errorf("%s: %w", part.name, err)
		}
		out.checks, out.newest = append(out.checks, c), out.newest || part.newest
	}
	if len(in.CEL) > 32 {
		return out, errors.New("more than 32 expressions")
	}
	for i, text := range in.CEL {
		c, err := compileCEL(text)
		if err != nil {
			return out, fmt.Errorf("cel[%d]: %w", i, err)
		}
		out.checks = append(out.checks, c)
	}
	return out, nil
}

// judge finds the facts that the rule asks for by this attestation.
func (t *attestation) judge(ctx context.Context, p *Policy, a Artifact, facts []fact) (found []fact, why string) {
	if t.newest {
		facts = t.latest(p, facts)
	}
	return t.count(p, facts, func(f fact) string {
		if f.result.PredicateType() == "" {
			return "a signature, not an attestation"
		}
		if !t.type_.MatchString(f.result.PredicateType()) {
			return fmt.Sprintf("it attests %s", f.result.PredicateType())
		}
		if len(t.checks) == 0 {
			return ""
		}
		predicate, err := f.predicate()
		if err != nil {
			return err.Error()
		}
		for _, c := range t.checks {
			if why := c(ctx, question{p, a, f, predicate}); why != "" {
				return why
			}
		}
		return ""
	})
}

// latest keeps of each signer's attestations of this type the one signed last.
func (t *attestation) latest(p *Policy, facts []fact) []fact {
	last, out := map[string]fact{}, []fact{}
	for _, f := range facts {
		if !t.type_.MatchString(f.result.PredicateType()) || t.refuses(p, f) != "" {
			out = append(out, f)
			continue
		}
		if before, ok := last[f.who()]; !ok || f.signed.After(before.signed) {
			last[f.who()] = f
		}
	}
	for _, f := range last {
		out = append(out, f)
	}
	slices.SortStableFunc(out, func(a, b fact) int { return strings.Compare(a.source, b.source) })
	return out
}

// predicate is what f attests. The verifier has checked that it is strict JSON.
func (f fact) predicate() (any, error) {
	text := f.result.Statement()
	if len(text) > maxPredicate {
		return nil, fmt.Errorf("a statement of %d bytes, at most %d are read", len(text), maxPredicate)
	}
	var statement struct {
		Predicate any `json:"predicate"`
	}
	if err := json.Unmarshal(text, &statement); err != nil {
		return nil, fmt.Errorf("reading the statement: %w", err)
	}
	return statement.Predicate, nil
}

// at walks into nested objects, nil where there is nothing.
func at(v any, path ...string) any {
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func text(v any, path ...string) string {
	s, _ := at(v, path...).(string)
	return s
}

func list(v any, path ...string) []any {
	l, _ := at(v, path...).([]any)
	return l
}

// matchesAny tells whether one of globs matches s.
func matchesAny(globs []glob, s string) bool {
	return slices.ContainsFunc(globs, func(g glob) bool { return g.matches(s) })
}

// oneOf refuses a word that is not one of known.
func oneOf(word string, known ...string) error {
	if slices.Contains(known, word) {
		return nil
	}
	return fmt.Errorf("%.40q is none of %s%s", word, strings.Join(known, ", "), strictyaml.Nearest(word, slices.Values(known)))
}

// tooOld says that something of a time is older than asked for.
func (q question) tooOld(what, stamp string, most Duration) string {
	if most == 0 {
		return ""
	}
	t, err := time.Parse(time.RFC3339, stamp)
	if err != nil {
		return fmt.Sprintf("%s: %.40q is no time, and an age is asked for", what, stamp)
	}
	if age := q.p.now().Sub(t); age > time.Duration(most) {
		return fmt.Sprintf("%s %s, at most %s ago is asked for", what, stamp, time.Duration(most))
	}
	return ""
}
