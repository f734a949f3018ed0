package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"redoubt.internal/mirror/tiles"
)

// shelf keeps the tiles of one log as files in the layout of C2SP tlog-tiles: tile/1/x001/234, tile/entries/000.p/7. A file is
// written once, whole. What may be read is decided by the log's head in the database, never by what lies on the shelf. Full tiles
// of level 0 are not kept where their entries are: they follow from them.
type shelf struct {
	root *os.Root
	dirs sync.Map // folders known to exist
}

// openShelf opens, and if need be makes, the shelf in folder dir below base.
func openShelf(base *os.Root, dir string) (*shelf, error) {
	if err := base.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := base.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &shelf{root: root}, nil
}

func (s *shelf) close() error { return s.root.Close() }

func (s *shelf) mkdir(dir string) error {
	if _, ok := s.dirs.Load(dir); ok {
		return nil
	}
	if err := s.root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	s.dirs.Store(dir, true)
	return nil
}

// write puts a tile on the shelf. It is durable after sync.
func (s *shelf) write(t tiles.Tile, data []byte) error { return s.writeFile(t.Path(), data) }

// writeFile puts a file on the shelf. It is durable after sync.
func (s *shelf) writeFile(name string, data []byte) error {
	if err := s.mkdir(path.Dir(name)); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// readNamed returns a file that is no tile, of at most limit bytes. ErrNotFound when there is none.
func (s *shelf) readNamed(name string, limit int64) ([]byte, error) {
	f, err := s.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, name, limit)
}

// read returns the tile as wide as asked for, cut from a wider one or hashed from its entries if that is what the shelf has.
// ErrNotFound otherwise. It may use buf, from its start, for the bytes.
func (s *shelf) read(t tiles.Tile, buf []byte) ([]byte, error) {
	b, err := s.readKept(t, buf)
	if t.Level != 0 || !errors.Is(err, ErrNotFound) {
		return b, err
	}
	entries, missing := s.readKept(tiles.Tile{Level: tiles.Entries, Index: t.Index, Width: t.Width}, nil)
	if errors.Is(missing, ErrNotFound) {
		return nil, err
	}
	if missing != nil {
		return nil, missing
	}
	if b, err = tiles.AppendLeafHashes(buf[:0], entries, t.Width); err != nil {
		return nil, fmt.Errorf("%w: %s from its entries: %w", ErrDamaged, t.Path(), err)
	}
	return b, nil
}

// readKept is read of what lies there as it is asked for, or wider.
func (s *shelf) readKept(t tiles.Tile, buf []byte) ([]byte, error) {
	b, err := s.readFile(t, buf)
	if err == nil || !errors.Is(err, fs.ErrNotExist) || t.Full() {
		return b, notFound(t, err)
	}
	wider := t
	wider.Width = tiles.Width
	b, err = s.readFile(wider, buf)
	if errors.Is(err, fs.ErrNotExist) {
		if wider, err = s.widest(t); err == nil {
			b, err = s.readFile(wider, buf)
		}
	}
	if err != nil {
		return nil, notFound(t, err)
	}
	return cut(wider, b, t.Width)
}

// cut returns the first width hashes or entries of a tile.
func cut(t tiles.Tile, b []byte, width int) ([]byte, error) {
	if t.Level < 0 {
		return tiles.CutBundle(b, width)
	}
	if len(b) != t.Width*tiles.HashSize {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, t.Path(), len(b))
	}
	return b[:width*tiles.HashSize], nil
}

// widest finds a partial tile of at least the width of t.
func (s *shelf) widest(t tiles.Tile) (tiles.Tile, error) {
	dir, err := s.root.Open(path.Dir(t.Path()))
	if err != nil {
		return t, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(tiles.Width)
	for _, n := range names {
		if w, err := strconv.Atoi(n); err == nil && w >= t.Width && w < tiles.Width {
			t.Width = w
			return t, nil
		}
	}
	return t, errors.Join(fs.ErrNotExist, err)
}

func (s *shelf) readFile(t tiles.Tile, buf []byte) ([]byte, error) {
	f, err := s.root.Open(t.Path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > tiles.MaxBundle {
		return nil, fmt.Errorf("%w: %s is no tile", ErrDamaged, t.Path())
	}
	b := slices.Grow(buf[:0], int(st.Size()))[:st.Size()]
	n, err := f.ReadAt(b, 0)
	if n < len(b) {
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, t.Path(), err)
	}
	return b, nil
}

// has tells whether a file of that size is there for t.
func (s *shelf) has(t tiles.Tile, size int) bool {
	st, err := s.root.Lstat(t.Path())
	return err == nil && st.Mode().IsRegular() && st.Size() == int64(size)
}

// exists tells whether a file is there.
func (s *shelf) exists(name string) bool {
	st, err := s.root.Lstat(name)
	return err == nil && st.Mode().IsRegular()
}

func notFound(t tiles.Tile, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNotFound, t.Path())
	}
	return err
}

// fetch is the shelf as a tiles.Fetch.
func (s *shelf) fetch(_ context.Context, t tiles.Tile) ([]byte, error) { return s.need(t, nil) }

// need is read for a tile that has to be there.
func (s *shelf) need(t tiles.Tile, buf []byte) ([]byte, error) {
	b, err := s.read(t, buf)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return b, err
}

// sync makes everything written to the shelf's file system durable, one flush for all files.
func (s *shelf) sync() error { return syncfs(s.root) }

func syncfs(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("flushing files: %w", err)
	}
	return nil
}

// moveTree renames what lies in from to the same name in to, a folder as a whole where to has none of that name. It may be repeated
// after a crash.
func moveTree(base *os.Root, from, to string) error {
	if err := base.MkdirAll(path.Dir(to), 0o755); err != nil {
		return err
	}
	_, err := base.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) {
		if err := base.Rename(from, to); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil // nothing was staged, or it was moved before
	}
	if err != nil {
		return err
	}
	return moveInto(base, from, to)
}

func moveInto(base *os.Root, from, to string) error {
	all, err := fs.ReadDir(base.FS(), from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range all {
		name, target := path.Join(from, d.Name()), path.Join(to, d.Name())
		if d.IsDir() {
			if st, err := base.Lstat(target); err == nil && st.IsDir() {
				if err := moveInto(base, name, target); err != nil {
					return err
				}
				continue
			}
		}
		if err := base.Rename(name, target); err != nil {
			return err
		}
	}
	return nil
}

// escape turns an origin into the name of a folder: letters, digits, '.', '_' and '-' stay, a leading dot and everything else
// become %XX. Two origins never share a name.
func escape(origin string) string {
	var b strings.Builder
	for i := range len(origin) {
		c := origin[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() > 200 { // file names end at 255 bytes
		h := tiles.LeafHash([]byte(origin))
		return b.String()[:160] + "%%" + h.String()[:32]
	}
	return b.String()
}
