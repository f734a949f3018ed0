package policy

import (
	"context"
	"fmt"
	"strings"

	"redoubt.internal/mirror/images"
)

// Gathered is what is said to vouch for an image.
type Gathered struct {
	Artifact Artifact
	Evidence []Evidence
	Left     []string // what was found and could not be taken, and why
}

// Gather finds the signatures and attestations of the image that ref names, in a registry or a layout. name is what rules shall match; empty is
// the reference's own. Requests and bytes are bounded whatever the source answers: what is too much is an error, on which nothing may be allowed.
func Gather(ctx context.Context, s *images.Source, ref images.Reference, name string) (Gathered, error) {
	found, err := s.Vouchers(ctx, ref)
	if err != nil {
		return Gathered{}, err
	}
	if name == "" {
		name = strings.Trim(ref.Host()+"/"+ref.Repository(), "/")
	}
	g := Gathered{Artifact: Artifact{Kind: Image, Name: name, Digest: found.Digest}}
	for _, v := range found.Vouchers {
		g.Evidence = append(g.Evidence, Evidence(v))
	}
	for _, l := range found.Left {
		g.Left = append(g.Left, fmt.Sprintf("%s: %s", l.Digest, l.Reason))
	}
	return g, nil
}
