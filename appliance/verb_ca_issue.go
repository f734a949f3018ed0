package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca"
)

const profileNotation = "notation"

func caIssueCommand() *cli.Command {
	return &cli.Command{
		Name: "issue", Usage: "a certificate for a signer with a subject, by the profile notation; two others approve",
		Description: "The subject is ca.notation of the configuration with --name and --unit; of the signing request the key alone counts. Certificates of Fulcio's\n" +
			"profile are issued to whoever shows a token, by no verb.",
		Flags: append(append(append(cmdline.StateFlags(), approvalFlags()...), cmdline.OutputFlag()),
			&cli.StringFlag{Name: "profile", Value: profileNotation, Usage: "the profile; " + profileNotation + " is the only one", EnvVars: []string{"REDOUBT_PROFILE"}},
			&cli.StringFlag{Name: "csr", Required: true, Usage: "PKCS #10 request (PEM or DER) by the signer's key: RSA of 2048, 3072 or 4096 bits, ECDSA on P-256, P-384 or P-521", EnvVars: []string{"REDOUBT_CSR"}},
			&cli.StringFlag{Name: "name", Required: true, Usage: "the subject's CN", EnvVars: []string{"REDOUBT_NAME"}},
			&cli.StringFlag{Name: "unit", Usage: "the subject's OU", EnvVars: []string{"REDOUBT_UNIT"}},
			&cli.DurationFlag{Name: "lifetime", Usage: "a shorter life than ca.notation.lifetime", EnvVars: []string{"REDOUBT_LIFETIME"}},
			&cli.StringFlag{Name: "out", Required: true, Usage: "file to write: the certificate, the issuing certificate, the root (PEM)", EnvVars: []string{"REDOUBT_OUT"}}),
		Action: issueNotation,
	}
}

func issueNotation(c *cli.Context) (err error) {
	if profile := c.String("profile"); profile != profileNotation {
		return cmdline.Usage("--profile %q: %s is the only profile that certificates are asked for by", profile, profileNotation)
	}
	a := notationArgs{Name: c.String("name"), Unit: c.String("unit"), Lifetime: c.Duration("lifetime")}
	if a.CSR, err = readRecord(c.String("csr")); err != nil {
		return fmt.Errorf("--csr: %w", err)
	}
	if a.approvalArgs, err = givenApprovals(c); err != nil {
		return err
	}
	r, err := notationIssue.call(c, a)
	if err != nil {
		return err
	}
	if err := writeFileAtomic(c.String("out"), []byte(r.Chain), 0o644); err != nil {
		return fmt.Errorf("the certificate %s was issued, `redoubt ca issued --serial` has it: %w", r.Serial, err)
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "issued      %s\nserial      %s\nvalid       %s to %s\nchain       %s\npin it by   --certificate-subject '%s'\n",
			r.Subject, r.Serial, r.NotBefore.Format(time.RFC3339), r.NotAfter.Format(time.RFC3339), c.String("out"), r.Pin)
	})
}

func caIssuedCommand() *cli.Command {
	return &cli.Command{
		Name: "issued", Usage: "search the register of certificates, the newest first",
		Flags: append(cmdline.StateFlags(), cmdline.OutputFlag(),
			&cli.StringFlag{Name: "serial", Usage: "one certificate, by its serial number in hex", EnvVars: []string{"REDOUBT_SERIAL"}},
			&cli.StringFlag{Name: "identity", Usage: "exact e-mail or URI, or subject of the profile notation as this verb prints it", EnvVars: []string{"REDOUBT_IDENTITY"}},
			&cli.StringFlag{Name: "since", Usage: "issued then or later, RFC 3339", EnvVars: []string{"REDOUBT_SINCE"}},
			&cli.StringFlag{Name: "until", Usage: "issued then or earlier, RFC 3339", EnvVars: []string{"REDOUBT_UNTIL"}},
			&cli.IntFlag{Name: "limit", Value: 100, Usage: "at most so many", EnvVars: []string{"REDOUBT_LIMIT"}}),
		Action: func(c *cli.Context) (err error) {
			q := ca.Query{Serial: c.String("serial"), Identity: c.String("identity"), Limit: c.Int("limit")}
			for name, to := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
				if text := c.String(name); text != "" {
					if *to, err = time.Parse(time.RFC3339, text); err != nil {
						return cmdline.Usage("--%s %q: want a time as 2006-01-02T15:04:05Z", name, text)
					}
				}
			}
			records, err := issuedList.call(c, q)
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, records, func(w io.Writer) {
				for _, r := range records {
					fmt.Fprintf(w, "%s  %-6s  %s to %s  %s (%s)\n", r.Serial, r.State, r.NotBefore.UTC().Format(time.RFC3339), r.NotAfter.UTC().Format(time.RFC3339), r.Identity, r.Issuer)
				}
			})
		},
	}
}
