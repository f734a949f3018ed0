package parcel

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
)

// Parcel is a parcel whose manifest is signed by a known key. Its volumes are not read yet.
type Parcel struct {
	Manifest *Manifest
	Note     []byte // the signed manifest as carried
	Digest   Digest
	By       *Verifier // the key that signed

	files   []*volumeFile
	volumes []*volumeFile // by number - 1, set by Check
}

type volumeFile struct {
	path   string
	f      *os.File
	start  int64 // where the payload begins
	length int64
}

var numbered = regexp.MustCompile(`^(.+)\.([0-9]{3})\.rdp$`)

// number is the volume number in a file's name, 0 if there is none. It serves only to name a volume in an error.
func number(path string) int {
	if m := numbered.FindStringSubmatch(filepath.Base(path)); m != nil {
		n, _ := strconv.Atoi(m[2])
		return n
	}
	return 0
}

// Scan opens the volumes named, whatever they are called, and those Find finds in a folder named, verifies their manifests by the exporters' keys and
// returns the parcels they belong to, by stream and sequence. Nothing of a volume but its manifest is read.
//
// Errors: ErrForeignKey, a *VolumeError, ErrManifest, ErrTooNew, ErrMedium. The caller closes the parcels.
func Scan(paths []string, keys []*Verifier) (parcels []*Parcel, err error) {
	defer func() {
		if err != nil {
			for _, p := range parcels {
				p.Close()
			}
			parcels = nil
		}
	}()
	files, err := expand(paths)
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang us
		if err != nil {
			return parcels, &VolumeError{number(path), path, fmt.Errorf("%w: %v", ErrMedium, err)}
		}
		p, v, err := open(f, path, keys)
		if err != nil {
			f.Close()
			return parcels, err
		}
		same := slices.IndexFunc(parcels, func(o *Parcel) bool { return o.Digest.Equal(p.Digest) })
		if same < 0 {
			parcels, same = append(parcels, p), len(parcels)
		}
		parcels[same].files = append(parcels[same].files, v)
	}
	slices.SortStableFunc(parcels, func(a, b *Parcel) int {
		return cmp.Or(cmp.Compare(a.Manifest.Stream, b.Manifest.Stream), cmp.Compare(a.Manifest.Sequence, b.Manifest.Sequence))
	})
	return parcels, nil
}

func expand(paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, &VolumeError{number(p), p, fmt.Errorf("%w: %v", ErrMedium, err)}
		}
		if !st.IsDir() {
			out = append(out, p)
			continue
		}
		list, err := Find(p)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	if len(out) > MaxVolumes {
		return nil, fmt.Errorf("%w: %d files at once", ErrManifest, len(out))
	}
	return out, nil
}

func open(f *os.File, path string, keys []*Verifier) (*Parcel, *volumeFile, error) {
	bad := func(err error) error { return &VolumeError{number(path), path, err} }
	st, err := f.Stat()
	if err != nil {
		return nil, nil, bad(fmt.Errorf("%w: %v", ErrMedium, err))
	}
	if !st.Mode().IsRegular() {
		return nil, nil, bad(errors.New("it is not a regular file"))
	}
	signed, start, err := readHead(f)
	var io1 *os.PathError
	switch {
	case errors.As(err, &io1):
		return nil, nil, bad(fmt.Errorf("%w: %v", ErrMedium, err))
	case err != nil:
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = errors.New("it ends before its manifest does, or does not begin as a volume does")
		}
		if became := whatBecame(f); became != "" {
			err = fmt.Errorf("%w: %s", err, became)
		}
		return nil, nil, bad(err)
	}
	text, by, err := OpenNote(signed, keys)
	switch {
	case errors.Is(err, ErrForeignKey):
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	case err != nil:
		return nil, nil, bad(err)
	}
	m, err := ParseManifest(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	if m.Exporter != by.ID() {
		return nil, nil, fmt.Errorf("%s: %w: signed by %s, made by %.80q", path, ErrManifest, by.ID(), m.Exporter)
	}
	if m.Software != nil {
		return nil, nil, fmt.Errorf("%s: %w: it installs the product and carries no data; see redoubt bundle verify", path, ErrManifest)
	}
	return &Parcel{Manifest: m, Note: signed, Digest: Sum(text), By: by}, &volumeFile{path, f, start, st.Size() - start}, nil
}

// Check reads every volume once and compares size and SHA-256 with the manifest. The error names all volumes that are
// damaged or missing. Files may have any name and come in any order; one that is there twice does no harm.
func (p *Parcel) Check(ctx context.Context) error {
	p.volumes = make([]*volumeFile, len(p.Manifest.Volumes))
	var errs []error
	named := make(map[int]bool) // volumes an error above names already
	for _, f := range p.files {
		n, err := p.place(ctx, f)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			named[number(f.path)] = true
			errs = append(errs, &VolumeError{number(f.path), f.path, err})
			continue
		}
		p.volumes[n] = f
	}
	for i, v := range p.volumes {
		if v == nil && !named[i+1] {
			errs = append(errs, &VolumeError{i + 1, p.expected(i + 1), errors.New("it is missing")})
		}
	}
	// A damaged copy beside a whole one is no reason to refuse.
	if !slices.Contains(p.volumes, nil) {
		return nil
	}
	return errors.Join(errs...)
}

// place finds the volume whose digest the file has.
func (p *Parcel) place(ctx context.Context, f *volumeFile) (int, error) {
	if !slices.ContainsFunc(p.Manifest.Volumes, func(v Volume) bool { return v.Bytes == f.length }) {
		return 0, fmt.Errorf("it has %d bytes, which no volume of parcel %d has", f.length+f.start, p.Manifest.Sequence)
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(h, &source{ctx: ctx, r: io.NewSectionReader(f.f, f.start, f.length)}, make([]byte, 1<<20)); err != nil {
		return 0, err
	}
	sum := Digest(h.Sum(nil))
	for i, v := range p.Manifest.Volumes {
		if v.Bytes == f.length && v.SHA256.Equal(sum) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("its SHA-256 is %s, which no volume of parcel %d has", sum, p.Manifest.Sequence)
}

// expected is the file name a missing volume should have, judged by one that is there.
func (p *Parcel) expected(n int) string {
	for _, f := range p.files {
		if m := numbered.FindStringSubmatch(filepath.Base(f.path)); m != nil {
			return fileName(m[1], n)
		}
	}
	return fileName(p.Manifest.Stream, n)
}

// Close closes the volumes.
func (p *Parcel) Close() error {
	var errs []error
	for _, f := range p.files {
		errs = append(errs, f.f.Close())
	}
	return errors.Join(errs...)
}

// source reads a medium: it stops when the context ends and marks what the medium is to blame for.
type source struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (s *source) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %v", ErrMedium, err)
		s.err = err
	}
	return n, err
}
