package installer

import (
	"archive/tar"
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
)

// Bounds of a bundle; a real one has about 500 files and 200 MiB.
const (
	maxMembers     = 20_000
	maxMemberBytes = 1 << 30
	maxTotalBytes  = 4 << 30
	maxWindow      = 64 << 20
)

// required are the members without which a bundle installs nothing.
var required = []string{"bin/redoubt", "bin/redoubt-static", "install.sh", "systemd/redoubt.service", "docs/LICENSE", sums}

// Verify reads the bundle at file and checks its form and every digest, writing nothing. Every fault is ErrBundle.
func Verify(file string) (*Report, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	whole := sha256.New()
	report, err := verify(io.TeeReader(f, whole))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBundle, file, err)
	}
	// Read what the decompressor left, so that the digest is the whole file's.
	if _, err := io.Copy(whole, f); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	report.Path, report.Bytes, report.SHA256 = file, info.Size(), hex.EncodeToString(whole.Sum(nil))
	return report, nil
}

func verify(r io.Reader) (*Report, error) {
	decompressor, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	defer decompressor.Close()
	archive := tar.NewReader(io.LimitReader(decompressor, maxTotalBytes))
	report := &Report{}
	digests := map[string]string{}
	var list []byte
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name, err := memberName(header, report)
		if err != nil {
			return nil, err
		}
		if _, twice := digests[name]; twice || len(digests) == maxMembers {
			return nil, fmt.Errorf("%s stands twice, or there are more than %d files", name, maxMembers)
		}
		digest := sha256.New()
		if name == sums {
			if list, err = io.ReadAll(io.LimitReader(archive, maxLicence)); err != nil {
				return nil, err
			}
		} else if _, err := io.Copy(digest, archive); err != nil {
			return nil, err
		}
		digests[name] = hex.EncodeToString(digest.Sum(nil))
		report.Files = append(report.Files, name)
	}
	// Nothing may hide behind the end of the archive.
	if n, err := io.Copy(io.Discard, io.LimitReader(decompressor, 1<<20)); err != nil || n > 16<<10 {
		return nil, fmt.Errorf("%d bytes follow the archive (%w)", n, orEOF(err))
	}
	for _, name := range required {
		if _, ok := digests[name]; !ok {
			return nil, fmt.Errorf("%s is missing", name)
		}
	}
	return report, checkSums(list, digests)
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// memberName returns the member's name below the one folder, and refuses everything but plain files in it.
func memberName(header *tar.Header, report *Report) (string, error) {
	folder, name, ok := strings.Cut(header.Name, "/")
	switch {
	case header.Typeflag != tar.TypeReg:
		return "", fmt.Errorf("%q is not a regular file", header.Name)
	case !ok || !fs.ValidPath(header.Name) || path.Clean(header.Name) != header.Name || strings.ContainsAny(header.Name, "\x00\\\n"):
		return "", fmt.Errorf("%q is not a plain path", header.Name)
	case header.Size > maxMemberBytes:
		return "", fmt.Errorf("%s has %d bytes", header.Name, header.Size)
	case header.Mode != 0o644 && header.Mode != 0o755:
		return "", fmt.Errorf("%s has mode %o", header.Name, header.Mode)
	case report.Folder == "":
		report.Folder = folder
	case report.Folder != folder:
		return "", fmt.Errorf("%q stands outside %s", header.Name, report.Folder)
	}
	return name, nil
}

// checkSums wants exactly one line for every member but the list itself, in order.
func checkSums(list []byte, digests map[string]string) error {
	var named []string
	for line := range strings.Lines(string(list)) {
		digest, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok || name == sums {
			return fmt.Errorf("%s: a line is not a digest and a name", sums)
		}
		if have, found := digests[name]; !found || have != digest {
			return fmt.Errorf("%s: %s is missing or has another digest", sums, name)
		}
		named = append(named, name)
	}
	if !slices.IsSorted(named) || len(slices.Compact(slices.Clone(named))) != len(named) || len(named) != len(digests)-1 {
		return fmt.Errorf("%s names %d of %d files", sums, len(named), len(digests)-1)
	}
	return nil
}

// Unpack verifies the bundle at file and then writes its folder below dir, which must exist, and returns the folder's path.
// Nothing is written when the bundle is not sound, and nothing that is there is replaced.
func Unpack(file, dir string) (string, error) {
	report, err := Verify(file)
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if err := root.Mkdir(report.Folder, 0o755); err != nil {
		return "", fmt.Errorf("unpacking: %w", err)
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	decompressor, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return "", err
	}
	defer decompressor.Close()
	archive := tar.NewReader(decompressor)
	for range report.Files {
		header, err := archive.Next()
		if err != nil {
			return "", fmt.Errorf("unpacking: %w", err)
		}
		if err := unpackMember(root, header, archive); err != nil {
			return "", fmt.Errorf("unpacking %s: %w", header.Name, err)
		}
	}
	return path.Join(dir, report.Folder), nil
}

func unpackMember(root *os.Root, header *tar.Header, data io.Reader) error {
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
