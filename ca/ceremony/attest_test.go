package ceremony

import (
	"context"
	"crypto/fips140"
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/tpm"
)

// emulatedTPM starts a TPM and opens a token of key files under it.
func emulatedTPM(t *testing.T) *tpm.Token {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // short: a socket's path has 107 octets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "startup-clear,not-need-init")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("swtpm (apt-get install swtpm): %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	token, err := tpm.Open(tpm.Config{Device: socket, Dir: filepath.Join(dir, "keys"), LatchDir: dir, PlainSessions: fips140.Enforced()}) // the strict mode has no AES-CFB
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = token.Close() })
	return token
}

// A production root in a TPM with its successor in another token: the TPM attests its key over the plan and the role, and the
// statement is verified from the transcript alone.
func TestAttestationOfATPM(t *testing.T) {
	inTPM := emulatedTPM(t)
	_, soft := softToken(t)
	open := func(ctx context.Context, uri string) (hsm.Token, error) {
		if strings.HasPrefix(uri, "tpm:") {
			return inTPM, nil
		}
		return soft(ctx, uri)
	}
	p := quick()
	p.Profile = Production
	p.Keys.Root = &KeyPlan{"tpm:file=root.pem", hsm.ECDSAP384}
	s := Session{Open: open, Place: func(uri string) (string, bool) { return uri[:4], strings.HasPrefix(uri, "tpm:") }}
	if _, err := s.Run(t.Context(), p); !errors.Is(err, ErrPlan) {
		t.Fatalf("without a successor: %v", err)
	}
	p.Keys.Successor = &KeyPlan{softURI(RoleSuccessor), hsm.ECDSAP384}
	p.Certificates.Successor, p.Certificates.Cross = &CertificatePlan{"Redoubt Root B", 3653}, &CrossPlan{3000}
	tr, err := s.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	root, _ := tr.Key(RoleRoot)
	if root.Attestation == nil {
		t.Fatal("the TPM's key has no attestation")
	}
	data, _ := tr.Encode()
	v := Verifier{Attestation: func(a hsm.Attestation, nonce []byte) (string, error) {
		r, err := tpm.VerifyAttestation(a, nil)
		return strings.Join(r.Proven, " "), err
	}}
	read, err := v.Verify(data)
	if err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(read.Checked(), "\n"); !strings.Contains(said, "root key: ") || !strings.Contains(said, "cannot leave it") {
		t.Errorf("checked: %s", said)
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := tr.Write(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "attestation-root.json")); err != nil {
		t.Error(err)
	}
	key, err := inTPM.Signer(t.Context(), "tpm:file=root.pem")
	if err != nil {
		t.Fatal(err)
	}
	// Altered, linked and signed again by the root itself.
	for name, c := range map[string]struct {
		change func(*hsm.Attestation)
		says   string
	}{
		"nonce":     {func(a *hsm.Attestation) { a.Nonce = AttestationNonce(tr.Body.Opening.PlanDigest, RoleTSA) }, "another ceremony"},
		"key":       {func(a *hsm.Attestation) { a.Fingerprint = strings.Repeat("0", 64) }, "another key"},
		"statement": {func(a *hsm.Attestation) { a.Statement[20] ^= 1 }, "verifying its attestation"},
		"signature": {func(a *hsm.Attestation) { a.Signature[20] ^= 1 }, "verifying its attestation"},
	} {
		altered := clone(t, tr)
		c.change(altered.Body.find(t, RoleRoot, "").Key.Attestation)
		altered.Body.relink(t)
		altered.resign(t, key)
		text, _ := altered.Encode()
		if _, err := v.Verify(text); !errors.Is(err, ErrTranscript) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if plain, err := Verify(data); err != nil || !strings.Contains(strings.Join(plain.Checked(), " "), "not checked here") {
		t.Errorf("without a verifier: %v, %v", err, plain.Checked())
	}
}

// A record stays sound when its certificates have expired; --at asks for more.
func TestVerifyAtAnotherTime(t *testing.T) {
	tr := run1(t, quick())
	data, _ := tr.Encode()
	for years, fine := range map[int]bool{0: true, 4: true, 6: false, 20: false, -1: false} {
		_, err := Verifier{At: time.Now().AddDate(years, 0, 0)}.Verify(data)
		if (err == nil) != fine {
			t.Errorf("in %d years: %v", years, err)
		}
	}
	var invalid x509.CertificateInvalidError
	if _, err := (Verifier{At: time.Now().AddDate(20, 0, 0)}).Verify(data); !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		t.Errorf("the reason is lost: %v", err)
	}
}
