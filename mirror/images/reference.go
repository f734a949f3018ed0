package images

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Reference names an image in full: HOST/NAME:TAG, HOST/NAME@sha256:HEX or HOST/NAME:TAG@sha256:HEX. A bare sha256:HEX names an image
// of a layout. Nothing is filled in: no registry, no "latest".
type Reference struct {
	text   string
	repo   name.Repository // zero for a bare digest
	tag    string
	digest string
}

// maxReference is the longest reference in bytes.
const maxReference = 512

// ParseReference reads a reference. Every error is ErrReference.
func ParseReference(s string) (Reference, error) {
	r := Reference{text: s}
	bad := func(why string) (Reference, error) {
		return Reference{}, fmt.Errorf("%w: %.200q: %s", ErrReference, s, why)
	}
	if len(s) > maxReference || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return bad("HOST/NAME:TAG or HOST/NAME@sha256:HEX is needed")
	}
	if _, err := Hex(s); err == nil {
		r.digest = s
		return r, nil
	}
	base, digest, pinned := strings.Cut(s, "@")
	if pinned {
		if _, err := Hex(digest); err != nil {
			return bad("its digest is not sha256: and 64 hex digits")
		}
		r.digest = digest
	}
	if rest := base[strings.LastIndexByte(base, '/')+1:]; strings.Contains(rest, ":") {
		tag, err := name.NewTag(base, name.StrictValidation)
		if err != nil {
			return bad(err.Error())
		}
		r.repo, r.tag = tag.Repository, tag.TagStr()
	} else {
		if !pinned {
			return bad("it has neither a tag nor a digest")
		}
		repo, err := name.NewRepository(base, name.StrictValidation)
		if err != nil {
			return bad(err.Error())
		}
		r.repo = repo
	}
	if host, _, ok := strings.Cut(base, "/"); !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return bad("it does not begin with the registry's host")
	}
	return r, nil
}

// String is the reference as it was written.
func (r Reference) String() string { return r.text }

// Host is the registry's host, with its port if it has one; empty for a bare digest.
func (r Reference) Host() string {
	if r.repo == (name.Repository{}) {
		return ""
	}
	return r.repo.RegistryStr()
}

// Repository is the name without the host.
func (r Reference) Repository() string {
	if r.repo == (name.Repository{}) {
		return ""
	}
	return r.repo.RepositoryStr()
}

// Digest is what the reference is pinned to, empty when it names a tag alone.
func (r Reference) Digest() string { return r.digest }

// SameHost tells whether the reference is read at a registry of that host.
func (r Reference) SameHost(host string) bool {
	reg, err := name.NewRegistry(host)
	return err == nil && r.Host() == reg.RegistryStr()
}
