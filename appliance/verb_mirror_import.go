package main

import (
	"io"

	"github.com/urfave/cli/v2"
	"redoubt.internal/appliance/cmdline"
)

func importCommand() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "inside: prove a parcel again and take it in; all of it or nothing", ArgsUsage: "VOLUME|FOLDER...", Flags: mirrorFlags(
			&cli.BoolFlag{Name: "dry-run", Usage: "prove the next parcel in full and take nothing in", EnvVars: []string{"REDOUBT_DRY_RUN"}},
			&cli.BoolFlag{Name: "resume", Usage: "go on with the import that was cut short; volumes need not be named. (Every import does so when it meets the same parcel.)", EnvVars: []string{"REDOUBT_RESUME"}},
			&cli.StringFlag{Name: "medium", Usage: "what is written on the medium, for the register", EnvVars: []string{"REDOUBT_MEDIUM"}},
			&cli.BoolFlag{Name: "inbox", Usage: "look at the configured inbox once, instead of naming volumes", EnvVars: []string{"REDOUBT_INBOX"}},
		), Action: func(c *cli.Context) error {
			a := importArgs{Medium: c.String("medium"), DryRun: c.Bool("dry-run"), Resume: c.Bool("resume")}
			if c.Bool("inbox") {
				if c.NArg() > 0 || a.Medium != "" || a.DryRun || a.Resume {
					return cmdline.Usage("--inbox goes with no other flag and no volumes")
				}
				return looked(c, lookArgs{})
			}
			if a.DryRun && a.Resume {
				return cmdline.Usage("--dry-run takes nothing in, so there is nothing of it to resume")
			}
			if c.NArg() == 0 && !a.Resume {
				return cmdline.Usage("mirror import takes volumes, or folders of volumes")
			}
			var err error
			if a.Paths, err = absolute(c.Args().Slice()); err != nil {
				return err
			}
			report, err := watched(c, mirrorImport, a)
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, report, func(w io.Writer) { printTransfers(w, report) })
		},
	}
}
