package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/log"
	"redoubt.internal/log/audit"
)

func auditCommand() *cli.Command {
	return &cli.Command{
		Name: "audit", Usage: "who did what: issuance, refusals, administration, imports",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "print the records", Flags: append(stateFlags(), outputFlag(),
				&cli.Uint64Flag{Name: "from", Usage: "first index", EnvVars: []string{"REDOUBT_FROM"}},
				&cli.Uint64Flag{Name: "limit", Value: 100, Usage: "most records to print, at most 1000", EnvVars: []string{"REDOUBT_LIMIT"}}),
				Action: func(c *cli.Context) error {
					if c.Uint64("limit") > audit.MaxList {
						return usage("--limit: at most %d", audit.MaxList)
					}
					records, err := auditList.call(c, logArgs{From: c.Uint64("from"), Size: c.Uint64("from") + c.Uint64("limit")})
					if err != nil {
						return err
					}
					return printResult(c, records, func(w io.Writer) {
						for _, r := range records {
							fmt.Fprintf(w, "%6d %s %-8s %-20s %s by %s\n", r.Index, r.Time.UTC().Format(time.RFC3339), r.Outcome, r.Action, r.Object, r.Actor)
						}
					})
				}},
			{Name: "verify", Usage: "recompute the audit log, check every head and that every record reads", Flags: append(stateFlags(), outputFlag()),
				Action: func(c *cli.Context) error {
					report, err := auditVerify.call(c, struct{}{})
					if err != nil {
						return err
					}
					if err := printResult(c, report, func(w io.Writer) {
						fmt.Fprintf(w, "%d records under %d heads, root %s\n", report.Entries, report.Heads, report.RootHash)
					}); err != nil {
						return err
					}
					if len(report.Problems) > 0 {
						return fmt.Errorf("%w: %s", errFsck, strings.Join(report.Problems, "; "))
					}
					return nil
				}},
		},
	}
}

var auditList = verb[logArgs, []audit.Record]{"audit.list", func(ctx context.Context, in *instance, _ string, a logArgs) ([]audit.Record, error) {
	records, err := in.audit.List(ctx, a.From, a.Size)
	return append([]audit.Record{}, records...), err
}}

var auditVerify = verb[struct{}, fsckResult]{"audit.verify", func(ctx context.Context, in *instance, _ string, _ struct{}) (fsckResult, error) {
	report, err := log.Fsck(ctx, in.logConfigs()[roleAudit], nil)
	if err != nil && !(errors.Is(err, log.ErrCorrupt) && len(report.Problems) > 0) { // problems are a result
		return fsckResult{}, err
	}
	result := fsckResult{Log: roleAudit, Entries: report.Entries, Heads: report.Heads, Tiles: report.Tiles, Size: report.Size,
		RootHash: fmt.Sprintf("%x", report.Root), Problems: append([]string{}, report.Problems...)}
	err = in.audit.Scan(ctx, 0, report.Size, func(audit.Record) bool { return true })
	if err != nil {
		result.Problems = append(result.Problems, err.Error())
	}
	return result, nil
}}

// record writes an administrative act to the audit log before it happens; what cannot be recorded is not done.
func (in *instance) record(ctx context.Context, actor, action, object string, detail map[string]string) error {
	_, err := in.audit.Add(ctx, audit.Event{Actor: actor, Action: action, Object: object, Outcome: audit.Intent, Detail: detail}, nil)
	return err
}
