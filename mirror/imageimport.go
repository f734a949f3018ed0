package mirror

import (
	"context"
	"fmt"
	"path"
	"slices"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/parcel"
)

// Keys of what vouches for images, each with a JSON value. Files lie in blobs/sha256/ and are written once.
//
//	mirror/image/<reference>\x00<digest>  MirroredImage  what came of an image
//	mirror/blob/<sha256>                  blobState      each file, and the parcel that brought it
const (
	keyImage = "mirror/image/"
	keyBlob  = "mirror/blob/"
)

func stagedBlobs(d parcel.Digest) string { return path.Join(stagingDir(d), blobsDir) }

// readBlobs takes the blobs of the parcel, which stand behind the logs: each has the digest it is called by, and the list of images names
// nothing that is neither carried nor held. None of it is believed for that; whoever verifies a signature does.
func (in *importing) readBlobs(ctx context.Context, n *parcel.Manifest) error {
	if len(n.Blobs) == 0 {
		return nil
	}
	sh, err := openShelf(in.m.root, stagedBlobs(in.digest))
	if err != nil {
		return err
	}
	defer sh.close()
	var list []byte
	for _, b := range n.Blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := in.next(b.Name(), in.buffer())
		if err != nil {
			return err
		}
		if int64(len(data)) != b.Bytes || !parcel.Sum(data).Equal(b.SHA256) {
			return fmt.Errorf("%w: %s is another file than the manifest calls for", ErrProof, b.Name())
		}
		if b.SHA256.Equal(n.Images) {
			list = slices.Clone(data)
		}
		if err := sh.writeFile(blobName(b.SHA256), data); err != nil {
			return err
		}
		in.pool.Put(&data)
	}
	all, err := images.ParseList(list)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	if err := in.m.held(n, all); err != nil {
		return err
	}
	in.blobs, in.images, in.vouched = n.Blobs, n.Images, importSteps(all)
	return sh.sync()
}

// held requires that every file the images name is carried or was, and that the parcel carries no other.
func (m *Mirror) held(n *parcel.Manifest, all []images.Image) error {
	carried := make(map[string]bool)
	sizes := make(map[string]int64)
	for _, b := range n.Blobs {
		carried[b.SHA256.String()], sizes[b.SHA256.String()] = false, b.Bytes
	}
	carried[n.Images.String()] = true
	return m.c.DB.View(func(tx store.Tx) error {
		for _, i := range all {
			for _, b := range i.Digests() {
				hex := hexOf(b.Digest)
				if _, ok := carried[hex]; ok {
					if size, blob := sizes[hex]; blob && size != b.Size {
						return fmt.Errorf("%w: image %q has %s with %d bytes, the parcel with %d", ErrProof, i.Reference, b.Digest, b.Size, size)
					}
					carried[hex] = true
					continue
				}
				var s blobState
				if ok, err := get(tx, keyBlob+hex, &s); err != nil {
					return err
				} else if !ok || s.Bytes != b.Size {
					return fmt.Errorf("%w: image %q needs %s, which is neither carried nor held", ErrProof, i.Reference, b.Digest)
				}
			}
		}
		for hex, needed := range carried {
			if !needed {
				return fmt.Errorf("%w: blob %s belongs to no image", ErrProof, hex)
			}
		}
		return nil
	})
}

// TransferImage is an image of which a parcel brought something.
type TransferImage struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	Artifacts int    `json:"artifacts"`
}

func importSteps(all []images.Image) (out []TransferImage) {
	for _, i := range all {
		out = append(out, TransferImage{i.Reference, i.Digest, len(i.Artifacts)})
	}
	return out
}

// moveBlobs puts the blobs into place. It may be repeated.
func (m *Mirror) moveBlobs(p *pendingState) error {
	if len(p.Blobs) == 0 {
		return nil
	}
	if err := moveTree(m.root, stagedBlobs(p.Digest), blobsDir); err != nil {
		return fmt.Errorf("publishing what vouches for images: %w", err)
	}
	return nil
}

// commitBlobs makes the blobs, which lie in place, and what they say of images visible. What came of an image before stays.
func (m *Mirror) commitBlobs(tx store.Tx, p *pendingState) error {
	if len(p.Blobs) == 0 {
		return nil
	}
	for _, b := range p.Blobs {
		var s blobState
		if ok, err := get(tx, keyBlob+b.SHA256.String(), &s); err != nil {
			return err
		} else if ok {
			continue
		}
		if err := put(tx, keyBlob+b.SHA256.String(), blobState{b.Bytes, p.Sequence}); err != nil {
			return err
		}
	}
	sh, err := openShelf(m.root, blobsDir)
	if err != nil {
		return err
	}
	defer sh.close()
	text, err := sh.readNamed(blobName(p.Images), images.MaxList)
	if err != nil {
		return err
	}
	all, err := images.ParseList(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	for _, i := range all {
		held := MirroredImage{Reference: i.Reference, Digest: i.Digest}
		if _, err := get(tx, imageKey(keyImage, i), &held); err != nil {
			return err
		}
		if err := put(tx, imageKey(keyImage, i), held.with(i, p.Sequence)); err != nil {
			return err
		}
	}
	return nil
}

// MirroredImage is an image of which something was imported. Its JSON form is stable.
type MirroredImage struct {
	Reference string             `json:"reference"` // as the outside was asked for it; nobody vouches for the name
	Digest    string             `json:"digest"`
	Sequence  uint64             `json:"sequence"` // the last parcel that brought anything of it
	Artifacts []MirroredArtifact `json:"artifacts"`
	Entries   []images.Entry     `json:"entries,omitempty"`  // log entries that they name
	Left      []images.Left      `json:"left_out,omitempty"` // what was seen outside and not taken
}

// MirroredArtifact is one manifest, and the parcel that brought it first.
type MirroredArtifact struct {
	images.Artifact
	Sequence uint64 `json:"sequence"`
}

// with adds what a parcel brought.
func (i MirroredImage) with(n images.Image, sequence uint64) MirroredImage {
	i.Sequence, i.Entries, i.Left = sequence, n.Entries, n.Left
	for _, a := range n.Artifacts {
		if !slices.ContainsFunc(i.Artifacts, func(o MirroredArtifact) bool { return o.Digest == a.Digest }) {
			i.Artifacts = append(i.Artifacts, MirroredArtifact{a, sequence})
		}
	}
	return i
}

// Image is all that came of the image.
func (i MirroredImage) Image() images.Image {
	out := images.Image{Reference: i.Reference, Digest: i.Digest, Entries: i.Entries, Left: i.Left}
	for _, a := range i.Artifacts {
		out.Artifacts = append(out.Artifacts, a.Artifact)
	}
	return out
}

// Images lists the images of which something was imported, by reference.
func (m *Mirror) Images() ([]MirroredImage, error) {
	out := []MirroredImage{}
	err := m.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		return scan(tx, keyImage, func(_ string, i MirroredImage) error { out = append(out, i); return nil })
	})
	return out, err
}

// Blob returns a file that was imported, hashed once more. ErrNotFound when there is none, ErrDamaged when it is another one now.
func (m *Mirror) Blob(digest string) ([]byte, error) {
	hex, err := images.Hex(digest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	var s blobState
	err = m.c.DB.View(func(tx store.Tx) error {
		ok, err := get(tx, keyBlob+hex, &s)
		if err == nil && !ok {
			err = fmt.Errorf("%w: %s", ErrNotFound, digest)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	sh, err := openShelf(m.root, blobsDir)
	if err != nil {
		return nil, err
	}
	defer sh.close()
	var d parcel.Digest
	if err := d.UnmarshalText([]byte(hex)); err != nil {
		return nil, err
	}
	return readBlob(sh, parcel.Blob{Bytes: s.Bytes, SHA256: d})
}
