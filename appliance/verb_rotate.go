package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
)

// chainFlag is for the roles whose keys have certificates.
func chainFlag() cli.Flag {
	return &cli.StringFlag{Name: "chain", Usage: "PEM chain that a ceremony made over the key at --key, its own certificate first", EnvVars: []string{"REDOUBT_CHAIN"}}
}

// rotateCommand is `keys rotate` under the name of the verb it stands in; role reads which key it is about.
func rotateCommand(name, says string, role func(*cli.Context) (string, error), more ...cli.Flag) *cli.Command {
	command := &cli.Command{
		Name: name, Usage: says,
		Description: "Run again, it goes on where an interrupted run stopped. A running server takes the new key up by itself.",
		Flags: append(append(cmdline.StateFlags(), cmdline.OutputFlag(),
			&cli.StringFlag{Name: "key", Usage: "URI of the new key (default: the next name in keys.token)", EnvVars: []string{"REDOUBT_KEY"}},
			&cli.StringFlag{Name: "algorithm", Usage: "its type (default: that of the key before)", EnvVars: []string{"REDOUBT_ALGORITHM"}},
			&cli.BoolFlag{Name: "announce", Usage: "publish the new key and let the old one sign on; without this flag the verb then goes on", EnvVars: []string{"REDOUBT_ANNOUNCE"}},
			&cli.DurationFlag{Name: "overlap", Value: defaultOverlap, Usage: "how long signatures of the old key count after the new one took over", EnvVars: []string{"REDOUBT_OVERLAP"}},
		), append(approvalFlags(), more...)...),
	}
	command.Action = func(c *cli.Context) error {
		role, err := role(c)
		if err != nil {
			return err
		}
		args := rotateArgs{Role: role, Key: c.String("key"), Algorithm: hsm.Algorithm(c.String("algorithm")), Announce: c.Bool("announce"), Overlap: c.Duration("overlap")}
		if args.approvalArgs, err = givenApprovals(c); err != nil {
			return err
		}
		if chain := c.String("chain"); chain != "" {
			if args.Chain, err = filepath.Abs(chain); err != nil {
				return err
			}
		}
		result, err := rotateKey.call(c, args)
		if err != nil {
			return err
		}
		if _, err := finishRotation.call(c, struct{}{}); err != nil {
			return cmdline.Hinted(fmt.Errorf("%s is %s, and the trusted root does not show all of it yet: %w", result.To, result.State, err), "the same verb again, or the next start of the server, goes on from here")
		}
		return cmdline.PrintResult(c, result, func(w io.Writer) {
			fmt.Fprintf(w, "%s is %s at %s; its signatures count from %s\n", result.To, result.State, result.URI, result.Start.Format(time.RFC3339))
			if !result.End.IsZero() {
				fmt.Fprintf(w, "%s is retired; its signatures count until %s\n", result.From, result.End.Format(time.RFC3339))
			}
			if result.Chain != "" {
				fmt.Fprintf(w, "chain %s\n", result.Chain)
			}
			fmt.Fprintf(w, "next: %s\n", result.Next)
		})
	}
	return command
}

// rotatedRole is the argument of `keys rotate`.
func rotatedRole(c *cli.Context) (string, error) {
	if c.NArg() != 1 {
		return "", cmdline.Usage("keys rotate takes one ROLE")
	}
	return c.Args().First(), nil
}

// finishRotation ends what a rotation began, in the instance that was opened after it.
var finishRotation = verb[struct{}, struct{}]{"keys.finish", func(ctx context.Context, in *instance, _ string, _ struct{}) (struct{}, error) {
	return struct{}{}, in.finish(ctx)
}}
