package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"redoubt.internal/log/strictjson"
)

// MaxNames is the largest number of repositories, or of tags in one, that a registry may list.
const MaxNames = 100_000

// attached tells whether cosign or the referrers' tag schema keeps what vouches for an image under that tag: sha256-HEX or sha512-HEX, and more after a dot.
func attached(tag string) bool {
	digest, more, suffixed := strings.Cut(tag, ".")
	algorithm, hash, _ := strings.Cut(digest, "-")
	return (algorithm == "sha256" || algorithm == "sha512") && len(hash) >= 64 && len(hash) <= 128 &&
		strings.Trim(hash, "0123456789abcdef") == "" && suffixed == (more != "")
}

// Catalog lists the images of a registry by repository and tag, in order; below keeps to the repositories that begin with it. What is kept beside images
// under tags of its own is none. A registry may refuse to be listed.
func (s *Source) Catalog(ctx context.Context, below string) (all []Reference, err error) {
	if s.names == nil {
		return nil, fmt.Errorf("%w: a layout has no catalogue", ErrReference)
	}
	repositories, err := s.names(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("listing the repositories of %s: %w", s.hosts[0], err)
	}
	slices.Sort(repositories)
	for _, repository := range slices.Compact(repositories) {
		if below != "" && repository != below && !strings.HasPrefix(repository, strings.TrimSuffix(below, "/")+"/") {
			continue
		}
		tags, err := s.names(ctx, repository)
		if errors.Is(err, fs.ErrNotExist) { // emptied since
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing the tags of %s: %w", repository, err)
		}
		slices.Sort(tags)
		for _, tag := range tags {
			if attached(tag) {
				continue
			}
			ref, err := ParseReference(s.hosts[0] + "/" + repository + ":" + tag)
			if err != nil {
				return nil, fmt.Errorf("%w: it lists %.100q, tag %.100q", ErrAnswer, repository, tag)
			}
			if all = append(all, ref); len(all) > MaxNames {
				return nil, fmt.Errorf("%w: more than %d images", ErrLimit, MaxNames)
			}
		}
	}
	return all, nil
}

// names reads a list of the API (OCI distribution specification 1.1, listing tags; the catalogue is Docker's), page after page.
func (r *registry) names(ctx context.Context, repository string) (all []string, err error) {
	path, scope := "/v2/_catalog?n=1000", r.host.Scope(transport.CatalogScope)
	if repository != "" {
		path, scope = "/v2/"+repository+"/tags/list?n=1000", r.host.Repo(repository).Scope(transport.PullScope)
	}
	first := path
	for range MaxNames / 10 {
		var head http.Header
		b, err := r.answer(ctx, scope, path, "", MaxManifest, &head)
		if err != nil {
			return nil, err
		}
		o, err := strictjson.Object(b)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrAnswer, path, err)
		}
		list := o["tags"]
		if repository == "" {
			list = o["repositories"]
		}
		page, ok := list.([]any)
		if !ok && list != nil {
			return nil, fmt.Errorf("%w: %s: no list", ErrAnswer, path)
		}
		for _, name := range page {
			text, ok := name.(string)
			if !ok {
				return nil, fmt.Errorf("%w: %s: no list of names", ErrAnswer, path)
			}
			all = append(all, text)
		}
		next := nextPage(head.Values("Link"))
		if next == "" || len(page) == 0 {
			return all, nil
		}
		if len(all) > MaxNames {
			break
		}
		if path, err = r.following(first, next); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: more than %d names", ErrLimit, MaxNames)
}

// following is the next page of the list at first.
func (r *registry) following(first, next string) (string, error) {
	base, err := url.Parse(r.host.Scheme() + "://" + r.host.RegistryStr() + first)
	if err != nil {
		return "", fmt.Errorf("%w: %v", ErrAnswer, err)
	}
	u, err := base.Parse(next)
	if err != nil || u.Host != base.Host || u.Path != base.Path {
		return "", fmt.Errorf("%w: the next page of %s is %.200q", ErrAnswer, base.Path, next)
	}
	return u.RequestURI(), nil
}
