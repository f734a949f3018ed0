package verifytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Client is the path of an unmodified client that .ci/clients built. One that could not be built is skipped, one that nobody built is a fault.
func Client(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("REDOUBT_E2E_CLIENTS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "redoubt", "e2e", "bin")
	}
	file := filepath.Join(dir, name)
	if _, err := os.Stat(file); err == nil {
		return file
	}
	for _, line := range strings.Split(os.Getenv("REDOUBT_E2E_MISSING"), "\n") {
		if reason, found := strings.CutPrefix(line, name+" "); found {
			t.Skipf("%s was not ready: %s", name, reason)
		}
	}
	t.Fatalf("%s is not in %s; .ci/clients builds it", name, dir)
	return ""
}

// Offline gives a program that is to be started a network namespace of its own, with no way out.
func Offline(program *exec.Cmd) {
	program.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		program.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	}
}

// Cosign is cosign's own code in one process that verifies one bundle after the other (.ci/mutants).
type Cosign struct {
	in  *json.Encoder
	out *json.Decoder
}

// CosignCode is the name of that program among the clients, with cosign's version.
const CosignCode = "cosign-verify-v3.1.3"

// StartCosign starts it for the life of the test, in an environment and without a network.
func StartCosign(t testing.TB, env []string) *Cosign {
	t.Helper()
	program := exec.Command(Client(t, CosignCode))
	program.Env = env
	Offline(program)
	in, err := program.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		io.Copy(io.Discard, out)
		if err := program.Wait(); err != nil {
			t.Errorf("%s: %v", program.Path, err)
		}
	})
	return &Cosign{json.NewEncoder(in), json.NewDecoder(out)}
}

// ErrPanic is what cosign's code does instead of a verdict.
var ErrPanic = errors.New("panic")

// Verify is what a call of cosign with these arguments says.
func (c *Cosign) Verify(t testing.TB, args ...string) error {
	var verdict struct{ Error, Panic string }
	if err := errors.Join(c.in.Encode(args), c.out.Decode(&verdict)); err != nil {
		t.Errorf("cosign's code ended: %v", err)
		return err
	}
	switch {
	case verdict.Panic != "":
		return fmt.Errorf("%w: %s", ErrPanic, verdict.Panic)
	case verdict.Error != "":
		return errors.New(verdict.Error)
	}
	return nil
}
