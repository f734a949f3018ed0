package mirror

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"redoubt.internal/mirror/entry"
)

// Select says which entries of a log are wanted at scope sparse, by what they say. An entry is picked that one of the digests, or one
// of the identities together with one of the issuers, names; identities without issuers go with any issuer, and the other way round.
type Select struct {
	// Digests are "sha256:<hex>" and the like, of artefacts, payloads or subjects.
	Digests []string `json:"digests,omitempty"`
	// Identities are regular expressions that match a whole name in a signer's certificate.
	Identities []string `json:"identities,omitempty"`
	// Issuers are regular expressions that match the whole issuer of the signer's identity token.
	Issuers []string `json:"issuers,omitempty"`
	// Modules are of the Go checksum database, as "module@version".
	Modules []string `json:"modules,omitempty"`
	// Indexes are numbers of entries, as bundles name them.
	Indexes []uint64 `json:"indexes,omitempty"`
	// Pad is how many other entries are asked for with each one, so that whoever answers cannot tell which was wanted.
	Pad int `json:"pad,omitempty"`
}

// Bounds of a Select.
const (
	maxSelect  = 10_000 // members of one list
	maxPad     = 64
	maxPattern = 1000 // bytes of an expression
)

// Empty tells whether s selects nothing.
func (s Select) Empty() bool {
	return len(s.Digests)+len(s.Identities)+len(s.Issuers)+len(s.Modules)+len(s.Indexes) == 0
}

// byContent tells whether entries have to be looked at, or searched for, to be picked.
func (s Select) byContent() bool { return len(s.Digests)+len(s.Identities)+len(s.Issuers) > 0 }

// selection is a Select that was checked, ready to judge entries.
type selection struct {
	Select
	digests    map[string]bool
	identities []*regexp.Regexp
	issuers    []*regexp.Regexp
}

// check orders s and refuses what cannot be meant. The error is ErrConfig.
func (s Select) check() (*selection, error) {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: select: "+format, append([]any{ErrConfig}, a...)...)
	}
	for _, n := range []int{len(s.Digests), len(s.Identities), len(s.Issuers), len(s.Modules), len(s.Indexes)} {
		if n > maxSelect {
			return nil, bad("a list of %d, at most %d", n, maxSelect)
		}
	}
	if s.Pad < 0 || s.Pad > maxPad {
		return nil, bad("pad %d; 0 to %d", s.Pad, maxPad)
	}
	out := &selection{digests: make(map[string]bool)}
	for _, list := range []*[]string{&s.Digests, &s.Identities, &s.Issuers, &s.Modules} {
		*list = slices.Compact(slices.Sorted(slices.Values(*list)))
	}
	s.Indexes = slices.Compact(slices.Sorted(slices.Values(s.Indexes)))
	for _, d := range s.Digests {
		algorithm, value, _ := strings.Cut(d, ":")
		if b, err := hex.DecodeString(value); err != nil || algorithm == "" || len(b) < 20 || d != strings.ToLower(d) {
			return nil, bad("digest %.100q; \"sha256:\" and hex digits in lower case are needed", d)
		}
		out.digests[d] = true
	}
	compile := func(list []string) (all []*regexp.Regexp, err error) {
		for _, p := range list {
			re, err := regexp.Compile(`\A(?:` + p + `)\z`)
			if err != nil || p == "" || len(p) > maxPattern || strings.ContainsAny(p, "\n\r") {
				return nil, bad("expression %.100q: %v", p, err)
			}
			all = append(all, re)
		}
		return all, nil
	}
	var err error
	if out.identities, err = compile(s.Identities); err != nil {
		return nil, err
	}
	if out.issuers, err = compile(s.Issuers); err != nil {
		return nil, err
	}
	for _, m := range s.Modules {
		if path, version, ok := strings.Cut(m, "@"); !ok || path == "" || version == "" || strings.ContainsAny(m, " \n") {
			return nil, bad("module %.100q; module@version is needed", m)
		}
	}
	out.Select = s
	return out, nil
}

// match tells whether a leaf is one that is wanted. What cannot be read as an entry is none.
func (s *selection) match(leaf []byte) bool {
	f, err := entry.Read(leaf)
	if err != nil {
		return false
	}
	if slices.ContainsFunc(f.Digests, func(d string) bool { return s.digests[d] }) {
		return true
	}
	if len(s.identities)+len(s.issuers) == 0 {
		return false
	}
	any := func(list []*regexp.Regexp, values ...string) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(re *regexp.Regexp) bool { return slices.ContainsFunc(values, re.MatchString) })
	}
	return slices.ContainsFunc(f.Signers, func(one entry.Signer) bool {
		return any(s.identities, one.Identities...) && any(s.issuers, one.Issuer)
	})
}

// AddPurl adds what a package URL names: a module of the Go checksum database, the digest of an OCI artefact, checksums. A package
// URL that names none of these is ErrConfig: nothing in a log could be found by it.
func (s *Select) AddPurl(purl string) error {
	bad := func(why string) error { return fmt.Errorf("%w: package URL %.200q: %s", ErrConfig, purl, why) }
	rest, ok := strings.CutPrefix(purl, "pkg:")
	if !ok {
		return bad("it does not begin with pkg:")
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return bad("its qualifiers cannot be read")
	}
	kind, name, _ := strings.Cut(strings.TrimLeft(rest, "/"), "/")
	version := ""
	if at := strings.LastIndexByte(name, '@'); at >= 0 {
		name, version = name[:at], name[at+1:]
	}
	name, nerr := url.PathUnescape(name)
	version, verr := url.PathUnescape(version)
	if nerr != nil || verr != nil || name == "" {
		return bad("its name or version cannot be read")
	}
	found := false
	digest := func(list string) {
		for d := range strings.SplitSeq(list, ",") {
			if d = strings.ToLower(d); strings.HasPrefix(d, "sha256:") || strings.HasPrefix(d, "sha384:") || strings.HasPrefix(d, "sha512:") {
				s.Digests, found = append(s.Digests, d), true
			}
		}
	}
	switch strings.ToLower(kind) {
	case "golang":
		if version != "" {
			s.Modules, found = append(s.Modules, name+"@"+version), true
		}
	case "oci", "docker":
		digest(version)
		digest(values.Get("digest"))
	}
	digest(values.Get("checksum"))
	if !found {
		return bad("it names neither a Go module with its version nor a digest")
	}
	return nil
}
