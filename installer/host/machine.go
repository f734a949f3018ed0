package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// serviceUser runs the server and owns its state.
const serviceUser = "redoubt"

// pending is pending.json: what was begun and not ended.
type pending struct {
	From  string   `json:"from"`
	To    string   `json:"to"`
	Back  bool     `json:"back,omitempty"`
	Units []string `json:"units,omitempty"` // that ran before, and run after
}

func (c *Config) readPending() (*pending, error) {
	data, err := os.ReadFile(c.lib("pending.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var p pending
	if err := json.Unmarshal(data, &p); err != nil || len(data) > maxRecord || filepath.Base(p.To) != p.To || p.From != "" && filepath.Base(p.From) != p.From {
		return nil, fmt.Errorf("reading %s: %w", c.lib("pending.json"), errors.Join(err, ErrBegun))
	}
	return &p, nil
}

func (c *Config) writePending(p *pending) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return replace(c.lib("pending.json"), append(text, '\n'), 0o644)
}

func (c *Config) forget() error {
	if c.DryRun {
		return nil
	}
	return remove(c.lib("pending.json"))
}

// remove takes a name away, durably; one that is not there is as good.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncFS(filepath.Dir(path))
}

// Pending says what was begun on this machine and not ended; "" is nothing.
func Pending() string {
	c := Config{}
	p, err := c.readPending()
	switch {
	case err != nil:
		return err.Error()
	case p == nil:
		return ""
	case p.Back:
		return fmt.Sprintf("going back from %s to %s", p.From, p.To)
	}
	return fmt.Sprintf("upgrading from %s to %s", p.From, p.To)
}

// point makes a link of /usr/lib/redoubt name a release.
func (c *Config) point(link, name string) error {
	return relink(filepath.Join("releases", name), c.lib(link))
}

// place puts the links and units of a release where the machine looks for them. All of it may be done again.
func (c *Config) place(r *release) error {
	called, static := "program", filepath.Join(filepath.Dir(r.Program), "redoubt-static")
	if filepath.Base(r.Program) == appliance {
		called = filepath.Join(filepath.Dir(r.Program), "redoubt")
	}
	for path, target := range map[string]string{"/usr/bin/redoubt": called, "/usr/bin/redoubt-static": static} {
		if err := relink(filepath.Join("../lib/redoubt/current", target), c.path(path)); err != nil {
			return err
		}
	}
	for _, folder := range []string{"docs", "licences", "monitoring"} {
		if err := relink(filepath.Join("../../lib/redoubt/current", folder), c.path(shareFolder, folder)); err != nil {
			return err
		}
	}
	if data, err := os.ReadFile(filepath.Join(r.folder, usersFile)); err == nil {
		if err := os.MkdirAll(c.path(usersFolder), 0o755); err != nil {
			return err
		}
		if err := replace(c.path(usersFolder, "redoubt.conf"), data, 0o644); err != nil {
			return err
		}
	}
	c.at("links are placed")
	units, err := filepath.Glob(filepath.Join(r.folder, "systemd", "redoubt*"))
	if err != nil {
		return err
	}
	names := make([]string, len(units))
	for i, unit := range units {
		names[i] = filepath.Base(unit)
		data, err := os.ReadFile(unit)
		if err != nil {
			return err
		}
		if err := replace(c.path(unitFolder, names[i]), data, 0o644); err != nil {
			return err
		}
		c.at("a unit is placed")
	}
	there, err := filepath.Glob(c.path(unitFolder, "redoubt*"))
	for _, unit := range there {
		if info, serr := os.Lstat(unit); serr == nil && info.Mode().IsRegular() && !slices.Contains(names, filepath.Base(unit)) {
			err = errors.Join(err, os.Remove(unit)) // of a release that had it
		}
	}
	return err
}

// repair does what an upgrade to the same release is for: what was placed is placed again.
func (c *Config) repair(r *Report, now *release) error {
	now, err := readKept(c.lib("current"))
	if err != nil {
		return err
	}
	return r.do(c, "the release is in force: place links and units", func() error {
		if c.hasState() {
			return c.place(now)
		}
		return errors.Join(c.place(now), c.makeFolders())
	})
}

func (c *Config) hasState() bool {
	_, err := os.Stat(filepath.Join(c.path(c.Dir), "redoubt.yaml"))
	return err == nil
}

// stateFits has the program of a release look at the state directory: one that a newer program wrote is refused before anything is done.
func (c *Config) stateFits(ctx context.Context, r *release) error {
	if !c.hasState() {
		return nil
	}
	// Not as the owner of the directory, who may not be let into the folder of a medium or of root's; what it opens keeps its owner.
	out, err := exec.CommandContext(ctx, filepath.Join(r.folder, r.Program), "state", "show", "--dir", c.path(c.Dir)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("the state directory: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// backUp has the installed program make a backup, while it serves.
func (c *Config) backUp(ctx context.Context, r *Report, now *release) error {
	if now == nil || c.NoBackup || !c.hasState() {
		return nil
	}
	arguments := append([]string{"backup", "create", "--dir", c.path(c.Dir)}, c.Backup...)
	if len(c.Backup) == 0 {
		config, err := os.ReadFile(filepath.Join(c.path(c.Dir), "redoubt.yaml"))
		if err != nil {
			return err
		}
		if !bytes.Contains(append([]byte("\n"), config...), []byte("\nbackup:")) {
			return ErrBackup
		}
	}
	return r.do(c, "back up with the installed program", func() error {
		return c.asOwner(ctx, filepath.Join(now.folder, "program"), arguments...)
	})
}

// asOwner runs a program as the owner of the state directory, so that what it makes there is the server's.
func (c *Config) asOwner(ctx context.Context, program string, arguments ...string) error {
	info, err := os.Stat(c.path(c.Dir))
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, program, arguments...)
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && owner.Uid != 0 {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	command.Dir = "/"
	out, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("redoubt %s: %w\n%s", strings.Join(arguments[:min(2, len(arguments))], " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// managed says whether systemd runs this machine.
func (c *Config) managed() bool {
	_, err := os.Stat("/run/systemd/system")
	return c.Root == "" && err == nil
}

// activeUnits are ours that run now.
func (c *Config) activeUnits() []string {
	if !c.managed() {
		return nil
	}
	out, err := exec.Command("systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating,reloading", "redoubt*").Output()
	if err != nil {
		return nil
	}
	var units []string
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 0 {
			units = append(units, fields[0])
		}
	}
	return units
}

// stop stops units, and holds that nothing else serves.
func (c *Config) stop(ctx context.Context, units []string) error {
	if len(units) > 0 {
		if err := systemctl(ctx, append([]string{"stop"}, units...)...); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(c.path(c.Dir), "run", "lock"), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%w: %s", ErrServing, c.path(c.Dir))
	}
	return nil
}

func (c *Config) start(ctx context.Context, units []string) error {
	if !c.managed() {
		return nil
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil || len(units) == 0 {
		return err
	}
	return systemctl(ctx, append([]string{"start"}, units...)...)
}

func systemctl(ctx context.Context, arguments ...string) error {
	if out, err := exec.CommandContext(ctx, "systemctl", arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(arguments, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// notPackaged refuses files that a package manager owns.
func (c *Config) notPackaged() error {
	for _, list := range []string{"/var/lib/dpkg/info/redoubt.list", "/var/lib/dpkg/info/redoubt:" + "amd64.list"} {
		if _, err := os.Stat(c.path(list)); err == nil {
			return fmt.Errorf("%w: %s", ErrPackage, c.path(list))
		}
	}
	return nil
}

// makeUsers makes the service user, and the users of the roles that the release names, where they are not there yet.
func (c *Config) makeUsers(r *release) error {
	if out, err := exec.Command("groupadd", "--force", "--system", serviceUser).CombinedOutput(); err != nil {
		return fmt.Errorf("groupadd: %w: %s", err, bytes.TrimSpace(out))
	}
	list, err := os.ReadFile(filepath.Join(r.folder, usersFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range append([]string{serviceUser}, usersOf(string(list))...) {
		if _, err := user.Lookup(name); err == nil {
			continue
		}
		out, err := exec.Command("useradd", "--system", "--gid", serviceUser, "--home-dir", c.Dir, "--no-create-home", "--shell", "/usr/sbin/nologin", name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("useradd %s: %w: %s", name, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// usersFile names the users of the roles in a release, for systemd-sysusers and for machines without it.
const usersFile = "sysusers/redoubt.conf"

// usersOf are the users that a file of sysusers.d(5) names and that are ours.
func usersOf(list string) (names []string) {
	for line := range strings.Lines(list) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "u" && strings.HasPrefix(fields[1], serviceUser+"-") {
			names = append(names, fields[1])
		}
	}
	return names
}

// own gives a folder to the service user, where there is one to give it to.
func (c *Config) own(path string) error {
	if c.NoUser || c.Root != "" {
		return nil
	}
	u, err := user.Lookup(serviceUser)
	if err != nil {
		return err
	}
	uid, uerr := strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	if err := errors.Join(uerr, gerr); err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}

// Remove takes the program off the machine and leaves what it kept.
func Remove(ctx context.Context, c Config) (r Report, err error) {
	c.defaults()
	if err := c.notPackaged(); err != nil {
		return r, err
	}
	if now, err := readKept(c.lib("current")); err == nil {
		r.From = now.Name
	}
	units := c.activeUnits()
	if err := r.do(&c, "stop the services", func() error { return c.stop(ctx, units) }); err != nil {
		return r, err
	}
	ours, err := filepath.Glob(c.path(unitFolder, "redoubt*"))
	if err != nil {
		return r, err
	}
	if c.managed() && len(ours) > 0 {
		names := make([]string, len(ours))
		for i := range ours {
			names[i] = filepath.Base(ours[i])
		}
		if err := r.do(&c, "disable the services", func() error { return systemctl(ctx, append([]string{"disable"}, names...)...) }); err != nil {
			return r, err
		}
	}
	err = r.do(&c, "remove program, units and documents", func() error {
		for _, path := range append(ours, c.path("/usr/bin/redoubt"), c.path("/usr/bin/redoubt-static"), c.path(usersFolder, "redoubt.conf"), c.path(shareFolder), c.lib()) {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
		return c.start(ctx, nil)
	})
	marks, _ := filepath.Glob(c.path(c.Dir + ".highwater*"))
	for _, path := range append([]string{c.path(c.Dir), c.path("/etc/redoubt"), c.path("/var/log/redoubt")}, marks...) {
		if _, serr := os.Stat(path); serr == nil {
			r.Kept = append(r.Kept, path)
		}
	}
	r.Changed = err == nil && !c.DryRun
	return r, err
}
