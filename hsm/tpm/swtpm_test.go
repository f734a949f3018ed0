package tpm

import (
	"crypto/fips140"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

const testAuth = "quail-4711" // guessable, so its keys are guarded against guessing

// emulator is one swtpm process with a state directory of its own.
type emulator struct {
	t      testing.TB
	dir    string
	socket string
	cmd    *exec.Cmd
}

// startTPM makes a TPM and runs it until the test ends.
func startTPM(t testing.TB) *emulator {
	t.Helper()
	e := newTPM(t)
	e.start()
	return e
}

func newTPM(t testing.TB) *emulator {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Fatalf("swtpm is not installed (apt-get install swtpm swtpm-tools): %v", err)
	}
	dir, err := os.MkdirTemp("", "tpm") // short: a socket's path has 107 octets
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := &emulator{t: t, dir: dir, socket: filepath.Join(dir, "s")}
	t.Cleanup(e.stop)
	return e
}

// start runs swtpm on the state directory and waits for its socket.
func (e *emulator) start() {
	e.t.Helper()
	os.Remove(e.socket)
	os.Remove(e.socket + ".ctrl")
	e.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+e.dir, "--server", "type=unixio,path="+e.socket,
		"--ctrl", "type=unixio,path="+e.socket+".ctrl", "--flags", "startup-clear,not-need-init")
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(e.t, e.cmd.Start())
	for range 500 {
		if conn, err := net.Dial("unix", e.socket); err == nil {
			conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	e.t.Fatal("swtpm did not come up")
}

// stop kills swtpm, as a power cut would.
func (e *emulator) stop() {
	if e.cmd != nil {
		_ = e.cmd.Process.Kill()
		_ = e.cmd.Wait()
		e.cmd = nil
	}
}

// pause and resume make the TPM hang.
func (e *emulator) signal(s syscall.Signal) { must(e.t, e.cmd.Process.Signal(s)) }

// config opens the emulator; keys lie in its directory.
func (e *emulator) config() Config {
	return Config{Device: e.socket, Dir: filepath.Join(e.dir, "keys"), LatchDir: e.dir, PlainSessions: fips140.Enforced()} // the strict mode has no AES-CFB
}

// auth writes an authorisation value into a file.
func (e *emulator) auth(value string) string {
	path := filepath.Join(e.dir, "auth")
	must(e.t, os.WriteFile(path, []byte(value+"\n"), 0o600))
	return path
}

// tool runs a program of tpm2-tools on the emulator.
func (e *emulator) tool(name string, args ...string) string {
	e.t.Helper()
	out, err := e.try(name, args...)
	if err != nil {
		e.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (e *emulator) try(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+e.socket)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// direct speaks to the TPM beside the Token under test.
func (e *emulator) direct() *commands {
	l := newLink(e.socket, nil)
	return &commands{t: &Token{link: l}, w: &wire{l: l}}
}

// places counts the transient objects and the loaded sessions in the TPM.
func (e *emulator) places() (objects, sessions int) {
	e.t.Helper()
	c := e.direct()
	o, err := c.handles(0x80000000)
	must(e.t, err)
	s, err := c.handles(0x02000000)
	must(e.t, err)
	return len(o), len(s)
}

func open(t testing.TB, c Config) *Token {
	t.Helper()
	tok, err := Open(c)
	must(t, err)
	t.Cleanup(func() { _ = tok.Close() })
	return tok
}

func generate(t testing.TB, tok *Token, uri string, alg hsm.Algorithm) *hsm.Key {
	t.Helper()
	key, err := tok.Generate(t.Context(), uri, alg)
	must(t, err)
	return key
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
