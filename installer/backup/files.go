package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"redoubt.internal/log/store"
)

// pieceBytes is the most of a file that one record holds.
const pieceBytes = 4 << 20

// maxPasses bounds how often folders are looked at while files come and go.
const maxPasses = 8

// maxPath bounds the path of a file below the state directory.
const maxPath = store.MaxKey - 16

// files copies the files below the state directory that are not databases.
func (r *run) files(ctx context.Context) error {
	was := map[string]*file{}
	for _, f := range r.have.Files {
		if r.owns(f.Path) {
			was[f.Path] = f
		}
	}
	root, err := os.OpenRoot(r.c.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	w := &fileWriter{r: r}
	seen := map[string]bool{}
	// A file that is renamed from one folder to another while we look, as a release from quarantine does, may be in neither when we come by:
	// so we look until nothing is new.
	for news, pass := true, 0; err == nil && news && pass < maxPasses; pass++ {
		news, err = r.walk(ctx, root, w, was, seen)
	}
	if err == nil && r.owns(configFile) {
		err = w.config(root, was)
	}
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return fmt.Errorf("copying files: %w", err)
	}
	for path := range was {
		r.diff.Removed = append(r.diff.Removed, path)
	}
	slices.Sort(r.diff.Removed) // as the map gave them
	slices.Sort(r.left)
	r.left = slices.Compact(r.left)
	return nil
}

func (r *run) owns(path string) bool { return r.c.Owns == nil || r.c.Owns(path) }

// rootsAlone says whether a file that this process cannot read is root's: no process that serves reads it.
func anothers(info fs.FileInfo, err error) bool {
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) != os.Geteuid()
}

// walk takes up what is not in seen, and says whether that was anything.
func (r *run) walk(ctx context.Context, root *os.Root, w *fileWriter, was map[string]*file, seen map[string]bool) (news bool, err error) {
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil && errors.Is(err, fs.ErrNotExist):
			return nil // it went while we looked
		case errors.Is(err, fs.ErrPermission) && (!r.owns(path) || anothers(e.Info())):
			if r.owns(path) {
				r.leave(path)
			}
			return fs.SkipDir
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case path == ".":
			return nil
		}
		if again := seen[path]; again && !(r.skipped(path) && e.IsDir()) {
			return nil
		} else if !again {
			seen[path], news = true, true
		}
		if r.skipped(path) {
			if e.IsDir() {
				return fs.SkipDir
			}
			if r.owns(path) {
				r.leave(path)
			}
			return nil
		}
		switch {
		case !r.owns(path):
			return nil // what is below it may be ours
		case e.IsDir():
			info, err := e.Info()
			if err != nil {
				return err
			}
			r.folder(path, info.Mode().Perm()|fs.ModeDir, was)
			return nil
		case temporary(e.Name()):
			return nil
		case !e.Type().IsRegular() || len(path) > maxPath:
			r.leave(path)
			return nil
		}
		held, err := w.add(root, path, was[path])
		if held {
			delete(was, path)
		}
		return err
	})
	return news, err
}

// folder notes a folder, unless it is as it was.
func (r *run) folder(path string, mode fs.FileMode, was map[string]*file) {
	if old := was[path]; old == nil || old.Mode != mode {
		r.diff.Files = append(r.diff.Files, &file{Path: path, Mode: mode, Parts: []Part{}})
	}
	delete(was, path)
}

// skipped says whether a path below the state directory is one of Config.Skip.
func (r *run) skipped(path string) bool {
	return slices.Contains(r.c.Skip, filepath.Join(r.c.Dir, filepath.FromSlash(path)))
}

// leave notes a file that is in no backup, but for what only lives while a process does.
func (r *run) leave(path string) { r.left = append(r.left, path) }

// temporary says whether a name is of a file in the making.
func temporary(name string) bool {
	return strings.HasPrefix(name, ".") && (strings.Contains(name, "-") || strings.Contains(name, "part"))
}

// publicFolder holds what others published, and no key: what stands in it must not decide what a backup leaves out.
const publicFolder = "mirror/"

// secret says whether a file holds a private key in clear.
func secret(data []byte) bool {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") && block.Type != "ENCRYPTED PRIVATE KEY" && block.Headers["DEK-Info"] == "" {
			return true
		}
	}
	return bytes.Contains(data, []byte("AGE-SECRET-KEY-"))
}

// fileWriter packs files into objects.
type fileWriter struct {
	r       *run
	pending []pendingFile // for the next object
	bytes   int
}

type pendingFile struct {
	f    *file
	data []byte
}

// add copies a file unless it is as it was; held says that the backup has it then.
func (w *fileWriter) add(root *os.Root, path string, old *file) (held bool, err error) {
	f, err := root.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, fs.ErrPermission) && anothers(root.Lstat(path)):
		w.r.leave(path)
		return false, nil
	case err != nil:
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	now := &file{Path: path, Mode: info.Mode().Perm(), Size: info.Size(), Parts: []Part{}, Seen: seen(info)}
	if old != nil && old.Seen == now.Seen && old.Size == now.Size && old.Mode == now.Mode {
		return true, nil
	}
	return w.copy(f, now, old)
}

// config copies the configuration that lies outside the state directory.
func (w *fileWriter) config(root *os.Root, was map[string]*file) error {
	if _, err := root.Stat(configFile); err == nil || w.r.c.ConfigFile == "" {
		return err
	}
	f, err := os.Open(w.r.c.ConfigFile)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	now := &file{Path: configFile, Mode: info.Mode().Perm(), Size: info.Size(), Parts: []Part{}}
	held, err := w.copy(f, now, was[configFile])
	if held {
		delete(was, configFile)
	}
	return err
}

func (w *fileWriter) copy(f *os.File, now, old *file) (held bool, err error) {
	first := make([]byte, min(now.Size+1, pieceBytes))
	n, err := io.ReadFull(f, first)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return false, err
	}
	first = first[:n]
	if n < pieceBytes {
		if !strings.HasPrefix(now.Path, publicFolder) && secret(first) {
			w.r.leave(now.Path)
			return false, nil
		}
		sum := sha256.Sum256(first)
		now.Size, now.SHA256 = int64(n), sum[:]
		if old != nil && old.SHA256.Equal(now.SHA256) && old.Size == now.Size {
			now.Parts = old.Parts // moved, or touched
			w.r.diff.Files = append(w.r.diff.Files, now)
			return true, nil
		}
		w.pending = append(w.pending, pendingFile{now, first})
		if w.bytes += n; w.bytes < objectBytes {
			return true, nil
		}
		return true, w.flush()
	}
	return true, w.copyLarge(f, now, first)
}

// copyLarge copies a file in pieces, each an object of its own.
func (w *fileWriter) copyLarge(f *os.File, now *file, piece []byte) error {
	h, size := sha256.New(), int64(0)
	for len(piece) > 0 {
		h.Write(piece)
		size += int64(len(piece))
		s := w.r.records()
		if err := s.put([]byte(now.Path), piece); err != nil {
			return err
		}
		if err := s.cut(); err != nil {
			return err
		}
		now.Parts = append(now.Parts, s.parts...)
		n, err := io.ReadFull(f, piece[:cap(piece)])
		if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
			return err
		}
		piece = piece[:n]
	}
	now.Size, now.SHA256 = size, h.Sum(nil)
	w.r.diff.Files = append(w.r.diff.Files, now)
	return nil
}

// flush writes the object of the files that wait.
func (w *fileWriter) flush() error {
	slices.SortFunc(w.pending, func(a, b pendingFile) int { return strings.Compare(a.f.Path, b.f.Path) })
	s := w.r.records()
	for _, p := range w.pending {
		if err := s.put([]byte(p.f.Path), p.data); err != nil {
			return err
		}
	}
	if err := s.cut(); err != nil {
		return err
	}
	for _, p := range w.pending {
		p.f.Parts = s.parts
		w.r.diff.Files = append(w.r.diff.Files, p.f)
	}
	w.pending, w.bytes = nil, 0
	return nil
}

// seen is what the file system says of a file that changes when the file does.
func seen(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d %d.%09d %d.%09d", st.Ino, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec)
}
