package images

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"redoubt.internal/log/strictjson"
)

// MaxList is the longest list of images in bytes, MaxImages the largest number of images in it.
const (
	MaxList   = MaxManifest
	MaxImages = 1024
)

const listKind = "redoubt.images/v1"

type list struct {
	Kind   string  `json:"kind"`
	Images []Image `json:"images"`
}

// EncodeList writes what travels of images, ascending by reference and digest: one spelling for one list.
func EncodeList(images []Image) ([]byte, error) {
	l := list{Kind: listKind, Images: slices.SortedFunc(slices.Values(images), compare)}
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	if _, err := ParseList(append(b, '\n')); err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

func compare(a, b Image) int {
	return cmp.Or(cmp.Compare(a.Reference, b.Reference), cmp.Compare(a.Digest, b.Digest))
}

// ParseList reads what EncodeList writes, and nothing else. Every error is ErrList.
func ParseList(b []byte) ([]Image, error) {
	bad := func(format string, a ...any) ([]Image, error) {
		return nil, fmt.Errorf("%w: "+format, append([]any{ErrList}, a...)...)
	}
	var l list
	if err := strictjson.Decode(b, strictjson.Limits{Bytes: MaxList, Depth: 8}, &l); err != nil {
		return bad("%w", err)
	}
	if l.Kind != listKind || len(l.Images) == 0 || len(l.Images) > MaxImages {
		return bad("kind %.40q, %d images", l.Kind, len(l.Images))
	}
	for k, i := range l.Images {
		if err := i.check(); err != nil {
			return bad("image %.200q: %w", i.Reference, err)
		}
		if k > 0 && compare(l.Images[k-1], i) >= 0 {
			return bad("image %.200q stands in the wrong place", i.Reference)
		}
	}
	again, err := json.Marshal(l)
	if err != nil || !bytes.Equal(append(again, '\n'), b) {
		return bad("another spelling")
	}
	return l.Images, nil
}

// check requires of an image what Gather gives.
func (i Image) check() error {
	if _, err := ParseReference(i.Reference); err != nil {
		return err
	}
	if len(i.Artifacts) == 0 || len(i.Artifacts) > MaxArtifacts || len(i.Entries) > MaxEntries || len(i.Left) > maxLeft {
		return fmt.Errorf("%w: %d artifacts, %d entries, %d left", ErrLimit, len(i.Artifacts), len(i.Entries), len(i.Left))
	}
	if a := i.Artifacts[0]; a.Digest != i.Digest || a.Kind != KindImage {
		return fmt.Errorf("its first artifact is not the image itself")
	}
	seen := make(map[string]bool)
	for _, a := range i.Artifacts {
		if err := a.check(); err != nil {
			return err
		}
		if seen[a.Digest] {
			return fmt.Errorf("artifact %s twice", a.Digest)
		}
		seen[a.Digest] = true
	}
	for _, e := range i.Entries {
		digest := e.Digest == ""
		if !digest {
			_, err := Hex(e.Digest)
			digest = err == nil
		}
		if e.Origin != "" && !isOrigin(e.Origin) || (e.Origin == "") != (e.Index == nil) || e.Index != nil && *e.Index >= maxNumber || e.Number != nil && *e.Number >= maxNumber ||
			len(e.LogID) != 0 && !isHex(e.LogID) || !digest {
			return fmt.Errorf("an entry of log %.100q", e.Origin)
		}
	}
	for _, l := range i.Left {
		if len(l.Digest) > 200 || len(l.Reason) > 3*maxReason || !printable(l.Digest) || !printable(l.Reason) {
			return fmt.Errorf("what was left")
		}
	}
	return nil
}

func isHex(s string) bool {
	_, err := Hex("sha256:" + s)
	return err == nil
}

func (a Artifact) check() error {
	if !slices.Contains([]string{KindImage, KindSignature, KindBundle, KindAttestation, KindSBOM, KindReferrer}, a.Kind) || len(a.Blobs) > MaxBlobs || a.Kind == KindImage && len(a.Blobs) > 0 {
		return fmt.Errorf("artifact %.100q of kind %.40q with %d blobs", a.Digest, a.Kind, len(a.Blobs))
	}
	if a.Size < 0 || a.Size > MaxManifest || a.MediaType == "" || len(a.MediaType) > 200 || !printable(a.MediaType) {
		return fmt.Errorf("artifact %.100q of %d bytes", a.Digest, a.Size)
	}
	if a.Tag != "" && a.Tag != strings.Replace(a.Subject, ":", "-", 1)+"."+tagSuffix[a.Kind] {
		return fmt.Errorf("artifact %.100q under tag %.100q", a.Digest, a.Tag)
	}
	if _, err := Hex(a.Digest); err != nil {
		return err
	}
	if a.Subject != "" {
		if _, err := Hex(a.Subject); err != nil {
			return err
		}
	}
	for _, b := range a.Blobs {
		if _, err := Hex(b.Digest); err != nil || b.Size < 0 || b.Size > MaxBlob {
			return fmt.Errorf("blob %.100q of %d bytes", b.Digest, b.Size)
		}
	}
	return nil
}

// tagSuffix is what cosign ends the tag of an artifact of that kind with.
var tagSuffix = map[string]string{KindSignature: "sig", KindAttestation: "att", KindSBOM: "sbom"}
