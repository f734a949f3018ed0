package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/verifying"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/images"
)

// check wants references that name images and one place to look them up, or, inside, none.
func (m MirrorImages) check() error {
	switch {
	case m.Registry != "" && m.Layout != "":
		return errors.New("registry and layout: one place is read")
	case m.Registry == "" && (len(m.Also) > 0 || m.PlainHTTP || m.CAFile != "" || m.DockerConfig != ""):
		return errors.New("also, plain-http, ca-file and docker-config belong to a registry")
	}
	if m.Registry != "" {
		if _, err := images.OpenRegistry(images.Access{Host: m.Registry}); err != nil {
			return err
		}
	}
	for _, text := range m.References {
		if _, err := images.ParseReference(text); err != nil {
			return err
		}
	}
	return nil
}

// all are the references that are named, here and in the file.
func (m MirrorImages) all(dir layout) ([]string, error) {
	out := m.References
	if m.ReferencesFile != "" {
		text, err := os.ReadFile(dir.resolve(m.ReferencesFile))
		if err != nil {
			return nil, fmt.Errorf("mirror.images: references-file: %w", err)
		}
		out = append(out[:len(out):len(out)], listed(text)...)
	}
	return out, nil
}

// references are all that are named.
func (m Mirror) references(dir layout) (out []string, err error) {
	for _, i := range m.Images {
		refs, err := i.all(dir)
		if err != nil {
			return nil, err
		}
		out = append(out, refs...)
	}
	return out, nil
}

// mirrorImages are where the outside looks up images, and which. Those that a picklist names are looked up at the registry they name, and
// those of other registries in the first layout.
func (in *instance) mirrorImages() (out []mirror.ImageConfig, err error) {
	p, err := in.cfg.Mirror.picklist(in.dir)
	if err != nil {
		return nil, err
	}
	for _, i := range in.cfg.Mirror.Images {
		if i.Registry == "" && i.Layout == "" {
			continue // what is asked of an outside
		}
		c, err := in.imageConfig(i)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if p == nil || len(p.Images) == 0 {
		return out, nil
	}
	for i := range out {
		out[i].References = nil
	}
	for _, text := range p.Images {
		ref, err := images.ParseReference(text)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(out, func(c mirror.ImageConfig) bool { return c.Layout == "" && ref.SameHost(c.Registry.Host) })
		if at < 0 {
			at = slices.IndexFunc(out, func(c mirror.ImageConfig) bool { return c.Layout != "" })
		}
		if at < 0 {
			return nil, cmdline.Hinted(fmt.Errorf("mirror.picklist: %s is at no registry that is configured", ref), "add its registry to mirror.images")
		}
		out[at].References = append(out[at].References, text)
	}
	return slices.DeleteFunc(out, func(c mirror.ImageConfig) bool { return len(c.References) == 0 }), nil
}

func (in *instance) imageConfig(i MirrorImages) (c mirror.ImageConfig, err error) {
	if c.References, err = i.all(in.dir); err != nil {
		return c, err
	}
	c.Registry = images.Access{Host: i.Registry, Also: i.Also, PlainHTTP: i.PlainHTTP}
	if i.DockerConfig != "" {
		c.Registry.DockerConfig = in.dir.resolve(i.DockerConfig)
	}
	if i.Layout != "" {
		c.Layout = in.dir.resolve(i.Layout)
	}
	if i.CAFile == "" {
		return c, nil
	}
	access := in.cfg.Mirror.access()
	if access.Roots, err = verifying.ReadRoots(in.dir.resolve(i.CAFile)); err != nil {
		return c, fmt.Errorf("mirror.images: ca-file: %w", err)
	}
	network, err := mirror.NewNetwork(access)
	if err != nil {
		return c, err
	}
	c.Registry.Transport = network.Transport()
	return c, nil
}

var artifactsList = verb[struct{}, []mirror.MirroredImage]{"mirror.artifacts.list", func(_ context.Context, in *instance, _ string, _ struct{}) ([]mirror.MirroredImage, error) {
	m, err := in.inside()
	if err != nil {
		return nil, err
	}
	return m.Images()
}}

// artifactsArgs are what `mirror artifacts get` and `push` ask with.
type artifactsArgs struct {
	Name         string   `json:"name"` // a reference, or a digest of an image or a file
	Out          string   `json:"out,omitempty"`
	To           string   `json:"to,omitempty"` // HOST/NAME
	Also         []string `json:"also,omitempty"`
	PlainHTTP    bool     `json:"plainHTTP,omitempty"`
	CAFile       string   `json:"caFile,omitempty"`
	DockerConfig string   `json:"dockerConfig,omitempty"`
}

// artifactsResult is the JSON of `redoubt mirror artifacts get -o json`.
type artifactsResult struct {
	Reference string `json:"reference,omitempty"` // of the image, empty for a single file
	Digest    string `json:"digest"`
	Out       string `json:"out"`   // folder with an OCI layout, or the file
	Files     int    `json:"files"` // manifests and blobs
}

// findImage is the image that a reference or a digest names. A tag that stood for several images names the one that came last.
func findImage(m *mirror.Mirror, name string) (mirror.MirroredImage, error) {
	all, err := m.Images()
	if err != nil {
		return mirror.MirroredImage{}, err
	}
	var found *mirror.MirroredImage
	for i, image := range all {
		repository, _, _ := strings.Cut(image.Reference, "@")
		if image.Reference != name && image.Digest != name && repository+"@"+image.Digest != name {
			continue
		}
		if found == nil || image.Sequence > found.Sequence {
			found = &all[i]
		}
	}
	if found == nil {
		return mirror.MirroredImage{}, cmdline.Hinted(fmt.Errorf("%w: image %.200q", mirror.ErrNotFound, name), "`redoubt mirror artifacts list` prints those that something came of")
	}
	return *found, nil
}

var artifactsGet = verb[artifactsArgs, artifactsResult]{"mirror.artifacts.get", func(_ context.Context, in *instance, _ string, a artifactsArgs) (artifactsResult, error) {
	m, err := in.inside()
	if err != nil {
		return artifactsResult{}, err
	}
	image, err := findImage(m, a.Name)
	if errors.Is(err, mirror.ErrNotFound) && strings.HasPrefix(a.Name, "sha256:") {
		b, err := m.Blob(a.Name)
		if err != nil {
			return artifactsResult{}, cmdline.WithCode(mirror.ExitCode(err), err)
		}
		return artifactsResult{Digest: a.Name, Out: a.Out, Files: 1}, writeOnce(a.Out, b)
	}
	if err != nil {
		return artifactsResult{}, err
	}
	whole := image.Image()
	if err := images.WriteLayout(a.Out, whole, m.Blob); err != nil {
		return artifactsResult{}, cmdline.WithCode(mirror.ExitCode(err), fmt.Errorf("writing what vouches for %s: %w", image.Reference, err))
	}
	return artifactsResult{Reference: image.Reference, Digest: image.Digest, Out: a.Out, Files: len(whole.Digests())}, nil
}}

var artifactsPush = verb[artifactsArgs, images.Pushed]{"mirror.artifacts.push", func(ctx context.Context, in *instance, actor string, a artifactsArgs) (images.Pushed, error) {
	m, err := in.inside()
	if err != nil {
		return images.Pushed{}, err
	}
	image, err := findImage(m, a.Name)
	if err != nil {
		return images.Pushed{}, err
	}
	to, err := images.ParseReference(a.To + "@" + image.Digest)
	if err != nil {
		return images.Pushed{}, cmdline.Hinted(err, "--to is HOST/NAME of the repository inside")
	}
	access := in.cfg.Mirror.access()
	if a.CAFile != "" {
		if access.Roots, err = verifying.ReadRoots(a.CAFile); err != nil {
			return images.Pushed{}, err
		}
	}
	network, err := mirror.NewNetwork(access)
	if err != nil {
		return images.Pushed{}, err
	}
	if err := in.record(ctx, actor, "mirror.artifacts.push", image.Digest, map[string]string{"to": a.To}); err != nil {
		return images.Pushed{}, err
	}
	pushed, err := images.Push(ctx, images.Access{Host: to.Host(), Also: a.Also, PlainHTTP: a.PlainHTTP, DockerConfig: a.DockerConfig, Transport: network.Transport()}, to, image.Image(), m.Blob)
	if errors.Is(err, fs.ErrNotExist) {
		err = cmdline.Hinted(err, "parcels bring what vouches for an image, not its layers: push the image itself first, as you carried it")
	}
	return pushed, err
}}

var artifactsCheck = verb[struct{}, mirror.ImageReport]{"mirror.artifacts.check", func(ctx context.Context, in *instance, _ string, _ struct{}) (mirror.ImageReport, error) {
	m, err := in.inside()
	if err != nil {
		return mirror.ImageReport{}, err
	}
	return m.FsckImages(ctx)
}}
