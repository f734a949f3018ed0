//go:build cgo

package pkcs11

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

// privateOpenCryptoki gives this process's mount namespace an openCryptoki of
// its own, with one soft token in slot 3 and the daemon that serves it; the
// machine's tokens, locks and shared memory are out of sight.
const privateOpenCryptoki = `set -eu
mount --make-rprivate /
for d in /var/lib/opencryptoki /var/log /run /dev/shm; do mount -t tmpfs tmpfs $d; done
for d in /var/lib/opencryptoki /run/lock/opencryptoki; do install -d -g pkcs11 -m 0770 $d $d/swtok; done
install -d -g pkcs11 -m 0770 /var/lib/opencryptoki/swtok/TOK_OBJ /var/log/opencryptoki
printf 'version opencryptoki-3.1\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n' >/run/opencryptoki.conf
mount --bind /run/opencryptoki.conf /etc/opencryptoki/opencryptoki.conf
exec pkcsslotd
`

// openCryptoki's soft token locks its PIN after three wrong tries, which
// SoftHSM never does.
func TestOpenCryptoki(t *testing.T) {
	const module = "/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so"
	if !inside(t) {
		t.Parallel()
		installed(t, "opencryptoki", "pkcsslotd", "pkcsconf")
		namespaces := []string{"unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"}
		if out, err := exec.Command(namespaces[0], append(namespaces[1:], "true")...).CombinedOutput(); err != nil {
			t.Skipf("NOT TESTED: openCryptoki's daemon wants root and namespaces of its own, which this user cannot make: %v: %s", err, out)
		}
		again(t, namespaces...)
		return
	}
	if out, err := exec.Command("sh", "-c", privateOpenCryptoki).CombinedOutput(); err != nil {
		t.Fatalf("preparing openCryptoki: %v: %s", err, out)
	}
	config := func(input string, args ...string) {
		t.Helper()
		cmd := exec.Command("pkcsconf", append(args, "-c", "3")...)
		cmd.Stdin = strings.NewReader(input)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("pkcsconf %v: %v: %s", args, err, out)
		}
	}
	for began := time.Now(); exec.Command("pkcsconf", "-t").Run() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatal("pkcsslotd does not answer")
		}
	}
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
	t.Run("Probed", func(t *testing.T) {
		tok := open(t, c)
		_, err := tok.Generate(t.Context(), "pkcs11:object=ec", hsm.ECDSAP256)
		failsWith(t, err, hsm.ErrUnsupported, "it has those of [rsa-3072 rsa-4096]")
	})
	t.Run("Lockout", func(t *testing.T) { openCryptokiLockout(t, c, pin, config) })
}

// openCryptokiLockout: the token's flags are read before each login, so that the
// last try is left to an operator and a locked token is not asked.
func openCryptokiLockout(t *testing.T, c Config, pin string, config func(input string, args ...string)) {
	for _, wrong := range []string{"1111111", "2222222", "3333333"} { // an operator who guesses
		must(t, os.WriteFile(pin, []byte(wrong), 0o600))
		for range 5 { // and a service manager that restarts
			_, err := Open(c)
			failsWith(t, err, hsm.ErrBadPIN)
		}
	}
	flags := func() uint {
		p := pkcs11.New("/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so")
		must(t, p.Initialize())
		defer func() { _ = p.Finalize() }()
		info, err := p.GetTokenInfo(slotOf(t, p, "redoubt-test"))
		must(t, err)
		return info.Flags
	}
	// Two different wrong PINs were tried; the last try was not taken, so the
	// right PIN is still worth something once an operator logs in by hand.
	if f := flags(); f&pkcs11.CKF_USER_PIN_FINAL_TRY == 0 || f&pkcs11.CKF_USER_PIN_LOCKED != 0 {
		t.Fatalf("flags 0x%x, want FINAL_TRY and not LOCKED", f)
	}
	must(t, os.WriteFile(pin, []byte("1234567"), 0o600))
	_, err := Open(c)
	failsWith(t, err, hsm.ErrBadPIN, "one PIN try left")
	config("1234567\n1234567\n1234567\n", "-p")
	must(t, open(t, c).Close())

	// Somebody else locks it: the right PIN is not sent to a locked token, and
	// after the security officer's reset the service starts again.
	for _, wrong := range []string{"4444444", "5555555", "6666666"} {
		cmd := exec.Command("pkcsconf", "-p", "-c", "3")
		cmd.Stdin = strings.NewReader(wrong + "\n1234567\n1234567\n")
		_ = cmd.Run()
	}
	if f := flags(); f&pkcs11.CKF_USER_PIN_LOCKED == 0 {
		t.Fatalf("flags 0x%x, want LOCKED", f)
	}
	_, err = Open(c)
	failsWith(t, err, hsm.ErrBadPIN, "is locked")
	if _, err := os.Stat(pin + ".refused"); err == nil {
		t.Error("the right PIN is marked as refused")
	}
	config("76543210\n1234567\n1234567\n", "-u")
	open(t, c)
}
