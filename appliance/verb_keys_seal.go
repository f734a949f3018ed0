package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
)

// sealed is the JSON of `redoubt keys seal -o json`.
type sealed struct {
	Out  string `json:"out"`
	PCRs string `json:"pcrs"`
	Auth bool   `json:"auth"` // the authorisation value is needed too
	Use  string `json:"use"`  // the value of passphrase-file or pin-file
}

// plainSessionsFlag goes without the encryption FIPS-only mode has not.
func plainSessionsFlag() cli.Flag {
	return &cli.BoolFlag{Name: "tpm-plain-sessions", Usage: "speak to the TPM without encrypting parameters, as FIPS-only mode needs", EnvVars: []string{"REDOUBT_TPM_PLAIN_SESSIONS"}}
}

// maxSecret bounds the file that is sealed: what a TPM seals, and a newline.
const maxSecret = 130

// sealCommand seals a PIN or passphrase to this machine's measured state. It needs no state directory: an instance may have none yet.
func sealCommand() *cli.Command {
	return &cli.Command{
		Name: "seal", Usage: "seal a PIN or passphrase to a TPM's PCRs, for a start nobody attends",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "pcrs", Required: true, Usage: "PCRs whose present values open it, such as 7,11 (Secure Boot policy, kernel)", EnvVars: []string{"REDOUBT_PCRS"}},
			&cli.StringFlag{Name: "in", Required: true, Usage: "file of the secret, one line of at most 128 octets, mode 0600", EnvVars: []string{"REDOUBT_IN"}},
			&cli.StringFlag{Name: "out", Required: true, Usage: "sealed file to make; never overwritten", EnvVars: []string{"REDOUBT_OUT"}},
			&cli.StringFlag{Name: "device", Usage: "TPM device or swtpm socket (default /dev/tpmrm0)", EnvVars: []string{"REDOUBT_TPM_DEVICE"}},
			plainSessionsFlag(),
			&cli.StringFlag{Name: "tpm-auth-file", Usage: "authorisation value that is needed besides the PCRs", EnvVars: []string{"REDOUBT_TPM_AUTH_FILE"}},
			cmdline.OutputFlag(),
		},
		Action: func(c *cli.Context) error {
			secret, err := hsm.ReadSecret(c.String("in"), maxSecret)
			if err != nil {
				return fmt.Errorf("reading the secret: %w", err)
			}
			out, err := filepath.Abs(c.String("out"))
			if err != nil {
				return err
			}
			keys := newKeyring(Keys{TPM: &TPM{Device: c.String("device"), PlainSessions: c.Bool("tpm-plain-sessions")}}, layout{filepath.Dir(out)}, slog.New(slog.DiscardHandler))
			if auth := c.String("tpm-auth-file"); auth != "" {
				if keys.cfg.TPM.AuthFile, err = filepath.Abs(auth); err != nil {
					return err
				}
			}
			r := sealed{Out: out, PCRs: c.String("pcrs"), Auth: c.String("tpm-auth-file") != "", Use: sealedPrefix + out}
			err = keys.sealSecret(c.Context, out, secret, r.PCRs, r.Auth)
			if errors.Is(err, hsm.ErrExists) {
				return cmdline.Hinted(err, "choose another --out; nothing was changed")
			}
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, r, func(w io.Writer) {
				fmt.Fprintf(w, "sealed to PCRs %s: %s\nuse it as passphrase-file, pin-file or auth-file: %s\nKeep the secret itself off this machine; it is needed when firmware or kernel change.\n", r.PCRs, r.Out, r.Use)
			})
		},
	}
}
