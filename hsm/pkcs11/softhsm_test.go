//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

const (
	softhsm = "/usr/lib/softhsm/libsofthsm2.so"
	testPIN = "quail-4711"
)

// store is a SoftHSM storage of its own with a PIN file.
type store struct {
	dir  string // token directory
	pin  string // PIN file
	base string
}

// newStore points SoftHSM at a fresh directory with one token per label.
func newStore(t testing.TB, labels ...string) *store {
	t.Helper()
	if _, err := os.Stat(softhsm); errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("SoftHSM is not installed (apt-get install softhsm2): %v", err)
	}
	base := t.TempDir()
	s := &store{dir: filepath.Join(base, "tokens"), pin: filepath.Join(base, "pin"), base: base}
	must(t, os.Mkdir(s.dir, 0o700))
	conf := filepath.Join(base, "softhsm2.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", s.dir), 0o600))
	must(t, os.WriteFile(s.pin, []byte(testPIN+"\n"), 0o600))
	t.(interface{ Setenv(string, string) }).Setenv("SOFTHSM2_CONF", conf)
	for _, l := range labels {
		initToken(t, l)
	}
	return s
}

func initToken(t testing.TB, label string) {
	t.Helper()
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", testPIN).CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util: %v: %s", err, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// config opens the token of a label in the store.
func (s *store) config(label string) Config {
	return Config{URI: fmt.Sprintf("pkcs11:token=%s?module-path=%s&pin-source=%s", label, softhsm, s.pin)}
}

func open(t testing.TB, c Config) *Token {
	t.Helper()
	tok, err := Open(c)
	must(t, err)
	t.Cleanup(func() { _ = tok.Close() })
	return tok
}

func generate(t testing.TB, tok *Token, label string, alg hsm.Algorithm) *hsm.Key {
	t.Helper()
	key, err := tok.Generate(t.Context(), "pkcs11:object="+label, alg)
	must(t, err)
	return key
}

// intruder is a second user of the module in this process: it can take away
// what the Token under test relies on.
func intruder(t testing.TB) *pkcs11.Ctx {
	t.Helper()
	c := pkcs11.New(softhsm)
	if c == nil {
		t.Fatal("loading module")
	}
	return c
}

// slotOf returns the slot of a token label.
func slotOf(t testing.TB, c *pkcs11.Ctx, label string) uint {
	t.Helper()
	slots, err := c.GetSlotList(true)
	must(t, err)
	for _, s := range slots {
		if ti, err := c.GetTokenInfo(s); err == nil && trim(ti.Label) == label {
			return s
		}
	}
	t.Fatalf("no token %q", label)
	return 0
}

// rwSession opens a logged-in read-write session beside an open Token.
func rwSession(t testing.TB, c *pkcs11.Ctx, label string) pkcs11.SessionHandle {
	t.Helper()
	s, err := c.OpenSession(slotOf(t, c, label), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	return s
}

// contains checks that an error is want and names every part.
func failsWith(t testing.TB, err, want error, parts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
	if strings.Contains(err.Error(), testPIN) {
		t.Errorf("error shows the PIN: %v", err)
	}
}
