package tpm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.internal/hsm"
)

const measured = "sha256=1111111111111111111111111111111111111111111111111111111111111111"

// A secret opens in the state it was sealed to and in no other.
func TestSeal(t *testing.T) {
	for _, withAuth := range []bool{false, true} {
		e := startTPM(t)
		c := e.config()
		c.AuthFile = e.auth(testAuth)
		tok := open(t, c)
		path := filepath.Join(e.dir, "pin.sealed")
		secret := []byte("the PIN of the HSM")
		if err := tok.Seal(t.Context(), path, secret, []uint{7, 11}, withAuth); !errors.Is(err, ErrPCRs) || exists(path) {
			t.Fatalf("sealed to PCRs of zeros: %v", err)
		}
		e.tool("tpm2_pcrextend", "7:"+measured)
		if err := tok.Seal(t.Context(), path, secret, []uint{7, 11}, withAuth); !errors.Is(err, ErrPCRs) || !strings.Contains(err.Error(), "PCR 11") {
			t.Fatalf("sealed to one PCR of zeros: %v", err)
		}
		if err := tok.Seal(t.Context(), path, secret, []uint{7, 18}, withAuth); !errors.Is(err, ErrPCRs) || !strings.Contains(err.Error(), "ff...ff") {
			t.Fatalf("sealed to a PCR of ones: %v", err)
		}
		e.tool("tpm2_pcrextend", "11:"+measured)
		must(t, tok.Seal(t.Context(), path, secret, []uint{7, 11}, withAuth))
		if err := tok.Seal(t.Context(), path, secret, []uint{7, 11}, withAuth); !errors.Is(err, hsm.ErrExists) {
			t.Errorf("sealed over a file: %v", err)
		}
		if data, err := os.ReadFile(path); err != nil || strings.Contains(string(data), "PIN of") {
			t.Errorf("sealed file: %v, %s", err, data)
		}
		must(t, tok.Close())
		tok = open(t, c)
		out, err := tok.Unseal(t.Context(), path)
		if err != nil || string(out) != string(secret) {
			t.Fatalf("%q, %v", out, err)
		}
		if o, s := e.places(); o != 0 || s != 0 {
			t.Errorf("%d objects, %d sessions left", o, s)
		}
		if withAuth {
			e.auth("quail-4712")
			for range 3 {
				if _, err := tok.Unseal(t.Context(), path); !errors.Is(err, hsm.ErrBadPIN) {
					t.Errorf("wrong value: %v", err)
				}
			}
			if l := e.lockout(); l.Counter != 1 {
				t.Errorf("%s", l)
			}
			e.auth(testAuth)
		}
		e.tool("tpm2_pcrextend", "11:"+measured)
		if _, err := tok.Unseal(t.Context(), path); !errors.Is(err, ErrPCRs) || !strings.Contains(err.Error(), "PCRs 7,11") {
			t.Errorf("after another boot: %v", err)
		}
		forged, err := readKeyFile(path, oidSealed) // a file that claims the present state: the TPM itself refuses
		must(t, err)
		now := must1(e.direct().pcrDigest([]uint{7, 11}))
		forged.policy = sealSteps([]uint{7, 11}, now, withAuth)
		must(t, writeKeyFile(path+".forged", forged))
		if _, err := tok.Unseal(t.Context(), path+".forged"); !errors.Is(err, ErrPCRs) {
			t.Errorf("forged state: %v", err)
		}
		if _, err := tok.Signer(t.Context(), "tpm:file="+path); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("a sealed file as a key: %v", err)
		}
		must(t, tok.Close())
		e.empty()
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestParsePCRs(t *testing.T) {
	for _, good := range []string{"7", "0,7,11", "14"} {
		if pcrs, err := ParsePCRs(good); err != nil || pcrList(pcrs) != good {
			t.Errorf("%s: %v, %v", good, pcrs, err)
		}
	}
	for _, bad := range []string{"", "24", "-1", "7,7", "11,7", "7,16", "23", "7,", "x", "7 11", "007x"} {
		if pcrs, err := ParsePCRs(bad); err == nil {
			t.Errorf("took %q as %v", bad, pcrs)
		}
	}
}

// The counter goes up, survives a redefinition and a lockout, and is no other
// index.
func TestCounter(t *testing.T) {
	e := startTPM(t)
	e.tool("tpm2_changeauth", "-c", "owner", "owner-secret-15")
	c := e.config()
	c.OwnerAuthFile = e.auth("owner-secret-15")
	tok := open(t, c)
	n, err := tok.Counter("tpm:nv=0x01500010")
	must(t, err)
	if _, err := n.Read(t.Context()); !errors.Is(err, hsm.ErrNotFound) {
		t.Fatalf("absent counter: %v", err)
	}
	must(t, n.Define(t.Context()))
	if err := n.Define(t.Context()); !errors.Is(err, hsm.ErrExists) {
		t.Errorf("defined twice: %v", err)
	}
	last, err := n.Read(t.Context())
	must(t, err)
	for range 5 {
		v, err := n.Increment(t.Context())
		if err != nil || v != last+1 {
			t.Fatalf("%d after %d, %v", v, last, err)
		}
		last = v
	}
	e.tool("tpm2_nvundefine", "-C", "o", "-P", "owner-secret-15", "0x01500010")
	must(t, n.Define(t.Context()))
	if v, err := n.Read(t.Context()); err != nil || v <= last {
		t.Errorf("defined anew it stands at %d, before at %d, %v", v, last, err)
	}
	if soft, what, err := n.Rewindable(t.Context()); err != nil || !soft || !strings.Contains(what, "IBM") {
		t.Errorf("%v %q %v", soft, what, err)
	}
	e.tool("tpm2_nvdefine", "-C", "o", "-P", "owner-secret-15", "-s", "8", "-a", "ownerread|ownerwrite|authread", "0x01500011")
	other, err := tok.Counter("tpm:nv=0x01500011")
	must(t, err)
	if _, err := other.Read(t.Context()); !errors.Is(err, hsm.ErrInsecureKey) {
		t.Errorf("an ordinary index as counter: %v", err)
	}
	if _, err := tok.Counter("tpm:handle=0x81010042"); !errors.Is(err, hsm.ErrUnsupported) {
		t.Errorf("a key as counter: %v", err)
	}
	must(t, tok.Close())
	e.empty()
}
