package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log"
)

func logMarkCommand() *cli.Command {
	return &cli.Command{
		Name: "mark", Usage: "mark every log in a counter new to log.highwater, after checking it whole against the marks it has; the server is stopped",
		Flags:  append(cmdline.StateFlags(), cmdline.OutputFlag()),
		Action: logMarkAction,
	}
}

// marked is the JSON of `redoubt log mark -o json`.
type marked struct {
	Checked []fsckResult `json:"checked"`
	Marked  []newMark    `json:"marked"` // none when every log had its mark already
}

// newMark is one log's first mark in one counter.
type newMark struct {
	Log     string `json:"log"`
	Size    uint64 `json:"size"`
	Counter string `json:"counter"`
}

var errNotMarked = errors.New("nothing was marked")

func logMarkAction(c *cli.Context) error {
	if err := cmdline.CheckOutput(c); err != nil {
		return err
	}
	_, dir, err := configured(c)
	if err != nil {
		return err
	}
	if dir.answers(c.Context, nil) {
		return cmdline.Hinted(errors.New("a server holds this directory; logs are marked while none does"), "stop the server, run this again, start it")
	}
	s, err := openStopped(c)
	if err != nil {
		return err
	}
	defer s.in.close()
	if _, err := s.in.permitHere(c.Context, "log mark"); err != nil {
		return err
	}
	r, err := s.mark(c.Context)
	if printed := printFsck(c, r, r.Checked); err == nil {
		err = printed
	}
	if c.String("output") == "text" {
		r.print(c.App.Writer)
	}
	return err
}

func (r marked) print(w io.Writer) {
	for _, m := range r.Marked {
		fmt.Fprintf(w, "%-7s  marked at %d entries in %s\n", m.Log, m.Size, m.Counter)
	}
	if len(r.Marked) == 0 {
		fmt.Fprintln(w, "no log was marked")
	}
}

// mark gives every log without a mark in a counter its first one. The marks in files vouch for the directory: it is checked whole
// against them first, and a log they do not fit, or without one, keeps all logs from being marked.
func (s *stopped) mark(ctx context.Context) (r marked, err error) {
	r = marked{Checked: []fsckResult{}, Marked: []newMark{}}
	if len(s.in.highWater) == 0 || len(s.in.noMarks) > 0 {
		return r, cmdline.Hinted(fmt.Errorf("%w: no high-water file vouches for this directory", errNotMarked), "put the high-water file of this machine back")
	}
	counters := s.in.slowMarks
	if len(counters) == 0 {
		return r, cmdline.Hinted(fmt.Errorf("%w: log.highwater lists no counter", errNotMarked), "add tpm:nv=0x01...... to it")
	}
	for _, m := range counters {
		if err := m.Err(); err != nil {
			return r, fmt.Errorf("%w: %w", errNotMarked, err)
		}
	}
	s.in.slowMarks = nil // checked against the files alone
	for _, role := range s.in.cfg.logRoles() {
		result := s.fsck(ctx, role)
		r.Checked = append(r.Checked, result)
		if err := ctx.Err(); err != nil {
			return r, err
		}
		if len(result.Problems) > 0 || result.Halted != "" {
			return r, fmt.Errorf("%w: the %s log is not whole, or halted", errNotMarked, role)
		}
	}
	for _, m := range counters {
		for _, result := range r.Checked {
			origin := s.in.cfg.origin(result.Log)
			mark := m.For(origin)
			if _, err := mark.Read(ctx); !errors.Is(err, log.ErrNoMark) {
				if err != nil {
					return r, err
				}
				continue
			}
			to := log.Mark{Origin: origin, Size: result.Size}
			if _, err := hex.Decode(to.Root[:], []byte(result.RootHash)); err != nil {
				return r, fmt.Errorf("reading the root of the %s log: %w", result.Log, err)
			}
			if err := mark.Raise(ctx, to); err != nil {
				return r, err
			}
			r.Marked = append(r.Marked, newMark{result.Log, result.Size, m.Status().Name})
		}
	}
	return r, nil
}
