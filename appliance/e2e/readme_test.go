//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// TestReadme runs the README's shell blocks in their order, as one shell would.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eu\n"
	blocks := shellBlock.FindAllStringSubmatch(string(readme), -1)
	if len(blocks) == 0 {
		t.Fatal("README.md holds no shell block")
	}
	for _, block := range blocks {
		script += block[1]
	}
	l := &lab{binary: os.Getenv(binaryVariable), serverLog: os.DevNull}
	s := l.session(t)
	programs := t.TempDir()
	for name, file := range map[string]string{"redoubt": l.binary, "cosign": client(t, cosign3)} {
		if err := os.Symlink(file, filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.env = append(s.env, "PATH="+programs+":"+os.Getenv("PATH"))
	// Whatever the blocks leave running ends with the shell.
	s.run(t, "sh", "-c", "trap 'status=$?; kill $(jobs -p) 2>/dev/null || :; exit $status' EXIT\n"+script)
}
