package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/freshness"
)

func mirrorCommand() *cli.Command {
	return &cli.Command{
		Name: "mirror", Usage: "carry public logs across the gap, prove them again inside, reconcile",
		Subcommands: slices.Concat(mirrorOutside(), []*cli.Command{importCommand(), artifactsCommand(), mirrorFsckCommand(), evidenceCommand(), mirrorTrustCommand(), claimsCommand(), coverageCommand()}, mirrorTransfers(), mirrorInside(), mirrorReceipts(), mirrorPlans(), mirrorDecisions()),
	}
}

func mirrorFlags(more ...cli.Flag) []cli.Flag {
	return append(append(cmdline.StateFlags(), cmdline.OutputFlag()), more...)
}

// mirrorOutside are the verbs of the connected side.
func mirrorOutside() []*cli.Command {
	return []*cli.Command{
		{Name: "key", Usage: "print the line the inside pins as exporter, or with --reports the one that checks this side's reconcile reports", Flags: mirrorFlags(
			&cli.BoolFlag{Name: "reports", Usage: "the key of reconcile reports", EnvVars: []string{"REDOUBT_REPORTS"}},
		), Action: func(c *cli.Context) error {
			k, err := mirrorKey.call(c, c.Bool("reports"))
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, k, func(w io.Writer) { fmt.Fprintln(w, k.Key) })
		}},
		{Name: "pull", Usage: "outside: collect and verify what the configured logs have that we have not", Flags: mirrorFlags(), Action: func(c *cli.Context) error {
			report, err := watched(c, mirrorPull, struct{}{})
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, report, func(w io.Writer) {
				printTUFSteps(w, report.TUF)
				printImageSteps(w, report.Images)
				printSteps(w, report.Logs)
			})
		}},
		{Name: "export", Usage: "outside: pack what is new into a signed parcel", Flags: mirrorFlags(
			&cli.StringFlag{Name: "out", Required: true, Usage: "folder for the volumes; exists", EnvVars: []string{"REDOUBT_OUT"}},
			&cli.StringFlag{Name: "volume-size", Value: "0", Usage: "largest volume: bytes, or a number with a decimal (4.4GB) or binary (4GiB) unit; 0: one volume", EnvVars: []string{"REDOUBT_VOLUME_SIZE"}},
			&cli.BoolFlag{Name: "refresh", Usage: "pack a parcel though no log grew, to say that nothing changed", EnvVars: []string{"REDOUBT_REFRESH"}},
			&cli.Uint64Flag{Name: "again", Usage: "make this parcel once more, the same bytes, because its volumes were lost", EnvVars: []string{"REDOUBT_AGAIN"}},
			&cli.BoolFlag{Name: "unacknowledged", Usage: "make every parcel once more that no receipt acknowledges, the same bytes, before the new one", EnvVars: []string{"REDOUBT_UNACKNOWLEDGED"}},
			&cli.StringSliceFlag{Name: "announce", Usage: "the line of a key that signs from the next parcel on; may be repeated", EnvVars: []string{"REDOUBT_ANNOUNCE"}},
			&cli.StringSliceFlag{Name: "retire", Usage: "the id (NAME+HASH) of a key that signs no parcel after this one; may be repeated", EnvVars: []string{"REDOUBT_RETIRE"}},
		), Action: func(c *cli.Context) error {
			out, err := absolute([]string{c.String("out")})
			if err != nil {
				return err
			}
			size, err := parseSize(c.String("volume-size"))
			if err != nil {
				return cmdline.Usage("--volume-size %q: %v", c.String("volume-size"), err)
			}
			packed, err := watched(c, mirrorExport, exportArgs{out[0], size, c.Bool("refresh"), c.Uint64("again"), c.Bool("unacknowledged"), c.StringSlice("announce"), c.StringSlice("retire")})
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, packed, func(w io.Writer) {
				for _, a := range packed.Again {
					fmt.Fprintf(w, "parcel %d once more, digest %s, %d bytes\n%s\n", a.Sequence, a.Digest, a.Bytes, strings.Join(a.Files, "\n"))
				}
				fmt.Fprintf(w, "parcel %d of %s, digest %s, %d bytes\n", packed.Sequence, packed.Stream, packed.Digest, packed.Bytes)
				printTUFSteps(w, packed.TUF)
				if packed.Images > 0 {
					fmt.Fprintf(w, "of %d images, %d files that vouch for them\n", packed.Images, packed.Blobs)
				}
				for _, f := range packed.Files {
					fmt.Fprintln(w, f)
				}
			})
		}},
	}
}

// mirrorInside are the verbs of the side without a network.
func mirrorInside() []*cli.Command {
	return []*cli.Command{
		{Name: "inspect", Usage: "say what a parcel holds and check its volumes, importing nothing", ArgsUsage: "VOLUME|FOLDER...", Flags: mirrorFlags(), Action: mirrorInspect},
		{Name: "accept-clock", Usage: "inside: let imports go by the clock as it is now, after you have looked at it", Flags: mirrorFlags(), Action: func(c *cli.Context) error {
			r, err := mirrorAcceptClock.call(c, struct{}{})
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, r, func(w io.Writer) {
				fmt.Fprintf(w, "the clock is accepted at %s; the last import was at %s\n", r.Now.Format(time.RFC3339), r.Was.Format(time.RFC3339))
			})
		}},
		{Name: "status", Usage: "the stream's last parcel, what is missing, every log's head and age; outside: what was sent and what is acknowledged", Flags: mirrorFlags(), Action: func(c *cli.Context) error {
			status, err := mirrorStatus.call(c, struct{}{})
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, status, func(w io.Writer) { printMirrorStatus(w, &status) })
		}},
		{Name: "reconcile", Usage: "inside: hash what is new and a part of the rest anew, compare with accepted checkpoints, report forks, gaps and ages; the report is signed", Flags: mirrorFlags(
			&cli.BoolFlag{Name: "full", Usage: "hash everything that is stored", EnvVars: []string{"REDOUBT_FULL"}},
		), Action: func(c *cli.Context) error {
			r, err := mirrorReconcile.call(c, c.Bool("full"))
			if err != nil {
				return err
			}
			if err := cmdline.PrintResult(c, r, func(w io.Writer) {
				for _, l := range r.Report.Logs {
					printLogStatus(w, l.LogStatus)
					fmt.Fprintf(w, "  %d leaves and %d tiles hashed anew, %d accepted checkpoints reproduced\n", l.Leaves, l.Tiles, l.Heads)
					printScrub(w, l.Scrub)
				}
				for _, t := range r.Report.TUF {
					printTUFStatus(w, t.TUFStatus)
					fmt.Fprintf(w, "  %d files verified again\n", t.Verified)
				}
				if i := r.Report.Images; i != nil {
					fmt.Fprintf(w, "images: %d files that vouch for them hashed anew\n", i.Files)
				}
				for _, m := range r.Report.Missing {
					fmt.Fprintf(w, "MISSING parcels %d to %d\n", m.First, m.Last)
				}
				printAbsence(w, r.Report.Absent)
				printClaims(w, r.Report.Claims)
				printCoverage(w, r.Report.Coverage)
				printWatched(w, r.Report.Watched)
				if n := r.Report.Waiting; n > 0 {
					fmt.Fprintf(w, "QUARANTINE %d parts of parcels wait: redoubt mirror quarantine list\n", n)
				}
				fmt.Fprintf(w, "signed report: %s\n", r.File)
			}); err != nil {
				return err
			}
			if r.Finding != "" {
				return cmdline.WithCode(r.Code, errors.New(r.Finding))
			}
			return nil
		}},
	}
}

func printMirrorStatus(w io.Writer, s *mirror.Status) {
	if s.Outside != nil {
		printOutside(w, s.Outside)
	}
	if s.Stream == "" {
		return
	}
	fmt.Fprintf(w, "stream %s, last parcel %d\n", s.Stream, s.Sequence)
	for _, m := range s.Missing {
		fmt.Fprintf(w, "MISSING parcels %d to %d\n", m.First, m.Last)
	}
	for _, t := range s.TUF {
		printTUFStatus(w, t)
	}
	for _, l := range s.Logs {
		printLogStatus(w, l)
	}
	printAbsence(w, s.Absent)
	printLastReconcile(w, s.Reconcile)
	if s.Inbox != nil {
		printInboxFiles(w, s.Inbox.Parcels, s.Inbox.Files)
	}
}

// printScrub prints what part of a log was hashed.
func printScrub(w io.Writer, s *mirror.ScrubReport) {
	switch {
	case s == nil:
	case s.Whole:
		fmt.Fprintf(w, "  everything, %d parts\n", s.Units)
	default:
		fmt.Fprintf(w, "  of %d parts %d new, %d damaged before, %d of the rest; everything was hashed %s or later\n", s.Units, s.New, s.Again, s.Window, s.Seen.Format(time.RFC3339))
		if s.Late {
			fmt.Fprintf(w, "  OVERDUE since %s: reconciles are too rare, or too short\n", s.Due.Format(time.RFC3339))
		}
	}
}

func printLastReconcile(w io.Writer, r *mirror.Reconciled) {
	switch {
	case r == nil:
		fmt.Fprintln(w, "never reconciled: redoubt mirror reconcile")
	case r.Outcome == mirror.Failed:
		fmt.Fprintf(w, "RECONCILE FAILED %s: %s\n", r.Failed.Format(time.RFC3339), r.Error)
	default:
		fmt.Fprintf(w, "reconciled %s: %s\n", r.Time.Format(time.RFC3339), r.Outcome)
		if r.Finding != "" {
			fmt.Fprintf(w, "  %s\n", r.Finding)
		}
	}
}

func printLogStatus(w io.Writer, l mirror.LogStatus) {
	if l.Observed.IsZero() {
		fmt.Fprintf(w, "%s: nothing was imported yet\n", l.Origin)
	} else {
		fmt.Fprintf(w, "%s: %d entries, root %s, observed %s ago\n", l.Origin, l.Size, l.Root, l.Age)
	}
	if l.Upstream != nil {
		fmt.Fprintf(w, "  BEHIND by %d entries: %d are known to exist (by %s: %s)\n", l.Lag, l.Upstream.Size, l.Upstream.By, l.Upstream.Source)
	}
	if l.Level != freshness.Fresh {
		fmt.Fprintf(w, "  %s: older than this site allows\n", strings.ToUpper(string(l.Level)))
	}
	if l.Stale {
		fmt.Fprintln(w, "  STALE beyond max-age")
	}
	if l.Frozen != nil {
		fmt.Fprintf(w, "  FROZEN: it showed two histories; evidence %s\n", l.Frozen.Evidence)
	}
}

func printSteps(w io.Writer, steps []mirror.PullStep) {
	for _, s := range steps {
		printStep(w, s.TransferStep)
		if s.Skipped != "" {
			fmt.Fprintf(w, "  not followed: %s\n", s.Skipped)
		} else if s.Error != "" {
			fmt.Fprintf(w, "  FAILED: %s\n", s.Error)
		} else if s.Fetched+s.Kept > 0 {
			fmt.Fprintf(w, "  %d entry bundles fetched, %d kept from an earlier pull\n", s.Fetched, s.Kept)
		}
	}
}

func printStep(w io.Writer, s mirror.TransferStep) {
	switch {
	case s.Frozen:
		fmt.Fprintf(w, "%s: FROZEN at %d entries: it showed two histories\n", s.Origin, s.To)
	case s.From == s.To && s.Entries > 0:
		fmt.Fprintf(w, "%s: %d records of %d entries, root %s\n", s.Origin, s.Entries, s.To, s.Root)
	case s.From == s.To:
		fmt.Fprintf(w, "%s: nothing new, %d entries, root %s\n", s.Origin, s.To, s.Root)
	default:
		fmt.Fprintf(w, "%s: from %d to %d entries, root %s\n", s.Origin, s.From, s.To, s.Root)
	}
}

func printTransfers(w io.Writer, r mirror.Report) {
	for _, t := range r.Transfers {
		fmt.Fprintf(w, "parcel %d of %s, %s, made %s by %s\n", t.Sequence, r.Stream, t.Outcome, t.Created.Format(time.RFC3339), t.Exporter)
		printTUFSteps(w, t.TUF)
		if len(t.Images) > 0 {
			fmt.Fprintf(w, "  of %d images, %d files that vouch for them\n", len(t.Images), t.Blobs)
		}
		for _, l := range t.Logs {
			fmt.Fprint(w, "  ")
			printStep(w, l)
		}
	}
}

// mirrorInspect needs no state, only the exporters' keys of the configuration.
func mirrorInspect(c *cli.Context) error {
	if c.NArg() == 0 {
		return cmdline.Usage("mirror inspect takes volumes, or folders of volumes")
	}
	cfg, _, err := configured(c)
	if err != nil {
		return err
	}
	found, failed := mirror.Inspect(c.Context, c.Args().Slice(), cfg.Mirror.Exporters)
	if len(found) > 0 {
		err := cmdline.PrintResult(c, found, func(w io.Writer) {
			for _, p := range found {
				fmt.Fprintf(w, "parcel %d of %s, made %s by %s, whole=%t\n", p.Manifest.Sequence, p.Manifest.Stream, p.Manifest.Created.Format(time.RFC3339), p.Manifest.Exporter, p.Whole)
				for _, l := range p.Manifest.Logs {
					fmt.Fprintf(w, "  %s: from %d to %d entries, scope %s\n", l.Origin, l.From.Size, l.To.Size, l.Scope)
				}
				if n := len(p.Manifest.Blobs); n > 0 {
					var size int64
					for _, b := range p.Manifest.Blobs {
						size += b.Bytes
					}
					fmt.Fprintf(w, "  %d files that vouch for images, %s\n", n, megabytes(uint64(size)))
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return cmdline.WithCode(mirror.ExitCode(failed), failed)
}
