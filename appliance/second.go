package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/installer/backup"
	"redoubt.internal/log/store/bolt"
)

// log.second has everything on another disk before it is acknowledged: the databases by the engine, transaction for transaction, the
// other files at each opening, after each verb that a server did, and every few seconds.

// secondEvery is how often files are looked at that changed by themselves.
const secondEvery = 10 * time.Second

// secondDisk is the second disk of an instance; nil without one.
type secondDisk struct {
	c      *SecondDisk
	places []secondPlace
	dbs    []*bolt.DB

	mu    sync.Mutex // held by the one copy at a time
	files error      // of the last copy
	lost  error      // why it was not there when the instance was opened
}

// secondPlace is a folder there: the whole of it, or where roles may run apart that of a role, which alone writes to it.
type secondPlace struct {
	part, dir string
	owns      func(path string) bool
}

// secondPlaces are those that a process with the roles p writes to.
func (c *Config) secondPlaces(p parts) (places []secondPlace) {
	if c.Log.Second == nil {
		return nil
	}
	if c.Roles == nil {
		return []secondPlace{{"", c.Log.Second.Dir, nil}}
	}
	for _, part := range append([]string{partCA}, shareParts...) {
		if p.runs(part) && slices.Contains(runningParts(c), part) {
			places = append(places, secondPlace{part, filepath.Join(c.Log.Second.Dir, part), func(path string) bool { return pathPart(path) == part }})
		}
	}
	return places
}

// secondSections are those places to a restore.
func secondSections() (sections []backup.Section) {
	for _, part := range append([]string{partCA}, shareParts...) {
		sections = append(sections, backup.Section{Name: part, Optional: part == partOIDC,
			Database: func(file string) bool { return part != partOIDC && part != partTrust && databasePart(file) == part },
			Owns:     func(path string) bool { return pathPart(path) == part }})
	}
	return sections
}

var errOneDisk = errors.New("log.second.dir is the second disk of one process, and roles may run apart now")

var errSameDisk = errors.New("log.second.dir lies on the disk of the state directory")

// openSecond begins to keep the second disk, before anything is written.
func (in *instance) openSecond(ctx context.Context) error {
	c := in.cfg.Log.Second
	places := in.cfg.secondPlaces(in.parts)
	if len(places) == 0 {
		return nil
	}
	in.second = &secondDisk{c: c, places: places}
	err := in.pair()
	if err == nil {
		_, err = in.copyFiles(ctx)
	}
	switch {
	case err == nil:
		in.onClose(func() { in.copyFiles(context.WithoutCancel(ctx)) })
		return nil
	case errors.Is(err, bolt.ErrSecondAhead):
		return cmdline.Hinted(err, "the newer state is on the second disk: stop, move %s away and run `redoubt backup restore --second %s --dir %s`", in.dir.root, c.Dir, in.dir.root)
	case errors.Is(err, bolt.ErrSecondForeign):
		return cmdline.Hinted(err, "find out which of the two is the state that signed last; the other is moved away, and an empty folder is filled anew")
	case errors.Is(err, errOneDisk):
		return cmdline.Hinted(err, "give an empty folder on that disk, run `redoubt roles apart`, and wipe the old one when the roles run")
	case c.required() && in.cfg.Roles != nil && in.parts != nil:
		return cmdline.Hinted(fmt.Errorf("log.second: %w", err), "is that disk mounted? `redoubt roles apart` makes the folder of each role there. To sign on one disk meanwhile, set log.second.when-lost: degrade")
	case c.required():
		return cmdline.Hinted(fmt.Errorf("log.second: %w", err), "mount that disk; to sign on one disk meanwhile, set log.second.when-lost: degrade. A disk that is given up is wiped")
	}
	in.second.lost = err
	in.logger.Error("the second disk is not there; what is signed stands on one disk", "dir", c.Dir, "error", err)
	return nil
}

// pair has the engine write to both disks.
func (in *instance) pair() error {
	c := in.cfg.Log.Second
	if in.cfg.Profile == profileProduction && sameDisk(in.dir.root, c.Dir) {
		return cmdline.Hinted(fmt.Errorf("%w: %s", errSameDisk, c.Dir), "is it mounted?")
	}
	if _, err := backup.ReadSecond(c.Dir); err == nil && in.cfg.Roles != nil {
		return fmt.Errorf("%w: %s", errOneDisk, c.Dir)
	}
	for _, p := range in.second.places {
		if err := in.pairAt(p, c.required()); err != nil {
			return err
		}
	}
	return nil
}

func (in *instance) pairAt(p secondPlace, required bool) error {
	disk := backup.Second{Domain: in.cfg.Domain}
	if was, err := backup.ReadSecond(p.dir); err == nil {
		disk.Required = required && was.Required
	}
	if err := backup.BeginSecond(p.dir, disk); err != nil {
		return err
	}
	for _, db := range in.databases() {
		file := filepath.Base(db.Path())
		if p.part != "" && (p.part == partTrust || p.part == partOIDC || databasePart(file) != p.part) {
			continue
		}
		if err := db.Pair(filepath.Join(backup.SecondDB(p.dir), file), required); err != nil {
			return err
		}
		in.second.dbs = append(in.second.dbs, db)
	}
	disk.Required = required // only now: everything is there
	return backup.BeginSecond(p.dir, disk)
}

// databases are the files of the engine that are open.
func (in *instance) databases() (all []*bolt.DB) {
	for _, a := range in.artifacts {
		all = append(all, a.db.(*bolt.DB))
	}
	if in.authorityDB != nil {
		all = append(all, in.authorityDB.(*bolt.DB))
	}
	if in.floorDB != nil && in.floorDB != in.authorityDB {
		all = append(all, in.floorDB.(*bolt.DB))
	}
	return all
}

func sameDisk(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev
}

// copyFiles brings the files on the second disk up to date, where there is one.
func (in *instance) copyFiles(ctx context.Context) (int, error) {
	s := in.second
	if s == nil || s.lost != nil {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var copied int
	var errs []error
	for _, p := range s.places {
		n, err := backup.CopyFiles(ctx, backup.Config{Dir: in.dir.root, Skip: in.notCopied(), Owns: p.owns}, p.dir)
		copied, errs = copied+n, append(errs, err)
	}
	err := errors.Join(errs...)
	if ctx.Err() == nil {
		s.files = err
	}
	return copied, err
}

// followFiles copies what changes by itself, until ctx ends.
func (in *instance) followFiles(ctx context.Context) {
	if in.second == nil {
		return
	}
	tick := time.NewTicker(secondEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, err := in.copyFiles(ctx); err != nil && ctx.Err() == nil {
			in.logger.Error("copying files to the second disk", "error", err)
		}
	}
}

// err says why the second disk is not up to date.
func (s *secondDisk) err() error {
	if s.lost != nil {
		return s.lost
	}
	for _, db := range s.dbs {
		if err := db.SecondErr(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files
}

// secondChecks say whether what is acknowledged stands on both disks.
func (in *instance) secondChecks() []check {
	if in.second == nil {
		return nil
	}
	fix := "see to the disk at " + in.second.c.Dir + ", then restart the server, which brings it up to date"
	checks := []check{urgent("second disk", in.second.err(), fix)}
	if sameDisk(in.dir.root, in.second.c.Dir) {
		checks = append(checks, warning("second disk's place", errSameDisk, "mount another disk there: what is lost with one disk stands on both otherwise"))
	}
	for i := range checks {
		checks[i].private = true
	}
	return checks
}

// registerSecond tells monitoring.
func (s *server) registerSecond() {
	if s.instance().second == nil {
		return
	}
	s.metrics.gauge("redoubt_second_disk_failing", "1 while what is signed does not stand on the second disk.", func() float64 {
		if second := s.instance().second; second != nil && second.err() != nil {
			return 1
		}
		return 0
	})
}

// secondHint adds what to do about an error of a second disk.
func secondHint(err error, dir string) error {
	if errors.Is(err, backup.ErrBusy) {
		return cmdline.Hinted(err, "stop the appliance that writes to %s first; two of them fork every log", dir)
	}
	return err
}
