package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"redoubt.internal/appliance/cmdline"
)

func standbyCommand() *cli.Command {
	dir := &cli.StringFlag{Name: "dir", Required: true, Usage: "folder of the standby, with its standby.yaml", EnvVars: []string{"REDOUBT_DIR"}}
	return &cli.Command{
		Name: "standby", Usage: "a second machine that follows an appliance and takes its place when two people say so",
		Subcommands: []*cli.Command{
			{Name: "follow", Usage: "follow the primary until a signal: its backup, and its logs as everybody sees them",
				Flags: []cli.Flag{dir, cmdline.OutputFlag(), &cli.BoolFlag{Name: "once", Usage: "look once", EnvVars: []string{"REDOUBT_ONCE"}}}, Action: standbyFollowAction},
			{Name: "status", Usage: "how far the standby is, and what may be said of the primary", Flags: []cli.Flag{dir, cmdline.OutputFlag()}, Action: standbyStatusAction},
			{Name: "promote", Usage: "take the primary's place: prove what is here, fence the primary, make the state directory; the primary is stopped",
				Flags: append(approvalFlags(), dir, cmdline.OutputFlag(),
					&cli.BoolFlag{Name: "second", Usage: "take the primary's second disk instead of the newest run of its backup", EnvVars: []string{"REDOUBT_SECOND"}},
					&cli.BoolFlag{Name: "retire", Usage: "end the logs that lack entries where they stand, and open the next ones", EnvVars: []string{"REDOUBT_RETIRE"}}),
				Action: standbyPromoteAction},
		},
	}
}

func standbyFollowAction(c *cli.Context) error {
	s, err := loadStandby(c.String("dir"))
	if err != nil {
		return err
	}
	logger, err := cmdline.NewLogger(c)
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.promotedFile()); err == nil {
		return cmdline.Hinted(errPromoted, "its state directory is %s; begin a new folder for the next standby", s.target())
	}
	if c.Bool("once") {
		if _, err := s.follow(c.Context, logger); err != nil {
			return cmdline.Unavailable(err)
		}
		return standbyStatusAction(c)
	}
	if s.Listen != "" {
		stop, err := s.answer()
		if err != nil {
			return err
		}
		defer stop()
	}
	for {
		if st, err := s.follow(c.Context, logger); err != nil && c.Context.Err() == nil {
			logger.Error("following the primary", "run", st.Run, "error", err)
		}
		select {
		case <-c.Context.Done():
			return nil
		case <-time.After(s.Every.or(defaultStandbyEvery)):
		}
	}
}

// answer tells probes that this machine lives and is no primary: 429 is what a balancer passes over without an alarm.
func (s *Standby) answer() (stop func(), err error) {
	listener, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return nil, fmt.Errorf("answering probes: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "STANDBY"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r, err := s.report()
		if err != nil {
			r.Error = err.Error()
		}
		writeJSON(w, http.StatusTooManyRequests, struct {
			Ready bool `json:"ready"`
			standbyReport
		}{false, r})
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: defaultHeaderTimeout}
	go server.Serve(listener)
	return func() { server.Close() }, nil
}

func standbyStatusAction(c *cli.Context) error {
	s, err := loadStandby(c.String("dir"))
	if err != nil {
		return err
	}
	r, err := s.report()
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "%s of %s; the primary: %s", r.Role, r.Domain, r.Primary)
		if r.Reason != "" {
			fmt.Fprintf(w, " (%s)", r.Reason)
		}
		fmt.Fprintf(w, "\nlast look %s; run %d of %s\n", r.Followed.Format(time.RFC3339), r.Run, r.Made.Format(time.RFC3339))
		for _, l := range r.Logs {
			fmt.Fprintf(w, "%-7s  %d entries here, %d shown, mark %d, behind by %d\n", l.Log, l.Size, l.Shown, l.Mark, l.Behind)
		}
		if r.Error != "" {
			fmt.Fprintf(w, "the last look met: %s\n", r.Error)
		}
	})
}

func standbyPromoteAction(c *cli.Context) error {
	s, err := loadStandby(c.String("dir"))
	if err != nil {
		return err
	}
	a := promoteArgs{Second: c.Bool("second"), Retire: c.Bool("retire")}
	if a.Second && s.Second == "" {
		return cmdline.Usage("--second needs second: FOLDER in %s", standbyFile)
	}
	if a.approvalArgs, err = givenApprovals(c); err != nil {
		return err
	}
	logger, err := cmdline.NewLogger(c)
	if err != nil {
		return err
	}
	r, err := s.promote(context.WithoutCancel(c.Context), a, cmdline.Progress(c), logger)
	if errors.Is(err, errPrimaryRuns) || errors.Is(err, errNotFenced) || errors.Is(err, errBehind) {
		err = cmdline.Unavailable(err)
	}
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "promoted in %.1f s by act %s, approved by %v\n", r.Seconds, r.Act, r.By)
		for _, l := range r.Logs {
			fmt.Fprintf(w, "%-7s  %d entries, root %s", l.Log, l.Size, l.Root)
			if l.Behind > 0 {
				fmt.Fprintf(w, "; %d more were signed, it was retired", l.Behind)
			}
			fmt.Fprintln(w)
		}
		for _, path := range r.Missing {
			fmt.Fprintf(w, "put back what is in no backup: %s\n", path)
		}
		for i, step := range r.Next {
			fmt.Fprintf(w, "%d. %s\n", i+1, step)
		}
	})
}
