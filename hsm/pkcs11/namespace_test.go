//go:build cgo

package pkcs11

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// insideVariable tells a test that it runs in the surroundings again() made.
const insideVariable = "REDOUBT_TEST_INSIDE"

func inside(t *testing.T) bool { return os.Getenv(insideVariable) == t.Name() }

// again runs the calling test once more, in a process of its own started by
// command, and reports its outcome.
func again(t *testing.T, command ...string) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	args := append(command[1:len(command):len(command)], self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd := exec.Command(command[0], args...)
	cmd.Env = append(os.Environ(), insideVariable+"="+t.Name(), "PATH="+searchPath())
	out, err := cmd.CombinedOutput()
	text := string(out)
	switch {
	case err != nil || strings.Contains(text, "--- FAIL"):
		t.Fatalf("%v:\n%s", err, text)
	case !strings.Contains(text, "--- PASS: "+t.Name()):
		t.Fatalf("it did not run:\n%s", text)
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "--- PASS") || strings.Contains(line, "_test.go:") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// installed fails the test when a program of a package is not there.
func installed(t *testing.T, pkg string, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if !slices.ContainsFunc(filepath.SplitList(searchPath()), func(dir string) bool {
			_, err := os.Stat(filepath.Join(dir, p))
			return err == nil
		}) {
			t.Fatalf("%s is not installed: apt-get install %s", p, pkg)
		}
	}
}

// searchPath has the folders of daemons as well.
func searchPath() string { return os.Getenv("PATH") + ":/usr/sbin:/sbin" }
