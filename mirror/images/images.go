// Package images finds what vouches for container images: signatures, attestations, bills of materials and whatever else a registry or
// an OCI layout holds about them, and the log entries that these name.
//
// What it guarantees:
//   - Whatever is returned has the digest it was asked by. A tag is resolved once and reported with its digest.
//   - Only the hosts that were named are spoken to, by https, whatever a registry redirects to or names as its token server.
//   - Every list, file and recursion is bounded (the constants below); beyond a bound is an error that names it, never a part of the answer.
//   - Nothing is believed: no signature is verified here, and an entry that is named wrongly picks one that nobody needs.
//   - Layers of images are not read, but by Source.Intact, which reads all that is there.
//
// What it does not: find what vouches for an image without the registry's help. A registry can withhold.
//
// Start at Source.Gather for what is to be carried, at Source.Vouchers for what is to be judged.
package images

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

var (
	// ErrReference says that a text names no image.
	ErrReference = errors.New("this names no image")
	// ErrAnswer says that a registry or layout did not answer as one does.
	ErrAnswer = errors.New("the registry did not answer as it should")
	// ErrHost says that a registry sent us to a host, or to a scheme, that was not named.
	ErrHost = errors.New("the registry sends us to a place that was not named")
	// ErrLimit says that there is more of something than is taken.
	ErrLimit = errors.New("that is more than is taken")
	// ErrList says that a list of images is not written as it has to be.
	ErrList = errors.New("this list of images is not written as it has to be")
)

// Bounds of one image.
const (
	MaxManifest  = 4 << 20   // bytes of a manifest or an index, as registries have it
	MaxBlob      = 16 << 20  // bytes of a signature, attestation, bundle or bill of materials
	MaxBytes     = 128 << 20 // bytes of everything that vouches for one image
	MaxArtifacts = 256       // manifests of one image: itself, its platforms, and what vouches for them
	MaxBlobs     = 32        // config and layers of one artifact
	MaxFiles     = 1000      // files of one image: one parcel holds them
	MaxEntries   = 1024      // log entries that the artifacts of one image name
	MaxVouchers  = 256       // signatures and attestations of one manifest, where they are to be judged
	maxDepth     = 3         // an index in an index, something that vouches for what vouches
	maxLeft      = 256
)

// Kinds of an artifact.
const (
	KindImage       = "image"       // the image itself, or its manifest for one platform
	KindSignature   = "signature"   // simple signing, as cosign keeps it under a tag
	KindBundle      = "bundle"      // a Sigstore bundle
	KindAttestation = "attestation" // DSSE envelopes, in-toto statements
	KindSBOM        = "sbom"
	KindReferrer    = "referrer" // anything else that names the image as its subject
)

// Image is an image and what vouches for it. Its JSON form is stable: it travels in parcels.
type Image struct {
	Reference string     `json:"reference"` // as it was asked for
	Digest    string     `json:"digest"`    // "sha256:<hex>", what the reference was resolved to
	Artifacts []Artifact `json:"artifacts"` // the image itself first
	Entries   []Entry    `json:"entries,omitempty"`
	Left      []Left     `json:"left,omitempty"`
}

// Artifact is one manifest.
type Artifact struct {
	Kind      string `json:"kind"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	MediaType string `json:"media_type"`
	Subject   string `json:"subject,omitempty"` // digest of what it vouches for; of an image, the index it stands in
	Tag       string `json:"tag,omitempty"`     // that it was found under, "sha256-<hex>.sig"; empty for a referrer
	Blobs     []Blob `json:"blobs,omitempty"`   // its config and layers; none of an image's
}

// Blob is a config or layer of an artifact.
type Blob struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// Entry is a log entry that an artifact names, as far as it does.
type Entry struct {
	Origin string  `json:"origin,omitempty"` // first line of the log's checkpoint
	Index  *uint64 `json:"index,omitempty"`  // in that log
	LogID  string  `json:"log_id,omitempty"` // hex; SHA-256 of the log's key
	Number *uint64 `json:"number,omitempty"` // over all shards of a Rekor v1 site
	Digest string  `json:"sha256,omitempty"` // "sha256:<hex>" of what was signed: what the entry can be looked up by
}

// Left is what was found and not taken.
type Left struct {
	Digest string `json:"digest"`
	Reason string `json:"reason"`
}

// Digests are the digests of everything that belongs to the image here, each once.
func (i Image) Digests() (out []Blob) {
	seen := make(map[string]bool)
	add := func(b Blob) {
		if !seen[b.Digest] {
			seen[b.Digest] = true
			out = append(out, b)
		}
	}
	for _, a := range i.Artifacts {
		add(Blob{a.Digest, a.Size})
		for _, b := range a.Blobs {
			add(b)
		}
	}
	return out
}

// DigestOf is the digest of b as OCI writes it.
func DigestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Hex is the hex part of a digest. ErrReference for any other digest than SHA-256 in lower case.
func Hex(digest string) (string, error) {
	const prefix = "sha256:"
	if len(digest) != len(prefix)+2*sha256.Size || digest[:len(prefix)] != prefix {
		return "", fmt.Errorf("%w: digest %.100q; sha256: and 64 hex digits are needed", ErrReference, digest)
	}
	raw, err := hex.DecodeString(digest[len(prefix):])
	if err != nil || hex.EncodeToString(raw) != digest[len(prefix):] {
		return "", fmt.Errorf("%w: digest %.100q; sha256: and 64 hex digits are needed", ErrReference, digest)
	}
	return digest[len(prefix):], nil
}
