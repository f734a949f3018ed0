package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/installer/backup"
	"redoubt.internal/log"
)

// restoreSecondAction makes an empty directory the state directory whose second disk is left. Every log is computed anew. Where nothing was
// acknowledged that is not on that disk, its heads are the marks; else the logs have none, and are retired before anything is signed.
func restoreSecondAction(c *cli.Context, dir string) error {
	if c.IsSet("from") || c.IsSet("run") || c.IsSet("identity") {
		return cmdline.Usage("--second is instead of --from, --run and --identity")
	}
	from, err := filepath.Abs(c.String("second"))
	if err != nil {
		return err
	}
	started := time.Now()
	r, err := restoreSecond(c.Context, from, dir, cmdline.Progress(c))
	if err != nil {
		return err
	}
	r.Seconds = time.Since(started).Seconds()
	cfg, at, err := configAt(dir)
	if err != nil {
		return err
	}
	ownAgain(cfg, at, slog.Default())
	r.Next = wayForward(r, cfg.Roles != nil)
	if err := cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "second disk %s of %s, %.1f s\n", r.Repository, r.Domain, r.Seconds)
		for _, l := range r.Logs {
			fmt.Fprintf(w, "%-7s  %d entries, root %s\n", l.Name, l.Size, l.Root)
		}
		r.printRest(w)
	}); err != nil {
		return err
	}
	return holdRestore(c, r)
}

// restoreSecond copies, checks and marks.
func restoreSecond(ctx context.Context, from, dir string, said io.Writer) (r restoreResult, err error) {
	disk, err := backup.RestoreSecond(ctx, from, dir, secondSections())
	switch {
	case errors.Is(err, backup.ErrNotEmpty):
		return r, cmdline.Hinted(err, "a second disk is restored into an empty directory only; nothing in %s was touched", dir)
	case errors.Is(err, fs.ErrNotExist):
		return r, cmdline.Hinted(err, "is that disk mounted, and is this the folder of log.second.dir?")
	case err != nil:
		return r, secondHint(err, from)
	}
	cfg, at, err := configAt(dir)
	if err != nil {
		return r, fmt.Errorf("reading the restored configuration: %w", err)
	}
	r = restoreResult{Report: backup.Report{Repository: from, Domain: disk.Domain, Encryption: backup.EncryptionNone, Contents: true, Logs: []backup.LogHead{}, LeftOut: []string{}}, Dir: dir}
	s, err := openStoppedAt(ctx, cfg, at, said)
	if err != nil {
		return r, err
	}
	defer s.in.close()
	for _, path := range s.in.notCopied() {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && !slices.Contains(s.in.processFolders(), path) {
			r.LeftOut = append(r.LeftOut, path)
		}
	}
	for _, role := range cfg.logRoles() {
		l := s.config(role)
		l.HighWater = nil // there is none yet
		checked, err := s.check(ctx, role, l)
		if err == nil && len(checked.Problems) > 0 {
			err = fmt.Errorf("%w: the %s log: %s", backup.ErrDamaged, role, checked.Problems[0])
		}
		if err != nil {
			return r, backupHint(err, from)
		}
		root, err := hex.DecodeString(checked.RootHash)
		if err != nil {
			return r, err
		}
		r.Logs = append(r.Logs, backup.LogHead{Name: role, Origin: cfg.origin(role), Size: checked.Size, Root: root, Entries: checked.Entries})
	}
	if disk.Required {
		if err := markRestored(ctx, cfg, at, r.Logs); err != nil {
			return r, err
		}
	}
	r.Marks = compareMarks(cfg, at, r.Logs)
	for i := range r.Marks { // a head is on the second disk before its mark is raised
		if disk.Required && r.Marks[i].State == logStale {
			r.Marks[i].State = logWhole
		}
	}
	return r, nil
}

// markRestored makes the high-water files that did not survive. Those that did stay as they are.
func markRestored(ctx context.Context, cfg *Config, dir layout, logs []backup.LogHead) error {
	for _, m := range cfg.at(dir).markFiles(nil) {
		if _, err := os.Lstat(m.path); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		file, err := log.OpenHighWaterFile(m.path)
		if err != nil {
			return err
		}
		for _, l := range logs {
			if err == nil && m.covers(l.Name) {
				err = file.For(l.Origin).Raise(ctx, log.Mark{Origin: l.Origin, Size: l.Size, Root: [32]byte(l.Root)})
			}
		}
		if err = errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("marking what was restored: %w", err)
		}
	}
	return nil
}
