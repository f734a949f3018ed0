package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/installer/backup"
)

func backupCommand() *cli.Command {
	read := []cli.Flag{
		&cli.StringFlag{Name: "from", Required: true, Usage: "folder of the backup", EnvVars: []string{"REDOUBT_FROM"}},
		&cli.Uint64Flag{Name: "run", Usage: "which run (default: the newest)", EnvVars: []string{"REDOUBT_RUN"}},
		&cli.StringSliceFlag{Name: "identity", Usage: "file of a custodian's age key; may be repeated", EnvVars: []string{"REDOUBT_IDENTITY"}},
		&cli.StringFlag{Name: "appliance", Usage: "fingerprint of the appliance it must be of, as `redoubt backup create` prints it", EnvVars: []string{"REDOUBT_APPLIANCE"}},
		cmdline.OutputFlag(),
	}
	restore := append([]cli.Flag{}, read...)
	restore[0] = &cli.StringFlag{Name: "from", Usage: "folder of the backup", EnvVars: []string{"REDOUBT_FROM"}}
	return &cli.Command{
		Name: "backup", Usage: "copy the state directory while it is in use, check the copy, make a directory of it again",
		Subcommands: []*cli.Command{
			{Name: "create", Usage: "add what is new to a backup; nothing in it is ever overwritten",
				Flags: append(cmdline.StateFlags(), cmdline.OutputFlag(),
					&cli.StringFlag{Name: "to", Usage: "folder of the backup, empty the first time; below the medium's mount point (default: backup.path, with its recipients)", EnvVars: []string{"REDOUBT_TO"}},
					&cli.StringSliceFlag{Name: "recipient", Usage: "age recipient of a custodian; may be repeated, any one of them can open it", EnvVars: []string{"REDOUBT_RECIPIENT"}},
					&cli.StringFlag{Name: "recipients-file", Usage: "file of age recipients, one a line", EnvVars: []string{"REDOUBT_RECIPIENTS_FILE"}},
					&cli.BoolFlag{Name: "no-encryption", Usage: "write it in clear: where the medium itself is encrypted", EnvVars: []string{"REDOUBT_NO_ENCRYPTION"}}),
				Action: backupCreateAction},
			{Name: "verify", Usage: "check signatures, digests and, where it opens, every root of every log; needs no state directory", Flags: read, Action: backupVerifyAction},
			{Name: "restore", Usage: "make an empty directory the state directory of a backup, compare it with the high-water marks that are left, and say the way forward",
				Flags: append(append(restore, approvalFlags()...),
					&cli.StringFlag{Name: "dir", Required: true, Usage: "directory to make: empty, or not there", EnvVars: []string{"REDOUBT_DIR"}},
					&cli.StringFlag{Name: "second", Usage: "folder of log.second, instead of a backup: it has everything that was acknowledged", EnvVars: []string{"REDOUBT_SECOND"}}),
				Action: backupRestoreAction},
			{Name: "key", Usage: "make a custodian's key on this machine; what is printed is the recipient, the file goes to the custodian",
				Flags:  []cli.Flag{cmdline.OutputFlag(), &cli.StringFlag{Name: "out", Required: true, Usage: "file to make, mode 0600", EnvVars: []string{"REDOUBT_OUT"}}},
				Action: backupKeyAction},
		},
	}
}

func backupCreateAction(c *cli.Context) error {
	if c.String("to") == "" {
		return configuredBackup(c)
	}
	to, err := filepath.Abs(c.String("to"))
	if err != nil {
		return err
	}
	a := backupArgs{To: to, Recipients: append([]string{}, c.StringSlice("recipient")...), Plain: c.Bool("no-encryption")}
	if path := c.String("recipients-file"); path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading the recipients: %w", err)
		}
		more, err := backup.ParseRecipients(string(text))
		if err != nil {
			return backupHint(err, to)
		}
		a.Recipients = append(a.Recipients, more...)
	}
	return makeBackup(c, a)
}

// configuredBackup makes the run that the server would make next.
func configuredBackup(c *cli.Context) error {
	cfg, _, err := configured(c)
	if err != nil {
		return err
	}
	if cfg.Backup == nil {
		return cmdline.Usage("backup create needs --to, or backup.path in the configuration")
	}
	if c.IsSet("recipient") || c.IsSet("recipients-file") || c.IsSet("no-encryption") {
		return cmdline.Usage("without --to the run is the one backup describes in the configuration")
	}
	return makeBackup(c, cfg.Backup.args())
}

func makeBackup(c *cli.Context, a backupArgs) error {
	var err error
	if a.Config, err = filepath.Abs(cmdline.ConfigPath(c)); err != nil {
		return err
	}
	r, err := createBackup.call(c, a)
	if err != nil {
		return backupHint(err, a.To)
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) { printBackup(w, r, "written") })
}

// custodianKey is the JSON of `redoubt backup key -o json`.
type custodianKey struct {
	File      string `json:"file"`
	Recipient string `json:"recipient"`
}

func backupKeyAction(c *cli.Context) error {
	text, recipient, err := backup.NewKey()
	if err != nil {
		return backupHint(err, "")
	}
	f, err := os.OpenFile(c.String("out"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing a custodian's key: %w", err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing a custodian's key: %w", err)
	}
	return cmdline.PrintResult(c, custodianKey{c.String("out"), recipient}, func(w io.Writer) { fmt.Fprintln(w, recipient) })
}

func readConfig(c *cli.Context) backup.ReadConfig {
	return backup.ReadConfig{From: c.String("from"), Run: c.Uint64("run"), Appliance: c.String("appliance"), Identities: c.StringSlice("identity"), Progress: cmdline.Progress(c)}
}

func backupVerifyAction(c *cli.Context) error {
	r, err := backup.Verify(c.Context, readConfig(c))
	if err != nil {
		return backupHint(err, c.String("from"))
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		printBackup(w, r, "read")
		if r.Strays > 0 {
			fmt.Fprintf(w, "%d objects belong to no run: one was interrupted, or the newest manifest did not come along with the copy; is this the newest run there was?\n", r.Strays)
		}
		switch {
		case !r.Contents:
			fmt.Fprintln(w, "sealed: signatures and digests hold; with --identity it is opened and every root computed anew")
		default:
			fmt.Fprintln(w, "every root of every log was computed anew from its entries")
		}
		if c.String("appliance") == "" {
			fmt.Fprintln(w, "whose backup this is was compared with nothing: --appliance names who it must be of")
		}
	})
}

func printBackup(w io.Writer, r backup.Report, did string) {
	fmt.Fprintf(w, "run %d of %s, %s, %s\n", r.Run, r.Domain, r.Time.Format(time.RFC3339), map[string]string{backup.EncryptionAge: "sealed for its custodians", backup.EncryptionNone: "in clear"}[r.Encryption])
	fmt.Fprintf(w, "appliance  %s\nmanifest   %s\n%d objects %s, %d bytes, %.1f s, %.0f MB/s\n", r.Appliance, r.Manifest, r.Objects, did, r.Bytes, r.Seconds, float64(r.Bytes)/1e6/max(r.Seconds, 1e-6))
	for _, l := range r.Logs {
		fmt.Fprintf(w, "%-7s  %d entries, root %s\n", l.Name, l.Size, l.Root)
	}
	for _, path := range r.LeftOut {
		fmt.Fprintf(w, "left out: %s\n", path)
	}
}

// restoreResult is the JSON of `redoubt backup restore -o json`.
type restoreResult struct {
	backup.Report
	Dir   string        `json:"dir"`
	Marks []restoredLog `json:"marks"` // each log beside the high-water mark that survived
	Next  []string      `json:"next"`  // what to do, in this order
}

func backupRestoreAction(c *cli.Context) error {
	dir, err := filepath.Abs(c.String("dir"))
	if err != nil {
		return err
	}
	if _, err := os.Stat(layout{dir}.path(heldRestore)); err == nil {
		return releaseRestore(c, layout{dir})
	}
	if c.String("second") != "" {
		return restoreSecondAction(c, dir)
	}
	if c.String("from") == "" {
		return cmdline.Usage("backup restore needs --from, or --second")
	}
	if c.String("appliance") == "" {
		return cmdline.Hinted(cmdline.Usage("backup restore needs --appliance"), "the fingerprint `redoubt backup create` printed; `redoubt backup verify --from %s` shows the one in the backup, which proves nothing by itself", c.String("from"))
	}
	report, err := backup.Restore(c.Context, readConfig(c), dir)
	if errors.Is(err, backup.ErrNotEmpty) {
		return cmdline.Hinted(err, "a backup is restored into an empty directory only; nothing in %s was touched", dir)
	}
	if err != nil {
		return backupHint(err, c.String("from"))
	}
	cfg, at, err := configAt(dir)
	if err != nil {
		return fmt.Errorf("reading the restored configuration: %w", err)
	}
	r := restoreResult{Report: report, Dir: dir, Marks: compareMarks(cfg, at, report.Logs)}
	ownAgain(cfg, at, slog.Default())
	r.Next = wayForward(r, cfg.Roles != nil)
	if err := cmdline.PrintResult(c, r, func(w io.Writer) {
		printBackup(w, r.Report, "read and proven")
		r.printRest(w)
	}); err != nil {
		return err
	}
	return holdRestore(c, r)
}

// printRest says what the marks make of the logs, and what comes next.
func (r restoreResult) printRest(w io.Writer) {
	for _, m := range r.Marks {
		fmt.Fprintf(w, "%-7s  %s\n", m.Log, m.says())
	}
	for i, step := range r.Next {
		fmt.Fprintf(w, "%d. %s\n", i+1, step)
	}
}

func (l restoredLog) says() string {
	switch l.State {
	case logWhole:
		return "whole: the high-water mark stands where it ends"
	case logBehind:
		return fmt.Sprintf("BEHIND: %d more entries were signed than the backup has", l.Missing)
	case logForked:
		return "FORKED: the high-water mark has another root for its size"
	case logStale:
		return "STALE: the high-water mark is older than the backup, so it is not the one of the lost machine: move it away"
	}
	return "UNMARKED: no high-water mark survived, so nobody knows how much was signed"
}

// wayForward says what to do with a restored directory, in this order.
func wayForward(r restoreResult, apart bool) (steps []string) {
	serve := "`redoubt serve`"
	if len(r.LeftOut) > 0 {
		steps = append(steps, "put back what is in no backup: "+strings.Join(withoutCopies(r.LeftOut), ", "))
	}
	if apart {
		steps = append(steps, fmt.Sprintf("as root, `redoubt roles apart --dir %s` gives each role its files and its copy of the passphrase", r.Dir))
		serve = "`systemctl start redoubt.target`, or `redoubt serve --roles` of each"
	}
	lost := false
	for _, m := range r.Marks {
		lost = lost || m.State != logWhole
	}
	if lost {
		steps = append(steps, "put the high-water file of the lost machine beside the directory, if it survived; never delete or lower a mark",
			trustRootStep(layout{r.Dir}),
			fmt.Sprintf("`redoubt log retire --dir %s` says which logs may have signed more than they have; with --confirm it ends them where they stand and opens the next ones", r.Dir),
			serve+", then give clients the new trusted root",
			"`redoubt log resubmit BUNDLE...`: bundles of what is missing prove it, and enter the new log")
	} else {
		steps = append(steps, serve)
	}
	return append(steps, fmt.Sprintf("`redoubt log fsck --dir %s`", r.Dir))
}

// trustRootStep says where trust roots that were published after the backup go: they follow each other by one, and clients know them.
func trustRootStep(dir layout) string {
	next := func(n int) string { return filepath.Join(dir.tuf(), fmt.Sprintf("%d.root.json", n+1)) }
	n := 1
	for _, err := os.Stat(next(n)); err == nil; _, err = os.Stat(next(n)) {
		n++
	}
	return fmt.Sprintf("the trust root here is version %d: where a client knows a newer one (signed.version of root.json below ~/.sigstore/root), copy it and those between to %s and so on; `redoubt trust status --dir %s` proves each by the one before",
		n, next(n), dir.root)
}

// withoutCopies leaves out the copies of a passphrase that roles have: they are made of it.
func withoutCopies(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		whole := strings.TrimSuffix(path, filepath.Ext(path))
		return slices.Contains(partNames, strings.TrimPrefix(filepath.Ext(path), ".")) && slices.Contains(paths, whole)
	})
}
