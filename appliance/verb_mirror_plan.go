package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
)

// mirrorPlans are the verbs that say what will be asked for, before it is.
func mirrorPlans() []*cli.Command {
	return []*cli.Command{
		{Name: "plan", Usage: "outside: say what the next pull asks of whom, what that reveals, and what each scope takes; only heads are read", Flags: mirrorFlags(), Action: func(c *cli.Context) error {
			report, err := mirrorPlan.call(c, struct{}{})
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, report, func(w io.Writer) { printPlan(w, report); printPlannedImages(w, report.Images) })
		}},
		{Name: "picklist", Usage: "inside: write what the outside is asked to pick, as text to read before it leaves", Flags: mirrorFlags(append(approvalFlags(),
			&cli.BoolFlag{Name: "preview", Usage: "show the text and its digest; nothing leaves and nobody is asked", EnvVars: []string{"REDOUBT_PREVIEW"}},
			&cli.StringFlag{Name: "out", Usage: "file to write; must not exist (default stdout)", EnvVars: []string{"REDOUBT_OUT"}})...), Action: picklistWritten},
	}
}

func printPlan(w io.Writer, r mirror.PlanReport) {
	for _, l := range r.Logs {
		where := l.Host
		if where == "" {
			where = "a folder"
		}
		fmt.Fprintf(w, "%s, scope %s, read at %s\n", l.Origin, l.Scope, where)
		if l.Error != "" {
			fmt.Fprintf(w, "  FAILED: %s\n", l.Error)
			continue
		}
		for _, a := range l.Asks {
			fmt.Fprintf(w, "  asks for %s\n", a)
		}
		for _, a := range l.Reveals {
			fmt.Fprintf(w, "  REVEALS to %s: %s\n", l.Host, a)
		}
		for _, e := range l.Estimates {
			if !e.Possible {
				fmt.Fprintf(w, "  %-6s cannot be had from this log\n", e.Scope)
				continue
			}
			fmt.Fprintf(w, "  %-6s about %d entries, %d requests, %s read, %s carried\n", e.Scope, e.Entries, e.Requests, megabytes(e.Fetched), megabytes(e.Carried))
		}
	}
}

func printPlannedImages(w io.Writer, all []mirror.PlanImage) {
	for _, i := range all {
		fmt.Fprintf(w, "%s\n", i.Reference)
		if i.Error != "" {
			fmt.Fprintf(w, "  FAILED: %s\n", i.Error)
			continue
		}
		fmt.Fprintf(w, "  stands for %s\n  asks for what vouches for it and for each of its platforms\n", i.Digest)
		if i.Host != "" {
			fmt.Fprintf(w, "  REVEALS to %s: the image\n", i.Host)
		}
		if i.Known {
			fmt.Fprintf(w, "  gathered before; it named %d log entries\n", i.Entries)
		}
	}
}

func megabytes(n uint64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func picklistWritten(c *cli.Context) error {
	a, err := outboundFlags(c)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(c.String("out")); c.String("out") != "" && err == nil { // before it is recorded that something left
		return fmt.Errorf("writing %s: %w", c.String("out"), fs.ErrExist)
	}
	r, err := mirrorPicklist.call(c, a)
	if err != nil {
		return err
	}
	if out := c.String("out"); out != "" && !a.Preview {
		if err := writeOnce(out, []byte(r.Text)); err != nil {
			return err
		}
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		if c.String("out") == "" || a.Preview {
			fmt.Fprint(w, r.Text)
		}
		fmt.Fprintf(cmdline.Progress(c), "SHA-256 %s\n", r.SHA256)
	})
}
