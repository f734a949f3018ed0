package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/audit"
)

func auditCommand() *cli.Command {
	return &cli.Command{
		Name: "audit", Usage: "who did what: issuance, refusals, administration, imports",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "print the records", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag(),
				&cli.StringFlag{Name: "log", Usage: "audit, or audit-<n> of those that a retirement made (default: the one in use)", EnvVars: []string{"REDOUBT_LOG"}},
				&cli.Uint64Flag{Name: "from", Usage: "first index", EnvVars: []string{"REDOUBT_FROM"}},
				&cli.Uint64Flag{Name: "limit", Value: 100, Usage: "most records to print, at most 1000", EnvVars: []string{"REDOUBT_LIMIT"}}),
				Action: func(c *cli.Context) error {
					if c.Uint64("limit") > audit.MaxList {
						return cmdline.Usage("--limit: at most %d", audit.MaxList)
					}
					records, err := auditList.call(c, logArgs{Log: c.String("log"), From: c.Uint64("from"), Size: c.Uint64("from") + c.Uint64("limit")})
					if err != nil {
						return err
					}
					return cmdline.PrintResult(c, records, func(w io.Writer) {
						for _, r := range records {
							fmt.Fprintf(w, "%6d %s %-8s %-20s %s by %s\n", r.Index, r.Time.UTC().Format(time.RFC3339), r.Outcome, r.Action, r.Object, r.Actor)
						}
					})
				}},
			{Name: "verify", Usage: "recompute the audit log, check every head and that every record reads", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()),
				Action: func(c *cli.Context) error {
					result, err := unopened(c, auditVerify, func(ctx context.Context, s *stopped) (fsckResult, error) { return s.verifyAudit(ctx), nil })
					if err != nil {
						return err
					}
					return printFsck(c, result, []fsckResult{result})
				}},
		},
	}
}

var auditList = verb[logArgs, []audit.Record]{"audit.list", func(ctx context.Context, in *instance, _ string, a logArgs) ([]audit.Record, error) {
	which, names := in.audit, []string{}
	for _, l := range in.auditLogs {
		names = append(names, l.role)
		if l.role == a.Log && l.log != in.auditLog {
			which = audit.New(l.log) // retired: it is read for good
		}
	}
	if a.Log != "" && !slices.Contains(names, a.Log) {
		return nil, cmdline.Usage("--log %q: want one of %v", a.Log, names)
	}
	records, err := which.List(ctx, a.From, a.Size)
	return append([]audit.Record{}, records...), err
}}

var auditVerify = verb[struct{}, fsckResult]{"audit.verify", func(ctx context.Context, in *instance, _ string, _ struct{}) (fsckResult, error) {
	active := in.history.active(roleAudit)
	result, err := fsckOne(ctx, active, in.logConfigs()[active], nil)
	if err != nil {
		return result, err
	}
	err = in.audit.Scan(ctx, 0, result.Size, func(audit.Record) bool { return true })
	if err != nil {
		result.Problems = append(result.Problems, err.Error())
	}
	return result, nil
}}

// record writes an administrative act to the audit log before it happens; what cannot be recorded is not done.
func (in *instance) record(ctx context.Context, actor, action, object string, detail map[string]string) error {
	return in.put(ctx, audit.Event{Actor: actor, Action: action, Object: object, Outcome: audit.Intent, Detail: detail})
}

// put adds an event to the audit log, here or in the process that has it.
func (in *instance) put(ctx context.Context, e audit.Event) error {
	if in.audit == nil {
		return in.recordElsewhere(ctx, e)
	}
	_, err := in.audit.Add(ctx, e, nil)
	return err
}
