package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/installer/host"
)

const defaultDir = "/var/lib/redoubt"

// machineFlags say what is worked on, for verbs that put releases on a machine.
func machineFlags() []cli.Flag {
	return []cli.Flag{cmdline.OutputFlag(),
		&cli.StringFlag{Name: "root", Usage: "work below this folder, an image or a chroot, instead of on this machine", EnvVars: []string{"REDOUBT_ROOT"}},
		&cli.StringFlag{Name: "dir", Value: defaultDir, Usage: "state directory", EnvVars: []string{"REDOUBT_DIR"}},
		&cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, and do nothing", EnvVars: []string{"REDOUBT_DRY_RUN"}},
	}
}

func upgradeCommand() *cli.Command {
	return &cli.Command{
		Name: "upgrade", Usage: "put the release in a bundle's folder in force on this machine, or go back to the one before; interrupted, run it again",
		Flags: append(machineFlags(),
			&cli.StringFlag{Name: "from", Usage: "folder of an unpacked bundle; its install.sh checks it first and calls this", EnvVars: []string{"REDOUBT_FROM"}},
			&cli.BoolFlag{Name: "rollback", Usage: "go back to the release before, with everything that was signed since", EnvVars: []string{"REDOUBT_ROLLBACK"}},
			&cli.BoolFlag{Name: "no-user", Usage: "leave the service user alone", EnvVars: []string{"REDOUBT_NO_USER"}},
			&cli.BoolFlag{Name: "allow-older", Usage: "install a release that is older than the one in force", EnvVars: []string{"REDOUBT_ALLOW_OLDER"}},
			&cli.StringFlag{Name: "backup-to", Usage: "folder of the backup that is made first (default: backup.path of the configuration)", EnvVars: []string{"REDOUBT_BACKUP_TO"}},
			&cli.StringSliceFlag{Name: "recipient", Usage: "with --backup-to: age recipient of a custodian; may be repeated", EnvVars: []string{"REDOUBT_RECIPIENT"}},
			&cli.BoolFlag{Name: "no-encryption", Usage: "with --backup-to: write it in clear", EnvVars: []string{"REDOUBT_NO_ENCRYPTION"}},
			&cli.BoolFlag{Name: "no-backup", Usage: "make none", EnvVars: []string{"REDOUBT_NO_BACKUP"}},
			&cli.BoolFlag{Name: "no-preflight", Usage: "go on where a check of the machine fails", EnvVars: []string{"REDOUBT_NO_PREFLIGHT"}},
			&cli.BoolFlag{Name: "accept-clock", Usage: "the clock is right although it is years ahead of this release", EnvVars: []string{"REDOUBT_ACCEPT_CLOCK"}},
			&cli.BoolFlag{Name: "non-interactive", Usage: "never ask; every answer is a flag", EnvVars: []string{"REDOUBT_NON_INTERACTIVE"}}),
		Action: upgradeAction,
	}
}

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name: "uninstall", Usage: "take the program off this machine; state, marks, configuration and service user stay", Flags: machineFlags(),
		Action: func(c *cli.Context) error {
			r, err := host.Remove(c.Context, hostConfig(c))
			if err != nil {
				return hostHint(err)
			}
			return cmdline.PrintResult(c, r, func(w io.Writer) { printHost(w, r) })
		},
	}
}

func preflightCommand() *cli.Command {
	return &cli.Command{
		Name: "preflight", Usage: "named checks of a machine before Redoubt is installed, made or upgraded on it, with a fix for each failure",
		Flags: []cli.Flag{cmdline.OutputFlag(),
			&cli.StringFlag{Name: "dir", Value: defaultDir, Usage: "state directory; need not be there", EnvVars: []string{"REDOUBT_DIR"}},
			&cli.StringFlag{Name: "keys", Usage: "token that will hold the keys (default: whatever is found)", EnvVars: []string{"REDOUBT_KEYS"}},
			&cli.StringFlag{Name: "tpm-device", Usage: "TPM device, or socket of swtpm", EnvVars: []string{"REDOUBT_TPM_DEVICE"}},
			&cli.StringFlag{Name: "address", Usage: "IP address of own ports", EnvVars: []string{"REDOUBT_ADDRESS"}},
			&cli.IntFlag{Name: "first-port", Value: 8441, Usage: "with --address: the first of those ports", EnvVars: []string{"REDOUBT_FIRST_PORT"}},
			&cli.BoolFlag{Name: "accept-clock", Usage: "the clock is right although it is years ahead of this release", EnvVars: []string{"REDOUBT_ACCEPT_CLOCK"}},
		},
		Action: func(c *cli.Context) error {
			checks := preflight(c.Context, preflightArgs{Dir: c.String("dir"), Keys: c.String("keys"), TPMDevice: c.String("tpm-device"), Address: c.String("address"), FirstPort: c.Int("first-port"), AcceptClock: c.Bool("accept-clock")}, clock())
			if err := cmdline.PrintResult(c, checks, func(w io.Writer) { printChecks(w, checks) }); err != nil {
				return err
			}
			if !ready(checks) {
				return errPreflight
			}
			return nil
		},
	}
}

var errPreflight = errors.New("this machine is not ready")

func hostConfig(c *cli.Context) host.Config {
	return host.Config{Root: c.String("root"), Dir: c.String("dir"), DryRun: c.Bool("dry-run"), Progress: cmdline.Progress(c)}
}

func upgradeAction(c *cli.Context) error {
	h := hostConfig(c)
	h.From, h.NoUser, h.NoBackup, h.AllowOlder = c.String("from"), c.Bool("no-user"), c.Bool("no-backup"), c.Bool("allow-older")
	if c.Bool("rollback") == (h.From != "") {
		return cmdline.Usage("upgrade takes --from FOLDER or --rollback")
	}
	if h.Root == "" && os.Geteuid() != 0 && !h.DryRun {
		return cmdline.Hinted(errors.New("only root installs on this machine"), "run it as root, or with --root DIR --no-user")
	}
	if to := c.String("backup-to"); to != "" {
		to, err := filepath.Abs(to)
		if err != nil {
			return err
		}
		h.Backup = []string{"--to", to}
		for _, recipient := range c.StringSlice("recipient") {
			h.Backup = append(h.Backup, "--recipient", recipient)
		}
		if c.Bool("no-encryption") {
			h.Backup = append(h.Backup, "--no-encryption")
		}
	}
	if h.Root == "" && h.From != "" {
		checks := preflight(c.Context, preflightArgs{Dir: h.Dir, AcceptClock: c.Bool("accept-clock")}, clock())
		printChecks(cmdline.Progress(c), checks)
		if !ready(withoutUpgrade(checks)) && !c.Bool("no-preflight") {
			return cmdline.Hinted(errPreflight, "each failure above names its fix; --no-preflight goes on all the same")
		}
	}
	do := host.Upgrade
	if c.Bool("rollback") {
		do = host.Rollback
	}
	r, err := do(c.Context, h)
	if errors.Is(err, host.ErrOlder) && confirmed(c, fmt.Sprintf("%v. Install the older one?", err)) {
		h.AllowOlder = true
		r, err = do(c.Context, h)
	}
	if err != nil {
		return hostHint(err)
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) { printHost(w, r) })
}

// withoutUpgrade leaves out what an upgrade that was cut off is told by: this one ends it.
func withoutUpgrade(checks []check) (rest []check) {
	for _, c := range checks {
		if c.Name != "upgrade" && c.Name != "owners" {
			rest = append(rest, c)
		}
	}
	return rest
}

func printHost(w io.Writer, r host.Report) {
	switch {
	case r.Changed && r.From != "" && r.To != "":
		fmt.Fprintf(w, "%s is in force, %s was before\n", r.To, r.From)
	case r.Changed && r.To != "":
		fmt.Fprintf(w, "%s is in force\n", r.To)
	case !r.Changed:
		fmt.Fprintln(w, "nothing was changed")
	}
	for _, path := range r.Kept {
		fmt.Fprintf(w, "kept: %s\n", path)
	}
}

// hostHint adds what to do about an error of installing, and its exit code.
func hostHint(err error) error {
	switch {
	case errors.Is(err, host.ErrOlder):
		return cmdline.Hinted(err, "`redoubt upgrade --rollback` goes back to the release before this one; --allow-older installs any, if its program knows the format of the data")
	case errors.Is(err, host.ErrBackup):
		return cmdline.Hinted(err, "--backup-to FOLDER with --recipient or --no-encryption, or backup.path in the configuration; --no-backup makes none")
	case errors.Is(err, host.ErrServing):
		return cmdline.Hinted(err, "stop that server; systemd stops and starts the units by itself")
	case errors.Is(err, host.ErrPackage):
		return cmdline.Hinted(err, "use dpkg or rpm with the package in the bundle")
	case errors.Is(err, host.ErrNoPrevious):
		return cmdline.Hinted(err, "carry in the bundle of the release you want: `install.sh --fingerprint F --allow-older`")
	case errors.Is(err, host.ErrBegun):
		return cmdline.Hinted(err, "end that one first: the same command again, or `redoubt upgrade --rollback`")
	case errors.Is(err, host.ErrFull):
		return cmdline.WithCode(42, cmdline.Hinted(err, "what was in force is in force; free space and run it again"))
	case errors.Is(err, host.ErrRelease):
		return cmdline.Hinted(err, "--from names the folder that holds SHA256SUMS and bin; the bundle has builds for amd64 and arm64")
	}
	return err
}
