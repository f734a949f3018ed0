package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"redoubt.internal/log/strictjson"
)

// Source is a registry or a layout. What its functions return was only read; Gather checks digests. What is not there is fs.ErrNotExist.
type Source struct {
	// manifest reads a manifest by digest or tag, at most MaxManifest bytes.
	manifest func(ctx context.Context, ref Reference, at string) ([]byte, error)
	// blob reads a blob of so many bytes by digest.
	blob func(ctx context.Context, ref Reference, digest string, size int64) ([]byte, error)
	// referrers lists the manifests whose subject is digest. note says what was wrong with a list that could be had in another way.
	referrers func(ctx context.Context, ref Reference, digest string) (list []v1.Descriptor, note string, err error)
	// names lists the repositories of a registry, or the tags of one of them; nil for a layout.
	names func(ctx context.Context, repository string) ([]string, error)
	// hosts are those that are asked; none for a layout.
	hosts []string
	// layout is where files stand, nil for a registry.
	layout *layout
	close  func() error
}

// Close ends access to a layout.
func (s *Source) Close() error {
	if s.close == nil {
		return nil
	}
	return s.close()
}

// Hosts are the hosts that are asked, none for a layout.
func (s *Source) Hosts() []string { return s.hosts }

// Resolve returns the digest that a reference stands for now.
func (s *Source) Resolve(ctx context.Context, ref Reference) (string, error) {
	if ref.digest != "" {
		return ref.digest, nil
	}
	b, err := s.manifest(ctx, ref, ref.tag)
	if err != nil {
		return "", fmt.Errorf("resolving %s: %w", ref, answered(err))
	}
	return DigestOf(b), nil
}

// answered says of what is not there that it was the registry that said so.
func answered(err error) error {
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrAnswer) {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return err
}

// document is a manifest or an index, as far as it is read.
type document struct {
	mediaType, artifactType string
	index                   bool
	config                  *v1.Descriptor
	layers                  []v1.Descriptor
	manifests               []v1.Descriptor
	subject                 *v1.Descriptor
}

// readDocument reads a manifest or an index. Whoever asked by digest has checked it.
func readDocument(b []byte) (document, error) {
	if err := strictjson.Check(b, strictjson.Limits{Bytes: MaxManifest, Depth: 16, Values: 200_000}); err != nil {
		return document{}, fmt.Errorf("%w: a manifest: %w", ErrAnswer, err)
	}
	m, err := v1.ParseManifest(bytes.NewReader(b))
	if err != nil {
		return document{}, fmt.Errorf("%w: a manifest: %v", ErrAnswer, err)
	}
	list, err := v1.ParseIndexManifest(bytes.NewReader(b))
	if err != nil {
		return document{}, fmt.Errorf("%w: a manifest: %v", ErrAnswer, err)
	}
	d := document{mediaType: string(m.MediaType), artifactType: m.ArtifactType, subject: m.Subject, layers: m.Layers, manifests: list.Manifests}
	if m.Config.Digest != (v1.Hash{}) {
		d.config = &m.Config
	}
	d.index = d.config == nil && len(d.layers) == 0
	switch {
	case m.SchemaVersion != 2:
		return document{}, fmt.Errorf("%w: a manifest of schema version %d", ErrAnswer, m.SchemaVersion)
	case len(d.manifests) > 0 && !d.index: // which of both it is would be a matter of who reads it
		return document{}, fmt.Errorf("%w: a manifest that is an index as well", ErrAnswer)
	case d.mediaType == "" && d.index:
		d.mediaType = "application/vnd.oci.image.index.v1+json"
	case d.mediaType == "":
		d.mediaType = "application/vnd.oci.image.manifest.v1+json"
	}
	if len(d.mediaType) > 200 || len(d.artifactType) > 200 || !printable(d.mediaType) {
		return document{}, fmt.Errorf("%w: a manifest of media type %.100q", ErrAnswer, d.mediaType)
	}
	return d, nil
}

// blobs are the config and the layers.
func (d document) blobs() []v1.Descriptor {
	if d.config == nil {
		return d.layers
	}
	return append([]v1.Descriptor{*d.config}, d.layers...)
}
