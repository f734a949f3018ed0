package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A second disk holds, beside the databases that the engine writes there with every transaction, the other files of the state
// directory:
//
//	second.json   whose it is
//	db/           the databases, complete and in step
//	files/        redoubt.yaml, pki/, keys/, tuf/ and the others, as in the state directory; nothing that unlocks a key
//
// Files are copied after the databases have what names them, the record of keys and the configuration last.

// Second says whose a second disk is.
type Second struct {
	Format string `json:"format"` // secondFormat
	Domain string `json:"domain"`
	// Required says that nothing was acknowledged that is not on this disk.
	Required bool `json:"required"`
}

const (
	secondFormat = "redoubt.second/v1"
	secondFile   = "second.json"
)

// ErrSecond says that a folder is not the second disk of this appliance.
var ErrSecond = errors.New("this is not a second disk of this appliance")

// SecondDB is the folder of a second disk's databases.
func SecondDB(to string) string { return filepath.Join(to, "db") }

// BeginSecond makes to the second disk of a domain, unless it is that already. What it says of itself is brought up to date.
func BeginSecond(to string, s Second) error {
	s.Format = secondFormat
	was, err := ReadSecond(to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		names, err := os.ReadDir(to)
		if err != nil {
			return fmt.Errorf("opening the second disk: %w", err)
		}
		for _, e := range names {
			if e.Name() != "lost+found" {
				return fmt.Errorf("%s: %w: it holds %s", to, ErrNotEmpty, e.Name())
			}
		}
	case err != nil:
		return err
	case was.Domain != s.Domain:
		return fmt.Errorf("%s: %w: it is of %s", to, ErrSecond, was.Domain)
	case was == s:
		return nil
	}
	if err := os.MkdirAll(SecondDB(to), 0o700); err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return place(to, secondFile, bytes.NewReader(data), 0o640)
}

// ReadSecond reads whose a second disk is.
func ReadSecond(to string) (s Second, err error) {
	f, err := os.Open(filepath.Join(to, secondFile))
	if err != nil {
		return s, fmt.Errorf("reading the second disk: %w", err)
	}
	defer f.Close()
	decoder := json.NewDecoder(io.LimitReader(f, 4096))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil || s.Format != secondFormat {
		return s, fmt.Errorf("%s: %w: %v", to, ErrSecond, err)
	}
	return s, nil
}

// Section is the folder of a second disk that one of several processes wrote, which is a second disk of what is its own.
type Section struct {
	Name string
	// Database says whether a file of db/ is the section's, Owns whether a path below the state directory, with slashes, is.
	Database, Owns func(name string) bool
	// Optional sections need not be there.
	Optional bool
}

// CopyFiles brings files/ of a second disk up to date with the state directory of c, of which it uses Dir, Skip, Owns and ConfigFile, and
// returns how many files it wrote.
func CopyFiles(ctx context.Context, c Config, to string) (copied int, err error) {
	r := &run{c: c}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	target := filepath.Join(to, "files")
	if err := os.MkdirAll(target, 0o750); err != nil {
		return 0, err
	}
	var last []string
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case errors.Is(err, fs.ErrPermission) && (!r.owns(name) || anothers(e.Info())):
			return fs.SkipDir
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case r.skipped(name) && e.IsDir():
			return fs.SkipDir
		case !r.owns(name):
			return nil // what is below it may be ours
		case e.IsDir():
			info, err := e.Info()
			if err == nil && name != "." {
				err = errors.Join(os.MkdirAll(filepath.Join(target, name), 0o700), os.Chmod(filepath.Join(target, name), info.Mode().Perm()))
			}
			return err
		case r.skipped(name), temporary(e.Name()), !e.Type().IsRegular():
			return nil
		case name == configFile, path.Base(name) == "instances.json":
			last = append(last, name)
			return nil
		}
		wrote, err := copyOne(root, name, target)
		if wrote {
			copied++
		}
		return err
	})
	slices.Sort(last) // the configuration is the last of them
	for _, name := range last {
		if err != nil {
			break
		}
		var wrote bool
		if wrote, err = copyOne(root, name, target); wrote {
			copied++
		}
	}
	if err == nil && c.ConfigFile != "" && r.owns(configFile) && !slices.Contains(last, configFile) {
		err = copyConfig(c.ConfigFile, target)
	}
	if err != nil {
		return copied, fmt.Errorf("copying files to the second disk: %w", writing(err))
	}
	return copied, nil
}

func copyConfig(file, target string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return place(target, configFile, f, 0o640)
}

// copyOne copies a file whose copy has another size or time.
func copyOne(root *os.Root, name, target string) (wrote bool, err error) {
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && anothers(root.Lstat(name)) {
		return false, nil // it went while we looked, or is root's alone
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Join(target, filepath.Dir(name)), 0o700); err != nil {
		return false, err
	}
	to := filepath.Join(target, name)
	if was, err := os.Lstat(to); err == nil && was.Size() == info.Size() && was.ModTime().Equal(info.ModTime()) {
		return false, nil
	}
	var content io.Reader = f
	if info.Size() < pieceBytes {
		data, err := io.ReadAll(io.LimitReader(f, pieceBytes))
		if err != nil {
			return false, err
		}
		if content = bytes.NewReader(data); !strings.HasPrefix(name, publicFolder) && secret(data) {
			return false, nil
		}
	}
	if err := place(target, name, content, info.Mode().Perm()); err != nil {
		return false, err
	}
	return true, os.Chtimes(to, info.ModTime(), info.ModTime())
}

// place writes a file below dir: under another name, flushed, then renamed, its folder flushed.
func place(dir, name string, content io.Reader, mode fs.FileMode) error {
	to := filepath.Join(dir, name)
	tmp, err := os.CreateTemp(filepath.Dir(to), ".part-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = io.Copy(tmp, content)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), to)
	}
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
