package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// asProgram has this test binary be the program.
const asProgram = "REDOUBT_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// installed is the program in a folder of its own, with an appliance beside it that says how it was called.
func installed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, "redoubt"), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, appliance), []byte("#!/bin/sh\necho handed over: \"$@\"\nexit 77\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func call(t *testing.T, program string, args ...string) (int, string) {
	t.Helper()
	command := exec.Command(program, args...)
	command.Env = []string{asProgram + "=1"}
	out, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return command.ProcessState.ExitCode(), string(out)
}

// TestHandsOver: every verb but verify is the appliance's, with the command line as it stands and its exit code; of verify only what needs an instance.
func TestHandsOver(t *testing.T) {
	dir := installed(t)
	program := filepath.Join(dir, "redoubt")
	link := filepath.Join(t.TempDir(), "redoubt")
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, "redoubt.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"version"}, {}, {"--help"}, {"--log-level", "debug", "serve", "--dir", "verify"}, {"--dir", "verify", "status"}, {"policy", "test", "verify"}, {"-q", "mirror", "verify"},
		{"verify", "file", "--policy", "p.yaml", "--receipt", "r.json", "--receipt-setup", "s"}, {"--dir", state, "verify", "file"}, {"verify", "--config", filepath.Join(state, "redoubt.yaml"), "file"},
	} {
		for _, called := range []string{program, link} {
			if code, out := call(t, called, args...); code != 77 || out != strings.TrimRight("handed over: "+strings.Join(args, " "), " ")+"\n" && out != "handed over: "+strings.Join(args, " ")+"\n" {
				t.Errorf("%q: exit code %d, %s", args, code, out)
			}
		}
	}
	for _, args := range [][]string{{"verify", "file"}, {"--log-level", "debug", "verify", "--dir", t.TempDir(), "file"}, {"verify", "file", "--mirror-state", "there", "--dir", state}, {"verify", "--help"}, {"verify", "--schema"}} {
		if code, out := call(t, program, args...); code == 77 || strings.Contains(out, "handed over") {
			t.Errorf("%q is handed over: %s", args, out)
		}
	}
}

// TestManners: the program refuses what the appliance refuses, before anything is done, and an operand is never a verb.
func TestManners(t *testing.T) {
	program := filepath.Join(installed(t), "redoubt")
	for _, args := range [][]string{{"verify", "h"}, {"verify", "help"}, {"verify", "--", "h"}, {"verify", "--nosuch", "file"}, {"verify", "--min-denied-version", "x", "file"}, {"verify", "file", "-o", "xml"}, {"verify"}} {
		command := exec.Command(program, args...)
		command.Env = []string{asProgram + "=1"}
		out, err := command.Output()
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || len(out) > 0 {
			t.Errorf("%q: %v, stdout %s", args, err, out)
		}
	}
}

// TestAlone: without the appliance beside it the program verifies, and says of everything else what is missing.
func TestAlone(t *testing.T) {
	dir := installed(t)
	if err := os.Remove(filepath.Join(dir, appliance)); err != nil {
		t.Fatal(err)
	}
	if code, out := call(t, filepath.Join(dir, "redoubt"), "serve"); code != 1 || !strings.Contains(out, filepath.Join(dir, appliance)+", which does everything but verify, is not there") || !strings.Contains(out, "hint: ") {
		t.Errorf("exit code %d, %s", code, out)
	}
	if code, out := call(t, filepath.Join(dir, "redoubt"), "verify", "--schema"); code != 0 || !strings.HasPrefix(out, "{") {
		t.Errorf("exit code %d, %s", code, out)
	}
}

// TestLinksLittle: what is linked here is what a verification needs. Each of these packages would make every start slower.
func TestLinksLittle(t *testing.T) {
	list := func(of string) []string {
		out, err := exec.Command("go", "list", "-deps", of).Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		return strings.Fields(string(out))
	}
	heavy := []string{"redoubt.internal/ca", "redoubt.internal/hsm", "redoubt.internal/log", "redoubt.internal/mirror", "go.etcd.io/bbolt", "github.com/hashicorp/vault/api",
		"github.com/prometheus/client_golang/prometheus", "github.com/zmap/zlint/v3/lint"}
	for _, path := range list(".") {
		if slices.Contains(heavy, path) {
			t.Errorf("%s is linked", path)
		}
	}
	all := list("redoubt.internal/appliance")
	for _, path := range heavy { // so that none is forgotten that has another name now
		if !slices.Contains(all, path) {
			t.Errorf("%s is not even in the appliance", path)
		}
	}
}
