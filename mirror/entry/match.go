package entry

import (
	"regexp"
	"slices"
	"strings"
)

// Selector names entries. Every field that is set must agree with the entry; one that is not set agrees with any. A Selector without fields
// agrees with nothing: whoever wants all entries mirrors the log in full.
type Selector struct {
	Digest   string         // "sha256:<hex>"
	Key      string         // SHA-256 of the key's PEM in hex
	Identity string         // a name in the certificate; case does not matter
	Pattern  *regexp.Regexp // a name in the certificate
	Issuer   string         // of the identity token
}

// Match reports whether the entry is one that s names. Key, identity and issuer must be those of one signer.
func (f *Facts) Match(s Selector) bool {
	if s == (Selector{}) {
		return false
	}
	if s.Digest != "" && !slices.Contains(f.Digests, strings.ToLower(s.Digest)) {
		return false
	}
	if s.Key == "" && s.Identity == "" && s.Pattern == nil && s.Issuer == "" {
		return true
	}
	return slices.ContainsFunc(f.Signers, func(one Signer) bool {
		named := func(is func(string) bool) bool { return slices.ContainsFunc(one.Identities, is) }
		return (s.Key == "" || one.Key == strings.ToLower(s.Key)) &&
			(s.Identity == "" || named(func(name string) bool { return strings.EqualFold(name, s.Identity) })) &&
			(s.Pattern == nil || named(s.Pattern.MatchString)) &&
			(s.Issuer == "" || one.Issuer == s.Issuer)
	})
}

// Terms are the texts a search finds the entry by, as Rekor v1 indexes it: bare key hashes ("sha256:<hash>" too for envelopes), names and digests.
func (f *Facts) Terms() []string {
	terms := slices.Clone(f.Keys)
	if f.Kind == "dsse" || f.Kind == "intoto" {
		for _, k := range f.Keys {
			terms = append(terms, "sha256:"+k)
		}
	}
	return appendNew(append(terms, f.Identities...), f.Digests...)
}
