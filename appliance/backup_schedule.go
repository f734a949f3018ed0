package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"redoubt.internal/installer/backup"
)

// lastBackup is DIR/backup/last.json: the newest run that succeeded, and how the newest try ended. Nothing is decided by it but when the
// next run is due and what checks say.
type lastBackup struct {
	Time  time.Time `json:"time"` // of the newest run that succeeded; zero when there is none
	Run   uint64    `json:"run"`
	Path  string    `json:"path"`
	Tried time.Time `json:"tried"`           // the newest try
	Error string    `json:"error,omitempty"` // why it failed, empty when it did not
}

func (l layout) lastBackup() string { return l.path("backup", "last.json") }

// readLastBackup reads the record of the folder at path; an empty one where there is none.
func readLastBackup(dir layout, path string) (last lastBackup, err error) {
	data, err := os.ReadFile(dir.lastBackup())
	if errors.Is(err, fs.ErrNotExist) {
		return last, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &last)
	}
	if err != nil {
		return last, fmt.Errorf("reading when the last backup was made: %w", err)
	}
	if last.Path != path {
		return lastBackup{}, nil
	}
	return last, nil
}

// noteBackup records how a run into the configured folder ended.
func (in *instance) noteBackup(r backup.Report, to string, failed error) error {
	if in.cfg.Backup == nil || in.cfg.Backup.Path != to {
		return nil
	}
	last, _ := readLastBackup(in.dir, to) // a record that cannot be read is replaced
	last.Tried, last.Error, last.Path = in.now().UTC(), "", to
	if failed != nil {
		last.Error = failed.Error()
	} else {
		last.Time, last.Run = r.Time, r.Run
	}
	data, err := json.Marshal(last)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(in.dir.path("backup"), 0o700); err != nil {
		return err
	}
	return replaceFile(in.dir.lastBackup(), append(data, '\n'), 0o640) // where roles run apart, the one with the metrics reads it
}

// backupRetry is how soon a run that failed is tried again, if the next one is not due before.
const backupRetry = 5 * time.Minute

// backupEvery makes the runs the configuration asks for, the first one when it is due by the record of the last.
func (in *instance) backupEvery(ctx context.Context) {
	c := in.cfg.Backup
	if c == nil {
		return
	}
	every := c.Every.or(defaultBackupEvery)
	for {
		last, err := readLastBackup(in.dir, c.Path)
		if err != nil {
			in.logger.Error("the last backup", "error", err)
		}
		due := last.Time.Add(every)
		if last.Error != "" {
			due = last.Tried.Add(min(every, backupRetry))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(due.Sub(in.now()), 0)):
		}
		in.awaitShares(ctx)
		a := c.args()
		a.Config = in.dir.config()
		r, err := createBackup.run(ctx, in, "backup", a)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			in.logger.Error("the backup failed", "path", c.Path, "error", err)
			if noted, _ := readLastBackup(in.dir, c.Path); noted.Error == "" { // and could not even be noted
				select {
				case <-ctx.Done():
					return
				case <-time.After(min(every, backupRetry)):
				}
			}
		default:
			in.logger.Info("backup made", "path", c.Path, "run", r.Run, "objects", r.Objects, "bytes", r.Bytes, "seconds", r.Seconds)
		}
	}
}

var errBackupLate = errors.New("the last backup is older than two intervals")

// backupChecks say whether the backups the configuration asks for are made.
func (in *instance) backupChecks() []check {
	c := in.cfg.Backup
	if c == nil || !in.parts.runs(partCA) {
		return nil
	}
	last, err := readLastBackup(in.dir, c.Path)
	every := c.Every.or(defaultBackupEvery)
	switch {
	case err != nil:
	case last.Error != "":
		err = fmt.Errorf("the last try failed: %s", last.Error)
	case last.Time.IsZero():
		err = errors.New("none was made yet")
	case in.now().Sub(last.Time) > 2*every:
		err = fmt.Errorf("%w: it is of %s", errBackupLate, last.Time.Format(time.RFC3339))
	}
	r := warning("backup", err, "is the medium mounted, writable and not full? `redoubt backup create` tries at once and says why not")
	if err == nil {
		r.Detail = fmt.Sprintf("run %d of %s", last.Run, last.Time.Format(time.RFC3339))
	}
	r.Urgent = err != nil && (last.Time.IsZero() && last.Error != "" || !last.Time.IsZero() && in.now().Sub(last.Time) > 2*every)
	return []check{r}
}

// registerBackup adds the numbers of backups.
func (s *server) registerBackup() {
	if s.instance().cfg.Backup == nil {
		return
	}
	last := func() (l lastBackup) {
		if in := s.instance(); in.cfg.Backup != nil {
			l, _ = readLastBackup(in.dir, in.cfg.Backup.Path)
		}
		return l
	}
	s.metrics.gauge("redoubt_backup_last_success_timestamp_seconds", "Unix time of the newest run of the backup that succeeded; 0 before the first.", func() float64 {
		if l := last(); !l.Time.IsZero() {
			return float64(l.Time.Unix())
		}
		return 0
	})
	s.metrics.gauge("redoubt_backup_failing", "1 while the newest try of a backup failed.", func() float64 {
		if last().Error != "" {
			return 1
		}
		return 0
	})
}
