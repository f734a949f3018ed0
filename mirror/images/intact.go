package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"redoubt.internal/log/strictjson"
)

// ErrAltered says that a file of a layout or an archive is not what its name or its manifest says.
var ErrAltered = errors.New("the image was altered")

// Intact reads every file of the image of that digest, those of its platforms included, and holds it to its digest. Of an archive it does so with every
// image, and holds Docker's own list to them: Docker goes by that list and not by the index. What is not there nobody can load. A
// registry is asked for nothing: whoever pulls by digest checks it.
func (s *Source) Intact(ctx context.Context, digest string) error {
	if s.layout == nil {
		return nil
	}
	c := intact{layout: s.layout, seen: make(map[string]bool)}
	if err := c.manifest(ctx, digest, 0); err != nil {
		return err
	}
	list, err := s.layout.docker()
	if list == nil {
		return err
	}
	for _, image := range list {
		if !slices.ContainsFunc(c.images, func(verified []string) bool { return slices.Equal(verified, image) }) {
			return fmt.Errorf("%w: manifest.json, which Docker loads, names another image than %s: config %.100q; save one image to a file", ErrAltered, digest, image[0])
		}
	}
	return nil
}

type intact struct {
	*layout
	seen   map[string]bool
	images [][]string // the files of each image: config, layers
}

func (c *intact) manifest(ctx context.Context, digest string, depth int) error {
	if c.seen[digest] {
		return nil
	}
	if c.seen[digest] = true; len(c.seen) > maxMembers || depth > maxDepth {
		return fmt.Errorf("%w: manifests in an image", ErrLimit)
	}
	b, err := c.blob(ctx, Reference{}, digest, MaxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if DigestOf(b) != digest {
		return fmt.Errorf("%w: manifest %s hashes to %s", ErrAltered, digest, DigestOf(b))
	}
	d, err := readDocument(b)
	if err != nil {
		return fmt.Errorf("%s: %w", digest, err)
	}
	var files []string
	for _, part := range d.blobs() {
		name, err := c.part(part)
		if err != nil {
			return err
		}
		files = append(files, name)
	}
	if d.config != nil {
		c.images = append(c.images, files)
	}
	for _, m := range d.manifests {
		child, err := wanted(m)
		if err == nil {
			err = c.manifest(ctx, child, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// part holds a config or layer to its digest and returns its name.
func (c *intact) part(d v1.Descriptor) (string, error) {
	sum, err := Hex(d.Digest.String())
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	name := "blobs/sha256/" + sum
	if c.seen[name] {
		return name, nil
	}
	if c.seen[name] = true; len(c.seen) > maxMembers {
		return "", fmt.Errorf("%w: files of an image", ErrLimit)
	}
	f, err := c.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return name, nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	got := sha256.New()
	if _, err := io.Copy(got, f); err != nil {
		return "", fmt.Errorf("reading %s: %w", name, err)
	}
	if hex.EncodeToString(got.Sum(nil)) != sum {
		return "", fmt.Errorf("%w: %s hashes to %x", ErrAltered, name, got.Sum(nil))
	}
	return name, nil
}

// docker is what Docker's own list names, nil where there is none. A file of that name that is no list is somebody's own: Docker loads nothing by it.
func (l *layout) docker() ([][]string, error) {
	b, err := l.file("manifest.json", MaxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("[")) {
		return nil, nil
	}
	return readDockerList(b)
}

// readDockerList reads manifest.json: the files of each image, its config first.
func readDockerList(b []byte) ([][]string, error) {
	var list []struct {
		Config string
		Layers []string
	}
	err := strictjson.Check(b, strictjson.Limits{Bytes: MaxManifest, Depth: 16, Values: 200_000, Fold: true})
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: manifest.json: %w", ErrAnswer, err)
	}
	images := make([][]string, 0, len(list))
	for _, i := range list {
		images = append(images, append([]string{i.Config}, i.Layers...))
	}
	return images, nil
}
