package main

import (
	"io"

	"github.com/urfave/cli/v2"
)

func importCommand() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "inside: prove a parcel again and take it in; all of it or nothing", ArgsUsage: "VOLUME|FOLDER...", Flags: mirrorFlags(
			&cli.BoolFlag{Name: "dry-run", Usage: "prove the next parcel in full and take nothing in", EnvVars: []string{"REDOUBT_DRY_RUN"}},
			&cli.BoolFlag{Name: "resume", Usage: "go on with the import that was cut short; volumes need not be named. (Every import does so when it meets the same parcel.)", EnvVars: []string{"REDOUBT_RESUME"}},
		), Action: func(c *cli.Context) error {
			a := importArgs{DryRun: c.Bool("dry-run"), Resume: c.Bool("resume")}
			if a.DryRun && a.Resume {
				return usage("--dry-run takes nothing in, so there is nothing of it to resume")
			}
			if c.NArg() == 0 && !a.Resume {
				return usage("mirror import takes volumes, or folders of volumes")
			}
			var err error
			if a.Paths, err = absolute(c.Args().Slice()); err != nil {
				return err
			}
			report, err := mirrorImport.call(c, a)
			if err != nil {
				return err
			}
			return printResult(c, report, func(w io.Writer) { printTransfers(w, report) })
		},
	}
}
