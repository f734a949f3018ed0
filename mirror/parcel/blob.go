package parcel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Limits of the blobs in a parcel.
const (
	// MaxBlobs is the largest number of blobs.
	MaxBlobs = 1024
	// MaxBlob is the longest blob in bytes.
	MaxBlob = 16 << 20
	// MaxBlobBytes bounds all blobs of a parcel together.
	MaxBlobBytes = 512 << 20
)

// Blob is a file that is known by its content: what vouches for images, and the list of them.
type Blob struct {
	Bytes  int64  `json:"bytes"`
	SHA256 Digest `json:"sha256"`
}

// checkBlobs: ascending, each once, bounded, and the list of images among them.
func (m *Manifest) checkBlobs() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrManifest}, a...)...)
	}
	if len(m.Blobs) > MaxBlobs || (len(m.Blobs) == 0) != (len(m.Images) == 0) {
		return bad("%d blobs, and a list of images of %d bytes", len(m.Blobs), len(m.Images))
	}
	var total int64
	for i, b := range m.Blobs {
		if len(b.SHA256) != sha256.Size || b.Bytes < 0 || b.Bytes > MaxBlob || i > 0 && slices.Compare(m.Blobs[i-1].SHA256, b.SHA256) >= 0 {
			return bad("blob %s of %d bytes", b.SHA256, b.Bytes)
		}
		if total += b.Bytes; total > MaxBlobBytes {
			return bad("more than %d bytes of blobs", int64(MaxBlobBytes))
		}
	}
	if len(m.Blobs) > 0 && m.blob(m.Images) < 0 {
		return bad("the list of images is not carried")
	}
	return nil
}

// blob is the place of a digest among the blobs, negative when it is not there.
func (m *Manifest) blob(d Digest) int {
	i, ok := slices.BinarySearchFunc(m.Blobs, d, func(b Blob, d Digest) int { return slices.Compare(b.SHA256, d) })
	if !ok {
		return -1
	}
	return i
}

// BlobName is the name of a blob; zero is none.
type BlobName struct {
	Set    bool
	Digest [sha256.Size]byte
}

// Name names the blob's file.
func (b Blob) Name() Name { return Name{Blob: BlobName{true, [sha256.Size]byte(b.SHA256)}} }

// String returns the name in the tar: "blobs/sha256/<hex>".
func (n BlobName) String() string { return fmt.Sprintf("blobs/sha256/%x", n.Digest) }

func parseBlobName(s string) (n BlobName, ok bool) {
	text, ok := strings.CutPrefix(s, "blobs/sha256/")
	raw, err := hex.DecodeString(text)
	if !ok || err != nil || len(raw) != sha256.Size {
		return n, false
	}
	n = BlobName{true, [sha256.Size]byte(raw)}
	return n, n.String() == s
}

// in tells whether the manifest calls for the blob.
func (n BlobName) in(m *Manifest) bool { return m.blob(n.Digest[:]) >= 0 }
