package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// maxMembers is the most files of an archive.
const maxMembers = 100_000

// OpenArchive opens the file that `docker save` (of Docker 25 and later), `skopeo copy oci-archive:` and `podman save --format oci-archive` write:
// a tar of an OCI layout. The second result is that of OpenLayout. Nothing is unpacked.
func OpenArchive(file string) (*Source, []Reference, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the archive: %w", err)
	}
	members, err := listMembers(f)
	if err == nil && members["index.json"] == nil {
		err = fmt.Errorf("%w: it holds no OCI layout (index.json); Docker before 25 saved images without their manifests, and signatures are over these: "+
			"`skopeo copy docker-archive:%s oci:DIR` makes a layout", ErrAnswer, path.Base(file))
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("reading the archive %s: %w", file, err)
	}
	return readLayout(file, func(name string) (io.ReadCloser, error) {
		m := members[name]
		if m == nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return io.NopCloser(io.NewSectionReader(f, m.at, m.size)), nil
	}, f.Close)
}

// member is where a file of an archive lies.
type member struct{ at, size int64 }

// listMembers finds the regular files of a tar. A name that stands twice is an error: readers differ in which they take.
func listMembers(f *os.File) (map[string]*member, error) {
	members := map[string]*member{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return members, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: a tar, uncompressed, is needed: %v", ErrAnswer, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		switch {
		case members[name] != nil:
			return nil, fmt.Errorf("%w: %.200q stands twice", ErrAnswer, name)
		case len(members) == maxMembers:
			return nil, fmt.Errorf("%w: more than %d files", ErrLimit, maxMembers)
		case h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "":
			return nil, fmt.Errorf("%w: %.200q is sparse", ErrAnswer, name)
		}
		members[name] = &member{at, h.Size}
	}
}
