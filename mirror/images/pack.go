package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ociLayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is a file or a folder of an image that is made here.
type File struct {
	Name string // without a leading slash; a folder's ends in one
	Mode int64
	User int // and group
	Data []byte
	Path string // file on disk that holds the content, instead of Data
}

// Built says what an image that is made here is.
type Built struct {
	Reference    string // "redoubt:1.0", what a layout calls it
	Time         time.Time
	User         string // "65532:65532"
	Entrypoint   []string
	Labels       map[string]string
	Architecture map[string][]File // the files of each, in order; one layer
}

// Pack writes an OCI layout as a tar, which skopeo, podman, ctr and docker load: an index with one image for each architecture in order. The same
// inputs give the same bytes. work is an empty folder for the time being.
func Pack(out io.Writer, work string, b Built, architectures []string) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range architectures {
		image, err := b.image(arch)
		if err != nil {
			return fmt.Errorf("making the image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	path, err := ociLayout.Write(work, empty.Index)
	if err != nil {
		return fmt.Errorf("writing the layout: %w", err)
	}
	if err := path.AppendIndex(index, ociLayout.WithAnnotations(map[string]string{refName: b.Reference})); err != nil {
		return fmt.Errorf("writing the layout: %w", err)
	}
	return tarFolder(out, work, b.Time)
}

// image is the image of one architecture: one layer, and a configuration without a shell, a package manager or a root user.
func (b Built) image(arch string) (v1.Image, error) {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(b.layer(w, arch)) }()
		return r, nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: b.Time}, CreatedBy: "redoubt bundle build"}}); err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", arch, v1.Time{Time: b.Time}
	file.Config = v1.Config{User: b.User, Entrypoint: b.Entrypoint, Labels: b.Labels, WorkingDir: "/", Env: []string{"PATH=/usr/bin"}}
	return mutate.ConfigFile(image, file)
}

// layer writes the files of one architecture.
func (b Built) layer(out io.Writer, arch string) error {
	archive := tar.NewWriter(out)
	for _, f := range b.Architecture[arch] {
		header := &tar.Header{Name: f.Name, Mode: f.Mode, Uid: f.User, Gid: f.User, ModTime: b.Time, Size: int64(len(f.Data)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		data := io.ReadCloser(io.NopCloser(bytes.NewReader(f.Data)))
		if f.Name[len(f.Name)-1] == '/' {
			header.Typeflag = tar.TypeDir
		}
		if f.Path != "" {
			opened, err := os.Open(f.Path)
			if err != nil {
				return err
			}
			info, err := opened.Stat()
			if err != nil {
				opened.Close()
				return err
			}
			header.Size, data = info.Size(), opened
		}
		err := archive.WriteHeader(header)
		if err == nil {
			_, err = io.Copy(archive, data)
		}
		data.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return archive.Close()
}

// tarFolder writes the files of a folder in the order of their names.
func tarFolder(out io.Writer, dir string, at time.Time) error {
	archive := tar.NewWriter(out)
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if err := archive.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o644, Size: info.Size(), ModTime: at, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err = io.Copy(archive, f)
		return err
	})
	if err != nil {
		return fmt.Errorf("packing the layout: %w", err)
	}
	return archive.Close()
}
