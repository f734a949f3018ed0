// Package host puts releases of Redoubt on the machine it runs on: installs, upgrades, goes back, removes.
//
// What it guarantees:
//   - A release lies in a folder of its own, named by its version and by the digest of its list of digests. One link says which one is
//     in force, and is changed by one rename: whoever cuts the work off finds the old release or the new one.
//   - Cut off anywhere, the same call ends what was begun.
//   - Data moves after the program: a newer program reads and takes over what an older one left, never the other way round. Before a
//     program goes back, the newer one takes the data back.
//   - What fails for another reason than a cut, a full disk for one, is undone before the error is reported.
//   - A state directory is touched only by a release's own program, run as its owner: `state show`, `state migrate`, `backup create`.
//   - Removal leaves the state directory, its marks, the configuration and the service user.
//
// It does not check who made a release: install.sh and `redoubt bundle verify` do. It makes no network call.
//
//	/usr/lib/redoubt/releases/VERSION-DIGEST/  a bundle's folder as it was packed, release.json, and program -> the build that runs here
//	/usr/lib/redoubt/current                -> the release in force
//	/usr/lib/redoubt/previous               -> the one before, to go back to
//	/usr/lib/redoubt/pending.json              what was begun and not ended
//	/usr/bin/redoubt, redoubt-static        -> into current
//	/usr/share/redoubt/docs, ...            -> into current
//	/usr/lib/systemd/system/redoubt*           copies of its units: systemd wants files
//
// Start at Upgrade.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/mod/semver"
)

// Errors of this package, to be tested with errors.Is.
var (
	// ErrRelease: the folder is not that of a bundle, or its program does not run here.
	ErrRelease = errors.New("this is no release that runs on this machine")
	// ErrOlder: what is installed is newer.
	ErrOlder = errors.New("a newer release is installed")
	// ErrNoPrevious: there is nothing to go back to.
	ErrNoPrevious = errors.New("no release before this one is kept on this machine")
	// ErrPackage: a package manager owns the files.
	ErrPackage = errors.New("Redoubt was installed here as a package")
	// ErrServing: a server that no service manager can stop holds the state directory.
	ErrServing = errors.New("a server runs on the state directory")
	// ErrBackup: nobody said where the backup goes.
	ErrBackup = errors.New("an upgrade begins with a backup, and it is not said where to")
	// ErrFull: the disk is full.
	ErrFull = errors.New("the disk is full")
	// ErrBegun: another upgrade or rollback was begun and not ended.
	ErrBegun = errors.New("another one was begun and not ended")
)

// Config says what to do.
type Config struct {
	// Root is what paths are below: "" is this machine, anything else an image or a chroot, whose services are left alone.
	Root string
	// From is the folder of an unpacked bundle.
	From string
	// Dir is the state directory, below Root. It need not exist.
	Dir string
	// NoUser leaves the service user alone.
	NoUser bool
	// Backup are the arguments of `backup create`; none are those of the configuration. NoBackup makes none.
	Backup   []string
	NoBackup bool
	// AllowOlder installs a release that is older than the one in force.
	AllowOlder bool
	// DryRun changes nothing and says what would be done.
	DryRun bool
	// Progress gets a line for each step; nil discards.
	Progress io.Writer

	at func(point string) // tests end the process at a named point
}

// Report says what was done.
type Report struct {
	// From and To are the releases before and after; From is "" on a machine without one.
	From string `json:"from,omitempty"`
	To   string `json:"to"`
	// Version is that of To.
	Version string `json:"version"`
	// Steps are what was done, or would be done, in this order.
	Steps []string `json:"steps"`
	// Kept is what a removal left.
	Kept []string `json:"kept,omitempty"`
	// Changed is false where everything was in place already, and in a dry run.
	Changed bool `json:"changed"`
}

const (
	libFolder   = "/usr/lib/redoubt"
	unitFolder  = "/usr/lib/systemd/system"
	shareFolder = "/usr/share/redoubt"
	usersFolder = "/usr/lib/sysusers.d"
)

func (c *Config) path(elem ...string) string {
	return filepath.Join(append([]string{c.Root + "/"}, elem...)...)
}
func (c *Config) lib(elem ...string) string {
	return c.path(append([]string{libFolder}, elem...)...)
}
func (c *Config) release(name string) string { return c.lib("releases", name) }

// defaults fills what was left out.
func (c *Config) defaults() {
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	if c.at == nil {
		c.at = func(string) {}
	}
	if root, err := filepath.Abs(c.Root); err == nil && c.Root != "" {
		c.Root = strings.TrimSuffix(root, "/")
	}
}

// do says a step and does it, unless this is a dry run.
func (r *Report) do(c *Config, step string, fn func() error) error {
	r.Steps = append(r.Steps, step)
	fmt.Fprintln(c.Progress, step)
	if c.DryRun {
		return nil
	}
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", step, full(err))
	}
	c.at(step)
	return nil
}

// Upgrade makes the release at c.From the one in force, also where none is yet.
func Upgrade(ctx context.Context, c Config) (r Report, err error) {
	c.defaults()
	if err := c.notPackaged(); err != nil {
		return r, err
	}
	next, err := readRelease(ctx, c.From)
	if err != nil {
		return r, err
	}
	began, err := c.readPending()
	if err != nil {
		return r, err
	}
	if began != nil && (began.Back || began.To != next.Name) {
		return r, fmt.Errorf("%w: from %s to %s", ErrBegun, began.From, began.To)
	}
	now, err := c.inForce(ctx)
	if err != nil {
		return r, err
	}
	r.To, r.Version = next.Name, next.Version
	if now != nil {
		r.From = now.Name
	}
	if began != nil {
		r.From = began.From
	} else if now != nil && now.Name != next.Name && older(next.Version, now.Version) && !c.AllowOlder {
		return r, fmt.Errorf("%w: %s, and this is %s", ErrOlder, now.Version, next.Version)
	}
	if err := c.stateFits(ctx, next); err != nil {
		return r, err
	}
	if now != nil && now.Name == next.Name && began == nil {
		return r, c.repair(&r, next)
	}
	return r, c.upgrade(ctx, &r, now, next, began)
}

// upgrade does the steps. Whatever step it is cut off after, the next run begins at the first and does what is left.
func (c *Config) upgrade(ctx context.Context, r *Report, now, next *release, began *pending) error {
	if err := r.do(c, "copy the release", func() error { return c.stage(next) }); err != nil {
		return err
	}
	if began == nil {
		if err := c.backUp(ctx, r, now); err != nil {
			return err
		}
		began = &pending{From: r.From, To: next.Name, Units: c.activeUnits()}
	}
	if err := r.do(c, "note what was begun", func() error { return c.writePending(began) }); err != nil {
		return err
	}
	if err := r.do(c, "stop the services", func() error { return c.stop(ctx, began.Units) }); err != nil {
		return errors.Join(err, c.forget())
	}
	err := c.switchTo(ctx, r, now, next)
	if err == nil {
		err = r.do(c, "start the services", func() error { return c.start(ctx, began.Units) })
	}
	if err != nil && !c.DryRun && r.From != "" && r.From != next.Name {
		err = errors.Join(err, c.undo(ctx, r.From, next, began))
	}
	if err != nil {
		return err
	}
	return c.end(r)
}

// switchTo puts next in force and lets it take over the data.
func (c *Config) switchTo(ctx context.Context, r *Report, now, next *release) error {
	if !c.NoUser && c.Root == "" {
		if err := r.do(c, "make the service users", func() error { return c.makeUsers(next) }); err != nil {
			return err
		}
	}
	if now != nil && now.Name != next.Name {
		if err := r.do(c, "keep the release before", func() error { return c.point("previous", now.Name) }); err != nil {
			return err
		}
	}
	if err := r.do(c, "put the release in force", func() error { return c.point("current", next.Name) }); err != nil {
		return err
	}
	if err := r.do(c, "place links and units", func() error { return c.place(next) }); err != nil {
		return err
	}
	if !c.hasState() {
		return r.do(c, "make the folders", c.makeFolders)
	}
	return r.do(c, "migrate the state directory", func() error {
		return c.asOwner(ctx, c.release(next.Name)+"/program", "state", "migrate", "--dir", c.path(c.Dir))
	})
}

// end forgets what was begun.
func (c *Config) end(r *Report) error {
	if err := r.do(c, "end", c.forget); err != nil || c.DryRun {
		return err
	}
	r.Changed = true
	c.prune()
	return nil
}

// undo goes back to the release before after a step failed.
func (c *Config) undo(ctx context.Context, to string, next *release, began *pending) error {
	fmt.Fprintln(c.Progress, "undoing what was done")
	ctx = context.WithoutCancel(ctx)
	before, err := readKept(c.release(to))
	if err == nil {
		err = c.goTo(ctx, next, before)
	}
	if err == nil {
		err = errors.Join(c.start(ctx, began.Units), c.forget())
	}
	if err != nil {
		return fmt.Errorf("undoing it failed too; run the same command again once there is room: %w", err)
	}
	return nil
}

// goTo has the program of the release in force take the data back, and puts before in force.
func (c *Config) goTo(ctx context.Context, now, before *release) error {
	if c.hasState() && before.Format < now.Format {
		err := c.asOwner(ctx, c.release(now.Name)+"/program", "state", "migrate", "--dir", c.path(c.Dir), "--to", fmt.Sprint(before.Format))
		if err != nil {
			return err
		}
	}
	c.at("the data is back")
	if err := c.point("current", before.Name); err != nil {
		return err
	}
	c.at("the release before is in force")
	return c.place(before)
}

// Rollback puts the release before in force again, with the data, of which nothing is lost. Afterwards there is none to go back to: a
// second run, of somebody who did not see the end of the first, changes nothing.
func Rollback(ctx context.Context, c Config) (r Report, err error) {
	c.defaults()
	began, err := c.readPending()
	if err != nil {
		return r, err
	}
	now, err := c.inForce(ctx)
	if err != nil {
		return r, err
	}
	var before *release
	if began != nil && !began.Back {
		before, err = readKept(c.release(began.From)) // an upgrade that was cut off is what is taken back
	} else if began != nil {
		before, err = readKept(c.release(began.To))
	} else {
		before, err = readKept(c.lib("previous"))
	}
	if now == nil || errors.Is(err, fs.ErrNotExist) {
		return r, ErrNoPrevious
	}
	if err != nil {
		return r, err
	}
	if began == nil || !began.Back {
		units := c.activeUnits()
		if began != nil {
			units = began.Units
		}
		began = &pending{From: now.Name, To: before.Name, Back: true, Units: units}
	}
	r.From, r.To, r.Version = began.From, before.Name, before.Version
	if err := r.do(&c, "note what was begun", func() error { return c.writePending(began) }); err != nil {
		return r, err
	}
	if err := r.do(&c, "stop the services", func() error { return c.stop(ctx, began.Units) }); err != nil {
		return r, errors.Join(err, c.forget())
	}
	if err := r.do(&c, "take the data and the program back", func() error { return c.goTo(ctx, now, before) }); err != nil {
		return r, err
	}
	if err := r.do(&c, "keep nothing to go back to", func() error { return remove(c.lib("previous")) }); err != nil {
		return r, err
	}
	if err := r.do(&c, "start the services", func() error { return c.start(ctx, began.Units) }); err != nil {
		return r, err
	}
	return r, c.end(&r)
}

// older compares versions as semver does; two that it cannot compare are not in any order.
func older(a, b string) bool {
	a, b = "v"+strings.TrimPrefix(a, "v"), "v"+strings.TrimPrefix(b, "v")
	return semver.IsValid(a) && semver.IsValid(b) && semver.Compare(a, b) < 0
}

// appliance is what redoubt, beside it, hands everything over to but verify.
const appliance = "redoubt-appliance"

// programs are the builds of a bundle, the best one first; earlier releases had no program for verify alone.
func programs() []string {
	folder := "bin/" + runtime.GOARCH
	return []string{folder + "/" + appliance, folder + "/redoubt-static", folder + "/redoubt", "bin/redoubt", "bin/redoubt-static"}
}

// makeFolders are those of a machine that has no state directory yet.
func (c *Config) makeFolders() error {
	for path, mode := range map[string]os.FileMode{"/etc/redoubt": 0o755, c.Dir: 0o700, "/var/log/redoubt": 0o750} {
		if err := os.MkdirAll(c.path(path), mode); err != nil {
			return err
		}
		if err := os.Chmod(c.path(path), mode); err != nil {
			return err
		}
		if path != "/etc/redoubt" {
			if err := c.own(c.path(path)); err != nil {
				return err
			}
		}
	}
	err := os.Symlink(filepath.Join(c.Dir, "redoubt.yaml"), c.path("/etc/redoubt/redoubt.yaml"))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}
