package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/tsa"
)

func caCommand() *cli.Command {
	return &cli.Command{
		Name: "ca", Usage: "the certificate authority",
		Subcommands: []*cli.Command{
			chainSubcommand("ca"),
			caIssueCommand(), caIssuedCommand(),
			rotateCommand("rotate", "a new issuing key and certificate below the same root", func(*cli.Context) (string, error) { return roleIssuing, nil }, chainFlag()),
		},
	}
}

func tsaCommand() *cli.Command {
	return &cli.Command{
		Name: "tsa", Usage: "the timestamp authority",
		Subcommands: []*cli.Command{
			chainSubcommand("tsa"),
			rotateCommand("rotate", "a new timestamp key and certificate below the same root", func(*cli.Context) (string, error) { return roleTSA, nil }, chainFlag()),
			{Name: "status", Usage: "its clock and the floor it never goes below", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: func(c *cli.Context) error {
				status, err := tsaStatus.call(c, struct{}{})
				if err != nil {
					return err
				}
				return cmdline.PrintResult(c, status, func(w io.Writer) { printTSAStatus(w, status) })
			}},
		},
	}
}

var tsaStatus = verb[struct{}, tsa.Status]{"tsa.status", func(_ context.Context, in *instance, _ string, _ struct{}) (tsa.Status, error) {
	return in.tsa.Status(), nil
}}

// certificateRecord is one element of the JSON of `ca chain` and `tsa chain`.
type certificateRecord struct {
	Subject     string    `json:"subject"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the DER, lower-case hex
	PEM         string    `json:"pem"`
}

var chains = verb[string, []certificateRecord]{"chain", func(_ context.Context, in *instance, _ string, which string) (records []certificateRecord, err error) {
	chain := map[string][]*x509.Certificate{"ca": in.caChain, "tsa": in.tsaChain}[which]
	for _, c := range chain {
		records = append(records, certificateRecord{c.Subject.String(), c.NotBefore, c.NotAfter, fmt.Sprintf("%x", sha256.Sum256(c.Raw)), string(pemChain([]*x509.Certificate{c}))})
	}
	return records, nil
}}

func chainSubcommand(which string) *cli.Command {
	return &cli.Command{Name: "chain", Usage: "print the certificate chain, the signing certificate first", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: func(c *cli.Context) error {
		records, err := chains.call(c, which)
		if err != nil {
			return err
		}
		return cmdline.PrintResult(c, records, func(w io.Writer) {
			for _, r := range records {
				fmt.Fprintf(w, "# %s, until %s, SHA-256 %s\n%s", r.Subject, r.NotAfter.Format(time.DateOnly), r.Fingerprint, r.PEM)
			}
		})
	}}
}

func printTSAStatus(w io.Writer, s tsa.Status) {
	fmt.Fprintf(w, "clock        %s\n", s.Now.Format(time.RFC3339))
	fmt.Fprintf(w, "floor        %s; no timestamp bears an earlier time from here on\n", s.Last.Format(time.RFC3339))
	fmt.Fprintf(w, "reserved to  %s; after a crash timestamps go on from there\n", s.Reserved.Format(time.RFC3339))
	fmt.Fprintf(w, "certificate  until %s\n", s.NotAfter.Format(time.RFC3339))
}
