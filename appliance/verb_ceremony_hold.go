package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/ceremony"
)

func ceremonyRun(c *cli.Context) error {
	plan, err := readPlan(c)
	if err != nil {
		return err
	}
	out, err := filepath.Abs(c.String("out"))
	if err != nil {
		return err
	}
	keys, err := openKeyring(c, out)
	if err != nil {
		return err
	}
	defer keys.close()
	s := session(keys, func(step string) { fmt.Fprintln(cmdline.Progress(c), step) })
	if err := readInputs(c, &s); err != nil {
		return err
	}
	var carried []string
	switch {
	case s.Requests != nil:
		carried = []string{ceremony.CertificatesFile}
	case plan.InParts() && s.Certificates == nil:
		carried = []string{ceremony.RequestsFile}
	}
	if err := ceremony.CheckFree(out, carried...); err != nil {
		return err
	}
	printAloud(cmdline.Progress(c), fmt.Sprintf("plan of kind %s for %s", plan.Kind, plan.Domain), plan.Digest())
	if err := os.MkdirAll(orDefault(keys.softDir, keys.dir.keys()), 0o700); err != nil {
		return err
	}
	t, err := s.Run(c.Context, plan)
	if errors.Is(err, ceremony.ErrApproval) {
		return cmdline.Hinted(err, "each operator runs `redoubt ceremony approve PLAN --key KEY --out FILE`; give run every FILE with --approval")
	} else if err != nil {
		return err
	}
	if err := t.Write(out); err != nil {
		return err
	}
	return printTranscript(c, filepath.Join(out, t.FileName()), verdictOptions{pending: true})
}

// readInputs reads the documents a ceremony takes in besides its plan.
func readInputs(c *cli.Context, s *ceremony.Session) (err error) {
	for flag, to := range map[string]*[]byte{"requests": &s.Requests, "certificates": &s.Certificates, "register": &s.Register} {
		if *to, err = readOptional(c, flag); err != nil {
			return err
		}
	}
	statement, err := readOptional(c, "backup-statement")
	if err != nil {
		return err
	}
	s.BackupStatement = string(statement)
	for _, path := range c.StringSlice("approval") {
		data, err := readRecord(path)
		if err != nil {
			return fmt.Errorf("--approval: %w", err)
		}
		approval, err := ceremony.ParseApproval(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		s.Approvals = append(s.Approvals, approval)
	}
	return nil
}

func ceremonyRehearse(c *cli.Context) error {
	plan, err := readPlan(c)
	if err != nil {
		return err
	}
	register, err := readOptional(c, "register")
	if err != nil {
		return err
	}
	out := c.String("out")
	if out != "" {
		if err := ceremony.CheckFree(out); err != nil {
			return err
		}
	}
	keys, uri, closing, err := throwawayToken(c)
	if err != nil {
		return err
	}
	defer closing()
	s := session(keys, func(step string) { fmt.Fprintln(cmdline.Progress(c), "rehearsal: "+step) })
	s.Register, s.StandIn = register, uri
	printAloud(cmdline.Progress(c), fmt.Sprintf("REHEARSAL of a plan of kind %s for %s", plan.Kind, plan.Domain), plan.Digest())
	t, err := s.Rehearse(c.Context, plan)
	if err != nil {
		return err
	}
	if out == "" {
		return printCeremony(c, t, verdictOptions{rehearsal: true, pending: true})
	}
	if err := t.Write(out); err != nil {
		return err
	}
	return printTranscript(c, filepath.Join(out, t.FileName()), verdictOptions{rehearsal: true, pending: true})
}

const rehearsalSoftware = `********************************************************************************
*  REHEARSAL WITH SOFTWARE KEYS: SoftHSM is not usable here (%s).
*  Steps, certificates and lint are those of the run; no PKCS#11 module was used.
*  Install SoftHSM (softhsm2) and rehearse again before you rely on it.
********************************************************************************
`

// throwawayToken makes the token of a rehearsal: a SoftHSM token in a folder that goes away, software keys where SoftHSM is
// missing. standIn names each role's stand-in there.
func throwawayToken(c *cli.Context) (keys *keyring, standIn func(role, uri string) string, closing func(), err error) {
	logger, err := cmdline.NewLogger(c)
	if err != nil {
		return nil, nil, nil, err
	}
	want := c.String("keys")
	if want != "auto" && want != "softhsm" && want != "soft" {
		return nil, nil, nil, cmdline.Usage("--keys %q: want auto, softhsm or soft", want)
	}
	dir, err := os.MkdirTemp("", "redoubt-rehearsal-")
	if err != nil {
		return nil, nil, nil, err
	}
	remove := func() { os.RemoveAll(dir) }
	if want != "soft" {
		token, module, err := throwawaySoftHSM(c.Context, dir)
		if err == nil {
			keys = newKeyring(Keys{AllowedModules: []string{module}}, layout{dir}, logger)
			return keys, func(role, _ string) string { return keyURI(token, "stand-in-"+role) }, func() { keys.close(); remove() }, nil
		}
		if want == "softhsm" || !errors.Is(err, errNoSoftHSM) {
			remove()
			return nil, nil, nil, err
		}
		fmt.Fprintf(c.App.ErrWriter, rehearsalSoftware, err)
	}
	if err := errors.Join(os.Mkdir(layout{dir}.keys(), 0o700), writePassphrase(filepath.Join(dir, "passphrase"))); err != nil {
		remove()
		return nil, nil, nil, err
	}
	keys = newKeyring(Keys{PassphraseFile: filepath.Join(dir, "passphrase")}, layout{dir}, logger)
	return keys, func(role, _ string) string { return keyURI("soft:", "stand-in-"+role) }, func() { keys.close(); remove() }, nil
}

// throwawaySoftHSM initialises a token in dir and points this process, and the modules it starts, at it.
func throwawaySoftHSM(ctx context.Context, dir string) (token, module string, err error) {
	if !cgoEnabled {
		return "", "", fmt.Errorf("%w: this binary was built without PKCS#11", errNoSoftHSM)
	}
	for _, m := range softHSMModules {
		if _, err := os.Stat(m); err == nil {
			module = m
			break
		}
	}
	tool, err := exec.LookPath("softhsm2-util")
	if module == "" || err != nil {
		return "", "", fmt.Errorf("%w: its module or softhsm2-util is not installed", errNoSoftHSM)
	}
	conf, pin := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", filepath.Join(dir, "tokens"))
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "tokens"), 0o700), os.Mkdir(layout{dir}.keys(), 0o700), os.WriteFile(conf, []byte(text), 0o600),
		os.WriteFile(pin, []byte(demoPIN+"\n"), 0o600), os.Setenv("SOFTHSM2_CONF", conf)); err != nil {
		return "", "", err
	}
	if out, err := exec.CommandContext(ctx, tool, "--init-token", "--free", "--label", "rehearsal", "--so-pin", demoPIN, "--pin", demoPIN).CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("%w: initialising a token: %w: %s", errNoSoftHSM, err, out)
	}
	return fmt.Sprintf("pkcs11:token=rehearsal?module-path=%s&pin-source=%s", module, pin), module, nil
}
