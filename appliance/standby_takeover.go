package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"redoubt.internal/ca/approval"
	"redoubt.internal/installer/backup"
	"redoubt.internal/log"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
)

// Steps 4 to 7 of a promotion: what happens once it is approved.

// takeOver makes the new marks and then fences the primary's. An act that was begun goes on with the file it began with.
func (s *Standby) takeOver(ctx context.Context, act approval.Act, cfg *Config, fence *log.File, logs []promoted) (marks string, err error) {
	begun, err := s.begun()
	if err != nil {
		return "", err
	}
	if begun.Act != act.Digest() {
		begun = promotion{Act: act.Digest(), Time: clock().UTC()}
		for n := 2; begun.Marks == ""; n++ {
			path := fmt.Sprintf("%s.%d", s.dir.resolve(s.Fence), n)
			if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
				begun.Marks = path
			}
		}
		data, err := json.Marshal(begun)
		if err == nil {
			err = replaceFile(s.promotionFile(), data, 0o640)
		}
		if err != nil {
			return "", fmt.Errorf("noting what is begun: %w", err)
		}
	}
	atPoint("begun")
	file, err := log.OpenHighWaterFile(begun.Marks)
	if err != nil {
		return "", err
	}
	defer file.Close()
	for _, l := range logs {
		origin := cfg.origin(l.Log)
		mark, err := fence.For(origin).Read(ctx)
		if err != nil {
			return "", err
		}
		mark.Halted = ""
		if l.Behind == 0 {
			root, err := hex.DecodeString(l.Root)
			if err != nil || len(root) != len(mark.Root) {
				return "", fmt.Errorf("the root of %s: %q", l.Log, l.Root)
			}
			mark.Size, mark.Root = l.Size, [32]byte(root)
		}
		if err := file.For(origin).Raise(ctx, mark); err != nil {
			return "", fmt.Errorf("making the new marks: %w", err)
		}
	}
	atPoint("marked")
	if err := fence.Fence("a standby took over by the approved act " + act.Digest()[:32]); err != nil {
		return "", err
	}
	atPoint("fenced")
	return begun.Marks, nil
}

// settle gives the state directory its place, with marks, secrets and a configuration of this machine.
func (s *Standby) settle(cfg *Config, marks string) error {
	to := s.target()
	cfg.Dir, cfg.Log.HighWater, cfg.Log.Second = "", []string{marks}, nil
	if err := writeConfig(layout{s.ready()}, cfg); err != nil {
		return err
	}
	if err := s.copySecrets(); err != nil {
		return fmt.Errorf("copying what unlocks the keys: %w", err)
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", to, backup.ErrNotEmpty)
	}
	if err := os.Rename(s.ready(), to); err != nil {
		return err
	}
	atPoint("settled")
	return syncDir(filepath.Dir(to))
}

// copySecrets puts what lies in DIR/secrets where it belongs in the state directory.
func (s *Standby) copySecrets() error {
	root, err := os.OpenRoot(s.secrets())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(s.ready(), name)), 0o700); err != nil {
			return err
		}
		return writeFileAtomic(filepath.Join(s.ready(), name), data, 0o600)
	})
}

// missingSecrets are the files that unlock keys and are not there.
func missingSecrets(cfg *Config, dir layout) []string {
	in, missing := &instance{cfg: cfg, dir: dir}, []string{}
	for _, path := range withoutCopies(in.notCopied()) {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && !slices.Contains(in.processFolders(), path) {
			missing = append(missing, path)
		}
	}
	return missing
}

// begin opens the state directory, records and spends the act, and retires the logs that are behind.
func (s *Standby) begin(ctx context.Context, cfg *Config, act approval.Act, by []string, logger *slog.Logger) ([]retiredLog, error) {
	open := func() (*instance, error) { return openInstance(ctx, cfg.patiently(), logger) }
	in, err := open()
	if err != nil {
		return nil, fmt.Errorf("opening the promoted directory: %w", err)
	}
	defer func() { in.close() }()
	lost, err := in.behind(ctx)
	if err != nil {
		return nil, err
	}
	if len(lost) > 0 {
		if in, lost, err = retire(ctx, in, lost, localActor(), open); err != nil {
			return nil, err
		}
		if err := in.retired(ctx, localActor(), lost, retirement{}); err != nil {
			return nil, err
		}
	}
	err = approval.Spent(in.authorityDB, act)
	if errors.Is(err, approval.ErrSpent) {
		return lost, nil
	}
	if err != nil {
		return nil, err
	}
	e := audit.Event{Actor: localActor(), Action: "standby.promote", Object: act.Digest(), Outcome: audit.Success, Detail: map[string]string{"by": strings.Join(by, " ")}}
	_, err = in.audit.Add(ctx, e, func(tx store.Tx) error { return approval.Spend(tx, act, by, in.now()) })
	return append([]retiredLog{}, lost...), err
}
