package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca"
	"redoubt.internal/ca/approval"
)

// revealArgs name one person: by the pseudonym, or by what the tokens say.
type revealArgs struct {
	Pseudonym string `json:"pseudonym,omitempty"`
	Issuer    string `json:"issuer,omitempty"`
	Identity  string `json:"identity,omitempty"`
	approvalArgs
}

// identityReveal says who stands behind a pseudonym, or which one a person has. Enough people agreed, and the audit log says that it was
// told, before it is.
var identityReveal = verb[revealArgs, ca.Person]{"identity.reveal", func(ctx context.Context, in *instance, actor string, a revealArgs) (ca.Person, error) {
	if in.authorityDB == nil {
		return ca.Person{}, fmt.Errorf("%w: the role ca has the register of pseudonyms", errOtherProcess)
	}
	lines := []string{"pseudonym " + approval.Value(a.Pseudonym)}
	if a.Pseudonym == "" {
		lines = []string{"issuer " + approval.Value(a.Issuer), "identity " + approval.Value(a.Identity)}
	}
	agreed, err := in.agree(ctx, actor, "identity.reveal", lines, a.approvalArgs)
	if err != nil {
		return ca.Person{}, err
	}
	p, err := a.find(in)
	if err != nil && !errors.Is(err, ca.ErrNoPseudonym) {
		return ca.Person{}, err
	}
	found := map[string]string{"found": p.Pseudonym}
	if recorded := in.record(ctx, actor, "identity.reveal", orDefault(a.Pseudonym, p.Pseudonym), found); recorded != nil {
		return ca.Person{}, recorded
	}
	if err := agreed.finish(); err != nil {
		return ca.Person{}, err
	}
	return p, err
}}

func (a revealArgs) find(in *instance) (ca.Person, error) {
	if a.Pseudonym != "" {
		return ca.Reveal(in.authorityDB, a.Pseudonym)
	}
	return ca.PseudonymOf(in.authorityDB, a.Issuer, a.Identity)
}

func identityRevealCommand() *cli.Command {
	return &cli.Command{
		Name: "reveal", Usage: "say who stands behind a pseudonym, or which pseudonym a person has; two others approve",
		ArgsUsage: "PSEUDONYM | --issuer URL --identity EMAIL",
		Flags: append(append(append(cmdline.StateFlags(), approvalFlags()...), cmdline.OutputFlag()),
			&cli.StringFlag{Name: "issuer", Usage: "issuer of the person's tokens, exactly", EnvVars: []string{"REDOUBT_ISSUER"}},
			&cli.StringFlag{Name: "identity", Usage: "e-mail of the person's tokens", EnvVars: []string{"REDOUBT_IDENTITY"}}),
		Action: func(c *cli.Context) (err error) {
			a := revealArgs{Pseudonym: c.Args().First(), Issuer: c.String("issuer"), Identity: c.String("identity")}
			if byName := a.Issuer != "" && a.Identity != ""; c.NArg() > 1 || byName == (a.Pseudonym != "") {
				return cmdline.Usage("identity reveal takes one PSEUDONYM, or --issuer and --identity")
			}
			if a.approvalArgs, err = givenApprovals(c); err != nil {
				return err
			}
			p, err := identityReveal.call(c, a)
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, p, func(w io.Writer) {
				fmt.Fprintf(w, "pseudonym  %s\nidentity   %s\nissuer     %s\nsince      %s\n", p.Pseudonym, p.Identity, p.Issuer, p.Since.Format("2006-01-02T15:04:05Z"))
			})
		},
	}
}
