package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

func rolesCommand() *cli.Command {
	return &cli.Command{Name: "roles", Usage: "which user runs which part of the server", Subcommands: []*cli.Command{
		{Name: "apart", Usage: "give each role of a stopped server its user and its files, so that `serve --roles` can run them apart; again after a restore",
			Flags: append(append(cmdline.StateFlags(), cmdline.OutputFlag()), roleFlags()...), Action: rolesApartAction},
	}}
}

// roleFlags name the users of the roles.
func roleFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "role-user", Usage: "ROLE=USER, a name or a number (default: redoubt-ROLE; repeatable)", EnvVars: []string{"REDOUBT_ROLE_USER"}},
		&cli.StringFlag{Name: "role-group", Value: "redoubt", Usage: "the group all these users are in, a name or a number", EnvVars: []string{"REDOUBT_ROLE_GROUP"}},
	}
}

// rolesOf are the users the flags name.
func rolesOf(c *cli.Context) (*Roles, error) {
	r := defaultRoles()
	r.Group = c.String("role-group")
	for _, pair := range c.StringSlice("role-user") {
		part, who, ok := strings.Cut(pair, "=")
		if !ok || !slices.Contains(partNames, part) {
			return nil, cmdline.Usage("--role-user %q: want ROLE=USER; roles are %s", pair, strings.Join(partNames, ", "))
		}
		r.Users[part] = who
	}
	if err := errors.Join(r.check()...); err != nil {
		return nil, cmdline.Usage("--role-user: %v", err)
	}
	return r, nil
}

// rolesResult is the JSON of `redoubt roles apart`.
type rolesResult struct {
	Dir   string            `json:"dir"`
	Group string            `json:"group"`
	Users map[string]string `json:"users"` // by role
}

func (r rolesResult) print(w io.Writer) {
	for _, part := range partNames {
		fmt.Fprintf(w, "%-10s %s\n", part, r.Users[part])
	}
	fmt.Fprintf(w, "\nnext: systemctl start redoubt.target, or `redoubt serve --dir %s --roles ROLE` as each user\n", r.Dir)
}

func rolesApartAction(c *cli.Context) error {
	cfg, dir, err := configured(c)
	if err != nil {
		return err
	}
	roles := cfg.Roles
	if roles == nil || c.IsSet("role-user") || c.IsSet("role-group") {
		if roles, err = rolesOf(c); err != nil {
			return err
		}
	}
	release, err := dir.acquireSoon(c.Context, nil)
	if err != nil {
		return err
	}
	defer release()
	next := *cfg
	next.Roles = roles
	if err := errors.Join(next.check(), separate(c, &next, dir), own(&next, dir)); err != nil {
		return err
	}
	if cfg.Roles == nil || !maps.Equal(cfg.Roles.Users, roles.Users) || cfg.Roles.Group != roles.Group {
		if err := writeRoles(cmdline.ConfigPath(c), roles); err != nil {
			return err
		}
	}
	return cmdline.PrintResult(c, rolesResult{dir.root, roles.Group, roles.Users}, rolesResult{dir.root, roles.Group, roles.Users}.print)
}

// separate parts the files that more than one role would write: the time floor gets a database, and the marks of the artifact logs get
// a file. What is there is kept, so that it may be run again.
func separate(c *cli.Context, cfg *Config, dir layout) error {
	if _, err := os.Stat(dir.logDB(partTSA)); errors.Is(err, os.ErrNotExist) {
		if err := partFloor(dir); err != nil {
			return fmt.Errorf("giving the time floor a database: %w", err)
		}
	}
	for _, m := range cfg.markFiles(parts{partLog: true}) {
		if err := partMarks(c, cfg, strings.TrimSuffix(m.path, logMarks), m); err != nil {
			return fmt.Errorf("giving the artifact logs a high-water file: %w", err)
		}
	}
	return nil
}

// floorKey is where the timestamp authority keeps its floor (ca/tsa).
const floorKey = "tsa/floor"

func partFloor(dir layout) error {
	from, err := bolt.Open(dir.authorityDB())
	if err != nil {
		return err
	}
	defer from.Close()
	var floor []byte
	err = from.View(func(tx store.Tx) error {
		v, err := tx.Get([]byte(floorKey))
		floor = slices.Clone(v)
		return err
	})
	if err != nil {
		return err
	}
	temporary := dir.path("db", ".tsa.db.new")
	os.Remove(temporary)
	os.Remove(temporary + "-journal")
	to, err := bolt.Create(temporary)
	if err != nil {
		return err
	}
	if floor != nil {
		err = to.Update(func(tx store.Tx) error { return tx.Put([]byte(floorKey), floor) })
	}
	if err := errors.Join(err, to.Close()); err != nil {
		return err
	}
	os.Remove(temporary + "-journal")
	if err := os.Rename(temporary, dir.logDB(partTSA)); err != nil {
		return err
	}
	return syncDir(dir.path("db"))
}

// partMarks copies the marks of the artifact logs from a file of all marks to one of theirs. A mark that is there is not lowered.
func partMarks(c *cli.Context, cfg *Config, whole string, to markFile) error {
	marks, err := log.ReadHighWaterFile(whole)
	if err != nil {
		return err
	}
	f, err := log.OpenHighWaterFile(to.path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, m := range marks {
		if !to.covers(strings.TrimSuffix(m.Origin, "."+cfg.Domain)) {
			continue
		}
		if now, err := f.For(m.Origin).Read(c.Context); err == nil && now.Size >= m.Size {
			continue
		}
		if err := f.For(m.Origin).Raise(c.Context, m); err != nil {
			return err
		}
	}
	return nil
}

// writeRoles puts the section roles into a configuration file and leaves the rest of its text as it is.
func writeRoles(path string, roles *Roles) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var kept []string
	inside := false
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "roles:"):
			inside = true
		case inside && line != "\n" && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "#"):
			inside = false
		}
		if !inside {
			kept = append(kept, line)
		}
	}
	section, err := yaml.Marshal(struct {
		Roles *Roles `yaml:"roles"`
	}{roles})
	if err != nil {
		return err
	}
	next := strings.TrimRight(strings.Join(kept, ""), "\n") + "\n" + string(section)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := replaceFile(path, []byte(next), info.Mode().Perm()); err != nil {
		return err
	}
	if was, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return os.Chown(path, int(was.Uid), int(was.Gid))
	}
	return nil
}

// ownAgain gives what a process that ran everything as root made to the users of the roles.
func ownAgain(cfg *Config, dir layout, logger *slog.Logger) {
	if cfg.Roles == nil || os.Geteuid() != 0 {
		return
	}
	if _, err := cfg.Roles.gid(); err != nil {
		return // nobody runs apart here
	}
	if err := own(cfg, dir); err != nil {
		logger.Error("giving files to the users of the roles", "error", err)
	}
}
