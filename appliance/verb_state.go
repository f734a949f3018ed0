package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

func stateCommand() *cli.Command {
	return &cli.Command{Name: "state", Usage: "the format of the state directory", Subcommands: []*cli.Command{
		{Name: "show", Usage: "which format the directory and each database are of, and which this program works on", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()),
			Action: func(c *cli.Context) error {
				dir, err := stateDir(c)
				if err != nil {
					return err
				}
				r, err := showState(dir)
				if err != nil {
					return err
				}
				return cmdline.PrintResult(c, r, r.print)
			}},
		{Name: "migrate", Usage: "bring a stopped directory to another format; interrupted, run it again. `redoubt upgrade` does this by itself",
			Flags:  append(cmdline.StateFlags(), cmdline.OutputFlag(), &cli.Uint64Flag{Name: "to", Usage: "format (default: this program's); a lower one for an earlier program", EnvVars: []string{"REDOUBT_TO"}}),
			Action: migrateAction},
	}}
}

// stateResult is the JSON of `redoubt state show` and `redoubt state migrate`.
type stateResult struct {
	Dir string `json:"dir"`
	// Format of the directory, and Program that brought it there; "" for one that wrote no record.
	Format  uint64 `json:"format"`
	Program string `json:"program,omitempty"`
	// Works is the format this program works on.
	Works uint64 `json:"works"`
	// Databases are the formats of the files; left out while another process has them.
	Databases map[string]uint64 `json:"databases,omitempty"`
	// Moved are the migrations just made.
	Moved []stateMove `json:"moved,omitempty"`
}

// stateDir is the directory that the flags name. The configuration of another format need not be one that this program can read, so
// --dir is taken as it is.
func stateDir(c *cli.Context) (layout, error) {
	for _, level := range c.Lineage() {
		if level.IsSet("config") {
			break
		}
		if level.IsSet("dir") {
			return layout{level.String("dir")}, nil
		}
	}
	_, dir, err := configured(c)
	return dir, err
}

func showState(dir layout) (r stateResult, err error) {
	record, err := dir.readState()
	if err != nil {
		return r, err
	}
	r = stateResult{Dir: dir.root, Format: record.Format, Program: record.Program, Works: store.Format}
	release, err := dir.acquire()
	if errors.Is(err, errLocked) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	defer release()
	names, err := dir.databases()
	if err != nil {
		return r, err
	}
	r.Databases = map[string]uint64{}
	for _, name := range names {
		db, err := bolt.Open(dir.path("db", name))
		if err != nil {
			return r, err
		}
		n, err := db.Format()
		if err := errors.Join(err, db.Close()); err != nil {
			return r, err
		}
		r.Databases[name] = n
	}
	return r, nil
}

func migrateAction(c *cli.Context) error {
	dir, err := stateDir(c)
	if err != nil {
		return err
	}
	to := c.Uint64("to")
	if to == 0 {
		to = store.Format
	}
	release, err := dir.acquireSoon(c.Context, nil)
	if err != nil {
		return err
	}
	moved, err := dir.migrateState(to, clock())
	release()
	if cfg, cerr := loadConfig(dir.config()); cerr == nil { // one that this program cannot read is of an earlier one, which gives the files itself
		ownAgain(cfg, dir, slog.Default())
	}
	if err != nil {
		return err
	}
	r, err := showState(dir)
	if err != nil {
		return err
	}
	r.Moved = moved
	return cmdline.PrintResult(c, r, r.print)
}

func (r stateResult) print(w io.Writer) {
	for _, m := range r.Moved {
		fmt.Fprintf(w, "migrated from format %d to %d\n", m.From, m.To)
	}
	by := ""
	if r.Program != "" {
		by = ", by redoubt " + r.Program
	}
	fmt.Fprintf(w, "%s is of format %d%s; this program works on %d\n", r.Dir, r.Format, by, r.Works)
	for _, name := range slices.Sorted(maps.Keys(r.Databases)) {
		fmt.Fprintf(w, "  %-16s format %d\n", name, r.Databases[name])
	}
}

// migrateToServe brings a directory of an earlier format up before it is served.
func migrateToServe(ctx context.Context, dir layout, logger *slog.Logger) error {
	if err := dir.checkFormat(); !errors.Is(err, errOlderState) {
		return err
	}
	release, err := dir.acquireSoon(ctx, nil)
	if err != nil {
		return err
	}
	defer release()
	moved, err := dir.migrateState(store.Format, clock())
	if err != nil {
		return fmt.Errorf("bringing the state directory to format %d: %w", store.Format, err)
	}
	for _, m := range moved {
		logger.Info("migrated the state directory", "from", m.From, "to", m.To)
	}
	return nil
}

// checkMigrated refuses a database that a migration has not reached: one that was cut off, or a file of an older copy.
func checkMigrated(db *bolt.DB) error {
	n, err := db.Format()
	if err == nil && n != store.Format {
		err = cmdline.Hinted(fmt.Errorf("%w: %s is of format %d, this program works on %d", errOlderState, db.Path(), n, store.Format), "`redoubt state migrate` ends what was begun")
	}
	return err
}

// recordMoves takes migrations into the audit log. They happen while nothing is open that could record them; the directory keeps them
// until they are there.
func (in *instance) recordMoves(ctx context.Context) error {
	r, err := in.dir.readState()
	if err != nil || len(r.Moves) == 0 || in.parts != nil { // a role may not write the record: whoever runs all of them next does
		return err
	}
	for _, m := range r.Moves {
		detail := map[string]string{"from": strconv.FormatUint(m.From, 10), "to": strconv.FormatUint(m.To, 10), "program": m.Program, "time": m.Time.Format("2006-01-02T15:04:05Z07:00")}
		if err := in.record(ctx, localActor(), "state.migrate", in.dir.root, detail); err != nil {
			return err
		}
	}
	r.Moves = nil
	return in.dir.writeState(r)
}
