package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log"
	"redoubt.internal/log/audit"
)

func logResumeCommand() *cli.Command {
	return &cli.Command{
		Name: "resume", Usage: "let a log that a failed write halted take entries again, after checking it whole; the server is stopped",
		Flags: append(cmdline.StateFlags(), cmdline.OutputFlag(),
			&cli.StringFlag{Name: "log", Usage: "rekor, rekor-<n>, ct or audit (default: every halted one)", EnvVars: []string{"REDOUBT_LOG"}}),
		Action: logResumeAction,
	}
}

// resumed is the JSON of `redoubt log resume -o json`.
type resumed struct {
	Checked  []fsckResult `json:"checked"`  // halted: why, before
	Resumed  []string     `json:"resumed"`  // logs that take entries again
	Recorded bool         `json:"recorded"` // in the audit log
	Reason   string       `json:"reason,omitempty"`
}

func logResumeAction(c *cli.Context) error {
	if err := cmdline.CheckOutput(c); err != nil {
		return err
	}
	cfg, dir, err := configured(c)
	if err != nil {
		return err
	}
	roles := cfg.logRoles()
	if only := c.String("log"); only != "" {
		if !slices.Contains(roles, only) {
			return cmdline.Usage("--log %q: this instance has no such log; `redoubt log info` lists them", only)
		}
		roles = []string{only}
	}
	if dir.answers(c.Context, nil) {
		return cmdline.Hinted(errors.New("a server holds this directory; a halted log resumes while none does"), "stop the server, run this again, start it")
	}
	s, err := openStopped(c)
	if err != nil {
		return err
	}
	defer s.in.close()
	if _, err := s.in.permitHere(c.Context, "log resume"); err != nil {
		return err
	}
	r, err := s.resume(c.Context, roles)
	if printed := printFsck(c, r, r.Checked); err == nil {
		err = printed
	}
	if c.String("output") == "text" {
		r.print(c.App.Writer)
	}
	return err
}

func (r resumed) print(w io.Writer) {
	for _, role := range r.Resumed {
		fmt.Fprintf(w, "%-7s  takes entries again\n", role)
	}
	switch {
	case len(r.Resumed) == 0:
		fmt.Fprintln(w, "no log was resumed")
	case r.Recorded:
		fmt.Fprintln(w, "recorded in the audit log")
	default:
		fmt.Fprintf(w, "NOT RECORDED in the audit log: %s\n", r.Reason)
	}
}

// resume checks the logs of roles and takes the halt off those that are whole. It is recorded where the audit log takes the record:
// before the halt comes off, or after when the audit log itself was the halted one.
func (s *stopped) resume(ctx context.Context, roles []string) (r resumed, err error) {
	r = resumed{Checked: []fsckResult{}, Resumed: []string{}}
	detail := map[string]string{}
	var others []string
	for _, role := range roles {
		result := s.fsck(ctx, role)
		r.Checked = append(r.Checked, result)
		if len(result.Problems) > 0 || result.Halted == "" {
			continue
		}
		detail[role] = result.Halted
		if role != s.in.history.active(roleAudit) {
			others = append(others, role)
			continue
		}
		if _, err := log.Resume(ctx, s.config(role)); err != nil {
			return r, err
		}
		r.Resumed = append(r.Resumed, role)
	}
	if len(detail) == 0 {
		return r, ctx.Err()
	}
	if err := s.record(ctx, detail); err != nil {
		r.Reason = err.Error()
	} else {
		r.Recorded = true
	}
	for _, role := range others {
		if _, err := log.Resume(ctx, s.config(role)); err != nil {
			return r, err
		}
		r.Resumed = append(r.Resumed, role)
	}
	return r, nil
}

// record opens the audit log alone, with its key, and writes one record to it.
func (s *stopped) record(ctx context.Context, detail map[string]string) error {
	active := s.in.history.active(roleAudit)
	key, err := s.in.keys.role(ctx, active)
	if err != nil {
		return err
	}
	c := s.config(active)
	if c.DB == nil || len(s.broken[active]) > 0 {
		return errors.New(s.broken[active][0])
	}
	c.Signer = key
	l, err := log.Open(ctx, c)
	if err != nil {
		return err
	}
	if err := l.Err(); err != nil {
		return err
	}
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- l.Run(writing) }()
	defer func() { stop(); <-done }()
	_, err = audit.New(l).Add(ctx, audit.Event{Actor: localActor(), Action: "log.resume", Object: s.in.cfg.Domain, Outcome: audit.Intent, Detail: detail}, nil)
	return err
}
