package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/log/strictjson"
)

// The format of a state directory. Every database carries its number in itself, DIR/state.json carries the directory's, and what is of a
// higher one than this program knows is not touched. A lower one is brought up by `redoubt serve` at its start, by `redoubt state migrate`
// and by `redoubt upgrade`; no other verb changes it, so that a program on a medium can be tried beside an installed one.

// stateRecord is DIR/state.json. A directory without one was made by a program that wrote none.
type stateRecord struct {
	// Format of the directory: every database is of it, unless a migration was cut off.
	Format uint64 `json:"format"`
	// Program is the version that brought it there.
	Program string `json:"program,omitempty"`
	// Moves are the migrations that the audit log has not got yet.
	Moves []stateMove `json:"moves,omitempty"`
}

// stateMove is one migration of a state directory.
type stateMove struct {
	From    uint64    `json:"from"`
	To      uint64    `json:"to"`
	Program string    `json:"program"`
	Time    time.Time `json:"time"`
}

var (
	errNewerState = errors.New("a newer program wrote this state directory")
	errOlderState = errors.New("this state directory is of an earlier format")
	errNoWayBack  = errors.New("there is no way back from this format")
)

// migration is the step from the format before to the one it is named by, and back.
type migration struct {
	to uint64
	// up and down change one database, called by its file name, within the transaction that gives it its number; nil changes nothing else.
	up, down func(database string, tx store.Tx) error
	// final: what the format before cannot hold may have been written since, so there is no way down.
	final bool
}

// migrations has a row for every format after the first.
var migrations = []migration{
	{to: 2}, // the numbers themselves
}

const maxStateRecord = 64 << 10

func (l layout) stateFile() string { return l.path("state.json") }

// readState reads the record of the directory.
func (l layout) readState() (r stateRecord, err error) {
	data, err := os.ReadFile(l.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return stateRecord{Format: store.FirstFormat}, nil
	}
	if err != nil {
		return r, fmt.Errorf("reading the format of the state directory: %w", err)
	}
	if err := strictjson.Decode(data, strictjson.Limits{Bytes: maxStateRecord}, &r); err != nil {
		// A later program may say more in it: its number is what counts.
		var number struct {
			Format uint64 `json:"format"`
		}
		if json.Unmarshal(data, &number) == nil && number.Format > store.Format {
			return stateRecord{Format: number.Format}, nil
		}
		return r, fmt.Errorf("reading %s: %w", l.stateFile(), err)
	}
	if r.Format < store.FirstFormat {
		return r, fmt.Errorf("reading %s: there is no format %d", l.stateFile(), r.Format)
	}
	return r, nil
}

// writeState replaces the record, durably.
func (l layout) writeState(r stateRecord) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	like, mode := l.root, fs.FileMode(0o600)
	if info, err := os.Stat(l.stateFile()); err == nil { // where roles run apart, all of them read it
		like, mode = l.stateFile(), info.Mode().Perm()
	}
	var owner syscall.Stat_t
	if err := syscall.Stat(like, &owner); err != nil {
		return err
	}
	err = replaceFile(l.stateFile(), append(text, '\n'), mode)
	if err == nil && os.Geteuid() == 0 {
		err = os.Lchown(l.stateFile(), int(owner.Uid), int(owner.Gid))
	}
	if err != nil {
		return fmt.Errorf("writing the format of the state directory: %w", err)
	}
	return nil
}

// checkFormat refuses a directory that is not of this program's format.
func (l layout) checkFormat() error {
	r, err := l.readState()
	switch {
	case err != nil:
		return err
	case r.Format > store.Format:
		by := ""
		if r.Program != "" {
			by = " (redoubt " + r.Program + ")"
		}
		return cmdline.Hinted(fmt.Errorf("%w: %s is of format %d%s, this is redoubt %s, which knows formats up to %d", errNewerState, l.root, r.Format, by, versionString(), store.Format),
			"use the release that wrote it, or a later one. Only that one can go back, where there is a way back: `redoubt upgrade --rollback`")
	case r.Format < store.Format:
		return cmdline.Hinted(fmt.Errorf("%w: %s is of format %d, this is redoubt %s with format %d", errOlderState, l.root, r.Format, versionString(), store.Format),
			"`redoubt serve` and `redoubt state migrate` bring it up, after which earlier programs refuse it: take a backup with the installed program first")
	}
	return nil
}

// databases are the names of the database files.
func (l layout) databases() ([]string, error) {
	paths, err := filepath.Glob(globEscape(l.path("db")) + "/*.db")
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	return paths, err
}

// migrateState brings the directory, whose lock the caller holds, to the format to. Each database moves by itself, in one transaction a
// step. The directory's number is never above that of a database: it goes down first and up last. Cut off anywhere, it is run again,
// in either direction.
func (l layout) migrateState(to uint64, now time.Time) (moved []stateMove, err error) {
	r, err := l.readState()
	if err != nil {
		return nil, err
	}
	if r.Format > store.Format || to > store.Format || to < store.FirstFormat {
		return nil, fmt.Errorf("%w: from format %d to %d, with formats up to %d", errNewerState, r.Format, to, store.Format)
	}
	names, err := l.databases()
	if err != nil {
		return nil, err
	}
	if r.Format != to {
		moved = []stateMove{{r.Format, to, versionString(), now.UTC().Truncate(time.Second)}}
	}
	next := stateRecord{Format: to, Program: versionString(), Moves: append(r.Moves, moved...)}
	if to < r.Format {
		if err := l.writeState(next); err != nil {
			return nil, err
		}
		atPoint("numbered the directory")
	}
	for _, name := range names {
		if err := migrateDatabase(l.path("db", name), to); err != nil {
			return nil, fmt.Errorf("migrating %s: %w", name, err)
		}
	}
	if to > r.Format {
		if err := l.writeState(next); err != nil {
			return nil, err
		}
		atPoint("numbered the directory")
	}
	return moved, nil
}

// migrateDatabase moves one database step by step.
func migrateDatabase(path string, to uint64) (err error) {
	db, err := bolt.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	at, err := db.Format()
	for err == nil && at != to {
		step, next := stepAt(max(at, min(at+1, to))), at+1
		change := step.up
		if at > to {
			if next, change = at-1, step.down; step.final {
				return cmdline.Hinted(fmt.Errorf("%w: %d", errNoWayBack, at), "stay with this release; a backup from before it restores into an empty directory (`redoubt backup restore`), without what was signed since")
			}
		}
		if at, err = next, db.Migrate(next, func(tx store.Tx) error {
			if change == nil {
				return nil
			}
			return change(filepath.Base(path), tx)
		}); err == nil {
			atPoint("migrated a step")
		}
	}
	return err
}

// stepAt is the row of the table between format and the one before it. A test holds the table to have one for each.
func stepAt(format uint64) migration {
	return migrations[format-store.FirstFormat-1]
}
