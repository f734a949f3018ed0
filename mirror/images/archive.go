package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Whole is how an image is written to a file with the manifest that the registry has.
const Whole = "`skopeo copy --preserve-digests docker://IMAGE oci-archive:FILE`, `docker save` of an image in containerd's store, or `cosign save --dir DIR IMAGE`, which takes its signatures along"

// maxMembers is the most files of an archive.
const maxMembers = 100_000

// OpenArchive opens the file that `docker save` (of Docker 25 and later), `skopeo copy oci-archive:` and `podman save --format oci-archive` write:
// a tar of an OCI layout. The second result is that of OpenLayout. Nothing is unpacked.
func OpenArchive(file string) (*Source, []Reference, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the archive: %w", err)
	}
	members, link, err := listMembers(f)
	if err == nil && members["index.json"] == nil {
		err = fmt.Errorf("%w: it holds no OCI layout (index.json), but an image without its manifest, as `docker save` before Docker 25, `podman save` and `skopeo copy docker-archive:` "+
			"write it: signatures are over the manifest, and it cannot be had back. Write it anew: %s", ErrAnswer, Whole)
	}
	if err == nil && link != "" {
		err = fmt.Errorf("%w: %.200q is no file: readers differ in what they make of it", ErrAnswer, link)
	}
	if err == nil {
		err = onlyLayout(members)
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

// listMembers finds the regular files of a tar, and names one that is neither file nor folder. A name that stands twice is an error: readers differ in
// which they take.
func listMembers(f *os.File) (members map[string]*member, link string, err error) {
	if err := plainTar(f); err != nil {
		return nil, "", err
	}
	members = map[string]*member{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return members, link, nil
		}
		if err != nil {
			return nil, "", fmt.Errorf("%w: a tar, uncompressed, is needed: %v", ErrAnswer, err)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			link = h.Name
			continue
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, "", err
		}
		name := path.Clean(h.Name)
		switch {
		case !fs.ValidPath(name): // others put it into the folder, and in the place of another
			return nil, "", fmt.Errorf("%w: %.200q lies outside", ErrAnswer, h.Name)
		case members[name] != nil:
			return nil, "", fmt.Errorf("%w: %.200q stands twice", ErrAnswer, name)
		case len(members) == maxMembers:
			return nil, "", fmt.Errorf("%w: more than %d files", ErrLimit, maxMembers)
		case h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "":
			return nil, "", fmt.Errorf("%w: %.200q is sparse", ErrAnswer, name)
		}
		members[name] = &member{at, h.Size}
	}
}

// plainTar refuses a file that another reader may take for a compressed one, by how it begins: there it would hold other files. A tar begins with a name.
func plainTar(f *os.File) error {
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil {
		return fmt.Errorf("%w: a tar, uncompressed, is needed: %v", ErrAnswer, err)
	}
	if bytes.HasPrefix(magic, []byte("BZh")) || bytes.ContainsFunc(magic, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("%w: a tar, uncompressed, is needed: it begins with %x", ErrAnswer, magic)
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// onlyLayout refuses files beside a layout where there is no manifest.json: Docker before 25 would load those, in its oldest form, and not the layout.
func onlyLayout(members map[string]*member) error {
	if members["manifest.json"] != nil {
		return nil
	}
	for name := range members {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); name != "index.json" && name != "oci-layout" && !(ok && isHex(sum)) {
			return fmt.Errorf("%w: %.200q stands beside the layout", ErrAnswer, name)
		}
	}
	return nil
}
