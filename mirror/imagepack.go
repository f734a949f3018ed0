package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/parcel"
)

// blobSteps adds to a manifest the images that were not exported as they are, with the files of theirs that never were, as many as
// one parcel may carry; the rest leaves with the next. The list of the images is a file like the others.
func (e *Exporter) blobSteps(m *parcel.Manifest) (carried []images.Image, err error) {
	const listRoom = images.MaxList / 2
	blobs := make(map[string]int64)
	var bytes, list int64
	err = e.c.DB.View(func(tx store.Tx) error {
		clear(blobs)
		carried, bytes, list = nil, 0, 0
		err := scan(tx, keyImageOut, func(_ string, s imageState) error {
			if s.Sequence != 0 {
				return nil
			}
			fresh, size, err := unsent(tx, s.Image, blobs)
			if err != nil {
				return err
			}
			text, err := json.Marshal(s.Image)
			if err != nil {
				return err
			}
			if len(blobs)+len(fresh) >= parcel.MaxBlobs || bytes+size > parcel.MaxBlobBytes-images.MaxList || len(carried) == images.MaxImages || len(carried) > 0 && list+int64(len(text)) > listRoom {
				return errEnough
			}
			for _, b := range fresh {
				blobs[hexOf(b.Digest)] = b.Size
			}
			carried, bytes, list = append(carried, s.Image), bytes+size, list+int64(len(text))
			return nil
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	})
	if err != nil || len(carried) == 0 {
		return nil, err
	}
	text, err := images.EncodeList(carried)
	if err != nil {
		return nil, fmt.Errorf("writing the list of images: %w", err)
	}
	m.Images = parcel.Sum(text)
	if err := e.keepBlob(m.Images, text); err != nil {
		return nil, err
	}
	blobs[m.Images.String()] = int64(len(text))
	for hex, size := range blobs {
		var d parcel.Digest
		if err := d.UnmarshalText([]byte(hex)); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		m.Blobs = append(m.Blobs, parcel.Blob{Bytes: size, SHA256: d})
	}
	slices.SortFunc(m.Blobs, func(a, b parcel.Blob) int { return slices.Compare(a.SHA256, b.SHA256) })
	return carried, nil
}

// errEnough ends the walk over images: one parcel is full.
var errEnough = errors.New("one parcel is full")

// unsent are the files of an image that never left and are not among taken.
func unsent(tx store.Tx, i images.Image, taken map[string]int64) (fresh []images.Blob, size int64, err error) {
	for _, b := range i.Digests() {
		var s blobState
		ok, err := get(tx, keyBlobOut+hexOf(b.Digest), &s)
		if err != nil {
			return nil, 0, err
		}
		if _, here := taken[hexOf(b.Digest)]; !ok || s.Sequence == 0 && !here {
			fresh, size = append(fresh, b), size+b.Size
		}
	}
	return fresh, size, nil
}

func (e *Exporter) keepBlob(d parcel.Digest, b []byte) error {
	sh, err := openShelf(e.root, blobsDir)
	if err != nil {
		return err
	}
	defer sh.close()
	return errors.Join(sh.writeFile(blobName(d), b), sh.sync())
}

// packBlobs adds the blobs of a manifest, each hashed once more on its way from the collection.
func (e *Exporter) packBlobs(w *parcel.Writer, blobs []parcel.Blob) error {
	if len(blobs) == 0 {
		return nil
	}
	sh, err := openShelf(e.root, blobsDir)
	if err != nil {
		return err
	}
	defer sh.close()
	for _, b := range blobs {
		data, err := readBlob(sh, b)
		if err != nil {
			return fmt.Errorf("packing what vouches for images: %w; pull again", err)
		}
		if err := w.Add(b.Name(), data); err != nil {
			return err
		}
	}
	return nil
}

// readBlob reads a blob and hashes it: another one is ErrDamaged.
func readBlob(sh *shelf, b parcel.Blob) ([]byte, error) {
	data, err := sh.readNamed(blobName(b.SHA256), parcel.MaxBlob)
	if err == nil && (int64(len(data)) != b.Bytes || !parcel.Sum(data).Equal(b.SHA256)) {
		err = fmt.Errorf("%s is another file", b.SHA256)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return data, nil
}

// blobsSent records what left with a parcel.
func blobsSent(tx store.Tx, m *parcel.Manifest, carried []images.Image) error {
	for _, b := range m.Blobs {
		if err := put(tx, keyBlobOut+b.SHA256.String(), blobState{b.Bytes, m.Sequence}); err != nil {
			return err
		}
	}
	for _, i := range carried {
		if err := put(tx, imageKey(keyImageOut, i), imageState{i, m.Sequence}); err != nil {
			return err
		}
	}
	return nil
}
