package installer

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"redoubt.internal/mirror/parcel"
)

// Bounds of a bundle; a real one has about 290 files and 150 MB.
const (
	maxMembers     = 20_000
	maxMemberBytes = 1 << 30
	maxTotalBytes  = 4 << 30
	maxList        = 4 << 20
	window         = 8 << 20 // what a parcel allows
)

// required are the members without which a bundle installs nothing.
var required = []string{"install.sh", "systemd/redoubt.service", "docs/LICENSE"}

// Verify reads the bundle at file, holds its manifest against trust, and checks its form and every digest, writing nothing. Nothing is unpacked
// before its digest is the manifest's; a bundle that is damaged is then looked through once more, to name what is. Every fault is ErrBundle.
func Verify(file string, trust Trust) (*Report, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	report, m, err := verifyHead(f, trust)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBundle, file, err)
	}
	report.Path = file
	if err := verifyPayload(f, report, m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBundle, file, err)
	}
	return report, nil
}

// verifyHead reads the manifest and leaves f at the payload.
func verifyHead(f *os.File, trust Trust) (*Report, *parcel.Manifest, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	m, digest, _, length, err := readManifest(f, trust)
	if err != nil {
		return nil, nil, err
	}
	volume := m.Volumes[0]
	report := &Report{
		Folder: m.Software.Folder, Bytes: info.Size(), Fingerprint: fingerprint(digest), Key: m.Software.Key, Sequence: m.Sequence, Created: m.Created, digest: digest,
	}
	if have := info.Size() - length; have < volume.Bytes {
		return nil, nil, fmt.Errorf("it ends after %d of %d bytes: it was not copied to the end", info.Size(), length+volume.Bytes)
	} else if have > volume.Bytes {
		return nil, nil, fmt.Errorf("%d bytes follow its end", have-volume.Bytes)
	}
	return report, m, nil
}

// verifyPayload digests the payload, then looks into it.
func verifyPayload(f *os.File, report *Report, m *parcel.Manifest) error {
	volume := m.Volumes[0]
	start := report.Bytes - volume.Bytes
	whole, payload := sha256.New(), sha256.New()
	if _, err := io.Copy(whole, io.NewSectionReader(f, 0, start)); err != nil {
		return err
	}
	if _, err := io.Copy(io.MultiWriter(whole, payload), io.NewSectionReader(f, start, volume.Bytes)); err != nil {
		return err
	}
	report.SHA256 = hex.EncodeToString(whole.Sum(nil))
	inside := io.NewSectionReader(f, start, volume.Bytes)
	if sum := parcel.Digest(payload.Sum(nil)); !sum.Equal(volume.SHA256) {
		err := walk(inside, m, func(*tar.Header, io.Reader) error { return nil })
		if err == nil {
			err = errors.New("every file is whole, what stands between them is not")
		}
		return fmt.Errorf("damaged: %w (SHA-256 of what follows the manifest is %s, the manifest says %s): copy it again", err, sum, volume.SHA256)
	}
	err := walk(inside, m, func(h *tar.Header, _ io.Reader) error {
		report.Files = append(report.Files, strings.TrimPrefix(h.Name, m.Software.Folder+"/"))
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range required {
		if !slices.Contains(report.Files, name) {
			return fmt.Errorf("%s is missing", name)
		}
	}
	return nil
}

// walk goes through the payload and hands every file to visit, which may read it. A file that is not in SHA256SUMS, or not as it says, ends it
// with an error that names the file; so do anything but plain files, another order, and a file that is missing.
func walk(r io.Reader, m *parcel.Manifest, visit func(*tar.Header, io.Reader) error) error {
	decompressor, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return err
	}
	defer decompressor.Close()
	w := &walker{archive: tar.NewReader(io.LimitReader(decompressor, min(maxTotalBytes, m.Volumes[0].Unpacked))), folder: m.Software.Folder, last: "the manifest"}
	var list strings.Builder
	if err := w.next(sums, m.Software.Sums.String(), &list, visit); err != nil {
		return err
	}
	lines, err := parseList(list.String())
	if err != nil {
		return err
	}
	for _, l := range lines {
		if err := w.next(l.name, l.digest, io.Discard, visit); err != nil {
			return err
		}
	}
	if header, err := w.archive.Next(); header != nil {
		return fmt.Errorf("%s is not listed", header.Name)
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("after %s: %w", w.last, err)
	}
	if n, err := io.Copy(io.Discard, decompressor); err != nil || n > 0 {
		return fmt.Errorf("%d bytes follow the archive (%w)", n, cmp.Or(err, io.EOF))
	}
	return nil
}

// walker is where walk stands.
type walker struct {
	archive *tar.Reader
	folder  string
	last    string // file that was whole
}

// next wants the file called name with the digest, and writes it to also.
func (w *walker) next(name, want string, also io.Writer, visit func(*tar.Header, io.Reader) error) error {
	header, err := w.archive.Next()
	if err != nil {
		return fmt.Errorf("%s, after %s: %w", name, w.last, err)
	}
	if err := plain(header, path.Join(w.folder, name)); err != nil {
		return err
	}
	if name == sums && header.Size > maxList {
		return fmt.Errorf("%s has %d bytes", name, header.Size)
	}
	digest := sha256.New()
	data := io.TeeReader(w.archive, io.MultiWriter(digest, also))
	if err := visit(header, data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := io.Copy(io.Discard, data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if have := hex.EncodeToString(digest.Sum(nil)); have != want {
		return fmt.Errorf("%s has another digest than was listed", name)
	}
	w.last = name
	return nil
}

// listed is one line of SHA256SUMS.
type listed struct{ name, digest string }

// parseList reads SHA256SUMS: digest, two spaces, name; ascending, each once.
func parseList(text string) (out []listed, err error) {
	for line := range strings.Lines(text) {
		digest, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if raw, err := hex.DecodeString(digest); !ok || err != nil || len(raw) != sha256.Size || name == sums || !fs.ValidPath(name) || strings.ContainsAny(name, "\x00\\") {
			return nil, fmt.Errorf("%s: a line is not a digest and a name", sums)
		}
		if len(out) > 0 && out[len(out)-1].name >= name || len(out) == maxMembers {
			return nil, fmt.Errorf("%s: %s stands twice or out of order, or there are more than %d", sums, name, maxMembers)
		}
		out = append(out, listed{name, digest})
	}
	return out, nil
}

// plain refuses every header but that of a plain file of the name.
func plain(header *tar.Header, name string) error {
	switch {
	case header.Name != name:
		return fmt.Errorf("%s is missing, %q stands in its place", name, header.Name)
	case header.Typeflag != tar.TypeReg:
		return fmt.Errorf("%q is not a regular file", header.Name)
	case header.Size > maxMemberBytes:
		return fmt.Errorf("%s has %d bytes", header.Name, header.Size)
	case header.Mode != 0o644 && header.Mode != 0o755:
		return fmt.Errorf("%s has mode %o", header.Name, header.Mode)
	}
	return nil
}

// Unpack verifies the bundle at file and then writes its folder, with the manifest, below dir, which must exist, and returns the folder's path.
// Nothing is written when the bundle is not sound, and nothing that is there is replaced.
func Unpack(ctx context.Context, file, dir string, trust Trust) (string, error) {
	report, err := Verify(file, trust)
	if err != nil {
		return "", err
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	m, digest, signed, length, err := readManifest(f, trust)
	if err != nil || !digest.Equal(report.digest) {
		return "", fmt.Errorf("%w: %s: it changed while it was read", ErrBundle, file)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if err := root.Mkdir(report.Folder, 0o755); err != nil {
		return "", fmt.Errorf("unpacking: %w", err)
	}
	write := func(h *tar.Header, data io.Reader) error { return unpackMember(ctx, root, h, data) }
	if err = walk(io.NewSectionReader(f, length, m.Volumes[0].Bytes), m, write); err == nil {
		err = root.WriteFile(path.Join(report.Folder, "manifest.note"), signed, 0o644)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("unpacking: %w", err), root.RemoveAll(report.Folder))
	}
	return path.Join(dir, report.Folder), nil
}

func unpackMember(ctx context.Context, root *os.Root, header *tar.Header, data io.Reader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := root.MkdirAll(path.Dir(header.Name), 0o755); err != nil {
		return err
	}
	out, err := root.OpenFile(header.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(header.Mode))
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, data); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
