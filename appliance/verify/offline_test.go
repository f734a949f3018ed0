package verify

import (
	"go/parser"
	gotoken "go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoSocket runs verifications of every kind in a child under strace: the
// child makes no network system call at all. The control makes one.
func TestNoSocket(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is not installed (apt-get install strace): the absence of sockets cannot be shown")
	}
	calls := func(mode string) string {
		t.Helper()
		out := filepath.Join(t.TempDir(), "trace")
		cmd := exec.Command(strace, "-f", "-qq", "-e", "trace=%network", "-e", "signal=none", "-o", out, os.Args[0], "-test.run=^TestOfflineChild$", "-test.v")
		cmd.Env = append(os.Environ(), "REDOUBT_VERIFY_CHILD="+mode)
		text, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(text), "--- PASS: TestOfflineChild") {
			t.Fatalf("child: %v\n%s", err, text)
		}
		trace, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return string(trace)
	}
	if got := calls("verify"); got != "" {
		t.Errorf("network system calls:\n%s", got)
	}
	if got := calls("control"); !strings.Contains(got, "socket(") {
		t.Errorf("the control's socket was not seen: %q", got)
	}
}

// TestNoNetworkImport: the package itself names no package that could dial.
func TestNoNetworkImport(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		seen++
		f, err := parser.ParseFile(gotoken.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			path := strings.Trim(i.Path.Value, `"`)
			if path == "net" || path == "os" || path == "os/exec" || path == "syscall" || strings.HasPrefix(path, "net/") && path != "net/url" || strings.HasSuffix(path, "sigstore-go/pkg/tuf") {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
	if seen == 0 {
		t.Error("no files seen")
	}
}
