//go:build cgo

package pkcs11

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

// tpm2-pkcs11 in front of a software TPM: a module that refuses the full
// template, and a token with few slots behind a resource manager. The manager
// wants a message bus; the test makes one of its own.
func TestTPM2PKCS11(t *testing.T) {
	const module = "/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1"
	if !inside(t) {
		t.Parallel()
		installed(t, "dbus", "dbus-run-session")
		installed(t, "swtpm swtpm-tools", "swtpm", "swtpm_setup")
		installed(t, "tpm2-abrmd libtss2-tcti-swtpm0 libtss2-tcti-tabrmd0", "tpm2-abrmd")
		installed(t, "libtpm2-pkcs11-tools", "tpm2_ptool")
		if _, err := os.Stat(module); err != nil {
			t.Fatalf("tpm2-pkcs11 is not installed (apt-get install libtpm2-pkcs11-1): %v", err)
		}
		again(t, "dbus-run-session", "--")
		return
	}
	base, err := os.MkdirTemp("", "t2p") // a socket's path must be short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	state, store, socket := filepath.Join(base, "state"), filepath.Join(base, "store"), filepath.Join(base, "s")
	must(t, os.Mkdir(state, 0o700))
	must(t, os.Mkdir(store, 0o700))
	if out, err := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", state, "--overwrite").CombinedOutput(); err != nil {
		t.Fatalf("swtpm_setup: %v: %s", err, out)
	}
	daemon := func(name string, args ...string) {
		cmd := exec.Command(name, args...)
		must(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	daemon("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--server", "type=unixio,path="+socket, "--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "startup-clear,not-need-init")
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket + ".ctrl"); err == nil {
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal("swtpm does not answer")
		}
	}
	daemon("tpm2-abrmd", "--allow-root", "--session", "--tcti=swtpm:path="+socket)
	t.Setenv("TPM2TOOLS_TCTI", "tabrmd:bus_type=session")
	t.Setenv("TPM2_PKCS11_TCTI", "tabrmd:bus_type=session")
	t.Setenv("TPM2_PKCS11_STORE", store)
	t.Setenv("TSS2_LOG", "all+NONE")
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) { // the manager takes its name on the bus
		out, err := exec.Command("tpm2_ptool", "init", "--path="+store).CombinedOutput()
		if err == nil {
			break
		}
		if time.Since(began) > 60*time.Second {
			t.Fatalf("tpm2_ptool init: %v: %s", err, out)
		}
	}
	if out, err := exec.Command("tpm2_ptool", "addtoken", "--pid=1", "--sopin=87654321", "--userpin="+testPIN, "--label=redoubt", "--path="+store).CombinedOutput(); err != nil {
		t.Fatalf("tpm2_ptool addtoken: %v: %s", err, out)
	}
	pin := filepath.Join(base, "pin")
	must(t, os.WriteFile(pin, []byte(testPIN), 0o600))
	c := Config{URI: "pkcs11:token=redoubt?module-path=" + module, PINFile: pin, AllowedModules: []string{module}}
	hsmtest.Run(t, hsmtest.Kind{
		Open:       func(t testing.TB) hsm.Token { return open(t, c) },
		URI:        func(name string) string { return "pkcs11:object=" + name },
		Secret:     testPIN,
		Algorithms: []hsm.Algorithm{hsm.ECDSAP256, hsm.ECDSAP384},
	})
	tok := open(t, c)
	key := generate(t, tok, "described", hsm.ECDSAP256)
	t.Logf("algorithms %v, attributes %v", key.Info().TokenAlgorithms, key.Info().Attributes)
	_, err = tok.Generate(t.Context(), "pkcs11:object=large", hsm.RSA4096)
	failsWith(t, err, hsm.ErrUnsupported, "it has those of")
}
