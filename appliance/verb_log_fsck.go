package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log"
)

// fsckResult is one element of the JSON of `redoubt log fsck -o json`.
type fsckResult struct {
	Log      string   `json:"log"`
	Entries  uint64   `json:"entries"`
	Heads    uint64   `json:"heads"`
	Tiles    uint64   `json:"tiles"`
	Size     uint64   `json:"size"`
	RootHash string   `json:"rootHash"`
	Seconds  float64  `json:"seconds"`
	Halted   string   `json:"halted,omitempty"` // why the log was halted; `redoubt log resume` ends that
	Problems []string `json:"problems"`         // empty: the log holds what its heads promise
}

var errFsck = errors.New("a log does not hold what its heads promise")

// logFsck is the check in a serving process; without one, stopped.fsck does it.
var logFsck = verb[struct{}, []fsckResult]{"log.fsck", func(ctx context.Context, in *instance, _ string, _ struct{}) (results []fsckResult, err error) {
	configs := in.logConfigs()
	for _, l := range in.logs() {
		result, err := fsckOne(ctx, l.role, configs[l.role], nil)
		if err != nil {
			return nil, err
		}
		results = append(results, result)
	}
	return results, nil
}}

// fsckOne checks one log. Damage is a result; the error is of what kept the check from running.
func fsckOne(ctx context.Context, role string, c log.Config, progress func(done, total uint64)) (fsckResult, error) {
	started := time.Now()
	report, err := log.Fsck(ctx, c, progress)
	result := fsckResult{role, report.Entries, report.Heads, report.Tiles, report.Size, hex.EncodeToString(report.Root[:]),
		time.Since(started).Seconds(), report.Halted, append([]string{}, report.Problems...)}
	if report.Suppressed > 0 {
		result.Problems = append(result.Problems, fmt.Sprintf("and %d more", report.Suppressed))
	}
	if err != nil && !(errors.Is(err, log.ErrCorrupt) && len(report.Problems) > 0) {
		return result, fmt.Errorf("checking the %s log: %w", role, err)
	}
	return result, nil
}

func logFsckAction(c *cli.Context) error {
	results, err := unopened(c, logFsck, func(ctx context.Context, s *stopped) (results []fsckResult, _ error) {
		for _, role := range s.in.cfg.logRoles() {
			results = append(results, s.fsck(ctx, role))
		}
		return results, ctx.Err()
	})
	if err != nil {
		return err
	}
	return printFsck(c, results, results)
}

// printFsck prints v, which holds results, and is an error when one of them has a problem.
func printFsck(c *cli.Context, v any, results []fsckResult) error {
	problems := 0
	err := cmdline.PrintResult(c, v, func(w io.Writer) {
		for _, r := range results {
			r.print(w)
		}
	})
	for _, r := range results {
		problems += len(r.Problems)
	}
	if err == nil && problems > 0 {
		err = fmt.Errorf("%w: %d problems", errFsck, problems)
	}
	return err
}

func (r fsckResult) print(w io.Writer) {
	verdict := "holds"
	if len(r.Problems) > 0 {
		verdict = "DAMAGED"
	}
	fmt.Fprintf(w, "%-7s  %s: %d entries, %d tiles, %d heads, root %s, %.1f s, %.0f entries/s\n",
		r.Log, verdict, r.Entries, r.Tiles, r.Heads, r.RootHash, r.Seconds, float64(r.Entries)/max(r.Seconds, 1e-6))
	for _, p := range r.Problems {
		fmt.Fprintf(w, "         PROBLEM %s\n", p)
	}
	if r.Halted != "" {
		fmt.Fprintf(w, "         HALTED %s; see to the cause, then `redoubt log resume --log %s`\n", r.Halted, r.Log)
	}
}
