package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/denied"
)

func identityCommand() *cli.Command {
	who := []cli.Flag{
		&cli.StringFlag{Name: "issuer", Required: true, Usage: "issuer of the tokens, exactly", EnvVars: []string{"REDOUBT_ISSUER"}},
		&cli.StringFlag{Name: "identity", Usage: "e-mail or URI of certificates, in any case", EnvVars: []string{"REDOUBT_IDENTITY"}},
	}
	several := append(who, &cli.StringFlag{Name: "identity-regexp", Usage: "expression that matches the whole identity", EnvVars: []string{"REDOUBT_IDENTITY_REGEXP"}})
	act := func(more ...cli.Flag) []cli.Flag {
		return append(append(append(append(cmdline.StateFlags(), approvalFlags()...), cmdline.OutputFlag()), several...), more...)
	}
	return &cli.Command{
		Name: "identity", Usage: "who is denied, who stands behind a pseudonym, and tokens of the built-in issuer",
		Subcommands: []*cli.Command{
			identityTokenCommand(),
			identityRevealCommand(),
			{Name: "deny", Usage: "issue nothing to an identity any more, and have what it signed refused (exit 25); two others approve", Action: denyAction(identityDeny), Flags: act(
				&cli.StringFlag{Name: "since", Usage: "first signed time that is refused, RFC 3339 (default: all that it ever signed)", EnvVars: []string{"REDOUBT_SINCE"}},
				&cli.StringFlag{Name: "until", Usage: "last signed time that is refused, RFC 3339 (default: none is)", EnvVars: []string{"REDOUBT_UNTIL"}},
				&cli.StringFlag{Name: "reason", Required: true, Usage: "why; published with the list", EnvVars: []string{"REDOUBT_REASON"}})},
			{Name: "allow", Usage: "take an identity off the list of those denied; two others approve", Action: denyAction(identityAllow), Flags: act()},
			{Name: "list", Usage: "the identities that are denied", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: func(c *cli.Context) error {
				list, err := identityList.call(c, struct{}{})
				if err != nil {
					return err
				}
				return cmdline.PrintResult(c, list, func(w io.Writer) {
					fmt.Fprintf(w, "version %d, %d denied\n", list.Version, len(list.Entries))
					for _, e := range list.Entries {
						fmt.Fprintln(w, e.String())
					}
				})
			}},
			{Name: "explain", Usage: "whether an identity is denied, and what was issued to it", Flags: append(append(cmdline.StateFlags(), cmdline.OutputFlag()), who...), Action: explainIdentity},
		},
	}
}

// denyAction reads the entry that the flags name.
func denyAction(v verb[denyArgs, deniedResult]) cli.ActionFunc {
	return func(c *cli.Context) (err error) {
		a := denyArgs{Entry: denied.Entry{Issuer: c.String("issuer"), Identity: c.String("identity"), IdentityRegexp: c.String("identity-regexp"), Reason: c.String("reason")}}
		if (a.Identity == "") == (a.IdentityRegexp == "") {
			return cmdline.Usage("%s needs --identity or --identity-regexp", c.Command.HelpName)
		}
		for name, to := range map[string]*time.Time{"since": &a.Since, "until": &a.Until} {
			if text := c.String(name); text != "" {
				if *to, err = time.Parse(time.RFC3339, text); err != nil {
					return cmdline.Usage("--%s %q: want a time as 2006-01-02T15:04:05Z", name, text)
				}
			}
		}
		if a.approvalArgs, err = givenApprovals(c); err != nil {
			return err
		}
		r, err := v.call(c, a)
		if err != nil {
			return err
		}
		if !r.Published {
			fmt.Fprintf(c.App.ErrWriter, "redoubt: warning: the CA goes by the new list, it is not published yet: %s\n", r.Reason)
		}
		return cmdline.PrintResult(c, r, func(w io.Writer) {
			fmt.Fprintf(w, "the list of denied identities is version %d, with %d entries\n", r.Version, r.Denied)
		})
	}
}

func explainIdentity(c *cli.Context) error {
	if c.String("identity") == "" {
		return cmdline.Usage("identity explain needs --identity")
	}
	e, err := identityExplain.call(c, denied.Entry{Issuer: c.String("issuer"), Identity: c.String("identity")})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, e, func(w io.Writer) {
		said := map[bool]string{true: "yes", false: "no"}
		fmt.Fprintf(w, "issuer accepted  %s\ndenied now       %s (list version %d)\n", said[e.Known], said[e.Denied], e.Version)
		for _, d := range e.Entries {
			fmt.Fprintf(w, "  %s\n", d.String())
		}
		for _, r := range e.Issued {
			fmt.Fprintf(w, "issued           %s to %s, serial %s\n", r.NotBefore.UTC().Format(time.RFC3339), r.NotAfter.UTC().Format(time.RFC3339), r.Serial)
		}
	})
}

// identityTokenCommand is `redoubt identity token`.
func identityTokenCommand() *cli.Command {
	return &cli.Command{
		Name: "token", Usage: "print a token of the built-in issuer (dev profile)",
		Description: "With --email (or a subject that is an address) the token speaks for a person, with --subject URI for a workload.",
		Flags: append(append(cmdline.StateFlags(), approvalFlags()...), cmdline.OutputFlag(),
			&cli.StringFlag{Name: "subject", Usage: "sub claim", EnvVars: []string{"REDOUBT_SUBJECT"}},
			&cli.StringFlag{Name: "email", Usage: "email claim, marked verified", EnvVars: []string{"REDOUBT_EMAIL"}},
			&cli.StringFlag{Name: "audience", Usage: "aud claim (default: issuer.audience)", EnvVars: []string{"REDOUBT_AUDIENCE"}},
			&cli.StringSliceFlag{Name: "claim", Usage: "further claim k=v; true and false become booleans", EnvVars: []string{"REDOUBT_CLAIM"}},
			&cli.DurationFlag{Name: "ttl", Value: 5 * time.Minute, Usage: "life of the token", EnvVars: []string{"REDOUBT_TTL"}},
		),
		Action: func(c *cli.Context) error {
			args := tokenArgs{Subject: c.String("subject"), Email: c.String("email"), Audience: c.String("audience"), TTL: c.Duration("ttl"), Extra: map[string]any{}}
			var err error
			if args.approvalArgs, err = givenApprovals(c); err != nil {
				return err
			}
			for _, kv := range c.StringSlice("claim") {
				k, v, ok := strings.Cut(kv, "=")
				if !ok || k == "" {
					return cmdline.Usage("--claim %q: want name=value", kv)
				}
				args.Extra[k] = claimValue(v)
			}
			token, err := mintToken.call(c, args)
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, token, func(w io.Writer) { printToken(w, token.Token) })
		},
	}
}
