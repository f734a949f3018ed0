package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"redoubt.internal/mirror"
)

const maxEvidence = 1 << 20

func evidenceCommand() *cli.Command {
	return &cli.Command{
		Name: "evidence", Usage: "check a file that proves a log's two histories, with the log's key alone; touches no state", ArgsUsage: "FILE",
		Flags: []cli.Flag{outputFlag(),
			&cli.StringFlag{Name: "key", Required: true, Usage: "file with the log's public key as you know it: PEM, or a C2SP note verifier line", EnvVars: []string{"REDOUBT_KEY"}},
			&cli.StringFlag{Name: "origin", Usage: "the log's origin, for a PEM key", EnvVars: []string{"REDOUBT_ORIGIN"}},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usage("mirror evidence takes one FILE")
			}
			key, err := os.ReadFile(c.String("key"))
			if err != nil {
				return err
			}
			line, err := verifierLine(c.String("origin"), string(key))
			if err != nil {
				return fmt.Errorf("reading the log's key: %w", err)
			}
			f, err := os.Open(c.Args().First())
			if err != nil {
				return err
			}
			defer f.Close()
			data, err := io.ReadAll(io.LimitReader(f, maxEvidence+1))
			if err != nil {
				return err
			}
			if len(data) > maxEvidence {
				return withCode(mirror.ExitCode(mirror.ErrProof), errors.New("the file is too large to be evidence"))
			}
			e, err := mirror.CheckEvidence(data, line)
			if err != nil {
				return withCode(mirror.ExitCode(err), err)
			}
			return printResult(c, e, func(w io.Writer) {
				fmt.Fprintf(w, "proven: %s signed two histories\n\n%s\n%s", e.Origin, e.Smaller, e.Larger)
			})
		},
	}
}
