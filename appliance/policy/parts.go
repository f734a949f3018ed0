package policy

import (
	"crypto"
	"strings"
)

// Parts are what a policy in force consists of, for those who write it down in another form. They are not to be changed.
type Parts struct {
	File  *File
	Roots map[string][]byte           // trusted_root.json by name
	Keys  map[string]crypto.PublicKey // by name
}

// Parts returns what p consists of.
func (p *Policy) Parts() Parts {
	out := Parts{File: p.file, Roots: map[string][]byte{}, Keys: map[string]crypto.PublicKey{}}
	for name, r := range p.roots {
		out.Roots[name] = r.json
	}
	for name, k := range p.keys {
		out.Keys[name] = k.public.Public
	}
	return out
}

// Overlap tells whether some image is matched by both patterns of a policy in force.
func Overlap(a, b string) bool {
	x, xerr := compileGlob(a)
	y, yerr := compileGlob(b)
	return xerr == nil && yerr == nil && overlap(x, y)
}

// SameSigner names a signer as thresholds count: a workflow is the same at every ref.
func SameSigner(identity, issuer string) string {
	if strings.Contains(identity, "://") {
		identity, _, _ = strings.Cut(identity, "@refs/")
	}
	return identity + " (issuer " + issuer + ")"
}
