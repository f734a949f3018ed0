package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"redoubt.internal/appliance/cmdline"
)

func configReloadCommand() *cli.Command {
	return &cli.Command{
		Name: "reload", Usage: "let the server take issuers, people, approvers, log.read and the TLS certificate from the file again, as SIGHUP does; new rules wait for approval",
		Flags: append(append(cmdline.StateFlags(), approvalFlags()...), cmdline.OutputFlag()),
		Action: func(c *cli.Context) error {
			given, err := givenApprovals(c)
			if err != nil {
				return err
			}
			r, err := configReload.call(c, given)
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, r, func(w io.Writer) {
				fmt.Fprintf(w, "reloaded; SHA-256 of the file %s\n", r.SHA256)
				if len(r.Changed) > 0 {
					fmt.Fprintf(w, "rules that changed: %v\n", r.Changed)
				}
				if len(r.Restart) > 0 {
					fmt.Fprintf(w, "needs a restart: %v\n", r.Restart)
				}
				if len(r.Roles) > 0 {
					fmt.Fprintf(w, "taken up by: %v\n", r.Roles)
				}
				if len(r.Absent) > 0 {
					fmt.Fprintf(w, "does not run, takes it at its start: %v\n", r.Absent)
				}
			})
		},
	}
}
