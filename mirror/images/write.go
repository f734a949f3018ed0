package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
)

// WriteLayout writes what vouches for an image into folder dir, which must be empty or not there, as an OCI layout. The image's own
// manifests are in it, its layers are not. read returns a file by digest. Manifests have the tags they were found under, and the
// annotations by which cosign tells them apart (`cosign verify --local-image`).
func WriteLayout(dir string, i Image, read func(digest string) ([]byte, error)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		return errors.Join(err, fmt.Errorf("%s is not empty", dir))
	}
	if err := root.MkdirAll("blobs/sha256", 0o755); err != nil {
		return err
	}
	for _, b := range i.Digests() {
		content, err := read(b.Digest)
		if err != nil {
			return err
		}
		hex, err := Hex(b.Digest)
		if err == nil {
			err = writeNew(root, "blobs/sha256/"+hex, content)
		}
		if err != nil {
			return err
		}
	}
	index, err := layoutIndex(i, read)
	if err != nil {
		return err
	}
	return errors.Join(writeNew(root, "index.json", index), writeNew(root, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)))
}

func writeNew(root *os.Root, name string, b []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// layoutIndex is index.json: the image, what was found under a tag, and the referrers.
func layoutIndex(i Image, read func(digest string) ([]byte, error)) ([]byte, error) {
	type descriptor struct {
		MediaType    string            `json:"mediaType"`
		Digest       string            `json:"digest"`
		Size         int64             `json:"size"`
		ArtifactType string            `json:"artifactType,omitempty"`
		Annotations  map[string]string `json:"annotations,omitempty"`
	}
	l := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}{2, indexType, []descriptor{}}
	for _, a := range i.Artifacts {
		d := descriptor{MediaType: a.MediaType, Digest: a.Digest, Size: a.Size, Annotations: make(map[string]string)}
		switch {
		case a.Digest == i.Digest:
			d.Annotations[refName], d.Annotations[cosignKind] = i.Reference, cosignImage
			if strings.Contains(a.MediaType, "index") || strings.Contains(a.MediaType, "manifest.list") {
				d.Annotations[cosignKind] = cosignIndex
			}
		case a.Kind == KindImage: // reached through the index
			continue
		case a.Tag != "":
			d.Annotations[refName] = a.Tag
			if a.Subject == i.Digest {
				d.Annotations[cosignKind] = map[string]string{KindSignature: cosignSigs, KindAttestation: cosignAtts}[a.Kind]
			}
		default:
			m, err := read(a.Digest)
			if err != nil {
				return nil, err
			}
			doc, err := readDocument(m)
			if err != nil {
				return nil, err
			}
			if doc.subject == nil { // BuildKit's: reached through the index as well
				continue
			}
			d.ArtifactType = doc.artifactType
		}
		if d.Annotations[cosignKind] == "" {
			delete(d.Annotations, cosignKind)
		}
		l.Manifests = append(l.Manifests, d)
	}
	return json.MarshalIndent(l, "", "  ")
}
