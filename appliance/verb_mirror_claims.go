package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
)

var mirrorClaimsOf = verb[struct{}, []mirror.EntryClaim]{"mirror.claims", func(ctx context.Context, in *instance, _ string, _ struct{}) ([]mirror.EntryClaim, error) {
	m, err := in.inside()
	if err != nil {
		return nil, err
	}
	in.observeSpool(ctx)
	claims, err := m.Claims(ctx)
	return claims, cmdline.WithCode(mirror.ExitCode(err), err)
}}

func claimsCommand() *cli.Command {
	return &cli.Command{
		Name: "claims", Usage: "inside: entries of mirrored logs that bundles verified here claim, and whether they stand in the mirror", Flags: mirrorFlags(
			&cli.BoolFlag{Name: "open", Usage: "only those that are neither mirrored nor proven", EnvVars: []string{"REDOUBT_OPEN"}},
		),
		Action: func(c *cli.Context) error {
			claims, err := mirrorClaimsOf.call(c, struct{}{})
			if err != nil {
				return err
			}
			if c.Bool("open") {
				claims = slices.DeleteFunc(claims, func(e mirror.EntryClaim) bool {
					return e.Stands == mirror.ClaimMirrored || e.Stands == mirror.ClaimProven
				})
			}
			return cmdline.PrintResult(c, claims, func(w io.Writer) {
				for _, e := range claims {
					printClaim(w, e)
				}
			})
		},
	}
}

func printClaim(w io.Writer, e mirror.EntryClaim) {
	fmt.Fprintf(w, "%-12s %s entry %d, shown %s by %s\n", e.Stands, e.Origin, e.Index, e.Seen.Format(time.RFC3339), e.Source)
	if e.Evidence != "" {
		fmt.Fprintf(w, "  evidence %s\n", e.Evidence)
	}
}

// printClaims prints how the bundles that were seen here stand to the mirror.
func printClaims(w io.Writer, r *mirror.ClaimsReport) {
	if r == nil || r.Seen == 0 {
		return
	}
	fmt.Fprintf(w, "entries claimed by bundles verified here: %d, mirrored %d, proven %d, not carried %d, beyond the head %d, contradicted %d, unread %d\n",
		r.Seen, r.Mirrored, r.Proven, r.NotCarried, r.Beyond, r.Contradicted, r.Unread)
	for _, e := range r.Open {
		fmt.Fprint(w, "  ")
		printClaim(w, e)
	}
}

// printAbsence prints what is not here that one would expect.
func printAbsence(w io.Writer, a *mirror.Absence) {
	if a == nil {
		return
	}
	for _, l := range a.Unmirrored {
		what := "NOT MIRRORED"
		if l.Known {
			what = "NOTHING CARRIED YET"
		}
		fmt.Fprintf(w, "%s %s log %s, which the trusted root of %s names\n", what, l.Kind, l.Origin, l.Repository)
	}
	for _, l := range a.Ended {
		when := "it is pinned as frozen"
		if !l.Ended.IsZero() {
			when = "by the trusted root on " + l.Ended.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "ended %s at %d entries, %s\n", l.Origin, l.Size, when)
	}
	if e := a.Exporter; e != nil && e.Silent {
		fmt.Fprintf(w, "SILENT exporter: nothing was heard of it since %s, a parcel is expected every %v\n", e.Last.Format(time.RFC3339), time.Duration(e.Cadence)*time.Second)
	}
}
