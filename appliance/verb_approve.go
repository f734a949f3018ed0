package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
	"redoubt.internal/ca/ceremony"
)

func approveCommand() *cli.Command {
	return &cli.Command{
		Name: "approve", Usage: "acts that several people must approve: what is asked, by whom, and an operator's signature over it",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "the acts that wait on this deployment, and who approved them so far", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: approveListed},
			{Name: "show", Usage: "print the text of an act and its digest as people read it to each other", ArgsUsage: "FILE|DIGEST", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag(),
				&cli.StringFlag{Name: "out", Usage: "write the text to this file as well, to carry it to who approves; must not exist", EnvVars: []string{"REDOUBT_OUT"}}), Action: approveShow},
			{Name: "sign", Usage: "approve an act: sign the digest of its text; touches no state", ArgsUsage: "FILE", Action: approveSign, Flags: append(personFlags("operator's key: URI or PEM file"),
				&cli.StringFlag{Name: "as", Required: true, Usage: "the operator's name as the deployment's approvers have it", EnvVars: []string{"REDOUBT_AS"}},
				&cli.StringFlag{Name: "digest", Usage: "the act's SHA-256 as it was read aloud; another act is refused", EnvVars: []string{"REDOUBT_DIGEST"}},
				&cli.StringFlag{Name: "out", Usage: "file to write; must not exist (default stdout)", EnvVars: []string{"REDOUBT_OUT"}})},
			{Name: "drop", Usage: "withdraw an act that waits", ArgsUsage: "DIGEST", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: approveDropped},
		},
	}
}

// approvalFlags are those of every act that needs approval.
func approvalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "approval", Usage: "an operator's approval of this act; may be repeated", EnvVars: []string{"REDOUBT_APPROVAL"}},
		&cli.StringFlag{Name: "as", Usage: "the approver who proposes this act; that one's approval does not count", EnvVars: []string{"REDOUBT_AS"}},
	}
}

// givenApprovals reads what approvalFlags name.
func givenApprovals(c *cli.Context) (a approvalArgs, err error) {
	a.As = c.String("as")
	for _, file := range c.StringSlice("approval") {
		data, err := readRecord(file)
		if err != nil {
			return a, fmt.Errorf("--approval: %w", err)
		}
		a.Given = append(a.Given, data)
	}
	return a, nil
}

func approveListed(c *cli.Context) error {
	all, err := approveList.call(c, struct{}{})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, all, func(w io.Writer) {
		for _, a := range all {
			fmt.Fprintf(w, "%s %s proposed %s, approved by %d of %d %v\n  %s\n", a.SHA256, a.Kind, a.Proposed.Format(time.RFC3339), len(a.Approved), a.Wanted, a.Approved, a.File)
		}
		if len(all) == 0 {
			fmt.Fprintln(w, "nothing waits for approval")
		}
	})
}

// actResult is the JSON of `redoubt approve show -o json`.
type actResult struct {
	Kind     string   `json:"kind"`
	Domain   string   `json:"domain"`
	Proposer string   `json:"proposer,omitempty"` // the approver whose approval does not count
	Lines    []string `json:"lines"`
	Text     string   `json:"text"` // what is approved, octet by octet
	SHA256   string   `json:"sha256"`
	Aloud    string   `json:"aloud"` // groups of four hex digits and their words, line by line
	List     string   `json:"list"`
}

func approveShow(c *cli.Context) error {
	if c.NArg() != 1 {
		return cmdline.Usage("approve show takes one FILE, or the DIGEST of an act that waits")
	}
	text, err := actText(c, c.Args().First())
	if err != nil {
		return err
	}
	act, err := approval.ParseAct(text)
	if err != nil {
		return err
	}
	if out := c.String("out"); out != "" {
		if err := writeOnce(out, text); err != nil {
			return err
		}
	}
	aloud, err := ceremony.Aloud(act.Digest())
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, actResult{act.Kind, act.Domain, act.Proposer, act.Lines, string(text), act.Digest(), aloud, ceremony.WordListName}, func(w io.Writer) {
		fmt.Fprint(w, indent(string(text)))
		printAloud(w, "act", act.Digest())
	})
}

// actText reads an act from a file, or asks the deployment for the one with this digest.
func actText(c *cli.Context, name string) ([]byte, error) {
	digest := compactDigest(name)
	if len(digest) != 64 || strings.Trim(digest, "0123456789abcdef") != "" {
		return readRecord(name)
	}
	all, err := approveList.call(c, struct{}{})
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.SHA256 == digest {
			return []byte(a.Text), nil
		}
	}
	return nil, cmdline.Hinted(errNoProposal, "`redoubt approve list` prints those that wait")
}

func approveSign(c *cli.Context) error {
	if c.NArg() != 1 {
		return cmdline.Usage("approve sign takes one FILE")
	}
	text, err := readRecord(c.Args().First())
	if err != nil {
		return err
	}
	act, err := approval.ParseAct(text)
	if err != nil {
		return err
	}
	if want := c.String("digest"); want != "" && compactDigest(want) != act.Digest() {
		return fmt.Errorf("%s is not the act that was agreed on: its SHA-256 is %s", c.Args().First(), act.Digest())
	}
	if c.String("as") == act.Proposer {
		return cmdline.Hinted(fmt.Errorf("%s proposes this act; somebody else has to approve it", act.Proposer), "`redoubt approve show %s` prints who proposes it", c.Args().First())
	}
	key, done, err := personKey(c)
	if err != nil {
		return err
	}
	defer done()
	a, err := approval.Sign(act, c.String("as"), key, time.Now())
	if err != nil {
		return err
	}
	data, err := a.Encode()
	if err != nil {
		return err
	}
	fmt.Fprint(cmdline.Progress(c), indent(string(text)))
	printAloud(cmdline.Progress(c), c.String("as")+" approves this act", act.Digest())
	if out := c.String("out"); out != "" {
		return writeOnce(out, data)
	}
	_, err = c.App.Writer.Write(data)
	return err
}

func approveDropped(c *cli.Context) error {
	if c.NArg() != 1 {
		return cmdline.Usage("approve drop takes one DIGEST")
	}
	dropped, err := approveDrop.call(c, compactDigest(c.Args().First()))
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, dropped, func(w io.Writer) { fmt.Fprintf(w, "withdrawn: %s %s\n", dropped.SHA256, dropped.Kind) })
}
