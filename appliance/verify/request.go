package verify

import (
	"bytes"
	"context"
	"crypto"
	_ "crypto/sha256" // SHA-256 for crypto.Hash
	_ "crypto/sha512" // SHA-384, SHA-512
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
)

// Request is one thing to verify.
type Request struct {
	// Artifact is what the signature must be over.
	Artifact Artifact
	// Bundle is the Sigstore bundle, JSON, v0.1 to v0.3, or an attestation object of PEP 740. A git object has none.
	Bundle []byte
	// Notation, in place of a bundle, is a signature of the Notary Project; Artifact.Digest is that of the image's manifest.
	Notation *Envelope
	// Policy says who may have signed, and more.
	Policy Policy
}

// Artifact is given by its bytes, by its digest or as a git object, exactly one of them.
type Artifact struct {
	// Reader yields the artifact's bytes. It is read once, to its end.
	Reader io.Reader
	// Digest is "sha256:HEX", or sha384 or sha512. Ed25519 signatures over a
	// message cannot be verified by digest.
	Digest string
	// Git is a commit or a tag, with its signature in it.
	Git *GitObject
}

// maxInMemory bounds an artifact that must be held in memory, which only
// Ed25519 signatures over messages need.
const maxInMemory = 256 << 20

var hashNames = map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}

// artifact is what is known of the artifact once it was read.
type artifact struct {
	digests map[string][]byte // by hash name
	use     string            // the name of the digest to verify with
	whole   []byte            // the bytes, for Ed25519 over a message
	given   bool              // the digest was given, the bytes were not seen
	// Of a git object, what it is called: the digests are those of the attributes that were signed in its place.
	gitName, gitID string
}

// copyBuffers saves each verification of a small artifact a buffer many times its size.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// readArtifact digests the artifact with every hash b names.
func readArtifact(ctx context.Context, in Artifact, b *decoded) (artifact, error) {
	if (in.Reader == nil) == (in.Digest == "") {
		return artifact{}, fmt.Errorf("%w: give the artifact or its digest", ErrUsage)
	}
	a := artifact{digests: map[string][]byte{}}
	if in.Digest != "" {
		name, digits, _ := strings.Cut(in.Digest, ":")
		digest, err := hex.DecodeString(digits)
		if h, ok := hashNames[name]; !ok || err != nil || len(digest) != h.Size() {
			return artifact{}, fmt.Errorf("%w: digest %.140q is not sha256:HEX", ErrUsage, in.Digest)
		}
		a.digests[name], a.use, a.given = digest, name, true
		if b.message != "" && b.message != name {
			return artifact{}, fmt.Errorf("%w: the signature is over a %s digest, a %s digest was given", ErrSignature, b.message, name)
		}
		return a, nil
	}
	var sums []io.Writer
	names := b.hashNames()
	hashes := make([]interface{ Sum([]byte) []byte }, len(names))
	for i, name := range names {
		h := hashNames[name].New()
		sums, hashes[i] = append(sums, h), h
	}
	reader := io.Reader(contextReader{ctx, in.Reader})
	var whole bytes.Buffer
	if b.wholeMessage {
		sums = append(sums, &whole)
		reader = io.LimitReader(reader, maxInMemory+1)
	}
	buffer := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buffer)
	n, err := io.CopyBuffer(io.MultiWriter(sums...), reader, buffer[:])
	if err != nil {
		return artifact{}, fmt.Errorf("%w: %w", ErrLocal, err)
	}
	if b.wholeMessage && n > maxInMemory {
		return artifact{}, fmt.Errorf("%w: larger than %d bytes, the most for an Ed25519 signature", ErrLocal, maxInMemory)
	}
	a.whole = whole.Bytes()
	for i, name := range names {
		a.digests[name] = hashes[i].Sum(nil)
	}
	return a, a.choose(b)
}

// choose picks the digest to hand on. For an attestation it is one that a
// subject bears; a subject that matches under one hash and not under another
// contradicts itself.
func (a *artifact) choose(b *decoded) error {
	if b.message != "" {
		a.use = b.message
		return nil
	}
	for _, s := range b.subjects {
		match, clash := "", ""
		for _, name := range slices.Sorted(maps.Keys(a.digests)) {
			switch want, ok := s[name]; {
			case ok && strings.EqualFold(want, hex.EncodeToString(a.digests[name])):
				match = name
			case ok:
				clash = name
			}
		}
		if match != "" && clash != "" {
			return fmt.Errorf("%w: a subject of the attestation matches by %s and not by %s", ErrSignature, match, clash)
		}
		if match != "" {
			a.use = match
		}
	}
	if a.use == "" {
		return fmt.Errorf("%w: the artifact is none of the attestation's %d subjects", ErrSignature, len(b.subjects))
	}
	return nil
}

func (a artifact) option() sgverify.ArtifactPolicyOption {
	if a.whole != nil {
		return sgverify.WithArtifact(newReader(a.whole))
	}
	return sgverify.WithArtifactDigest(a.use, a.digests[a.use])
}

// hashNames lists the hash the signature uses, or those of the subjects and SHA-256, by which a refusal names the artifact.
func (b *decoded) hashNames() []string {
	if b.message != "" {
		return []string{b.message}
	}
	names := []string{"sha256"}
	for _, s := range b.subjects {
		for name := range s {
			if _, ok := hashNames[name]; ok && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
