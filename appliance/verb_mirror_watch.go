package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
)

// watchCommand are the verbs about entries that are watched for.
func watchCommand() *cli.Command {
	return &cli.Command{Name: "watch", Usage: "inside: entries of mirrored logs that are watched for (mirror.watch): who signed as us outside", Subcommands: []*cli.Command{
		{Name: "list", Usage: "what the watches found and nobody acknowledged", Flags: mirrorFlags(&cli.BoolFlag{Name: "all", Usage: "those that were acknowledged too", EnvVars: []string{"REDOUBT_ALL"}}), Action: watchList},
		{Name: "scan", Usage: "look at what was mirrored since the last time, as reconcile does", Flags: mirrorFlags(&cli.BoolFlag{Name: "again", Usage: "look at every entry again", EnvVars: []string{"REDOUBT_AGAIN"}}), Action: watchScan},
		{Name: "ack", Usage: "say that hits are known about; they are no alarm any more", Action: watchAck, Flags: mirrorFlags(
			&cli.StringFlag{Name: "watch", Required: true, Usage: "name of the watch", EnvVars: []string{"REDOUBT_WATCH"}},
			&cli.StringFlag{Name: "origin", Usage: "hits in this log only", EnvVars: []string{"REDOUBT_ORIGIN"}},
			&cli.Uint64Flag{Name: "index", Usage: "with --origin: the hit at this index only", EnvVars: []string{"REDOUBT_INDEX"}},
			&cli.StringFlag{Name: "note", Usage: "why it is no alarm; goes into the audit log", EnvVars: []string{"REDOUBT_NOTE"}})},
	}}
}

var mirrorHits = verb[bool, []mirror.Hit]{"mirror.watch.list", func(_ context.Context, in *instance, _ string, all bool) ([]mirror.Hit, error) {
	m, err := in.inside()
	if err != nil {
		return nil, err
	}
	return m.Hits(all)
}}

var mirrorWatchScan = verb[bool, mirror.WatchReport]{"mirror.watch.scan", func(ctx context.Context, in *instance, _ string, again bool) (mirror.WatchReport, error) {
	m, err := in.inside()
	if err != nil {
		return mirror.WatchReport{}, err
	}
	if again {
		if err := m.Rewatch(); err != nil {
			return mirror.WatchReport{}, err
		}
	}
	r, err := m.Watch(ctx)
	if r == nil && err == nil {
		err = cmdline.Hinted(fmt.Errorf("%w: nothing is watched for", mirror.ErrNothing), "set mirror.watch; `redoubt docs config` explains it")
	}
	if err != nil {
		return mirror.WatchReport{}, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	return *r, nil
}}

// ackArgs are what `mirror watch ack` asks for.
type ackArgs struct {
	mirror.AckFilter
	Note string `json:"note,omitempty"`
}

// ackResult is the JSON of `redoubt mirror watch ack -o json`.
type ackResult struct {
	Acknowledged int `json:"acknowledged"` // hits
}

var mirrorWatchAck = verb[ackArgs, ackResult]{"mirror.watch.ack", func(ctx context.Context, in *instance, actor string, a ackArgs) (ackResult, error) {
	m, err := in.inside()
	if err != nil {
		return ackResult{}, err
	}
	n, err := m.Acknowledge(ctx, a.AckFilter, actor, a.Note)
	return ackResult{n}, cmdline.WithCode(mirror.ExitCode(err), err)
}}

func watchList(c *cli.Context) error {
	hits, err := mirrorHits.call(c, c.Bool("all"))
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, hits, func(w io.Writer) {
		for _, h := range hits {
			printHit(w, h)
		}
		if len(hits) == 0 {
			fmt.Fprintln(w, "nothing that is watched for appeared unacknowledged")
		}
	})
}

func printHit(w io.Writer, h mirror.Hit) {
	fmt.Fprintf(w, "%s: %s entry %d, %s, signed %s by %q, issuer %q\n", h.Watch, h.Origin, h.Index, h.Kind, h.Signed.Format(time.RFC3339), strings.Join(h.Identities, ", "), h.Issuer)
	for _, d := range h.Digests {
		fmt.Fprintf(w, "  %s\n", d)
	}
	if h.Acked != nil {
		fmt.Fprintf(w, "  acknowledged %s by %s %q\n", h.Acked.At.Format(time.RFC3339), h.Acked.By, h.Acked.Note)
	}
}

func watchScan(c *cli.Context) error {
	r, err := mirrorWatchScan.call(c, c.Bool("again"))
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) { printWatched(w, &r) })
}

// printWatched prints what the watches found, and what they cannot say.
func printWatched(w io.Writer, r *mirror.WatchReport) {
	if r == nil {
		return
	}
	for _, l := range r.Coverage {
		fmt.Fprintf(w, "watched %s: %d of %d entries looked at", l.Origin, l.Looked, l.Size)
		if !l.Proves {
			fmt.Fprintf(w, ", %d of them do not say all; that there is no other hit CANNOT be said (scope %s)", l.Opaque, l.Scope)
		}
		fmt.Fprintln(w)
	}
	for _, h := range r.Newest {
		fmt.Fprint(w, "WATCHED ")
		printHit(w, h)
	}
	if r.Hits > len(r.Newest) {
		fmt.Fprintf(w, "WATCHED %d hits more\n", r.Hits-len(r.Newest))
	}
}

func watchAck(c *cli.Context) error {
	a := ackArgs{mirror.AckFilter{Watch: c.String("watch"), Origin: c.String("origin")}, c.String("note")}
	if c.IsSet("index") {
		if a.Origin == "" {
			return cmdline.Usage("--index goes with --origin")
		}
		n := c.Uint64("index")
		a.Index = &n
	}
	r, err := mirrorWatchAck.call(c, a)
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) { fmt.Fprintf(w, "%d hits acknowledged\n", r.Acknowledged) })
}
