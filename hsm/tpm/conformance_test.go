package tpm

import (
	"crypto/fips140"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

// What this swtpm has; Algorithms tells the rest with the reason.
var swtpmAlgorithms = []hsm.Algorithm{hsm.ECDSAP256, hsm.ECDSAP384, hsm.RSA3072}

// Keys in files, with an authorisation value and a transient storage root key.
func TestConformanceFile(t *testing.T) {
	e := startTPM(t)
	c := e.config()
	c.AuthFile = e.auth(testAuth)
	hsmtest.Run(t, hsmtest.Kind{
		Open:   func(t testing.TB) hsm.Token { return open(t, c) },
		URI:    func(name string) string { return "tpm:file=" + name + ".pem" },
		Secret: testAuth, Algorithms: swtpmAlgorithms,
	})
	e.empty()
}

// Keys at persistent handles under a persistent storage root key.
func TestConformanceHandle(t *testing.T) {
	e := startTPM(t)
	e.persistSRK()
	handles, mu := map[string]int{}, sync.Mutex{}
	hsmtest.Run(t, hsmtest.Kind{
		Open: func(t testing.TB) hsm.Token { return open(t, e.config()) },
		URI: func(name string) string {
			mu.Lock()
			defer mu.Unlock()
			if _, ok := handles[name]; !ok {
				handles[name] = len(handles)
			}
			return fmt.Sprintf("tpm:handle=0x8101%04x", 0x42+handles[name])
		},
		Algorithms: swtpmAlgorithms[:2],
	})
	e.empty()
}

// What the TPM has is asked of it and reported; what it has not is refused with
// the reason.
func TestAlgorithms(t *testing.T) {
	e := startTPM(t)
	tok := open(t, e.config())
	key := generate(t, tok, "tpm:file=a.pem", hsm.ECDSAP256)
	if got := key.Info().TokenState["algorithms"]; got != "ecdsa-p256 ecdsa-p384 rsa-3072" {
		t.Errorf("the TPM has %q", got)
	}
	for alg, reason := range map[hsm.Algorithm]string{hsm.RSA4096: "this TPM (IBM SW TPM) refuses its parameters", hsm.Ed25519: "use ecdsa-p256"} {
		_, err := tok.Generate(t.Context(), "tpm:file=b.pem", alg)
		if !errors.Is(err, hsm.ErrUnsupported) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

// In FIPS-only mode a TPM is refused until its sessions may go without encryption
// (the other tests then do); in no other mode.
func TestFIPSOnly(t *testing.T) {
	e := startTPM(t)
	c := e.config()
	c.PlainSessions = false
	tok, err := Open(c)
	if fips140.Enforced() {
		if !errors.Is(err, hsm.ErrUnsupported) || !strings.Contains(err.Error(), "AES-CFB") {
			t.Errorf("FIPS-only mode: %v", err)
		}
		return
	}
	must(t, err)
	must(t, tok.Close())
}

// empty checks that the TPM holds nothing that is not persistent.
func (e *emulator) empty() {
	e.t.Helper()
	if o, s := e.places(); o != 0 || s != 0 {
		e.t.Errorf("the TPM is left with %d objects and %d sessions", o, s)
	}
}

// persistSRK puts the storage root key of the provisioning guidance in its place.
func (e *emulator) persistSRK() {
	e.t.Helper()
	e.tool("tpm2_createprimary", "-C", "o", "-G", "ecc256:aes128cfb", "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt", "-c", "srk.ctx")
	e.tool("tpm2_evictcontrol", "-C", "o", "-c", "srk.ctx", "0x81000001")
	e.tool("tpm2_flushcontext", "-t")
}
