package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
)

// firstCeremony makes every key and certificate of a new state directory by the default plan, and leaves plan and signed
// transcript beside the certificates.
func firstCeremony(ctx context.Context, cfg *Config, dir layout, keys *keyring, progress func(string)) error {
	plan := ceremony.Default(cfg.Domain, func(role string) string { return cfg.Keys.Roles[role] }) // no key for a role left out
	return holdCeremony(ctx, plan, keys, dir.path("pki"), progress)
}

func holdCeremony(ctx context.Context, plan ceremony.Plan, keys *keyring, out string, progress func(string)) error {
	if err := ceremony.CheckFree(out); err != nil {
		return err
	}
	transcript, err := ceremony.Run(ctx, plan, func(_ context.Context, uri string) (hsm.Token, error) { return keys.token(uri) }, time.Now, progress)
	if err != nil {
		return fmt.Errorf("key ceremony: %w", err)
	}
	return transcript.Write(out)
}

func ceremonyCommand() *cli.Command {
	return &cli.Command{
		Name: "ceremony", Usage: "make keys and certificates by a plan, into a signed transcript; init holds one by itself",
		Subcommands: []*cli.Command{
			{Name: "plan", Usage: "print the default plan, to be edited and kept", Flags: []cli.Flag{
				&cli.StringFlag{Name: "domain", Required: true, Usage: "DNS domain of the deployment", EnvVars: []string{"REDOUBT_DOMAIN"}},
				&cli.StringFlag{Name: "keys", Value: "soft:", Usage: "token that holds the keys", EnvVars: []string{"REDOUBT_KEYS"}},
			}, Action: func(c *cli.Context) error {
				plan := ceremony.Default(c.String("domain"), func(role string) string { return keyURI(c.String("keys"), role) })
				if err := plan.Validate(); err != nil {
					return usage("%v", err)
				}
				_, err := c.App.Writer.Write(plan.YAML())
				return err
			}},
			{Name: "rehearse", Usage: "check that the plan's certificates would pass, touching no token", ArgsUsage: "PLAN", Action: func(c *cli.Context) error {
				plan, err := readPlan(c)
				if err != nil {
					return err
				}
				if err := ceremony.Rehearse(plan, time.Now()); err != nil {
					return err
				}
				fmt.Fprintln(c.App.Writer, "the certificates of the plan pass every lint")
				return nil
			}},
			{Name: "run", Usage: "carry out a plan; refuses when any of its keys exists", ArgsUsage: "PLAN", Flags: []cli.Flag{outputFlag(),
				&cli.StringFlag{Name: "out", Required: true, Usage: "folder for certificates and transcript", EnvVars: []string{"REDOUBT_OUT"}},
				&cli.StringFlag{Name: "keys-dir", Usage: "folder relative soft: keys are made in (default OUT/keys)", EnvVars: []string{"REDOUBT_KEYS_DIR"}},
				&cli.StringFlag{Name: "passphrase-file", Usage: "passphrase of software keys", EnvVars: []string{"REDOUBT_PASSPHRASE_FILE"}},
				&cli.StringFlag{Name: "pin-file", Usage: "PIN of the PKCS#11 token, instead of pin-source in the URIs", EnvVars: []string{"REDOUBT_PIN_FILE"}},
			}, Action: ceremonyRun},
			{Name: "verify", Usage: "check a transcript offline: signature, certificates, lint, plan", ArgsUsage: "TRANSCRIPT", Flags: []cli.Flag{outputFlag()}, Action: ceremonyVerify},
		},
	}
}

const maxCeremonyFile = 16 << 20

func readCeremonyFile(c *cli.Context, what string) ([]byte, error) {
	if c.NArg() != 1 {
		return nil, usage("%s takes one %s", c.Command.HelpName, what)
	}
	f, err := os.Open(c.Args().First())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCeremonyFile+1))
	if err == nil && len(data) > maxCeremonyFile {
		err = errors.New("the file is too large")
	}
	return data, err
}

func readPlan(c *cli.Context) (ceremony.Plan, error) {
	data, err := readCeremonyFile(c, "PLAN")
	if err != nil {
		return ceremony.Plan{}, err
	}
	return ceremony.ParsePlan(data)
}

func ceremonyRun(c *cli.Context) error {
	plan, err := readPlan(c)
	if err != nil {
		return err
	}
	logger, err := newLogger(c)
	if err != nil {
		return err
	}
	out, err := filepath.Abs(c.String("out"))
	if err != nil {
		return err
	}
	folder := layout{out}
	cfg := Keys{PassphraseFile: c.String("passphrase-file"), PINFile: c.String("pin-file")}
	keys := newKeyring(cfg, folder, logger)
	if d := c.String("keys-dir"); d != "" {
		if keys.softDir, err = filepath.Abs(d); err != nil {
			return err
		}
	}
	defer keys.close()
	if err := os.MkdirAll(orDefault(keys.softDir, folder.keys()), 0o700); err != nil {
		return err
	}
	for _, path := range []*string{&keys.cfg.PassphraseFile, &keys.cfg.PINFile} {
		if *path != "" {
			if *path, err = filepath.Abs(*path); err != nil {
				return err
			}
		}
	}
	if err := holdCeremony(c.Context, plan, keys, out, func(s string) { fmt.Fprintln(progress(c), s) }); err != nil {
		return err
	}
	return printTranscript(c, filepath.Join(out, ceremony.TranscriptFile))
}

func ceremonyVerify(c *cli.Context) error {
	if c.NArg() != 1 {
		return usage("ceremony verify takes one TRANSCRIPT")
	}
	return printTranscript(c, c.Args().First())
}

// printTranscript verifies a transcript and prints what it proves.
func printTranscript(c *cli.Context, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	t, err := ceremony.Verify(data)
	if err != nil {
		return err
	}
	return printResult(c, t.Body, func(w io.Writer) {
		fmt.Fprintf(w, "ceremony of %s, %s\n", t.Body.Opening.Domain, t.Body.Opening.Started.Format(time.RFC3339))
		for _, k := range t.Keys() {
			fmt.Fprintf(w, "key   %-9s %-11s %s\n", k.Role, k.Info.Algorithm, k.Info.URI)
		}
		for _, k := range t.Certificates() {
			fmt.Fprintf(w, "cert  %-9s by %-9s SHA-256 %s\n", k.Role, k.Issuer, k.Fingerprint)
		}
		fmt.Fprintln(w, "signed by its root key; certificates, lint and plan agree")
	})
}
