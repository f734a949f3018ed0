package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"redoubt.internal/mirror"
)

var mirrorFsck = verb[struct{}, []mirror.FsckReport]{"mirror.fsck", func(ctx context.Context, in *instance, _ string, _ struct{}) ([]mirror.FsckReport, error) {
	m, err := in.inside()
	if err != nil {
		return nil, err
	}
	reports, err := m.Fsck(ctx)
	return reports, withCode(mirror.ExitCode(err), err)
}}

func mirrorFsckCommand() *cli.Command {
	return &cli.Command{
		Name: "fsck", Usage: "inside: hash everything that is stored anew, up to every checkpoint ever accepted; changes nothing", Flags: mirrorFlags(),
		Action: func(c *cli.Context) error {
			reports, err := mirrorFsck.call(c, struct{}{})
			if err != nil {
				return err
			}
			if err := printResult(c, reports, func(w io.Writer) {
				for _, r := range reports {
					fmt.Fprintf(w, "%s: %d entries and %d tiles hashed, %d subtree hashes compared, %d accepted checkpoints reproduced\n", r.Origin, r.Leaves, r.Tiles, r.Subtrees, r.Heads)
					for _, p := range r.Problems {
						fmt.Fprintf(w, "  DAMAGED: %s\n", p)
					}
				}
			}); err != nil {
				return err
			}
			bad := mirror.FsckErr(reports)
			return withCode(mirror.ExitCode(bad), bad)
		},
	}
}
