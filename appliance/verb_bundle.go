package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/installer"
)

func bundleCommand() *cli.Command {
	printReport := func(c *cli.Context, r *installer.Report) error {
		return printResult(c, r, func(w io.Writer) {
			fmt.Fprintf(w, "%s\n%d bytes, %d files, SHA-256 %s\n", r.Path, r.Bytes, len(r.Files), r.SHA256)
		})
	}
	return &cli.Command{
		Name: "bundle", Usage: "the one file that installs Redoubt on a machine with no network",
		Subcommands: []*cli.Command{
			{Name: "build", Usage: "compile and pack, from a checkout (needs Go and its module cache)",
				Flags: []cli.Flag{outputFlag(),
					&cli.StringFlag{Name: "source", Value: ".", Usage: "root of the checkout", EnvVars: []string{"REDOUBT_SOURCE"}},
					&cli.StringFlag{Name: "out", Usage: "file to write (default dist/redoubt-VERSION.tar.zst in the checkout)", EnvVars: []string{"REDOUBT_OUT"}},
					&cli.StringFlag{Name: "release", Usage: "version to build (default: this binary's)", EnvVars: []string{"REDOUBT_RELEASE"}},
				},
				Action: func(c *cli.Context) error {
					release := orDefault(c.String("release"), versionString())
					out := c.String("out")
					if out == "" {
						dist := filepath.Join(c.String("source"), "dist")
						if err := os.MkdirAll(dist, 0o755); err != nil {
							return err
						}
						out = filepath.Join(dist, "redoubt-"+release+".tar.zst")
					}
					started := time.Now()
					report, err := installer.Build(c.Context, installer.Config{Source: c.String("source"), Out: out, Version: release, Progress: progress(c)})
					if err != nil {
						return err
					}
					fmt.Fprintf(progress(c), "built in %.0f s, licences of %d modules\n", time.Since(started).Seconds(), report.Modules)
					return printReport(c, report)
				}},
			{Name: "unpack", Usage: "check a bundle and write its folder, where tar knows no zstd", ArgsUsage: "FILE [DIR]",
				Action: func(c *cli.Context) error {
					if c.NArg() < 1 || c.NArg() > 2 {
						return usage("bundle unpack takes a FILE and perhaps a DIR")
					}
					folder, err := installer.Unpack(c.Args().First(), orDefault(c.Args().Get(1), "."))
					if err != nil {
						return err
					}
					fmt.Fprintln(c.App.Writer, folder)
					return nil
				}},
			{Name: "verify", Usage: "check form and digests of a bundle", ArgsUsage: "FILE", Flags: []cli.Flag{outputFlag()},
				Action: func(c *cli.Context) error {
					if c.NArg() != 1 {
						return usage("bundle verify takes one FILE")
					}
					report, err := installer.Verify(c.Args().First())
					if err != nil {
						return err
					}
					return printReport(c, report)
				}},
		},
	}
}
