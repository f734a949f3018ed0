package main

import (
	"fmt"
	"path/filepath"
	"time"

	"redoubt.internal/installer/backup"
)

// Backup is how the server copies its state directory by itself.
type Backup struct {
	// Path is the folder of the backup, absolute and on another disk: a mounted medium, a WORM share. Under systemd it must stand in
	// ReadWritePaths of the unit.
	Path string `yaml:"path"`
	// Every is how often a run is made; what is lost with the disk is at most what was signed since (default 1h).
	Every Duration `yaml:"every,omitempty"`
	// Recipients are the custodians' age recipients (age1...): any one of their keys opens the backup.
	Recipients []string `yaml:"recipients,omitempty"`
	// NoEncryption writes it in clear: where the medium itself is encrypted, and in FIPS-only mode.
	NoEncryption bool `yaml:"no-encryption,omitempty"`
}

const (
	defaultBackupEvery = time.Hour
	leastBackupEvery   = time.Second
)

// check refuses what no run could be made with.
func (b *Backup) check() (problems []error) {
	if b == nil {
		return nil
	}
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if !filepath.IsAbs(b.Path) {
		bad("backup.path: %q is not absolute", b.Path)
	}
	if b.Every != 0 && time.Duration(b.Every) < leastBackupEvery {
		bad("backup.every: less than %s", leastBackupEvery)
	}
	if b.NoEncryption == (len(b.Recipients) > 0) {
		bad("backup: want either recipients or no-encryption: true")
	}
	for _, r := range b.Recipients {
		if _, err := backup.ParseRecipients(r); err != nil {
			bad("backup.recipients: %w", err)
		}
	}
	return problems
}

func (b *Backup) args() backupArgs {
	return backupArgs{To: b.Path, Recipients: append([]string{}, b.Recipients...), Plain: b.NoEncryption}
}
