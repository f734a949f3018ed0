//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

const softoken = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so"

// NSS softoken is a second, unrelated implementation: it takes its directory
// at C_Initialize, has no Ed25519 and replaces keys of one CKA_ID silently.
func TestNSSConformance(t *testing.T) {
	certutil, err := exec.LookPath("certutil")
	if _, serr := os.Stat(softoken); errors.Is(serr, fs.ErrNotExist) || err != nil {
		t.Fatal("NSS softoken or certutil is not installed: apt-get install libnss3 libnss3-tools")
	}
	base := t.TempDir()
	db, pin := filepath.Join(base, "db"), filepath.Join(base, "pin")
	must(t, os.Mkdir(db, 0o700))
	must(t, os.WriteFile(pin, []byte(testPIN+"\n"), 0o600))
	if out, err := exec.Command(certutil, "-N", "-d", "sql:"+db, "-f", pin).CombinedOutput(); err != nil {
		t.Fatalf("certutil: %v: %s", err, out)
	}
	c := Config{
		URI: "pkcs11:token=NSS%20Certificate%20DB?module-path=" + softoken, PINFile: pin, AllowedModules: []string{softoken},
		AllowImported:     true, // it says CKA_LOCAL is false even of keys it made
		LibraryParameters: fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db'", db),
	}
	hsmtest.Run(t, hsmtest.Kind{
		Open:       func(t testing.TB) hsm.Token { return open(t, c) },
		URI:        func(name string) string { return "pkcs11:object=" + name },
		Secret:     testPIN,
		Algorithms: []hsm.Algorithm{hsm.ECDSAP256, hsm.ECDSAP384, hsm.RSA3072},
	})
	// By itself it would keep the second of two keys with one CKA_ID and drop the first.
	tok := open(t, c)
	first, err := tok.Generate(t.Context(), "pkcs11:object=first;id=%07", hsm.ECDSAP256)
	must(t, err)
	_, err = tok.Generate(t.Context(), "pkcs11:object=second;id=%07", hsm.ECDSAP256)
	failsWith(t, err, hsm.ErrExists)
	must(t, first.Check(t.Context()))
}
