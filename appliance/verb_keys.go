package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/log"
)

func keysCommand() *cli.Command {
	rotate := rotateCommand("rotate", "give a role a new key, with an overlap in which the signatures of both count", rotatedRole, chainFlag())
	rotate.ArgsUsage = "ROLE"
	return &cli.Command{
		Name: "keys", Usage: "every key: where it lives, what it is for, whether it signs",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list the key of every role with its token's claims about it", Flags: append(stateFlags(), outputFlag()), Action: func(c *cli.Context) error {
				records, err := listKeys.call(c, struct{}{})
				if err != nil {
					return err
				}
				return printResult(c, records, func(w io.Writer) {
					for _, k := range records {
						where := "hardware claimed"
						if k.Software {
							where = "software"
						}
						fmt.Fprintf(w, "%-9s %-11s %-16s %s  %s\n", k.Role, k.Algorithm, where, k.Fingerprint[:min(16, len(k.Fingerprint))], k.URI)
					}
				})
			}},
			{Name: "check", Usage: "make every key sign once; exit 3 when one does not", Flags: append(stateFlags(), outputFlag()), Action: func(c *cli.Context) error {
				checks, err := checkKeys.call(c, struct{}{})
				if err != nil {
					return err
				}
				if err := printResult(c, checks, func(w io.Writer) { printChecks(w, checks) }); err != nil {
					return err
				}
				if !ready(checks) {
					return unavailable(fmt.Errorf("a key does not sign"))
				}
				return nil
			}},
			attestCommand(),
			rotate,
		},
	}
}

var listKeys = verb[struct{}, []keyRecord]{"keys.list", func(ctx context.Context, in *instance, _ string, _ struct{}) (records []keyRecord, err error) {
	for _, role := range in.cfg.Keys.roles() {
		key, err := in.keys.role(ctx, role)
		if err != nil {
			return nil, err
		}
		records = append(records, keyRecord{role, key.Info()})
	}
	return records, nil
}}

var checkKeys = verb[struct{}, []check]{"keys.check", func(ctx context.Context, in *instance, _ string, _ struct{}) (checks []check, err error) {
	for _, role := range in.cfg.Keys.roles() {
		key, err := in.keys.role(ctx, role)
		if err == nil {
			err = key.Check(ctx)
		}
		checks = append(checks, result("key "+role, err, "see keys.roles."+role+" and the token it names"))
	}
	return checks, nil
}}

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
			fmt.Fprintf(w, "ok    %s\n", c.Name)
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
