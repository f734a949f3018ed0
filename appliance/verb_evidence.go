package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/parcel"
)

const maxEvidence = 1 << 20

func evidenceCommand() *cli.Command {
	c := verifyEvidence("verify")
	c.Usage += "; the same as mirror evidence FILE"
	whole := verifyEvidence("evidence")
	whole.Subcommands = append(evidenceVerbs(), c)
	return whole
}

// verifyEvidence is `mirror evidence FILE` and `mirror evidence verify FILE`.
func verifyEvidence(name string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: "check a file that proves a log's two histories, with the log's key alone; touches no state", ArgsUsage: "FILE",
		Flags: []cli.Flag{cmdline.OutputFlag(),
			&cli.StringFlag{Name: "key", Required: true, Usage: "file with the log's public key as you know it: PEM, or a C2SP note verifier line", EnvVars: []string{"REDOUBT_KEY"}},
			&cli.StringFlag{Name: "origin", Usage: "the log's origin, if it is not the name in the key", EnvVars: []string{"REDOUBT_ORIGIN"}},
			&cli.StringSliceFlag{Name: "former-origin", Usage: "an origin the same log had earlier, as you know it; may be repeated", EnvVars: []string{"REDOUBT_FORMER_ORIGIN"}},
			&cli.StringSliceFlag{Name: "former-key", Usage: "file with a key the same log had earlier, as you know it; may be repeated", EnvVars: []string{"REDOUBT_FORMER_KEY"}},
			&cli.StringSliceFlag{Name: "claimant", Usage: "file with the key of an enclave whose signed word may stand for the log's other checkpoint; may be repeated", EnvVars: []string{"REDOUBT_CLAIMANT"}},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return cmdline.Usage("mirror evidence takes one FILE")
			}
			key, err := os.ReadFile(c.String("key"))
			if err != nil {
				return err
			}
			log, err := evidenceLog(c, string(key))
			if err != nil {
				return err
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
				return cmdline.WithCode(mirror.ExitCode(mirror.ErrProof), errors.New("the file is too large to be evidence"))
			}
			claimants, err := readLines(c.StringSlice("claimant"))
			if err != nil {
				return err
			}
			e, err := mirror.CheckEvidence(data, log, claimants...)
			if err != nil {
				return cmdline.WithCode(mirror.ExitCode(err), err)
			}
			return cmdline.PrintResult(c, e, func(w io.Writer) {
				if e.Claim != "" {
					fmt.Fprintf(w, "proven: %s and the enclave that signed this contradict each other\n\n%s\n%s", e.Origin, e.Claim, e.Larger)
					return
				}
				fmt.Fprintf(w, "proven: %s signed two histories\n\n%s\n%s", e.Origin, e.Smaller, e.Larger)
			})
		},
	}
}

// readLines reads files of one line each.
func readLines(files []string) (lines []string, err error) {
	for _, file := range files {
		data, err := readRecord(file)
		if err != nil {
			return nil, err
		}
		lines = append(lines, strings.TrimSpace(string(data)))
	}
	return lines, nil
}

// evidenceLog is the log as the reader of evidence knows it: nothing of it comes from the evidence.
func evidenceLog(c *cli.Context, key string) (mirror.LogConfig, error) {
	log := mirror.LogConfig{Origin: c.String("origin"), FormerOrigins: c.StringSlice("former-origin")}
	var err error
	if log.VKey, err = verifierLine(log.Origin, key); err != nil {
		return log, fmt.Errorf("reading the log's key: %w", err)
	}
	if log.Origin == "" {
		v, err := parcel.NewVerifier(log.VKey)
		if err != nil {
			return log, fmt.Errorf("reading the log's key: %w", err)
		}
		log.Origin = v.Name()
	}
	for _, file := range c.StringSlice("former-key") {
		text, err := os.ReadFile(file)
		if err != nil {
			return log, err
		}
		former, err := verifierLine(log.Origin, string(text))
		if err != nil {
			return log, fmt.Errorf("reading %s: %w", file, err)
		}
		log.FormerKeys = append(log.FormerKeys, former)
	}
	return log, nil
}
