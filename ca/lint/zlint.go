package lint

import (
	"crypto/fips140"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3/lint"
	_ "github.com/zmap/zlint/v3/lints/rfc" // registers the RFC lints, and only those
)

// sources are the zlint sources that bind a private code-signing PKI. The CA/B
// Forum, Mozilla, Apple and ETSI sources are rules of public web and qualified
// trust and are not linked.
var sources = lint.SourceList{
	lint.RFC3279, lint.RFC5280, lint.RFC5480, lint.RFC5891, lint.RFC6962, lint.RFC8813,
}

// exclusions names every RFC lint that is not applied, with the reason.
// Each is excluded for the listed profiles only (nil: for all).
var exclusions = map[string]struct {
	reason   string
	profiles []Profile
}{
	"e_ext_san_uri_host_not_fqdn_or_ip": {
		"SPIFFE trust domains and the issuers of isolated networks (https://gitlab:8443) are single labels or carry a port; the identity policy of the issuer decides which hosts are accepted",
		[]Profile{Precertificate, Leaf},
	},
}

// Excluded returns the zlint lints not applied to profile p, with reasons.
func Excluded(p Profile) map[string]string {
	out := map[string]string{}
	for name, e := range exclusions {
		if e.profiles == nil || slices.Contains(e.profiles, p) {
			out[name] = e.reason
		}
	}
	return out
}

// Applied returns the sorted names of the zlint lints applied to profile p.
func Applied(p Profile) ([]string, error) {
	set, err := lints()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range set[p] {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return names, nil
}

// rule is one lint, ready to run.
type rule struct {
	*lint.CertificateLint
	// shared is the lint's implementation when it has no fields, and so no state to
	// share; nil when each run needs a new one.
	shared lint.CertificateLintInterface
	// implied: not run on a certificate of the one shape, see shape.go.
	implied bool
}

func newRule(l *lint.CertificateLint) (rule, error) {
	impl := l.Lint()
	if _, ok := impl.(lint.Configurable); ok {
		return rule{}, fmt.Errorf("lint %s wants a configuration, and there is none", l.Name)
	}
	if t := reflect.TypeOf(impl); t.Kind() == reflect.Pointer && t.Elem().Size() == 0 {
		return rule{CertificateLint: l, shared: impl, implied: implied[l.Name] != ""}, nil
	}
	return rule{CertificateLint: l, implied: implied[l.Name] != ""}, nil
}

// run is what zlint's own Execute does with a lint of these sources that needs
// no configuration. A panic of a lint on an odd certificate is Fatal, as there.
func (r rule) run(cert *x509.Certificate) (result lint.LintResult) {
	defer func() {
		if p := recover(); p != nil {
			result = lint.LintResult{Status: lint.Fatal, Details: fmt.Sprintf("the lint panicked: %v", p)}
		}
	}()
	impl := r.shared
	if impl == nil {
		impl = r.Lint()
	}
	if !impl.CheckApplies(cert) {
		return lint.LintResult{Status: lint.NA}
	}
	if !r.CheckEffective(cert) {
		return lint.LintResult{Status: lint.NE}
	}
	return *impl.Execute(cert)
}

// lints builds the lists of certificate lints per profile, once. It fails when
// an exclusion names a lint that no longer exists, so that a zlint upgrade
// cannot leave a stale exclusion behind.
var lints = sync.OnceValues(func() (map[Profile][]rule, error) {
	registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: sources})
	if err != nil {
		return nil, fmt.Errorf("filtering lints: %w", err)
	}
	all := registry.CertificateLints()
	for _, name := range slices.Sorted(maps.Keys(exclusions)) {
		if all.ByName(name) == nil {
			return nil, fmt.Errorf("excluded lint %s is unknown to zlint", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(implied)) {
		if all.ByName(name) == nil {
			return nil, fmt.Errorf("implied lint %s is unknown to zlint", name)
		}
	}
	sets := map[Profile][]rule{}
	for _, p := range []Profile{Root, Issuing, TSAIntermediate, TSALeaf, Precertificate, Leaf, Cross} {
		skip := Excluded(p)
		for _, l := range all.Lints() {
			if _, ok := skip[l.Name]; ok {
				continue
			}
			r, err := newRule(l)
			if err != nil {
				return nil, err
			}
			sets[p] = append(sets[p], r)
		}
	}
	return sets, nil
})

// faultless reports whether no lint of Precertificate but those implied finds
// anything in cert, which shaped made.
func faultless(cert *x509.Certificate) bool {
	set, err := lints()
	if err != nil {
		return false
	}
	for _, r := range set[Precertificate] {
		if r.implied {
			continue
		}
		switch r.run(cert).Status {
		case lint.NA, lint.NE, lint.Pass:
		default:
			return false
		}
	}
	return true
}

// runZlint applies the lints of profile p. Anything but pass, not applicable
// and not yet effective is a finding: a warning of today is a client's refusal
// of tomorrow, and our own certificates need no leniency.
func runZlint(der []byte, p Profile) ([]Finding, error) {
	set, err := lints()
	if err != nil {
		return nil, err
	}
	var cert *x509.Certificate
	// zcrypto fills MD5 and SHA-1 fingerprints while it parses; nothing reads them, and no key is at work here.
	fips140.WithoutEnforcement(func() { cert, err = x509.ParseCertificate(der) })
	if err != nil {
		return []Finding{{"redoubt_parse", "zcrypto: " + err.Error()}}, nil
	}
	var findings []Finding
	for _, r := range set[p] {
		switch result := r.run(cert); result.Status {
		case lint.NA, lint.NE, lint.Pass:
		default:
			detail := result.Details
			if detail == "" {
				detail = r.Description
			}
			findings = append(findings, Finding{r.Name, fmt.Sprintf("%s (%s, %s)", detail, result.Status, r.Citation)})
		}
	}
	return findings, nil
}
