package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/diode"
)

// mirrorTransfers are the verbs of media, diodes and exporters' keys.
func mirrorTransfers() []*cli.Command {
	return []*cli.Command{
		{Name: "send", Usage: "outside: cut volumes into shards for a line that only goes one way; touches no state", ArgsUsage: "VOLUME|FOLDER...", Action: mirrorSent, Flags: []cli.Flag{
			&cli.StringFlag{Name: "diode", Required: true, Usage: "folder the line takes files from; exists", EnvVars: []string{"REDOUBT_DIODE"}},
			&cli.IntFlag{Name: "parity", Value: 25, Usage: "parity shards for every 100 data shards: so many may be lost of each volume", EnvVars: []string{"REDOUBT_PARITY"}},
			&cli.StringFlag{Name: "shard-size", Value: "1MiB", Usage: "size of a data shard; volumes of more than about 200 shards have larger ones", EnvVars: []string{"REDOUBT_SHARD_SIZE"}},
			&cli.IntFlag{Name: "repeat", Value: 1, Usage: "how often every shard is sent", EnvVars: []string{"REDOUBT_REPEAT"}},
			&cli.DurationFlag{Name: "every", Usage: "time between two rounds, and then the folder holds one round at a time; 0: all copies at once", EnvVars: []string{"REDOUBT_EVERY"}},
			cmdline.OutputFlag(),
		}},
		{Name: "receive", Usage: "inside: put volumes together from shards, import those parcels that are whole", Action: mirrorReceived, Flags: mirrorFlags(
			&cli.StringFlag{Name: "diode", Required: true, Usage: "folder the line puts files into", EnvVars: []string{"REDOUBT_DIODE"}},
			&cli.BoolFlag{Name: "sweep", Usage: "remove the shards of volumes that were imported", EnvVars: []string{"REDOUBT_SWEEP"}},
			&cli.DurationFlag{Name: "older", Usage: "with --sweep: remove shards that lie there longer than this, too", EnvVars: []string{"REDOUBT_OLDER"}},
		)},
		{Name: "media", Usage: "inside: the register of media that were put in: label, digest, who, when, what became of it", Flags: mirrorFlags(), Action: mirrorMediaListed},
		{Name: "exporter", Usage: "whose parcels are taken: exporters' keys, and how a new one takes over from a lost one", Subcommands: []*cli.Command{
			{Name: "list", Usage: "inside: every exporter key, since when and until when it counts", Flags: mirrorFlags(), Action: exportersListed},
			{Name: "announce", Usage: "inside: draw up the announcement of a new exporter's key, where the mirror stands now", Action: exporterAnnounced, Flags: mirrorFlags(
				&cli.StringFlag{Name: "key", Required: true, Usage: "the new exporter's line, as `redoubt mirror key` prints it there", EnvVars: []string{"REDOUBT_KEY"}},
				&cli.BoolFlag{Name: "keep", Usage: "let the keys there are go on counting; left out, they count no more", EnvVars: []string{"REDOUBT_KEEP"}},
				&cli.StringFlag{Name: "out", Required: true, Usage: "file to write; must not exist", EnvVars: []string{"REDOUBT_OUT"}},
			)},
			{Name: "accept", Usage: "inside: take the announced key from the next parcel on; several people must approve", Action: exporterAccepted, Flags: append(mirrorFlags(
				&cli.StringFlag{Name: "announcement", Required: true, Usage: "the announcement's file", EnvVars: []string{"REDOUBT_ANNOUNCEMENT"}},
			), approvalFlags()...)},
			{Name: "continue", Usage: "outside: go on where the announcement says that the inside stands", Action: exporterContinued, Flags: mirrorFlags(
				&cli.StringFlag{Name: "announcement", Required: true, Usage: "the announcement's file", EnvVars: []string{"REDOUBT_ANNOUNCEMENT"}},
			)},
		}},
	}
}

func mirrorSent(c *cli.Context) error {
	if c.NArg() == 0 {
		return cmdline.Usage("mirror send takes volumes, or folders of volumes")
	}
	size, err := parseSize(c.String("shard-size"))
	if err != nil {
		return cmdline.Usage("--shard-size %q: %v", c.String("shard-size"), err)
	}
	sent, err := sendVolumes(c.Context, diode.Settings{
		Out: c.String("diode"), Parity: c.Int("parity"), ShardSize: size, Repeat: c.Int("repeat"), Every: c.Duration("every"),
	}, c.Args().Slice())
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, sent, func(w io.Writer) {
		for _, s := range sent {
			fmt.Fprintf(w, "%s: %d data and %d parity shards of %d bytes, %d times\n", s.File, s.Data, s.Parity, s.ShardBytes, s.Rounds)
		}
	})
}

func mirrorReceived(c *cli.Context) error {
	dir, err := absolute([]string{c.String("diode")})
	if err != nil {
		return err
	}
	return looked(c, lookArgs{Dir: dir[0], Diode: true, Sweep: c.Bool("sweep"), Older: c.Duration("older")})
}

// looked looks at an inbox and prints what came of it, also where something in it was refused.
func looked(c *cli.Context, a lookArgs) error {
	report, err := watched(c, mirrorLook, a)
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, report, func(w io.Writer) { printInbox(w, report) })
}

func printInbox(w io.Writer, r mirror.InboxReport) {
	printTransfers(w, mirror.Report{Transfers: r.Transfers})
	if r.Diode != nil {
		for _, v := range r.Diode.Volumes {
			fmt.Fprintf(w, "volume %s: %s, %d of %d shards\n", v.Volume, v.State, v.Have, v.Data+v.Parity)
			if v.Detail != "" {
				fmt.Fprintf(w, "  %s\n", v.Detail)
			}
		}
		for _, d := range r.Diode.Damaged {
			fmt.Fprintf(w, "DAMAGED %s: %s\n", d.File, d.Reason)
		}
	}
	printInboxFiles(w, r.Parcels, r.Files)
	if r.Swept != nil {
		fmt.Fprintf(w, "removed %d shards and %d volumes put together from shards, %d bytes\n", r.Swept.Shards, r.Swept.Volumes, r.Swept.Bytes)
	}
}

func printInboxFiles(w io.Writer, parcels []mirror.InboxParcel, files []mirror.InboxFile) {
	for _, p := range parcels {
		fmt.Fprintf(w, "parcel %d in the inbox: %s\n", p.Sequence, p.State)
		if p.Detail != "" {
			fmt.Fprintf(w, "  %s\n", p.Detail)
		}
	}
	for _, f := range files {
		fmt.Fprintf(w, "%s %s: %s\n", strings.ToUpper(f.State), f.Path, f.Detail)
	}
}

func mirrorMediaListed(c *cli.Context) error {
	media, err := mirrorMedia.call(c, struct{}{})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, media, func(w io.Writer) {
		for _, m := range media {
			fmt.Fprintf(w, "%d %s %s %q by %s: %s", m.Number, m.Began.Format(time.RFC3339), m.Digest[:16], m.Label, m.Who, m.Outcome)
			for _, p := range m.Parcels {
				fmt.Fprintf(w, ", parcel %d", p.Sequence)
			}
			if m.Error != "" {
				fmt.Fprintf(w, " (exit %d: %s)", m.Code, m.Error)
			}
			fmt.Fprintln(w)
		}
	})
}

func exportersListed(c *cli.Context) error {
	keys, err := mirrorExporters.call(c, struct{}{})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, keys, func(w io.Writer) {
		for _, k := range keys {
			state := "in use"
			if !k.Valid {
				state = "does not count"
			}
			fmt.Fprintf(w, "%s: %s", k.ID, state)
			if k.First > 0 {
				fmt.Fprintf(w, ", from parcel %d", k.First)
			}
			if k.Last > 0 {
				fmt.Fprintf(w, ", until parcel %d", k.Last)
			}
			if k.By != "" {
				fmt.Fprintf(w, ", announced by %s", k.By)
			}
			if len(k.Approved) > 0 {
				fmt.Fprintf(w, ", approved by %s", strings.Join(k.Approved, ", "))
			}
			fmt.Fprintln(w)
		}
	})
}

func exporterAnnounced(c *cli.Context) error {
	made, err := mirrorAnnounce.call(c, announceArgs{c.String("key"), c.Bool("keep")})
	if err != nil {
		return err
	}
	if err := writeOnce(c.String("out"), []byte(made.Text)); err != nil {
		return err
	}
	return cmdline.PrintResult(c, made, func(w io.Writer) {
		fmt.Fprintf(w, "%s announces %s after parcel %d of %s\n", c.String("out"), made.Announcement.Key, made.Announcement.Last.Sequence, made.Announcement.Stream)
	})
}

func exporterAccepted(c *cli.Context) error {
	text, err := readRecord(c.String("announcement"))
	if err != nil {
		return err
	}
	given, err := givenApprovals(c)
	if err != nil {
		return err
	}
	k, err := mirrorAcceptExporter.call(c, acceptArgs{text, given})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, k, func(w io.Writer) {
		fmt.Fprintf(w, "accepted from parcel %d on, approved by %s: %s\n", k.First, strings.Join(k.Approved, ", "), k.Key)
	})
}

func exporterContinued(c *cli.Context) error {
	text, err := readRecord(c.String("announcement"))
	if err != nil {
		return err
	}
	made, err := mirrorContinue.call(c, text)
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, made, func(w io.Writer) {
		fmt.Fprintf(w, "the next parcel of %s is number %d\n", made.Stream, made.Last.Sequence+1)
	})
}
