// Package installer packs Redoubt into one file that installs it on a machine with no network, and checks such a file.
//
// Build guarantees that the archive holds only what Verify accepts: regular files and directories below one folder, every
// file named in SHA256SUMS, nothing named that is not there. The same inputs give the same bytes; with the same toolchain the
// free-standing binary inside is the same too, while the PKCS#11 build also depends on the C compiler. Licences are those of
// the modules the binaries say they are linked from, read from the module cache.
//
// It does not sign: who made a bundle is proven by a Sigstore bundle beside it, made and checked like any other artifact's.
//
// Start at Build, then Verify. files/ holds what is packed as it stands: install.sh, the systemd units, and monitoring (alerting rules, a dashboard).
package installer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

//go:embed files
var packed embed.FS

var (
	// ErrBundle says that a file is not a bundle Build could have made.
	ErrBundle = errors.New("not a sound bundle")
	// ErrVersion says that a version cannot stand in a file name.
	ErrVersion = errors.New("a version is letters, digits, dots, dashes, plus and underscores")
)

// Config says what to pack.
type Config struct {
	// Source is the root of a checkout.
	Source string
	// Out is the file to write; its folder must exist.
	Out string
	// Version names the folder inside and is what the binaries answer.
	Version string
	// Time is the modification time of everything inside; the zero time is 1980-01-01 UTC.
	Time time.Time
	// Progress gets a line for each step; nil discards.
	Progress io.Writer
}

// Report describes a bundle.
type Report struct {
	Path    string   `json:"path"`
	Folder  string   `json:"folder"`
	Bytes   int64    `json:"bytes"`
	SHA256  string   `json:"sha256"` // lower-case hex, of the archive
	Files   []string `json:"files"`
	Modules int      `json:"modules"` // licences packed
}

// sums is the name of the list of digests, in the format of sha256sum(1).
const sums = "SHA256SUMS"

var versionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// member is one file of a bundle; name is relative to its one folder.
type member struct {
	mode fs.FileMode
	data []byte
}

// Build compiles both binaries and packs them with everything an installation needs. It writes Out completely or not at all.
func Build(ctx context.Context, c Config) (*Report, error) {
	if !versionPattern.MatchString(c.Version) {
		return nil, fmt.Errorf("%w: %q", ErrVersion, c.Version)
	}
	if c.Time.IsZero() {
		c.Time = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	work, err := os.MkdirTemp("", "redoubt-bundle-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)

	members := map[string]member{}
	for name, cgo := range map[string]string{"redoubt": "1", "redoubt-static": "0"} {
		fmt.Fprintf(c.Progress, "building bin/%s (CGO_ENABLED=%s)\n", name, cgo)
		binary := filepath.Join(work, name)
		if err := compile(ctx, c, binary, cgo); err != nil {
			return nil, err
		}
		data, err := os.ReadFile(binary)
		if err != nil {
			return nil, err
		}
		members["bin/"+name] = member{0o755, data}
	}
	fmt.Fprintln(c.Progress, "collecting licences and documents")
	licences, modules, err := collectLicences(ctx, c.Source, filepath.Join(work, "redoubt"))
	if err != nil {
		return nil, err
	}
	maps.Copy(members, licences)
	for _, add := range []func(string, map[string]member) error{addPacked, addDocs} {
		if err := add(c.Source, members); err != nil {
			return nil, err
		}
	}
	members[sums] = member{0o644, digestList(members)}
	folder := "redoubt-" + c.Version
	fmt.Fprintf(c.Progress, "packing %d files\n", len(members))
	if err := pack(c, folder, members); err != nil {
		return nil, err
	}
	report, err := Verify(c.Out)
	if err != nil {
		os.Remove(c.Out)
		return nil, fmt.Errorf("reading the bundle back: %w", err)
	}
	report.Modules = modules
	return report, nil
}

// compile builds the appliance so that the result depends on the source, the toolchain and the version alone.
func compile(ctx context.Context, c Config, out, cgo string) error {
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= -X main.version="+c.Version, "-o", out, "./appliance")
	command.Dir = c.Source
	command.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOWORK=off", "GOFLAGS=")
	if text, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling: %w\n%s", err, bytes.TrimSpace(text))
	}
	return nil
}

// addPacked adds install.sh, the systemd units, and rules and dashboard for monitoring.
func addPacked(_ string, members map[string]member) error {
	return fs.WalkDir(packed, "files", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := packed.ReadFile(name)
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		members[strings.TrimPrefix(name, "files/")] = member{mode, data}
		return err
	})
}

// addDocs adds the README, the changelog and the pages of docs/.
func addDocs(source string, members map[string]member) error {
	for _, name := range []string{"README.md", "CHANGELOG.md", "LICENSE"} {
		data, err := os.ReadFile(filepath.Join(source, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		members["docs/"+name] = member{0o644, data}
	}
	root := filepath.Join(source, "docs")
	return filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".md") {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(file)
		members[path.Join("docs", filepath.ToSlash(name))] = member{0o644, data}
		return err
	})
}

// digestList is SHA256SUMS: every member but itself, sorted by name.
func digestList(members map[string]member) []byte {
	var list bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(members)) {
		fmt.Fprintf(&list, "%x  %s\n", sha256.Sum256(members[name].data), name)
	}
	return list.Bytes()
}

// pack writes the archive beside Out and renames it into place.
func pack(c Config, folder string, members map[string]member) (err error) {
	f, err := os.CreateTemp(filepath.Dir(c.Out), "."+filepath.Base(c.Out)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	// One encoder thread: the split into blocks must not depend on the machine.
	compressor, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	archive := tar.NewWriter(compressor)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		m := members[name]
		header := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(folder, name), Mode: int64(m.mode), Size: int64(len(m.data)), ModTime: c.Time, Format: tar.FormatUSTAR}
		if len(header.Name) > 100 {
			header.Format = tar.FormatPAX
		}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
		if _, err := archive.Write(m.data); err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
	}
	for _, close := range []func() error{archive.Close, compressor.Close, func() error { return f.Chmod(0o644) }, f.Sync} {
		if err := close(); err != nil {
			return fmt.Errorf("packing: %w", err)
		}
	}
	return os.Rename(f.Name(), c.Out)
}
