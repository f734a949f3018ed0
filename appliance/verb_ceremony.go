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

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
)

// firstCeremony makes every key and certificate of a new state directory by the default plan, and leaves plan and signed
// transcript beside the certificates.
func firstCeremony(ctx context.Context, cfg *Config, dir layout, keys *keyring, progress func(string)) error {
	plan := ceremony.Default(cfg.Domain, func(role string) string { return cfg.Keys.Roles[role] }) // no key for a role left out
	plan.Profile = cfg.Profile
	err := holdCeremony(ctx, plan, session(keys, progress), dir.path("pki"))
	if errors.Is(err, ceremony.ErrPlan) {
		return cmdline.Hinted(err, "write a plan of your own (`redoubt ceremony plan`, --successor-keys for a second root), run it, and give init its result with --ceremony")
	}
	return err
}

// session is a ceremony on the tokens of keys.
func session(keys *keyring, progress func(string)) ceremony.Session {
	return ceremony.Session{
		Open: func(_ context.Context, uri string) (hsm.Token, error) { return keys.token(uri) },
		Now:  time.Now, Progress: progress, Software: softwareName(), Place: keyPlace,
	}
}

func holdCeremony(ctx context.Context, plan ceremony.Plan, s ceremony.Session, out string) error {
	if err := ceremony.CheckFree(out); err != nil {
		return err
	}
	transcript, err := s.Run(ctx, plan)
	if err != nil {
		return fmt.Errorf("key ceremony: %w", err)
	}
	return transcript.Write(out)
}

func ceremonyCommand() *cli.Command {
	return &cli.Command{
		Name: "ceremony", Usage: "make, rotate and cross-sign keys by an approved plan, into a signed transcript; init holds one by itself",
		Subcommands: []*cli.Command{
			ceremonyPlanCommand(),
			{Name: "digest", Usage: "print the SHA-256 of a plan as operators read it to each other", ArgsUsage: "PLAN", Flags: []cli.Flag{cmdline.OutputFlag()}, Action: ceremonyDigest},
			{Name: "operator", Usage: "keys of the people who approve", Subcommands: []*cli.Command{
				{Name: "new", Usage: "make a key and print its holder's entry for a plan", ArgsUsage: "NAME", Action: operatorNew, Flags: append(personFlags("key to make: soft:FILE, or a URI of another token"),
					&cli.StringFlag{Name: "algorithm", Value: string(hsm.ECDSAP256), Usage: "ecdsa-p256 or ed25519", EnvVars: []string{"REDOUBT_ALGORITHM"}})},
				{Name: "show", Usage: "print the entry of somebody who has a key", ArgsUsage: "NAME", Action: operatorShow, Flags: personFlags("key URI, or a file: PEM private key (0600) or PEM public key")},
			}},
			{Name: "approve", Usage: "sign the digest of a plan as one of its operators", ArgsUsage: "PLAN", Action: ceremonyApprove, Flags: append(personFlags("operator's key: URI or PEM file"),
				registerFlag(), digestFlag(), &cli.StringFlag{Name: "out", Usage: "file to write; must not exist (default stdout)", EnvVars: []string{"REDOUBT_OUT"}})},
			{Name: "rehearse", Usage: "carry the plan out on stand-in keys in a throwaway token, into a transcript marked rehearsal", ArgsUsage: "PLAN", Action: ceremonyRehearse, Flags: []cli.Flag{cmdline.OutputFlag(), registerFlag(),
				&cli.StringFlag{Name: "out", Usage: "folder for the rehearsal's transcript and certificates", EnvVars: []string{"REDOUBT_OUT"}},
				&cli.StringFlag{Name: "keys", Value: "auto", Usage: "auto, softhsm or soft: where the stand-ins are", EnvVars: []string{"REDOUBT_KEYS"}}}},
			{Name: "run", Usage: "carry out a plan; refuses when any of its keys exists or approvals are missing", ArgsUsage: "PLAN", Action: ceremonyRun, Flags: append([]cli.Flag{cmdline.OutputFlag(), registerFlag(), digestFlag(),
				&cli.StringFlag{Name: "out", Required: true, Usage: "folder for certificates and transcript", EnvVars: []string{"REDOUBT_OUT"}},
				&cli.StringSliceFlag{Name: "approval", Usage: "an operator's approval; as many as the plan asks for", EnvVars: []string{"REDOUBT_APPROVAL"}},
				&cli.StringFlag{Name: "requests", Usage: "on the offline machine: " + ceremony.RequestsFile + " as it was carried in", EnvVars: []string{"REDOUBT_REQUESTS"}},
				&cli.StringFlag{Name: "certificates", Usage: "back on the online machine: " + ceremony.CertificatesFile + " as it was carried back", EnvVars: []string{"REDOUBT_CERTIFICATES"}},
				&cli.StringFlag{Name: "backup-statement", Usage: "text file: what was done for the declared backup, by whom", EnvVars: []string{"REDOUBT_BACKUP_STATEMENT"}},
			}, tokenFlags()...)},
			{Name: "sign", Usage: "add an operator's signature to a transcript, in place", ArgsUsage: "TRANSCRIPT", Action: ceremonySign, Flags: append(personFlags("operator's key: URI or PEM file"), cmdline.OutputFlag())},
			{Name: "verify", Usage: "check a transcript offline: links, signatures, approvals, certificates, lint, attestations", ArgsUsage: "TRANSCRIPT", Action: ceremonyVerify, Flags: []cli.Flag{cmdline.OutputFlag(),
				&cli.StringFlag{Name: "at", Usage: "RFC 3339 time at which the certificates must be valid as well", EnvVars: []string{"REDOUBT_AT"}},
				&cli.StringFlag{Name: "attestation-roots", Usage: "PEM file of the roots of the tokens' makers, for attestations", EnvVars: []string{"REDOUBT_ATTESTATION_ROOTS"}},
				&cli.BoolFlag{Name: "rehearsal", Usage: "accept a rehearsal", EnvVars: []string{"REDOUBT_REHEARSAL"}},
				&cli.BoolFlag{Name: "pending", Usage: "accept a transcript its operators have yet to sign", EnvVars: []string{"REDOUBT_PENDING"}}}},
			{Name: "diff", Usage: "compare two transcripts of one plan: what must be the same, what may differ", ArgsUsage: "A B", Flags: []cli.Flag{cmdline.OutputFlag()}, Action: ceremonyDiff},
			{Name: "register", Usage: "check a register of custodians and say who they are", ArgsUsage: "REGISTER", Flags: []cli.Flag{cmdline.OutputFlag()}, Action: ceremonyRegister},
		},
	}
}

func registerFlag() cli.Flag {
	return &cli.StringFlag{Name: "register", Usage: "the register of custodians, where the plan names an entry of it", EnvVars: []string{"REDOUBT_REGISTER"}}
}

func digestFlag() cli.Flag {
	return &cli.StringFlag{Name: "digest", Usage: "the plan's SHA-256 as it was read aloud; another plan is refused", EnvVars: []string{"REDOUBT_DIGEST"}}
}

// tokenFlags say how tokens are opened.
func tokenFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "keys-dir", Usage: "folder relative soft: keys are in (default: OUT/keys for a ceremony, here for an operator)", EnvVars: []string{"REDOUBT_KEYS_DIR"}},
		&cli.StringFlag{Name: "config", Usage: "configuration of a deployment, whose keys block says how tokens are opened and whose software keys are meant", EnvVars: []string{"REDOUBT_CONFIG"}},
		&cli.StringFlag{Name: "tpm-device", Usage: "TPM device or swtpm socket (default /dev/tpmrm0)", EnvVars: []string{"REDOUBT_TPM_DEVICE"}},
		&cli.StringFlag{Name: "tpm-auth-file", Usage: "authorisation value of keys in a TPM", EnvVars: []string{"REDOUBT_TPM_AUTH_FILE"}},
		plainSessionsFlag(),
		&cli.StringFlag{Name: "passphrase-file", Usage: "passphrase of software keys", EnvVars: []string{"REDOUBT_PASSPHRASE_FILE"}},
		&cli.StringFlag{Name: "pin-file", Usage: "PIN of the PKCS#11 token, instead of pin-source in the URIs", EnvVars: []string{"REDOUBT_PIN_FILE"}},
		&cli.StringSliceFlag{Name: "module", Usage: "PKCS#11 module that may be loaded (default: those in the distribution's folders)", EnvVars: []string{"REDOUBT_MODULE"}},
	}
}

// personFlags name one operator's key.
func personFlags(usage string) []cli.Flag {
	return append([]cli.Flag{&cli.StringFlag{Name: "key", Required: true, Usage: usage, EnvVars: []string{"REDOUBT_KEY"}}}, tokenFlags()...)
}

// openKeyring is a keyring by tokenFlags, working in folder unless a configuration names a state directory.
func openKeyring(c *cli.Context, folder string) (*keyring, error) {
	logger, err := cmdline.NewLogger(c)
	if err != nil {
		return nil, err
	}
	if folder, err = filepath.Abs(folder); err != nil {
		return nil, err
	}
	cfg, dir := Keys{}, layout{folder}
	if path := c.String("config"); path != "" {
		of, err := loadConfig(path)
		if err != nil {
			return nil, err
		}
		cfg, dir = of.Keys, layout{of.Dir}
	}
	paths := map[string]*string{"passphrase-file": &cfg.PassphraseFile, "pin-file": &cfg.PINFile}
	if c.String("tpm-device") != "" || c.String("tpm-auth-file") != "" || c.Bool("tpm-plain-sessions") {
		chip := TPM{}
		if cfg.TPM != nil {
			chip = *cfg.TPM
		}
		chip.PlainSessions = chip.PlainSessions || c.Bool("tpm-plain-sessions")
		cfg.TPM = &chip
		paths["tpm-device"], paths["tpm-auth-file"] = &chip.Device, &chip.AuthFile
	}
	for flag, to := range paths {
		if path := c.String(flag); path != "" {
			if *to, err = filepath.Abs(path); err != nil {
				return nil, err
			}
		}
	}
	if modules := c.StringSlice("module"); len(modules) > 0 {
		cfg.AllowedModules = modules
	}
	keys := newKeyring(cfg, dir, logger)
	if d := c.String("keys-dir"); d != "" {
		keys.softDir, err = filepath.Abs(d)
	}
	return keys, err
}

const maxCeremonyFile = 16 << 20

// readRecord reads a file of a ceremony.
func readRecord(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCeremonyFile+1))
	if err == nil && len(data) > maxCeremonyFile {
		err = fmt.Errorf("%s is too large", path)
	}
	return data, err
}

// readOptional reads the file a flag names, nil when it is not set.
func readOptional(c *cli.Context, flag string) ([]byte, error) {
	if c.String(flag) == "" {
		return nil, nil
	}
	data, err := readRecord(c.String(flag))
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return data, nil
}

// readPlan reads the one operand; under --digest it must be the plan that was read aloud.
func readPlan(c *cli.Context) (ceremony.Plan, error) {
	if c.NArg() != 1 {
		return ceremony.Plan{}, cmdline.Usage("%s takes one PLAN", c.Command.HelpName)
	}
	data, err := readRecord(c.Args().First())
	if err != nil {
		return ceremony.Plan{}, err
	}
	plan, err := ceremony.ParsePlan(data)
	if err != nil {
		return plan, cmdline.Hinted(err, "`redoubt ceremony plan` writes one with every field explained")
	}
	if want := c.String("digest"); want != "" && compactDigest(want) != plan.Digest() {
		aloud, _ := ceremony.Aloud(plan.Digest())
		return plan, cmdline.Hinted(fmt.Errorf("%s is not the plan that was agreed on: its SHA-256 is %s", c.Args().First(), plan.Digest()), "read it to each other:\n%s", aloud)
	}
	return plan, nil
}

// writeOnce makes a file that was not there.
func writeOnce(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
