//go:build cgo

package pkcs11

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

// openCryptoki's soft token locks its PIN after three wrong tries, which
// SoftHSM never does. It wants root, its daemon and a token that belongs to the
// machine, not to the test, and the test wipes that token: so it must be asked
// for by name.
func TestOpenCryptoki(t *testing.T) {
	const module = "/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so"
	if os.Getenv("REDOUBT_TEST_OPENCRYPTOKI") == "" {
		t.Skip("wipes the openCryptoki token of this machine's slot 3 and needs root and a running pkcsslotd: set REDOUBT_TEST_OPENCRYPTOKI=1 to allow it")
	}
	config := func(input string, args ...string) {
		t.Helper()
		cmd := exec.Command("pkcsconf", append(args, "-c", "3")...)
		cmd.Stdin = strings.NewReader(input)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("pkcsconf %v: %v: %s", args, err, out)
		}
	}
	must(t, os.RemoveAll("/var/lib/opencryptoki/swtok/NVTOK.DAT"))
	config("87654321\nredoubt-test\n", "-I")
	config("87654321\n76543210\n76543210\n", "-P")
	config("76543210\n1234567\n1234567\n", "-u")
	pin := filepath.Join(t.TempDir(), "pin")
	must(t, os.WriteFile(pin, []byte("1234567"), 0o600))
	c := Config{URI: "pkcs11:token=redoubt-test?module-path=" + module, PINFile: pin}

	t.Run("Conformance", func(t *testing.T) {
		hsmtest.Run(t, hsmtest.Kind{
			Open:       func(t testing.TB) hsm.Token { return open(t, c) },
			URI:        func(name string) string { return "pkcs11:object=" + name },
			Secret:     "1234567",
			Algorithms: []hsm.Algorithm{hsm.RSA3072},
		})
	})
	t.Run("Lockout", func(t *testing.T) {
		for _, wrong := range []string{"1111111", "2222222", "3333333"} { // an operator who guesses
			must(t, os.WriteFile(pin, []byte(wrong), 0o600))
			for range 5 { // and a service manager that restarts
				_, err := Open(c)
				failsWith(t, err, hsm.ErrBadPIN)
			}
		}
		// Two different wrong PINs were tried; the last try was not taken, so the
		// right PIN is still worth something once an operator logs in by hand.
		_, err := Open(c)
		failsWith(t, err, hsm.ErrBadPIN, "one PIN try left")
		config("1234567\n1234567\n1234567\n", "-p")
		must(t, os.WriteFile(pin, []byte("1234567"), 0o600))
		open(t, c)
	})
}
