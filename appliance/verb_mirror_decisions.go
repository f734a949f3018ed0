package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
)

// mirrorDecisions are the verbs by which people look at what the mirror stopped for, and decide.
func mirrorDecisions() []*cli.Command {
	return []*cli.Command{
		watchCommand(),
		{Name: "unfreeze", Usage: "let a log that showed two histories go on, as two people approved: with its own history, or not at all", ArgsUsage: "ORIGIN", Action: unfreeze,
			Flags: mirrorFlags(append(approvalFlags(),
				&cli.BoolFlag{Name: "keep", Usage: "the log goes on from the head that is held; what contradicts it freezes it again", EnvVars: []string{"REDOUBT_KEEP"}},
				&cli.BoolFlag{Name: "retire", Usage: "the log stays readable where it stands and takes nothing more", EnvVars: []string{"REDOUBT_RETIRE"}},
				&cli.StringFlag{Name: "successor", Usage: "with --retire: origin of the log that takes its place", EnvVars: []string{"REDOUBT_SUCCESSOR"}},
				outsideFlag())...)},
		{Name: "quarantine", Usage: "what was carried of logs or keys that are not known here", Subcommands: []*cli.Command{
			{Name: "list", Usage: "what waits, by log and parcel, and why", Flags: mirrorFlags(), Action: quarantineList},
			{Name: "show", Usage: "what waits of one log, with the digests people approve", ArgsUsage: "ORIGIN", Flags: mirrorFlags(), Action: quarantineShow},
			{Name: "release", Usage: "prove and take in what waits of a log, as two people approved; what does not prove stays", ArgsUsage: "ORIGIN", Action: quarantineRelease,
				Flags: mirrorFlags(append(approvalFlags(),
					&cli.StringFlag{Name: "key", Usage: "file with the key of a log that is not known: PEM, or a C2SP note verifier line; the log is believed by it from then on", EnvVars: []string{"REDOUBT_KEY"}})...)},
		}},
	}
}

func outsideFlag() cli.Flag {
	return &cli.BoolFlag{Name: "outside", Usage: "on the connected side: of the logs that are collected there", EnvVars: []string{"REDOUBT_OUTSIDE"}}
}

// evidenceVerbs look at the evidence this deployment keeps.
func evidenceVerbs() []*cli.Command {
	return []*cli.Command{
		{Name: "list", Usage: "the evidence kept here, whether each file proves what it claims, and what people decided", Flags: mirrorFlags(outsideFlag()), Action: evidenceList},
		{Name: "show", Usage: "print one file of evidence, to hand it on", ArgsUsage: "NAME|SHA256", Flags: mirrorFlags(), Action: evidenceShow},
	}
}

func oneOrigin(c *cli.Context) (string, error) {
	if c.NArg() != 1 {
		return "", cmdline.Usage("%s takes one ORIGIN", c.Command.HelpName)
	}
	return c.Args().First(), nil
}

func unfreeze(c *cli.Context) error {
	origin, err := oneOrigin(c)
	if err != nil {
		return err
	}
	if c.Bool("keep") == c.Bool("retire") {
		return cmdline.Usage("mirror unfreeze takes one of --keep and --retire")
	}
	if c.String("successor") != "" && !c.Bool("retire") {
		return cmdline.Usage("--successor goes with --retire")
	}
	given, err := givenApprovals(c)
	if err != nil {
		return err
	}
	s, err := mirrorUnfreeze.call(c, unfreezeArgs{origin, c.Bool("outside"), mirror.Resolution{Retire: c.Bool("retire"), Successor: c.String("successor")}, given})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, s, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s, at %d entries, root %s; approved by %v\nevidence stays: %s\n", s.Origin, s.Resolution, s.Size, s.Root, s.By, s.Evidence)
		if !s.Retire {
			fmt.Fprintf(w, "next: the next parcel has to carry %s on from %d entries\n", s.Origin, s.Size)
		}
	})
}

func quarantineList(c *cli.Context) error {
	all, err := mirrorQuarantine.call(c, struct{}{})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, all, func(w io.Writer) {
		for _, q := range all {
			printQuarantined(w, q)
		}
		if len(all) == 0 {
			fmt.Fprintln(w, "nothing is in quarantine")
		}
	})
}

func printQuarantined(w io.Writer, q mirror.Quarantined) {
	fmt.Fprintf(w, "%s: parcel %d, from %d to %d entries, scope %s, %d bytes, since %s\n  %s\n", q.Origin, q.Sequence, q.Log.From.Size, q.Log.To.Size, q.Log.Scope, q.Bytes, q.Since.Format(time.RFC3339), q.Reason)
	if q.Failed != "" {
		fmt.Fprintf(w, "  DID NOT PROVE: %s\n", q.Failed)
	}
}

func quarantineShow(c *cli.Context) error {
	origin, err := oneOrigin(c)
	if err != nil {
		return err
	}
	files, err := mirrorQuarantineOf.call(c, origin)
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, files, func(w io.Writer) {
		for _, f := range files {
			printQuarantined(w, f.Quarantined)
			fmt.Fprintf(w, "  parcel %s by %s\n  %d files, SHA-256 of their list %s\n", f.Parcel, f.Exporter, f.Files, f.SHA256)
		}
	})
}

func quarantineRelease(c *cli.Context) error {
	origin, err := oneOrigin(c)
	if err != nil {
		return err
	}
	a := releaseArgs{Origin: origin}
	if a.approvalArgs, err = givenApprovals(c); err != nil {
		return err
	}
	if file := c.String("key"); file != "" {
		key, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("--key: %w", err)
		}
		a.Key = string(key)
	}
	r, err := mirrorRelease.call(c, a)
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "released from quarantine, approved by %v\n", r.By)
		for _, s := range r.Steps {
			printStep(w, s)
		}
	})
}

func evidenceList(c *cli.Context) error {
	r, err := mirrorEvidence.call(c, c.Bool("outside"))
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		for _, f := range r.Files {
			verdict := "proves two histories"
			if f.Problem != "" {
				verdict = "DOES NOT STAND BY ITSELF: " + f.Problem
			}
			fmt.Fprintf(w, "%s\n  of %s, SHA-256 %s: %s\n", f.Name, f.Origin, f.SHA256, verdict)
		}
		for _, s := range r.Settled {
			fmt.Fprintf(w, "settled %s: %s: %s, at %d entries, by %v\n", s.At.Format(time.RFC3339), s.Origin, s.Resolution, s.Size, s.By)
		}
		if len(r.Files)+len(r.Settled) == 0 {
			fmt.Fprintln(w, "no evidence: no log showed two histories")
		}
	})
}

func evidenceShow(c *cli.Context) error {
	if c.NArg() != 1 {
		return cmdline.Usage("mirror evidence show takes one NAME or SHA256")
	}
	f, err := mirrorEvidenceShow.call(c, c.Args().First())
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, f, func(w io.Writer) { io.WriteString(w, f.Text) })
}
