package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Shelf keeps what is gathered, by digest. Held returns what was kept before, nil when there is none; it need not be believed.
type Shelf struct {
	Held func(digest string) []byte
	Keep func(digest string, b []byte) error
}

// Gather finds what vouches for an image and puts it on the shelf: the manifests of the image and of each of its platforms, those that
// name one of them as their subject, those under cosign's tags, and the configs and layers of these two. An artifact too large to be
// taken is left and named.
func (s *Source) Gather(ctx context.Context, ref Reference, shelf Shelf) (Image, error) {
	g := gathering{s: s, ref: ref, shelf: shelf, seen: make(map[string]bool), files: make(map[string]bool), out: Image{Reference: ref.text}}
	at := ref.digest
	if at == "" {
		at = ref.tag
	}
	if err := g.image(ctx, at, "", 0); err != nil {
		return Image{}, fmt.Errorf("gathering what vouches for %s: %w", ref, answered(err))
	}
	return g.out, nil
}

// gathering is one image on its way.
type gathering struct {
	s     *Source
	ref   Reference
	shelf Shelf
	out   Image
	seen  map[string]bool // manifests
	files map[string]bool // manifests and blobs that were kept
	bytes int64
	// flat takes what signs the one manifest alone, in the form of bundles: nothing of its platforms, and nothing that only travels.
	flat     bool
	vouching []Voucher
}

// image takes the manifest of the image or of one of its platforms, found by a digest or, the image itself, a tag.
func (g *gathering) image(ctx context.Context, at, index string, depth int) error {
	b, digest, err := g.manifest(ctx, at)
	if err != nil || g.seen[digest] {
		return err
	}
	d, err := readDocument(b)
	if err != nil {
		return fmt.Errorf("%s: %w", digest, err)
	}
	if g.out.Digest == "" {
		g.out.Digest = digest
	}
	if err := g.add(Artifact{Kind: KindImage, Digest: digest, Size: int64(len(b)), MediaType: d.mediaType, Subject: index}, b); err != nil {
		return err
	}
	if err := g.vouchers(ctx, digest, 0); err != nil {
		return err
	}
	if g.flat {
		return nil
	}
	if depth == maxDepth && d.index && len(d.manifests) > 0 {
		return fmt.Errorf("%w: indexes in indexes, %d deep", ErrLimit, depth+1)
	}
	for _, m := range d.manifests {
		child, err := wanted(m)
		if err == nil && m.Annotations["vnd.docker.reference.type"] != "" { // BuildKit keeps what it attests in the index itself
			err = g.artifact(ctx, child, link{kind: KindAttestation, subject: m.Annotations["vnd.docker.reference.digest"]}, maxDepth)
		} else if err == nil {
			err = g.image(ctx, child, digest, depth+1)
		}
		if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrAnswer) { // a layout need not hold every platform
			err = g.leave(child, "the index names it and it is not there")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wanted is the digest of a manifest that an index or a list names.
func wanted(m v1.Descriptor) (string, error) {
	if _, err := Hex(m.Digest.String()); err != nil {
		return "", fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if m.Size < 0 || m.Size > MaxManifest {
		return "", fmt.Errorf("%w: manifest %s of %d bytes, at most %d", ErrLimit, m.Digest, m.Size, MaxManifest)
	}
	return m.Digest.String(), nil
}

// vouchers takes what vouches for a manifest.
func (g *gathering) vouchers(ctx context.Context, subject string, depth int) error {
	list, note, err := g.s.referrers(ctx, g.ref, subject)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listing the referrers of %s: %w", subject, err)
	}
	if note != "" {
		g.leave(subject, note)
	}
	if len(list) > MaxArtifacts {
		return fmt.Errorf("%w: %d referrers of %s, at most %d", ErrLimit, len(list), subject, MaxArtifacts)
	}
	for _, m := range list {
		digest, err := wanted(m)
		if g.flat && kindOf(m.ArtifactType) == KindSBOM { // of all others the manifest says what it is: registries differ in what they list
			continue
		}
		if err == nil {
			err = g.artifact(ctx, digest, link{kind: kindOf(m.ArtifactType), subject: subject, listed: true}, depth)
		}
		if err != nil {
			return answered(err)
		}
	}
	tag := strings.Replace(subject, ":", "-", 1)
	for _, t := range []struct{ suffix, kind string }{{".sig", KindSignature}, {".att", KindAttestation}, {".sbom", KindSBOM}} {
		if g.flat && t.kind == KindSBOM {
			continue
		}
		err := g.artifact(ctx, tag+t.suffix, link{kind: t.kind, subject: subject, tag: tag + t.suffix}, depth)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// link is how an artifact was found.
type link struct {
	kind, subject, tag string
	listed             bool // as a referrer: it has to name its subject itself
}

// artifact takes a manifest that vouches for something, with its config and layers, found by a digest or a tag.
func (g *gathering) artifact(ctx context.Context, at string, l link, depth int) error {
	b, digest, err := g.manifest(ctx, at)
	if err != nil || g.seen[digest] {
		return err
	}
	d, err := readDocument(b)
	if err != nil {
		return fmt.Errorf("%s: %w", digest, err)
	}
	if l.listed && (d.subject == nil || d.subject.Digest.String() != l.subject) {
		g.seen[digest] = true
		return g.leave(digest, "it is listed for "+l.subject+" and does not name it as its subject")
	}
	if l.kind == KindReferrer {
		if l.kind = kindOf(d.artifactType); d.config != nil && l.kind == KindReferrer {
			l.kind = kindOf(string(d.config.MediaType))
		}
	}
	a := Artifact{Kind: l.kind, Digest: digest, Size: int64(len(b)), MediaType: d.mediaType, Subject: l.subject, Tag: l.tag}
	if why := g.tooMuch(d); why != "" {
		g.seen[digest] = true
		return g.leave(digest, why)
	}
	if g.flat {
		return g.voucher(ctx, a, d, b)
	}
	for _, part := range d.blobs() {
		content, err := g.blob(ctx, part)
		if err != nil {
			return fmt.Errorf("%s: %w", digest, err)
		}
		a.Blobs = append(a.Blobs, Blob{part.Digest.String(), part.Size})
		if err := g.entries(part, content); err != nil {
			return fmt.Errorf("%s: %w", digest, err)
		}
	}
	if err := g.add(a, b); err != nil {
		return err
	}
	if depth+1 < maxDepth && (l.kind == KindSBOM || l.kind == KindReferrer) { // who signs a bill of materials signs its manifest
		return g.vouchers(ctx, digest, depth+1)
	}
	return nil
}

// tooMuch says why the blobs of an artifact are not taken.
func (g *gathering) tooMuch(d document) string {
	if d.index && len(d.manifests) > 0 {
		return "it is an index"
	}
	blobs, most := d.blobs(), MaxBlobs
	if g.flat {
		most = MaxVouchers
	}
	if len(blobs) > most {
		return fmt.Sprintf("it has %d blobs, at most %d are taken", len(blobs), most)
	}
	for _, b := range blobs {
		if _, err := Hex(b.Digest.String()); err != nil || len(b.URLs) > 0 {
			return fmt.Sprintf("its blob %.100s is not named by SHA-256, or lies elsewhere", b.Digest)
		}
		if b.Size < 0 || b.Size > MaxBlob {
			return fmt.Sprintf("its blob %s has %d bytes, at most %d are taken", b.Digest, b.Size, int64(MaxBlob))
		}
	}
	return ""
}

// manifest reads a manifest by digest, which it must have, or by tag.
func (g *gathering) manifest(ctx context.Context, at string) (b []byte, digest string, err error) {
	_, herr := Hex(at)
	if herr == nil {
		if g.seen[at] {
			return nil, at, nil
		}
		if b := g.shelf.Held(at); b != nil && DigestOf(b) == at {
			return b, at, nil
		}
	}
	if b, err = g.s.manifest(ctx, g.ref, at); err != nil {
		return nil, "", fmt.Errorf("reading manifest %s: %w", at, err)
	}
	if digest = DigestOf(b); herr == nil && digest != at {
		return nil, "", fmt.Errorf("%w: manifest %s was asked for, %s came", ErrAnswer, at, digest)
	}
	return b, digest, nil
}

func (g *gathering) blob(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	digest := d.Digest.String()
	b := g.shelf.Held(digest)
	if b == nil || DigestOf(b) != digest {
		var err error
		if b, err = g.s.blob(ctx, g.ref, digest, d.Size); err != nil {
			return nil, fmt.Errorf("reading blob %s: %w", digest, answered(err))
		}
	}
	if int64(len(b)) != d.Size || DigestOf(b) != digest {
		return nil, fmt.Errorf("%w: blob %s of %d bytes was asked for, %s of %d came", ErrAnswer, digest, d.Size, DigestOf(b), len(b))
	}
	return b, g.keep(digest, b)
}

func (g *gathering) add(a Artifact, b []byte) error {
	if len(g.out.Artifacts) == MaxArtifacts {
		return fmt.Errorf("%w: more than %d manifests", ErrLimit, MaxArtifacts)
	}
	g.seen[a.Digest] = true
	g.out.Artifacts = append(g.out.Artifacts, a)
	return g.keep(a.Digest, b)
}

func (g *gathering) keep(digest string, b []byte) error {
	if g.files[digest] {
		return nil
	}
	g.files[digest] = true
	if g.bytes += int64(len(b)); g.bytes > MaxBytes || len(g.files) > MaxFiles {
		return fmt.Errorf("%w: more than %d files or %d bytes", ErrLimit, MaxFiles, int64(MaxBytes))
	}
	return g.shelf.Keep(digest, b)
}

func (g *gathering) leave(digest, why string) error {
	if len(g.out.Left) == maxLeft {
		return fmt.Errorf("%w: more than %d artifacts that cannot be taken", ErrLimit, maxLeft)
	}
	g.out.Left = append(g.out.Left, Left{digest, strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, why[:min(len(why), maxReason)])})
	return nil
}

// maxReason is the longest reason in bytes.
const maxReason = 400

// kindOf tells what an artifact of that type is.
func kindOf(mediaType string) string {
	switch t := strings.ToLower(mediaType); {
	case strings.HasPrefix(t, bundleType):
		return KindBundle
	case strings.HasPrefix(t, "application/vnd.dev.cosign.artifact.sig."), strings.HasPrefix(t, simpleSigning):
		return KindSignature
	case strings.Contains(t, "spdx"), strings.Contains(t, "cyclonedx"), strings.HasPrefix(t, "application/vnd.dev.cosign.artifact.sbom."):
		return KindSBOM
	case strings.Contains(t, "in-toto"), strings.Contains(t, "dsse"):
		return KindAttestation
	}
	return KindReferrer
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
