package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// release is one release, as release.json in its folder has it.
type release struct {
	// Name of its folder: the version and the first digits of the digest of its list of digests.
	Name    string `json:"name"`
	Version string `json:"version"`
	// Format is what its program makes of a state directory.
	Format uint64 `json:"format"`
	// Program is the build that runs here, within the folder.
	Program string `json:"program"`

	folder string
}

const (
	releaseFile = "release.json"
	sumsFile    = "SHA256SUMS"
	maxRecord   = 64 << 10
)

var versionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// readRelease looks at an unpacked bundle.
func readRelease(ctx context.Context, folder string) (*release, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	list, err := os.ReadFile(filepath.Join(folder, sumsFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRelease, err)
	}
	r := &release{folder: folder}
	var failed []error
	for _, r.Program = range programs() {
		if err = r.ask(ctx); err == nil {
			sum := sha256.Sum256(list)
			r.Name = r.Version + "-" + hex.EncodeToString(sum[:4])
			return r, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return nil, fmt.Errorf("%w: %s: %w", ErrRelease, folder, errors.Join(append(failed, fmt.Errorf("wanted a program for %s in bin", runtime.GOARCH))...))
}

// ask has the program say what it is. One that says no format is of the first.
func (r *release) ask(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(r.folder, r.Program)); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(r.folder, r.Program), "version", "-o", "json").Output()
	if err != nil {
		return fmt.Errorf("running %s: %w", r.Program, err)
	}
	said := struct {
		Version string `json:"version"`
		Format  uint64 `json:"stateFormat"`
	}{Format: 1}
	if err := json.Unmarshal(out, &said); err != nil {
		return fmt.Errorf("what %s says of itself: %w", r.Program, err)
	}
	if !versionPattern.MatchString(said.Version) {
		return fmt.Errorf("what %s says of itself: version %q", r.Program, said.Version)
	}
	r.Version, r.Format = said.Version, said.Format
	return nil
}

// readKept reads the release in a folder of /usr/lib/redoubt.
func readKept(folder string) (*release, error) {
	data, err := os.ReadFile(filepath.Join(folder, releaseFile))
	if err != nil {
		return nil, err
	}
	r := &release{folder: folder}
	if err := json.Unmarshal(data, r); err != nil || len(data) > maxRecord || !versionPattern.MatchString(r.Version) || filepath.Base(r.Name) != r.Name {
		return nil, fmt.Errorf("reading %s: it is damaged: install the release again: %w", filepath.Join(folder, releaseFile), errors.Join(err))
	}
	return r, nil
}

// inForce is the release that current names; one that was installed as single files is taken into a folder first. nil: there is none.
func (c *Config) inForce(ctx context.Context) (*release, error) {
	r, err := readKept(c.lib("current"))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	if info, err := os.Lstat(c.path("/usr/bin/redoubt")); err != nil || !info.Mode().IsRegular() {
		return nil, nil
	}
	return c.adopt(ctx)
}

// adopt takes single files, as earlier releases were installed, into a folder, so that there is a way back to them.
func (c *Config) adopt(ctx context.Context) (*release, error) {
	part, err := c.part()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(part)
	r := &release{folder: part, Program: "bin/redoubt"}
	for _, name := range []string{"redoubt", appliance, "redoubt-static"} {
		err := copyFile(c.path("/usr/bin", name), filepath.Join(part, "bin", name), 0o755)
		switch {
		case errors.Is(err, fs.ErrNotExist) && name != "redoubt":
		case err != nil:
			return nil, full(err)
		case name == appliance:
			r.Program = "bin/" + name
		}
	}
	units, err := filepath.Glob(c.path(unitFolder, "redoubt*"))
	if err != nil {
		return nil, err
	}
	for _, unit := range units {
		if err := copyFile(unit, filepath.Join(part, "systemd", filepath.Base(unit)), 0o644); err != nil {
			return nil, full(err)
		}
	}
	if err := r.ask(ctx); err != nil {
		return nil, fmt.Errorf("the installed program: %w", err)
	}
	r.Name = r.Version + "-files"
	if c.DryRun {
		return r, nil
	}
	return r, full(c.finish(part, r))
}

// part makes a folder for a release in the making, after those that were cut off are gone.
func (c *Config) part() (string, error) {
	if c.DryRun {
		return os.MkdirTemp("", "redoubt-dry-")
	}
	if err := os.MkdirAll(c.lib("releases"), 0o755); err != nil {
		return "", err
	}
	left, err := filepath.Glob(c.lib("releases", ".part-*"))
	for _, path := range left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return "", err
	}
	return os.MkdirTemp(c.lib("releases"), ".part-")
}

// stage copies the release to its folder, where it is complete or not at all.
func (c *Config) stage(r *release) error {
	if _, err := readKept(c.release(r.Name)); err == nil {
		r.folder = c.release(r.Name)
		return nil
	}
	part, err := c.part()
	if err != nil {
		return err
	}
	defer os.RemoveAll(part)
	list, err := os.ReadFile(filepath.Join(r.folder, sumsFile))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) { // what is not in the list was checked by nobody
		digest, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok || !fs.ValidPath(name) {
			return fmt.Errorf("%w: %s: %q", ErrRelease, sumsFile, line)
		}
		if strings.HasPrefix(name, "bin/") && strings.Count(name, "/") == 2 && !strings.HasPrefix(name, "bin/"+runtime.GOARCH+"/") {
			continue // of another processor
		}
		data, err := os.ReadFile(filepath.Join(r.folder, name))
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != digest {
			return fmt.Errorf("%w: %s is not what %s says", ErrRelease, name, sumsFile)
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(name, "bin/") || strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		if err := writeFile(filepath.Join(part, name), data, mode); err != nil {
			return err
		}
	}
	if err := writeFile(filepath.Join(part, sumsFile), list, 0o644); err != nil {
		return err
	}
	return c.finish(part, r)
}

// finish gives a release in the making its record and its name.
func (c *Config) finish(part string, r *release) error {
	record, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(part, releaseFile), append(record, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.Symlink(r.Program, filepath.Join(part, "program")); err != nil {
		return err
	}
	if err := os.Chmod(part, 0o755); err != nil {
		return err
	}
	if err := syncFS(part); err != nil {
		return err
	}
	c.at("the copy is whole")
	if err := os.RemoveAll(c.release(r.Name)); err != nil { // without a record: damaged
		return err
	}
	if err := os.Rename(part, c.release(r.Name)); err != nil {
		return err
	}
	r.folder = c.release(r.Name)
	return syncFS(c.lib("releases"))
}

// prune removes releases that are neither in force nor kept.
func (c *Config) prune() {
	folders, _ := filepath.Glob(c.lib("releases", "*"))
	for _, folder := range folders {
		keep := false
		for _, name := range []string{"current", "previous"} {
			target, err := os.Readlink(c.lib(name))
			keep = keep || err == nil && filepath.Base(target) == filepath.Base(folder)
		}
		if !keep {
			os.RemoveAll(folder) // what stays is removed the next time
		}
	}
}

func writeFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = bytes.NewReader(data).WriteTo(f)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

func copyFile(from, to string, mode fs.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return writeFile(to, data, mode)
}

// replace makes path a file with these contents, durably, or leaves it.
func replace(path string, data []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	defer os.Remove(path + ".new")
	if err := writeFile(path+".new", data, mode); err != nil {
		return err
	}
	if err := syncFS(path + ".new"); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncFS(filepath.Dir(path))
}

// relink makes path a symbolic link to target, by one rename.
func relink(target, path string) error {
	if have, err := os.Readlink(path); err == nil && have == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && info.IsDir() { // of an installation by single files
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := os.Remove(path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, path+".new"); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncFS(filepath.Dir(path))
}

func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	return nil
}

// full names a full disk.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
