package policy

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/log/strictyaml"
)

// signer is a Signer ready to match.
type signer struct {
	Signer
	identity, issuer *regexp.Regexp
	extensions       map[string]*regexp.Regexp
	key              string // SHA-256 of the key
	keyRoot          string
}

// denial is a Denied ready to match.
type denial struct {
	Denied
	signers []signer
}

// whole compiles an expression that matches the whole text, or the text itself.
func whole(exact, expression string) (*regexp.Regexp, error) {
	switch {
	case exact != "" && expression != "":
		return nil, errors.New("given both exactly and as an expression")
	case exact != "":
		return regexp.MustCompile(`\A` + regexp.QuoteMeta(exact) + `\z`), nil
	case len(expression) > 4096:
		return nil, errors.New("an expression of more than 4096 bytes")
	}
	return regexp.Compile(`\A(?:` + expression + `)\z`)
}

func (p *Policy) compileSigner(in Signer) (out signer, err error) {
	out = signer{Signer: in, extensions: map[string]*regexp.Regexp{}}
	if in.Key != "" {
		k, ok := p.keys[in.Key]
		if !ok {
			return out, fmt.Errorf("there is no key %q%s", in.Key, nearest(in.Key, p.keys))
		}
		if in.Root+in.Identity+in.IdentityRegexp+in.Issuer+in.IssuerRegexp != "" || max(len(in.Extensions), len(in.ExtensionsRegexp)) > 0 {
			return out, errors.New("a signer is a key or an identity, not both")
		}
		out.key, out.keyRoot = k.sum, k.Root
		return out, nil
	}
	if _, ok := p.roots[in.Root]; !ok {
		return out, fmt.Errorf("there is no root %q%s; every identity names the root that it is accepted under", in.Root, nearest(in.Root, p.roots))
	}
	if in.Identity+in.IdentityRegexp == "" || in.Issuer+in.IssuerRegexp == "" {
		return out, errors.New("identity and issuer are both needed, exactly or as an expression: one issuer knows nothing of another's names")
	}
	if out.identity, err = whole(in.Identity, in.IdentityRegexp); err != nil {
		return out, fmt.Errorf("identity: %w", err)
	}
	if out.issuer, err = whole(in.Issuer, in.IssuerRegexp); err != nil {
		return out, fmt.Errorf("issuer: %w", err)
	}
	return out, out.compileExtensions()
}

func (s *signer) compileExtensions() (err error) {
	for _, name := range slices.Sorted(maps.Keys(s.Extensions)) {
		if s.Extensions[name] == "" {
			return fmt.Errorf("extensions.%s is empty", name)
		}
		if s.extensions[name], err = whole(s.Extensions[name], ""); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.ExtensionsRegexp)) {
		if s.extensions[name] != nil {
			return fmt.Errorf("the extension %s is given both exactly and as an expression", name)
		}
		if s.extensions[name], err = whole("", s.ExtensionsRegexp[name]); err != nil {
			return fmt.Errorf("extensions-regexp.%s: %w", name, err)
		}
	}
	for name := range s.extensions {
		if known := verify.ExtensionNames(); !slices.Contains(known, name) {
			return fmt.Errorf("there is no extension %q%s", name, strictyaml.Nearest(name, slices.Values(known)))
		}
	}
	return nil
}

// matches tells whether f was signed by s, under its root.
func (s *signer) matches(f fact) bool {
	if s.key != "" {
		return f.result.Key() == s.key && f.result.Root() == s.keyRoot
	}
	san, issuer := f.result.Signer()
	if f.result.Key() != "" || f.result.Root() != s.Root || !s.identity.MatchString(san) || !s.issuer.MatchString(issuer) {
		return false
	}
	if len(s.extensions) == 0 {
		return true
	}
	has := f.result.Extensions()
	for name, want := range s.extensions {
		if value, ok := has[name]; !ok || !want.MatchString(value) {
			return false
		}
	}
	return true
}

// group is every signer of the groups of these names.
func (p *Policy) group(by []string) (all []signer, err error) {
	if len(by) == 0 {
		return nil, errors.New("by is missing: whose signature counts?")
	}
	for _, name := range by {
		g, ok := p.signers[name]
		if !ok {
			return nil, fmt.Errorf("there are no signers %q%s", name, nearest(name, p.signers))
		}
		all = append(all, g...)
	}
	return all, nil
}

// spoiled says which denied signer signed one of facts, empty when none did.
func (p *Policy) spoiled(facts []fact) string {
	for _, f := range facts {
		var at []time.Time
		for _, t := range f.result.Times() {
			at = append(at, t.Time)
		}
		san, issuer := f.result.Signer()
		if e := p.roots[f.result.Root()].denied.Match(issuer, san, at...); f.result.Key() == "" && e != nil {
			return "signed by an identity that is denied under root " + f.result.Root() + ": " + e.String()
		}
	}
	for _, d := range p.denied {
		for _, f := range facts {
			if slices.ContainsFunc(d.signers, func(s signer) bool { return s.matches(f) }) && d.covers(f.result.Times()) {
				return strings.TrimSuffix(fmt.Sprintf("signed by %s, who is denied: %s", f.who(), d.Reason), ": ")
			}
		}
	}
	return ""
}

// covers tells whether one of the signed times lies within the denial. What bears no time may be of any.
func (d denial) covers(times []verify.SignedTime) bool {
	in := func(t time.Time) bool {
		return (d.Since.IsZero() || !t.Before(d.Since)) && (d.Until.IsZero() || !t.After(d.Until))
	}
	return len(times) == 0 || slices.ContainsFunc(times, func(t verify.SignedTime) bool { return in(t.Time) })
}

func nearest[T any](name string, of map[string]T) string {
	return strictyaml.Nearest(name, maps.Keys(of))
}
