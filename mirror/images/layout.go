package images

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Annotations of the manifests in a layout: OCI's name, containerd's, and what cosign's `save` says each is.
const (
	refName        = "org.opencontainers.image.ref.name"
	containerdName = "io.containerd.image.name"
	cosignKind     = "kind"
	cosignSigs     = "dev.cosignproject.cosign/sigs"
	cosignAtts     = "dev.cosignproject.cosign/atts"
	cosignImage    = "dev.cosignproject.cosign/image"
	cosignIndex    = "dev.cosignproject.cosign/imageIndex"
)

// layout reads an OCI image layout (image-spec, image-layout.md), as `docker save`, `skopeo copy`, `oras cp` and `cosign save` write it.
type layout struct {
	open func(name string) (io.ReadCloser, error) // a file; fs.ErrNotExist when it is not there
	list []v1.Descriptor                          // index.json
	subj map[string][]v1.Descriptor
}

// OpenLayout opens a folder with an OCI layout and reads its index. The second result are the images in it: what is
// read when no reference is named.
func OpenLayout(dir string) (*Source, []Reference, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the layout: %w", err)
	}
	return readLayout(dir, func(name string) (io.ReadCloser, error) {
		f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe is not waited for
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		if err == nil && !st.Mode().IsRegular() {
			err = fmt.Errorf("%w: %s is no file", ErrAnswer, name)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		return f, nil
	}, root.Close)
}

// readLayout reads the index of the layout at a place, whose files open opens.
func readLayout(at string, open func(string) (io.ReadCloser, error), close func() error) (*Source, []Reference, error) {
	l := &layout{open: open, subj: make(map[string][]v1.Descriptor)}
	all, err := l.load()
	if err != nil {
		close()
		return nil, nil, fmt.Errorf("reading the layout in %s: %w", at, answered(err))
	}
	return &Source{layout: l, manifest: l.manifest, blob: l.blob, referrers: func(_ context.Context, _ Reference, digest string) ([]v1.Descriptor, string, error) {
		return l.subj[digest], "", nil
	}, close: close}, all, nil
}

func (l *layout) load() ([]Reference, error) {
	b, err := l.file("index.json", MaxManifest)
	if err != nil {
		return nil, err
	}
	index, err := readDocument(b)
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	if len(index.manifests) > MaxImages*8 {
		return nil, fmt.Errorf("%w: %d manifests", ErrLimit, len(index.manifests))
	}
	l.list = index.manifests
	return l.subjects()
}

// subjects learns which manifests name a subject, and returns the images.
func (l *layout) subjects() (all []Reference, err error) {
	for _, d := range l.list {
		digest, err := wanted(d)
		if err != nil {
			return nil, err
		}
		b, err := l.blob(context.Background(), Reference{}, digest, MaxManifest)
		if err != nil {
			return nil, err
		}
		if DigestOf(b) != digest {
			return nil, fmt.Errorf("%w: manifest %s hashes to %s", ErrAnswer, digest, DigestOf(b))
		}
		m, err := readDocument(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", digest, err)
		}
		if m.subject != nil {
			l.subj[m.subject.Digest.String()] = append(l.subj[m.subject.Digest.String()], d)
		}
		if !besides(d, m.subject != nil) {
			all = append(all, named(d, digest))
		}
	}
	return all, nil
}

// besides tells whether an entry of the index is what stands beside an image and no image: by its subject, its kind or its tag. One that bears an
// image's name is an image all the same, because whoever loads the layout would find it by that.
func besides(d v1.Descriptor, subject bool) bool {
	for _, name := range []string{d.Annotations[containerdName], d.Annotations[refName]} {
		if name != "" && !isArtifactTag(name) {
			return false
		}
	}
	kind := d.Annotations[cosignKind]
	return subject || kind == cosignSigs || kind == cosignAtts || isArtifactTag(d.Annotations[refName])
}

// named is the reference of an image in a layout: its full name where it has one.
func named(d v1.Descriptor, digest string) Reference {
	for _, text := range []string{d.Annotations[containerdName], d.Annotations[refName]} {
		if r, err := ParseReference(text); err == nil && r.repo.RepositoryStr() != "" {
			return r
		}
	}
	return Reference{text: digest, digest: digest}
}

// isArtifactTag tells whether a tag is one of those that stand for what vouches for a digest.
func isArtifactTag(tag string) bool {
	tag = tag[strings.LastIndexByte(tag, ':')+1:]
	for _, suffix := range []string{".sig", ".att", ".sbom", ""} {
		if hex, ok := strings.CutPrefix(strings.TrimSuffix(tag, suffix), "sha256-"); ok && isHex(hex) {
			return true
		}
	}
	return false
}

// manifest finds a manifest by digest, by tag or by the full name. In what `cosign save` wrote for one image the signatures have no tag.
func (l *layout) manifest(ctx context.Context, ref Reference, at string) ([]byte, error) {
	if _, err := Hex(at); err == nil {
		return l.blob(ctx, ref, at, MaxManifest)
	}
	found := ""
	for _, d := range l.list {
		name := d.Annotations[refName]
		if name == at || name == ref.text && at == ref.tag || d.Annotations[containerdName] == ref.text && at == ref.tag || l.saved(d, at) {
			if digest := d.Digest.String(); found == "" || found == digest {
				found = digest
				continue
			}
			return nil, fmt.Errorf("%w: the layout has two manifests named %.200q", ErrAnswer, at)
		}
	}
	if found == "" {
		return nil, fmt.Errorf("the layout has nothing named %.200q: %w", at, fs.ErrNotExist)
	}
	return l.blob(ctx, ref, found, MaxManifest)
}

// saved tells whether d is what cosign saved as the signatures or attestations that the tag names: of the only image there is.
func (l *layout) saved(d v1.Descriptor, tag string) bool {
	suffix := map[string]string{cosignSigs: ".sig", cosignAtts: ".att"}[d.Annotations[cosignKind]]
	if suffix == "" || d.Annotations[refName] != "" || !strings.HasSuffix(tag, suffix) {
		return false
	}
	for _, o := range l.list {
		if k := o.Annotations[cosignKind]; k == cosignImage || k == cosignIndex {
			return tag == strings.Replace(o.Digest.String(), ":", "-", 1)+suffix
		}
	}
	return false
}

func (l *layout) blob(_ context.Context, _ Reference, digest string, size int64) ([]byte, error) {
	hex, err := Hex(digest)
	if err != nil {
		return nil, err
	}
	return l.file("blobs/sha256/"+hex, size)
}

func (l *layout) file(name string, limit int64) ([]byte, error) {
	f, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: %s is longer than %d bytes", ErrLimit, name, limit)
	}
	return b, err
}
