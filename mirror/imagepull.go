package mirror

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/parcel"
)

// Images are carried as what vouches for them: the manifests, signatures, attestations and bundles that a registry or a layout has of
// each, and the log entries that these name. The images' own layers go another way.
//
// Keys of the exporter, beside those in exporter.go:
//
//	exporter/image/<reference>\x00<digest>  imageState  an image as it was last gathered
//	exporter/blob/<sha256>                  blobState   each file that was gathered; it lies in blobs/sha256/
const (
	keyImageOut = "exporter/image/"
	keyBlobOut  = "exporter/blob/"
)

type imageState struct {
	Image    images.Image `json:"image"`
	Sequence uint64       `json:"sequence"` // parcel that it left with as it is; 0 for none yet
}

type blobState struct {
	Bytes    int64  `json:"bytes"`
	Sequence uint64 `json:"sequence"` // parcel that it left with, or came with; 0 for none yet
}

func imageKey(prefix string, i images.Image) string { return prefix + i.Reference + "\x00" + i.Digest }

// ImageConfig says where images are looked up, and which.
type ImageConfig struct {
	// Registry is the one registry that is read; Layout is a folder with an OCI layout instead.
	Registry images.Access
	Layout   string
	// References name the images. Of a layout none means every image in it.
	References []string
}

// ImageStep is what a pull gathered for one image. Its JSON form is stable.
type ImageStep struct {
	Reference string        `json:"reference"`
	Digest    string        `json:"digest,omitempty"` // what it was resolved to
	Artifacts int           `json:"artifacts"`        // manifests: the image's own, and of what vouches for it
	Files     int           `json:"files"`
	Bytes     int64         `json:"bytes"`
	Entries   int           `json:"entries"`            // log entries that were named
	Unknown   []string      `json:"unknown,omitempty"`  // logs of those that are not carried
	Left      []images.Left `json:"left_out,omitempty"` // what was found and not taken
	Changed   bool          `json:"changed"`            // since the last pull
	Error     string        `json:"error,omitempty"`
}

// open returns the place where the images are looked up, and the references.
func (c ImageConfig) open(network *Network) (*images.Source, []images.Reference, error) {
	var refs []images.Reference
	for _, text := range c.References {
		r, err := images.ParseReference(text)
		if err == nil && c.Layout == "" && !r.SameHost(c.Registry.Host) {
			err = fmt.Errorf("%w: %s is not at %s", images.ErrReference, text, c.Registry.Host)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrConfig, err)
		}
		refs = append(refs, r)
	}
	if len(refs) > images.MaxImages {
		return nil, nil, fmt.Errorf("%w: %d images, at most %d", ErrConfig, len(refs), images.MaxImages)
	}
	if c.Layout != "" {
		src, all, err := images.OpenLayout(c.Layout)
		if len(refs) > 0 {
			all = refs
		}
		return src, all, imageErr(err)
	}
	if c.Registry.Transport == nil {
		if network == nil {
			var err error
			if network, err = NewNetwork(Access{}); err != nil {
				return nil, nil, err
			}
		}
		c.Registry.Transport = network.Transport()
	}
	src, err := images.OpenRegistry(c.Registry)
	return src, refs, imageErr(err)
}

// imageErr says of an error of package images what ExitCode has to know.
func imageErr(err error) error {
	switch {
	case err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, images.ErrReference):
		return fmt.Errorf("%w: %w", ErrConfig, err)
	case errors.Is(err, images.ErrAnswer), errors.Is(err, images.ErrHost), errors.Is(err, images.ErrLimit):
		return fmt.Errorf("%w: %w", ErrRemote, err)
	}
	return err
}

// pullImages gathers what vouches for the configured images. One that fails does not stop the others.
func (e *Exporter) pullImages(ctx context.Context) (steps []ImageStep, moved bool, err error) {
	e.named = nil
	var errs []error
	for _, c := range e.c.Images {
		src, refs, err := c.open(e.c.Network)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, ref := range refs {
			step, err := e.pullImage(ctx, src, ref)
			if err != nil {
				step.Error = oneLine(err)
				errs = append(errs, full(err))
			}
			steps = append(steps, step)
			moved = moved || step.Changed
			e.progress(Progress{Stage: "images", Origin: ref.String(), Done: uint64(len(steps)), Total: uint64(len(refs))})
		}
		src.Close()
	}
	return steps, moved, errors.Join(errs...)
}

func (e *Exporter) pullImage(ctx context.Context, src *images.Source, ref images.Reference) (ImageStep, error) {
	step := ImageStep{Reference: ref.String()}
	sh, err := openShelf(e.root, blobsDir)
	if err != nil {
		return step, err
	}
	defer sh.close()
	i, err := src.Gather(ctx, ref, blobShelf(sh))
	if err != nil {
		return step, imageErr(err)
	}
	if err := sh.sync(); err != nil {
		return step, err
	}
	step.Digest, step.Artifacts, step.Entries, step.Left = i.Digest, len(i.Artifacts), len(i.Entries), i.Left
	for _, b := range i.Digests() {
		step.Files, step.Bytes = step.Files+1, step.Bytes+b.Size
	}
	err = e.c.DB.Update(func(tx store.Tx) error {
		var held imageState
		if _, err := get(tx, imageKey(keyImageOut, i), &held); err != nil {
			return err
		}
		if step.Changed = !reflect.DeepEqual(held.Image, i); !step.Changed {
			return nil
		}
		for _, b := range i.Digests() {
			key := keyBlobOut + hexOf(b.Digest)
			var known blobState
			if ok, err := get(tx, key, &known); err != nil || ok {
				if err != nil {
					return err
				}
				continue
			}
			if err := put(tx, key, blobState{Bytes: b.Size}); err != nil {
				return err
			}
		}
		return put(tx, imageKey(keyImageOut, i), imageState{Image: i})
	})
	if err != nil {
		return step, err
	}
	step.Unknown = e.nameEntries(i)
	return step, nil
}

// Where blobs lie below the folder of either side, by digest. A file is written once; one that was cut short is written again.
const blobsDir = "blobs"

func blobName(digest parcel.Digest) string { return "sha256/" + digest.String() }

func hexOf(digest string) string {
	hex, err := images.Hex(digest)
	if err != nil {
		return "?" // no file is called so
	}
	return hex
}

// blobShelf is a shelf of blobs as package images uses it.
func blobShelf(sh *shelf) images.Shelf {
	held := func(digest string) []byte {
		b, err := sh.readNamed("sha256/"+hexOf(digest), parcel.MaxBlob)
		if err != nil || images.DigestOf(b) != digest {
			return nil
		}
		return b
	}
	return images.Shelf{Held: held, Keep: func(digest string, b []byte) error {
		if held(digest) != nil {
			return nil
		}
		return sh.writeFile("sha256/"+hexOf(digest), b)
	}}
}
