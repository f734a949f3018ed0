package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"redoubt.internal/log/store/bolt"
)

// RestoreSecond makes dir, which is empty or not there, the state directory whose second disk lies at from: that of one process, or its
// sections, each of which gives what is its own and nothing else. The databases are opened once, which completes them after a crash; what
// is in them is the caller's to check. The configuration comes last.
func RestoreSecond(ctx context.Context, from, dir string, sections []Section) (Second, error) {
	s, sections, err := sectionsOf(from, sections)
	if err != nil {
		return s, failure(err)
	}
	if err := emptyDir(dir); err != nil {
		return s, failure(err)
	}
	if err := restoreSecond(ctx, from, dir, sections); err != nil {
		return s, failure(fmt.Errorf("restoring into %s, which is to be emptied before another try: %w", dir, writing(err)))
	}
	return s, nil
}

// sectionsOf are the sections that are there, the one with the configuration last, and what they say of themselves together. The disk of one
// process is one section without a name.
func sectionsOf(from string, sections []Section) (s Second, there []Section, err error) {
	all := func(string) bool { return true }
	if _, err := os.Stat(filepath.Join(from, secondFile)); err == nil || len(sections) == 0 {
		sections = []Section{{Database: all, Owns: all}}
	}
	config := -1
	for _, section := range sections {
		one, err := ReadSecond(filepath.Join(from, section.Name))
		switch {
		case errors.Is(err, fs.ErrNotExist) && section.Optional:
			continue
		case err != nil:
			return s, nil, err
		case len(there) == 0:
			s = one
		case one.Domain != s.Domain:
			return s, nil, fmt.Errorf("%s: %w: %s is of %s, another part of %s", from, ErrSecond, section.Name, one.Domain, s.Domain)
		}
		s.Required = s.Required && one.Required
		if section.Owns(configFile) {
			config = len(there)
		}
		there = append(there, section)
	}
	if config < 0 {
		return s, nil, fmt.Errorf("%w: nothing holds %s", ErrDamaged, configFile)
	}
	if _, err := os.Stat(filepath.Join(from, there[config].Name, "files", configFile)); err != nil {
		return s, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	last := len(there) - 1
	there[config], there[last] = there[last], there[config]
	return s, there, nil
}

func restoreSecond(ctx context.Context, from, dir string, sections []Section) error {
	for _, s := range sections {
		release, err := holdDatabases(SecondDB(filepath.Join(from, s.Name)))
		if err != nil {
			return err
		}
		defer release()
	}
	if err := os.MkdirAll(filepath.Join(dir, "db"), 0o700); err != nil {
		return err
	}
	for _, s := range sections {
		if err := copyTree(ctx, SecondDB(filepath.Join(from, s.Name)), filepath.Join(dir, "db"), s.Database); err != nil {
			return err
		}
	}
	databases, err := filepath.Glob(filepath.Join(dir, "db", "*.db"))
	if err != nil {
		return err
	}
	for _, file := range databases {
		db, err := bolt.Open(file)
		if err != nil {
			return err
		}
		complete, err := db.Complete()
		if err = errors.Join(err, db.Close()); err != nil {
			return err
		}
		if !complete {
			return fmt.Errorf("%w: %s was still being brought up to date when it was left", ErrDamaged, filepath.Base(file))
		}
	}
	if len(databases) == 0 {
		return fmt.Errorf("%w: %s holds no database", ErrDamaged, from)
	}
	for _, s := range sections {
		if err := copyTree(ctx, filepath.Join(from, s.Name, "files"), dir, s.Owns); err != nil {
			return err
		}
	}
	return nil
}

// holdDatabases takes the locks of databases, which a server that still writes to them has.
func holdDatabases(folder string) (release func(), err error) {
	var held []*os.File
	release = func() {
		for _, f := range held {
			f.Close()
		}
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.db"))
	for _, file := range files {
		var f *os.File
		if f, err = os.OpenFile(file, os.O_RDWR, 0); err != nil {
			break
		}
		held = append(held, f)
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			err = fmt.Errorf("%s: %w: its appliance still runs: %w", file, ErrBusy, err)
			break
		}
	}
	if err != nil {
		release()
	}
	return release, err
}

// copyTree copies the files below one folder into another, the configuration last, and flushes the file system. A file that is not to be
// there is an error: who wrote it was taken over.
func copyTree(ctx context.Context, from, to string, belongs func(name string) bool) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer root.Close()
	copyFile := func(name string) error {
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(to, filepath.Dir(name)), 0o700); err != nil {
			return err
		}
		return place(to, name, f, info.Mode().Perm())
	}
	config := false
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case name == ".", temporary(e.Name()), e.IsDir() && !belongs(name):
			return nil
		case !belongs(name):
			return fmt.Errorf("%w: %s in %s is not of what lies there", ErrDamaged, name, from)
		case name == configFile:
			config = true
			return nil
		case e.IsDir():
			info, err := e.Info()
			if err != nil {
				return err
			}
			return errors.Join(os.MkdirAll(filepath.Join(to, name), 0o700), os.Chmod(filepath.Join(to, name), info.Mode().Perm()))
		case !e.Type().IsRegular():
			return nil
		}
		return copyFile(name)
	})
	if err == nil && config {
		err = copyFile(configFile)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(to)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}
