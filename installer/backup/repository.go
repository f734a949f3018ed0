package backup

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/parcel"
)

// identity is redoubt-backup.json.
type identity struct {
	Format     string `json:"format"` // formatLine
	Repository string `json:"repository"`
	Domain     string `json:"domain"`
	Appliance  string `json:"appliance"` // fingerprint
}

// Names are those of a repository's files and folders.
var Names = []string{identityFile, "objects", "runs"}

const (
	identityFile = "redoubt-backup.json"
	maxRuns      = 1 << 20
	maxList      = 256 << 20
)

// repository is an open folder.
type repository struct {
	root *os.Root
	dir  *os.File
	path string
	identity
	runs uint64 // how many there are
	// flushed are the folders whose entries this process made durable: whoever made one may have been killed before.
	flushed map[string]bool
}

// openRepository opens a folder to read.
func openRepository(dir string) (r *repository, err error) {
	r = &repository{path: dir}
	if r.root, err = os.OpenRoot(dir); err != nil {
		return nil, fmt.Errorf("opening the backup: %w", err)
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.dir, err = r.root.Open("."); err != nil {
		return r, err
	}
	data, err := r.read(identityFile, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return r, err
	}
	if err := strictjson.Decode(data, strictjson.Limits{Bytes: 4096}, &r.identity); err != nil {
		return r, fmt.Errorf("%w: %s: %v", ErrDamaged, identityFile, err)
	}
	if r.Format != formatLine {
		return r, fmt.Errorf("%w: %.40q, this program reads %s", ErrFormat, r.Format, formatLine)
	}
	if again, err := r.identity.encode(); err != nil || !bytes.Equal(again, data) {
		return r, fmt.Errorf("%w: %s is not spelled as it is written", ErrDamaged, identityFile)
	}
	return r, r.countRuns()
}

func (i identity) encode() ([]byte, error) {
	data, err := json.Marshal(i)
	return append(data, '\n'), err
}

// writeRepository opens a folder to add a run to, and begins it, under a name of its own, where it is empty.
func writeRepository(dir string, mine identity) (*repository, error) {
	var id [16]byte
	rand.Read(id[:]) // never fails
	mine.Format, mine.Repository = formatLine, hex.EncodeToString(id[:])
	return writeRepositoryAs(dir, mine)
}

// writeRepositoryAs is writeRepository that begins it under the name in mine.
func writeRepositoryAs(dir string, mine identity) (*repository, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("opening the backup: %w", err)
	}
	r, err := openRepository(dir)
	if errors.Is(err, ErrNone) {
		if err := beginRepository(dir, mine); err != nil {
			return nil, err
		}
		r, err = openRepository(dir)
	}
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(r.dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		r.close()
		return nil, fmt.Errorf("%s: %w", dir, ErrBusy)
	case err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.ENOLCK) && !errors.Is(err, unix.ENOSYS):
		r.close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if r.Appliance != mine.Appliance {
		defer r.close()
		return nil, fmt.Errorf("%s: %w: %s %s, and this is %s %s", dir, ErrForeign, r.Domain, r.Appliance, mine.Domain, mine.Appliance)
	}
	return r, r.countRuns() // under the lock
}

func beginRepository(dir string, mine identity) error {
	r := &repository{path: dir}
	var err error
	if r.root, err = os.OpenRoot(dir); err != nil {
		return fmt.Errorf("opening the backup: %w", err)
	}
	defer r.close()
	if r.dir, err = r.root.Open("."); err != nil {
		return err
	}
	names, err := r.dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, ".") && name != "lost+found" {
			return fmt.Errorf("%s: %w: it holds %q and is no backup", dir, ErrNotEmpty, name)
		}
	}
	data, err := mine.encode()
	if err != nil {
		return err
	}
	for _, folder := range []string{"objects", "runs"} {
		if err := r.root.MkdirAll(folder, 0o750); err != nil {
			return writing(err)
		}
	}
	return r.add(identityFile, data)
}

func (r *repository) close() {
	if r.dir != nil {
		r.dir.Close()
	}
	if r.root != nil {
		r.root.Close()
	}
}

func runFile(n uint64) string { return fmt.Sprintf("runs/%08d.note", n) }

// countRuns finds how many runs there are: all numbers from 1 on.
func (r *repository) countRuns() error {
	names, err := fs.ReadDir(r.root.FS(), "runs")
	if err != nil {
		return fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	var last, count uint64
	for _, e := range names {
		if n, ok := strings.CutSuffix(e.Name(), ".note"); ok {
			if k, err := strconv.ParseUint(n, 10, 64); err == nil && k > 0 && k <= maxRuns && runFile(k) == "runs/"+e.Name() {
				last, count = max(last, k), count+1
			}
		}
	}
	if count != last {
		return fmt.Errorf("%w: %s has %d manifests and the last is number %d", ErrDamaged, r.path, count, last)
	}
	r.runs = last
	return nil
}

// read returns a file of at most limit bytes.
func (r *repository) read(name string, limit int64) ([]byte, error) {
	f, err := r.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, name, info.Size())
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("%w: reading %s: %v", ErrDamaged, name, err)
	}
	return data, nil
}

// add writes a file that is not there yet: under another name, flushed, then renamed, its folder flushed.
func (r *repository) add(name string, data []byte) (err error) {
	var id [8]byte
	rand.Read(id[:])
	part := path.Join(path.Dir(name), ".part-"+hex.EncodeToString(id[:]))
	f, err := r.root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o440)
	if err != nil {
		return writing(err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = r.place(part, name)
	}
	if err != nil {
		r.root.Remove(part) // as far as the medium allows
		return writing(fmt.Errorf("writing %s: %w", name, err))
	}
	return r.flush(path.Dir(name))
}

// place renames part to name, which must not exist.
func (r *repository) place(part, name string) error {
	err := unix.Renameat2(int(r.dir.Fd()), part, int(r.dir.Fd()), name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system that knows it not
		if _, err := r.root.Lstat(name); err == nil {
			return fs.ErrExist
		}
		return r.root.Rename(part, name)
	}
	return err
}

func (r *repository) flush(folder string) error {
	f, err := r.root.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // object stores have no folders
		return fmt.Errorf("flushing %s: %w", folder, err)
	}
	return nil
}

// writing gives a full medium its name.
func writing(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

func objectFile(d parcel.Digest) string {
	name := d.String()
	return "objects/" + name[:2] + "/" + name
}

// put stores an object, unless it is there.
func (r *repository) put(sealed []byte) (p Part, written bool, err error) {
	p = Part{Object: parcel.Sum(sealed), Bytes: int64(len(sealed))}
	name := objectFile(p.Object)
	if err := r.root.Mkdir(path.Dir(name), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return p, false, writing(err)
	}
	if !r.flushed[path.Dir(name)] {
		if err := r.flush("objects"); err != nil {
			return p, false, err
		}
		if r.flushed == nil {
			r.flushed = map[string]bool{}
		}
		r.flushed[path.Dir(name)] = true
	}
	err = r.add(name, sealed)
	if errors.Is(err, fs.ErrExist) {
		return p, false, r.settle(p)
	}
	return p, err == nil, err
}

// settle compares an object that was there before with its name, and makes it durable: the run that wrote it may have been killed.
func (r *repository) settle(p Part) error {
	if _, err := r.get(p); err != nil {
		return err
	}
	f, err := r.root.Open(objectFile(p.Object))
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("flushing %s: %w", objectFile(p.Object), err)
	}
	return r.flush(path.Dir(objectFile(p.Object)))
}

// has says whether the file of an object is there with its length.
func (r *repository) has(p Part) bool {
	info, err := r.root.Lstat(objectFile(p.Object))
	return err == nil && info.Mode().IsRegular() && info.Size() == p.Bytes
}

// get reads an object and compares it with its name.
func (r *repository) get(p Part) ([]byte, error) {
	name := objectFile(p.Object)
	data, err := r.read(name, p.Bytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", ErrDamaged, name)
	}
	if err != nil {
		return nil, err
	}
	if sum := parcel.Sum(data); int64(len(data)) != p.Bytes || !sum.Equal(p.Object) {
		return nil, fmt.Errorf("%w: %s has %d bytes and SHA-256 %s; it should have %d", ErrDamaged, name, len(data), sum, p.Bytes)
	}
	return data, nil
}

// manifest reads the manifest of a run, and its digest.
func (r *repository) manifest(n uint64) (*Manifest, parcel.Digest, error) {
	note, err := r.read(runFile(n), maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: %s is missing", ErrDamaged, runFile(n))
	}
	if err != nil {
		return nil, nil, err
	}
	m, err := openManifest(note)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", runFile(n), err)
	}
	if m.Run != n || m.Repository != r.Repository || m.Domain != r.Domain {
		return nil, nil, fmt.Errorf("%w: %s is of run %d of %s", ErrDamaged, runFile(n), m.Run, m.Repository)
	}
	if !m.signedBy(r.Appliance) {
		return nil, nil, fmt.Errorf("%w: %s is signed by %s", ErrForeign, runFile(n), m.Appliance())
	}
	return m, parcel.Sum(note), nil
}

// listOf is the list of the objects a run added: digest and length, a line each.
func listOf(parts []Part) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		fmt.Fprintf(&b, "%s %d\n", p.Object, p.Bytes)
	}
	return b.Bytes()
}

// objects reads the list of the objects that the run of m added.
func (r *repository) objects(m *Manifest) (parts []Part, err error) {
	if m.Objects.Bytes > maxList {
		return nil, fmt.Errorf("%w: a list of %d bytes", ErrDamaged, m.Objects.Bytes)
	}
	data, err := r.get(m.Objects)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		var p Part
		digest, length, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if err := p.Object.UnmarshalText([]byte(digest)); err == nil && len(p.Object) > 0 {
			p.Bytes, err = strconv.ParseInt(length, 10, 64)
			if err == nil && p.Bytes >= 0 {
				parts = append(parts, p)
				continue
			}
		}
		return nil, fmt.Errorf("%w: the list of objects of run %d: %.80q", ErrDamaged, m.Run, line)
	}
	return parts, nil
}
