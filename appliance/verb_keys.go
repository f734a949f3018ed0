package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log"
)

func keysCommand() *cli.Command {
	rotate := rotateCommand("rotate", "give a role a new key, with an overlap in which the signatures of both count", rotatedRole, chainFlag())
	rotate.ArgsUsage = "ROLE"
	return &cli.Command{
		Name: "keys", Usage: "every key: where it lives, what it is for, whether it signs",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list every key: place, type, the token's claims about it, since when, until when, what for", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: func(c *cli.Context) error {
				records, err := listKeys.call(c, struct{}{})
				if err != nil {
					return err
				}
				if err := cmdline.PrintResult(c, records, func(w io.Writer) { printKeys(w, records) }); err != nil {
					return err
				}
				for _, k := range records {
					if k.Error != "" && k.State == stateActive {
						return cmdline.Hinted(fmt.Errorf("the %s key does not open: %s", k.Name, k.Error), "`redoubt keys check` tries every key")
					}
				}
				return nil
			}},
			{Name: "check", Usage: "make every key sign once; exit 3 when one does not", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: func(c *cli.Context) error {
				checks, err := checkKeys.call(c, struct{}{})
				if err != nil {
					return err
				}
				if err := cmdline.PrintResult(c, checks, func(w io.Writer) { printChecks(w, checks) }); err != nil {
					return err
				}
				if !ready(checks) {
					return cmdline.Unavailable(fmt.Errorf("a key does not sign"))
				}
				return nil
			}},
			attestCommand(),
			attestationCommand(),
			sealCommand(),
			rotate,
		},
	}
}

// result is the check called name: it holds when err is nil.
func result(name string, err error, fix string) check {
	if err != nil {
		return check{Name: name, Reason: err.Error(), Fix: fix, keyTrouble: strings.HasPrefix(name, "key ") || errors.Is(err, log.ErrSigning)}
	}
	return check{Name: name, OK: true}
}

// printChecks writes one line for each check, and its fix where it does not hold.
func printChecks(w io.Writer, checks []check) {
	for _, c := range checks {
		if c.OK {
			fmt.Fprintf(w, "ok    %s", c.Name)
			if c.Detail != "" {
				fmt.Fprintf(w, ": %s", c.Detail)
			}
			fmt.Fprintln(w)
			continue
		}
		word := "FAIL"
		if c.Warning {
			word = "WARN"
		}
		fmt.Fprintf(w, "%s  %s: %s\n", word, c.Name, c.Reason)
		if c.Fix != "" {
			fmt.Fprintf(w, "      fix: %s\n", c.Fix)
		}
	}
}
