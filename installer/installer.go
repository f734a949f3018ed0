// Package installer packs Redoubt into one file that installs it on a machine with no network, and checks such a file.
//
// A bundle is a parcel (package mirror/parcel) that carries software: its first zstd frame holds the signed manifest alone, and nothing behind it
// is unpacked before its digest is that of the manifest. Build guarantees that the archive holds only what Verify accepts: regular files below one
// folder, every file named in SHA256SUMS, nothing named that is not there. The same inputs give the same bytes but for the signature, from whatever
// folder; the PKCS#11 builds also depend on the C compiler. Licences and bills of materials are those of the modules the binaries say they are
// linked from.
//
// Verify says who made a bundle to somebody who knows the fingerprint of its manifest, or the key; to anybody else it says whether it is whole.
//
// Start at Build, then Verify. files/ holds what is packed as it stands: install.sh, the systemd units, and monitoring (alerting rules, a dashboard).
package installer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"redoubt.internal/mirror/parcel"
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
	// Time is the modification time of everything inside, and when the manifest says it was made; the zero time is 2000-01-01 UTC.
	Time time.Time
	// Platforms are the processors to build for; none is all of them, amd64 and arm64.
	Platforms []string
	// Signer is the ECDSA P-256 key that signs.
	Signer crypto.Signer
	// Previous is the bundle before this one, if there is one: it gives this one its number.
	Previous string
	// Progress gets a line for each step; nil discards.
	Progress io.Writer
}

// Report describes a bundle.
type Report struct {
	Path        string      `json:"path"`
	Folder      string      `json:"folder"`
	Bytes       int64       `json:"bytes"`
	SHA256      string      `json:"sha256"`      // lower-case hex, of the whole file
	Fingerprint string      `json:"fingerprint"` // of the manifest: what is read out and compared
	Key         string      `json:"key"`         // C2SP note verifier line of the key that signed
	Sequence    uint64      `json:"sequence"`
	Created     parcel.Time `json:"created"` // as the maker says
	Files       []string    `json:"files"`
	Modules     int         `json:"modules"` // licences packed

	digest parcel.Digest
}

// sums is the name of the list of digests, in the format of sha256sum(1).
const sums = "SHA256SUMS"

var versionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// member is one file of a bundle; its name is relative to the one folder. What is large stands in a file until it is packed.
type member struct {
	mode fs.FileMode
	data []byte
	file string // instead of data
}

func (m member) open() (io.ReadCloser, int64, error) {
	if m.file == "" {
		return io.NopCloser(bytes.NewReader(m.data)), int64(len(m.data)), nil
	}
	f, err := os.Open(m.file)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// Build compiles the binaries and packs them with everything an installation needs. It writes Out completely or not at all.
func Build(ctx context.Context, c Config) (*Report, error) {
	if !versionPattern.MatchString(c.Version) {
		return nil, fmt.Errorf("%w: %q", ErrVersion, c.Version)
	}
	if c.Time.IsZero() {
		c.Time = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if len(c.Platforms) == 0 {
		c.Platforms = []string{"amd64", "arm64"}
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	if _, err := c.verifier(); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "redoubt-bundle-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)

	members := map[string]member{}
	binaries, err := c.compileAll(ctx, work, members)
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(c.Progress, "collecting licences and documents")
	licences, modules, err := collectLicences(ctx, c.Source, binaries)
	if err != nil {
		return nil, err
	}
	maps.Copy(members, licences)
	for _, add := range []func(string, map[string]member) error{addPacked, addDocs, addSeeds} {
		if err := add(c.Source, members); err != nil {
			return nil, err
		}
	}
	if err := c.addMade(ctx, work, binaries, members); err != nil {
		return nil, err
	}
	fmt.Fprintf(c.Progress, "packing %d files\n", len(members))
	if err := c.pack(work, "redoubt-"+c.Version, members); err != nil {
		return nil, err
	}
	report, err := Verify(c.Out, Trust{})
	if err != nil {
		os.Remove(c.Out)
		return nil, fmt.Errorf("reading the bundle back: %w", err)
	}
	report.Modules = modules
	return report, nil
}

// addMade adds what is made of binaries and files: packages, image, chart, and the documents that say what all of it is.
func (c Config) addMade(ctx context.Context, work string, binaries []binary, members map[string]member) error {
	packager, err := c.buildPackager(ctx, work)
	if err != nil {
		return err
	}
	if err := c.addPackages(ctx, work, packager, binaries, members); err != nil {
		return err
	}
	if err := c.addImage(ctx, work, packager, binaries, members); err != nil {
		return err
	}
	if err := c.addChart(members); err != nil {
		return err
	}
	if err := c.addSBOMs(binaries, members); err != nil {
		return err
	}
	if err := c.addVEX(binaries, members); err != nil {
		return err
	}
	return c.addProvenance(ctx, binaries, members)
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
		members[strings.TrimPrefix(name, "files/")] = member{mode: mode, data: data}
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
		members["docs/"+name] = member{mode: 0o644, data: data}
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
		members[path.Join("docs", filepath.ToSlash(name))] = member{mode: 0o644, data: data}
		return err
	})
}

// digestOf is the SHA-256 of a member.
func digestOf(m member) ([]byte, error) {
	data, _, err := m.open()
	if err != nil {
		return nil, err
	}
	defer data.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, data); err != nil {
		return nil, err
	}
	return digest.Sum(nil), nil
}

// digestList is SHA256SUMS: every member but itself, sorted by name.
func digestList(members map[string]member) ([]byte, error) {
	var list bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if name == sums {
			continue
		}
		digest, err := digestOf(members[name])
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&list, "%x  %s\n", digest, name)
	}
	return list.Bytes(), nil
}

// pack writes the payload into work, SHA256SUMS first, and seals it into Out.
func (c Config) pack(work, folder string, members map[string]member) error {
	list, err := digestList(members)
	if err != nil {
		return fmt.Errorf("packing: %w", err)
	}
	f, err := os.Create(filepath.Join(work, "payload"))
	if err != nil {
		return err
	}
	defer f.Close()
	packed := newCounter(f)
	// One encoder thread: the split into blocks must not depend on the machine.
	compressor, err := zstd.NewWriter(packed, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window))
	if err != nil {
		return err
	}
	unpacked := newCounter(compressor)
	archive := tar.NewWriter(unpacked)
	if err := c.add(archive, path.Join(folder, sums), member{mode: 0o644, data: list}); err != nil {
		return err
	}
	files := int64(1)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if name == sums {
			continue
		}
		if err := c.add(archive, path.Join(folder, name), members[name]); err != nil {
			return err
		}
		files++
	}
	for _, end := range []func() error{archive.Close, compressor.Close} {
		if err := end(); err != nil {
			return fmt.Errorf("packing: %w", err)
		}
	}
	return c.seal(folder, list, f, parcel.Volume{N: 1, Bytes: packed.bytes, Files: files, SHA256: packed.sum.Sum(nil), Unpacked: unpacked.bytes})
}

// add writes one member in the one form a bundle has.
func (c Config) add(archive *tar.Writer, name string, m member) error {
	data, size, err := m.open()
	if err != nil {
		return err
	}
	defer data.Close()
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(m.mode), Size: size, ModTime: c.Time, Format: tar.FormatUSTAR}
	if len(header.Name) > 100 {
		header.Format = tar.FormatPAX
	}
	if err := archive.WriteHeader(header); err != nil {
		return fmt.Errorf("packing %s: %w", name, err)
	}
	if _, err := io.Copy(archive, data); err != nil {
		return fmt.Errorf("packing %s: %w", name, err)
	}
	return nil
}
