package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"rsc.io/qr"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
)

// maxReceiptFile bounds what is read of a receipt, a list or a file of heads.
const maxReceiptFile = 4 << 20

// mirrorReceipts are the verbs of the way back, and of enclaves that compare.
func mirrorReceipts() []*cli.Command {
	preview := &cli.BoolFlag{Name: "preview", Usage: "print what would be signed and its SHA-256, and nothing else", EnvVars: []string{"REDOUBT_PREVIEW"}}
	return []*cli.Command{
		{Name: "receipt", Usage: "inside: print what arrived and where every log stands, signed, at most 1 kB, for the way back", Flags: mirrorFlags(append(approvalFlags(), preview,
			&cli.StringFlag{Name: "qr", Usage: "write it as a QR code as well: a PNG file, or - for blocks on the terminal", EnvVars: []string{"REDOUBT_QR"}},
			&cli.StringFlag{Name: "whole", Usage: "write the whole list of heads here if it does not fit; must not exist", EnvVars: []string{"REDOUBT_WHOLE"}})...),
			Action: receiptPrinted, Subcommands: []*cli.Command{
				{Name: "read", Usage: "outside: take in a receipt, compare it with what was sent, remember what it acknowledges", ArgsUsage: "FILE|-", Flags: mirrorFlags(
					&cli.StringFlag{Name: "whole", Usage: "the whole list of heads that came with it", EnvVars: []string{"REDOUBT_WHOLE"}}), Action: receiptRead},
			}},
		{Name: "heads", Usage: "inside: write every head with the log's checkpoint, cosigned, for other enclaves to compare", Flags: mirrorFlags(append(approvalFlags(), preview,
			&cli.StringFlag{Name: "out", Usage: "file to write; must not exist", EnvVars: []string{"REDOUBT_OUT"}})...), Action: headsWritten},
		{Name: "compare", Usage: "inside: compare another enclave's receipt or heads, or one checkpoint of a log, with what is held here", ArgsUsage: "FILE|-", Flags: mirrorFlags(), Action: headsCompared},
		{Name: "observed", Usage: "inside: list the checkpoints that came another way than by parcels, and whether they are proven", Flags: mirrorFlags(), Action: observedListed},
	}
}

func outboundFlags(c *cli.Context) (outboundArgs, error) {
	given, err := givenApprovals(c)
	return outboundArgs{c.Bool("preview"), given}, err
}

func receiptPrinted(c *cli.Context) error {
	if c.NArg() > 0 {
		return cmdline.Usage("mirror receipt takes no %q; redoubt mirror receipt read FILE reads one", c.Args().First())
	}
	a, err := outboundFlags(c)
	if err != nil {
		return err
	}
	r, err := mirrorReceipt.call(c, a)
	if err != nil {
		return err
	}
	if a.Preview {
		return printPreview(c, r)
	}
	if r.Uncosigned != "" {
		fmt.Fprintf(cmdline.Progress(c), "no copy is cosigned: %s\n", r.Uncosigned)
	}
	if err := writeWhole(c, r); err != nil {
		return err
	}
	blocks, err := drawReceipt(r.Note, c.String("qr"))
	if err != nil {
		return fmt.Errorf("drawing the receipt: %w", err)
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) { fmt.Fprint(w, r.Note, blocks) })
}

// drawReceipt writes a receipt as a QR code into a PNG file, or returns it as blocks for "-". Paper gets folded and stained, a
// screen is small: the file can spare more of its modules.
func drawReceipt(note, to string) (blocks string, err error) {
	switch to {
	case "":
		return "", nil
	case "-":
		code, err := qr.Encode(note, qr.L)
		if err != nil {
			return "", err
		}
		return qrBlocks(code), nil
	}
	code, err := qr.Encode(note, qr.M)
	if err != nil {
		return "", err
	}
	return "", writeFileAtomic(to, code.PNG(), 0o644)
}

// writeWhole writes the list a short receipt names, or says that there is one.
func writeWhole(c *cli.Context, r receiptResult) error {
	file := c.String("whole")
	switch {
	case r.Whole == "" && file != "":
		fmt.Fprintf(cmdline.Progress(c), "the receipt holds everything: %s is not needed and was not written\n", file)
	case r.Whole != "" && file == "":
		fmt.Fprintf(cmdline.Progress(c), "%d of %d logs fit into the receipt, which names the digest of the whole list: --whole FILE writes that\n", len(r.Statement.Heads), r.Statement.Total)
	case r.Whole != "":
		return writeOnce(file, []byte(r.Whole))
	}
	return nil
}

func printPreview(c *cli.Context, r receiptResult) error {
	return cmdline.PrintResult(c, r, func(w io.Writer) { fmt.Fprintf(w, "%sSHA-256 %s\n", indent(r.Text), r.SHA256) })
}

// qrBlocks draws a code with half blocks, two rows of modules in a line: what is light in print is light on a dark terminal.
func qrBlocks(code *qr.Code) string {
	const quiet = 4
	light := func(x, y int) bool { return !code.Black(x, y) }
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		for x := -quiet; x < code.Size+quiet; x++ {
			switch top, bottom := light(x, y), light(x, y+1); {
			case top && bottom:
				b.WriteRune('█')
			case top:
				b.WriteRune('▀')
			case bottom:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func headsWritten(c *cli.Context) error {
	if c.NArg() > 0 || c.String("out") == "" && !c.Bool("preview") {
		return cmdline.Usage("mirror heads takes --out FILE, or --preview")
	}
	a, err := outboundFlags(c)
	if err != nil {
		return err
	}
	r, err := mirrorHeads.call(c, a)
	if err != nil {
		return err
	}
	if a.Preview {
		return printPreview(c, r)
	}
	if r.Uncosigned != "" {
		fmt.Fprintf(cmdline.Progress(c), "no checkpoint is cosigned: %s\n", r.Uncosigned)
	}
	if err := writeOnce(c.String("out"), []byte(r.File)); err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "%d heads after parcel %d: %s\n", len(r.Statement.Heads), r.Statement.Sequence, c.String("out"))
	})
}

// readOperand reads the one operand of a verb: a file, or - for the standard input.
func readOperand(c *cli.Context, what string) ([]byte, error) {
	if c.NArg() != 1 {
		return nil, cmdline.Usage("%s takes one FILE, or - for the standard input", what)
	}
	return readLimited(c, c.Args().First())
}

func readLimited(c *cli.Context, name string) ([]byte, error) {
	in := c.App.Reader
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxReceiptFile+1))
	if err == nil && len(data) > maxReceiptFile {
		err = fmt.Errorf("%s is too large", name)
	}
	return data, err
}

func receiptRead(c *cli.Context) error {
	data, err := readOperand(c, "mirror receipt read")
	if err != nil {
		return err
	}
	a := receiptArgs{Data: data, Source: c.Args().First()}
	if file := c.String("whole"); file != "" {
		if a.Whole, err = readLimited(c, file); err != nil {
			return err
		}
	}
	r, err := mirrorReceiptRead.call(c, a)
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "%s imported parcel %d of %s at %s; acknowledged up to %d, %d wait for a receipt\n", r.Receiver, r.Sequence, r.Stream, r.Time.Format(time.RFC3339), r.Acknowledged, r.Unacknowledged)
		if r.LeftOut > 0 {
			fmt.Fprintf(w, "%d logs are only in the whole list: --whole FILE\n", r.LeftOut)
		}
		printStands(w, r.Heads)
	})
}

func headsCompared(c *cli.Context) error {
	data, err := readOperand(c, "mirror compare")
	if err != nil {
		return err
	}
	r, err := mirrorCompare.call(c, receiptArgs{Data: bytes.TrimLeft(data, "\r\n"), Source: c.Args().First()})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "%s by %s\n", r.Kind, r.By)
		printStands(w, r.Heads)
	})
}

func printStands(w io.Writer, heads []mirror.HeadStand) {
	for _, h := range heads {
		fmt.Fprintf(w, "  %s: %d entries, root %s: %s", h.Origin, h.Size, h.Root, h.Stands)
		if !h.Cosigned.IsZero() {
			fmt.Fprintf(w, ", whole copy cosigned %s", h.Cosigned.Format(time.RFC3339))
		}
		fmt.Fprintln(w)
	}
}

func observedListed(c *cli.Context) error {
	all, err := mirrorObserved.call(c, struct{}{})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, all, func(w io.Writer) {
		for _, s := range all {
			fmt.Fprintf(w, "%s: %d entries, root %s: %s, from %s %s\n", s.Origin, s.Size, s.Root, s.State, s.Source, s.Seen.Format(time.RFC3339))
			if len(s.Witnesses) > 0 {
				fmt.Fprintf(w, "  cosigned by %s\n", strings.Join(s.Witnesses, ", "))
			}
			if s.Evidence != "" {
				fmt.Fprintf(w, "  evidence %s\n", s.Evidence)
			}
		}
		if len(all) == 0 {
			fmt.Fprintln(w, "nothing was observed beside the parcels")
		}
	})
}

// printOutside prints where the outside stands.
func printOutside(w io.Writer, s *mirror.ExporterStatus) {
	fmt.Fprintf(w, "outside: stream %s, parcel %d was sent last", s.Stream, s.Sent)
	if len(s.Receivers) > 0 {
		fmt.Fprintf(w, ", %d acknowledged, %d wait for a receipt", s.Acknowledged, s.Unacknowledged)
	}
	fmt.Fprintln(w)
	if s.Limit > 0 && s.Unacknowledged > s.Limit {
		fmt.Fprintf(w, "  MORE THAN %d wait: read a receipt, or redoubt mirror export --unacknowledged\n", s.Limit)
	}
	for _, r := range s.Receivers {
		if r.Acknowledged == 0 {
			fmt.Fprintf(w, "  %s was never heard of\n", r.Receiver)
			continue
		}
		fmt.Fprintf(w, "  %s acknowledged parcel %d, imported %s, read %s\n", r.Receiver, r.Acknowledged, r.Time.Format(time.RFC3339), r.Read.Format(time.RFC3339))
	}
	for _, l := range s.Logs {
		fmt.Fprintf(w, "  %s: %d entries collected, %d sent\n", l.Origin, l.Collected, l.Sent)
		if l.Frozen != nil {
			fmt.Fprintf(w, "    FROZEN: %s; evidence %s\n", l.Frozen.Reason, l.Frozen.Evidence)
		}
	}
}
