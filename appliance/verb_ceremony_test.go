package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
)

// TestCeremonyScript holds the script operators print to the verbs there are: every verb and every flag it names exists.
func TestCeremonyScript(t *testing.T) {
	text, err := os.ReadFile("../docs/ceremony.md")
	if err != nil {
		t.Fatal(err)
	}
	verbs, flags := map[string]bool{}, map[string]bool{"init": true}
	var walk func(c *cli.Command, path string)
	walk = func(c *cli.Command, path string) {
		verbs[path] = true
		for _, f := range c.Flags {
			for _, name := range f.Names() {
				flags["--"+name] = true
			}
		}
		for _, sub := range c.Subcommands {
			walk(sub, path+" "+sub.Name)
		}
	}
	walk(ceremonyCommand(), "ceremony")
	walk(initCommand(), "init")
	named := regexp.MustCompile(`redoubt (ceremony [a-z]+(?: (?:new|show)\b)?)`).FindAllStringSubmatch(string(text), -1)
	if len(named) < 15 {
		t.Errorf("only %d verbs found", len(named))
	}
	for _, m := range named {
		if !verbs[m[1]] {
			t.Errorf("the script names `redoubt %s`, which is no verb", m[1])
		}
	}
	for _, flag := range regexp.MustCompile(`--[a-z][a-z-]*`).FindAllString(string(text), -1) {
		if !flags[strings.TrimSuffix(flag, "-")] {
			t.Errorf("the script names %s, which no verb of it has", flag)
		}
	}
	for verb := range verbs {
		if name, ok := strings.CutPrefix(verb, "ceremony "); ok && !slices.Contains([]string{"operator"}, name) && !strings.Contains(string(text), name) {
			t.Errorf("the script does not name `redoubt %s`", verb)
		}
	}
}

// TestRehearsalWithoutSoftHSM: software keys stand in only where SoftHSM is missing, and the loss is said loudly.
func TestRehearsalWithoutSoftHSM(t *testing.T) {
	plan := filepath.Join(t.TempDir(), "plan.yaml")
	rotation := ceremony.Rotation("corp.internal", nil, map[string]ceremony.KeyPlan{"ct-2": {URI: "soft:ct-2", Algorithm: hsm.ECDSAP256}})
	if err := os.WriteFile(plan, rotation.YAML(), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", os.Getenv("SOFTHSM2_CONF")) // a rehearsal points this process elsewhere
	var stdout, stderr bytes.Buffer
	if code := run([]string{"redoubt", "ceremony", "rehearse", plan}, &stdout, &stderr); code != cmdline.ExitOK || !strings.Contains(stdout.String(), "pkcs11:token=rehearsal") || strings.Contains(stderr.String(), "SOFTWARE KEYS") {
		t.Fatalf("with SoftHSM: exit %d\n%s%s", code, stdout.String(), stderr.String())
	}
	t.Setenv("PATH", "")
	stdout.Reset()
	stderr.Reset()
	if code := run([]string{"redoubt", "ceremony", "rehearse", plan}, &stdout, &stderr); code != cmdline.ExitOK {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	if !strings.Contains(stderr.String(), "REHEARSAL WITH SOFTWARE KEYS") || !strings.Contains(stdout.String(), "soft:stand-in-ct-2") {
		t.Errorf("the banner or the stand-in is missing:\n%s%s", stdout.String(), stderr.String())
	}
	if code := run([]string{"redoubt", "ceremony", "rehearse", plan, "--keys", "softhsm"}, &stdout, &stderr); code != cmdline.ExitLocal {
		t.Errorf("--keys softhsm without it: exit %d", code)
	}
}
