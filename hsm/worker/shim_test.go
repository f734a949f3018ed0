package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/pkcs11"
)

// pkcs11Config is the part of pkcs11.Config the children of the tests need.
type pkcs11Config struct {
	URI, PINFile, Module string
	Sessions             int
}

func (c *pkcs11Config) open(ctx context.Context) (hsm.Token, error) {
	deadline, _ := ctx.Deadline()
	t, err := pkcs11.Open(pkcs11.Config{URI: c.URI, PINFile: c.PINFile, AllowedModules: []string{c.Module}, Sessions: c.Sessions, ConnectTimeout: time.Until(deadline)})
	if err != nil {
		return nil, err
	}
	return t, nil
}

const shimPIN = "quail-4711"

var shimDir string // where the faulty module was built, "" before

// buildShim compiles SoftHSM with faults (hsm/pkcs11/testdata/faulty.c) once per
// test run.
var buildShim = sync.OnceValues(func() (string, error) {
	headers, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		return "", fmt.Errorf("finding the PKCS#11 headers: %w", err)
	}
	if shimDir, err = os.MkdirTemp("", "faulty-*"); err != nil {
		return "", err
	}
	out := filepath.Join(shimDir, "faulty.so")
	if msg, err := exec.Command("cc", "-shared", "-fPIC", "-o", out, "-I", strings.TrimSpace(string(headers)), "../pkcs11/testdata/faulty.c", "-ldl").CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling: %w: %s", err, msg)
	}
	return out, nil
})

// shim is a SoftHSM token of its own behind the faulty module.
type shim struct {
	base, tokens, pin, control string
	config                     Config
}

func newShim(t testing.TB) *shim {
	t.Helper()
	module, err := buildShim()
	must(t, err)
	base := t.TempDir()
	s := &shim{base: base, tokens: filepath.Join(base, "tokens"), pin: filepath.Join(base, "pin"), control: filepath.Join(base, "faults")}
	must(t, os.Mkdir(s.tokens, 0o700))
	conf := filepath.Join(base, "softhsm2.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", s.tokens), 0o600))
	must(t, os.WriteFile(s.pin, []byte(shimPIN), 0o600))
	env := t.(interface{ Setenv(string, string) })
	env.Setenv("SOFTHSM2_CONF", conf)
	env.Setenv("FAULTY_CONTROL", s.control)
	if out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "worker", "--so-pin", "12345678", "--pin", shimPIN).CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util: %v: %s", err, out)
	}
	self, err := os.Executable()
	must(t, err)
	config, err := json.Marshal(testConfig{PKCS11: &pkcs11Config{URI: "pkcs11:token=worker?module-path=" + module, PINFile: s.pin, Module: module, Sessions: 8}})
	must(t, err)
	s.config = Config{Path: self, Args: []string{"worker.test", childArg}, Config: config, Env: []string{"SOFTHSM2_CONF", "FAULTY_CONTROL"}, Logger: newLogger(&testLog{t: t})}
	return s
}

// childConfig is what the children of s open.
func childConfig(s *shim) (*pkcs11Config, error) {
	var c testConfig
	err := json.Unmarshal(s.config.Config, &c)
	return c.PKCS11, err
}

func (s *shim) open(t testing.TB) *Token {
	t.Helper()
	tok, err := Open(s.config)
	must(t, err)
	t.Cleanup(func() { _ = tok.Close() })
	return tok
}

// set puts faults in force.
func (s *shim) set(t testing.TB, faults string) {
	t.Helper()
	must(t, os.WriteFile(s.control+".new", []byte(faults), 0o600))
	must(t, os.Rename(s.control+".new", s.control))
}

// logins counts the logins the module saw.
func (s *shim) logins(t testing.TB) int {
	t.Helper()
	data, err := os.ReadFile(s.control + ".logins")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(data)
}
