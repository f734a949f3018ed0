package main

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.internal/hsm"
)

// TestRoleRefusesAlgorithm: a key of a type that a role's clients do not verify is not opened for it, whatever the configuration says.
func TestRoleRefusesAlgorithm(t *testing.T) {
	dir := layout{t.TempDir()}
	passphrase := dir.path("passphrase")
	if err := errors.Join(os.Mkdir(dir.keys(), 0o700), os.WriteFile(passphrase, []byte("correct horse battery"), 0o600)); err != nil {
		t.Fatal(err)
	}
	ring := newKeyring(Keys{Token: "soft:", PassphraseFile: passphrase, Roles: map[string]string{roleRekor: "soft:a", roleExporter: "soft:b"}}, dir, slog.New(slog.DiscardHandler))
	defer ring.close()
	token, err := ring.token("soft:")
	if err != nil {
		t.Fatal(err)
	}
	for _, uri := range ring.cfg.Roles {
		if _, err := token.Generate(t.Context(), uri, hsm.Ed25519); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ring.role(t.Context(), roleRekor); !errors.Is(err, hsm.ErrUnsupported) || !strings.Contains(err.Error(), "the role allows [ecdsa-p256]") {
		t.Errorf("an Ed25519 key as rekor: %v", err)
	}
	if _, err := ring.role(t.Context(), roleExporter); err != nil {
		t.Errorf("an Ed25519 key as exporter: %v", err)
	}
}

// TestConfigRefusesPIN: a PIN does not stand in a configuration, in no profile, and the error does not repeat it.
func TestConfigRefusesPIN(t *testing.T) {
	for _, profile := range []string{profileDev, profileProduction} {
		for where, keys := range map[string]Keys{
			"keys.token":      {Token: "pkcs11:token=a?module-path=/m.so&pin-value=93147"},
			"keys.roles.root": {Token: "pkcs11:token=a?module-path=/m.so&pin-source=/pin", Roles: map[string]string{roleRoot: "pkcs11:token=a;object=root?pin-value=93147"}},
		} {
			c := &Config{Domain: "corp.internal", Profile: profile, Dir: t.TempDir(), Keys: keys}
			if err := c.check(); err == nil || !strings.Contains(err.Error(), where+": holds a PIN") || strings.Contains(err.Error(), "93147") {
				t.Errorf("%s, %s: %v", profile, where, err)
			}
		}
	}
}

// TestWorkerSettings: what crosses the pipe is read strictly.
func TestWorkerSettings(t *testing.T) {
	for _, text := range []string{"", "{}x", `{"pkcs12":{}}`, `{"pkcs11":{"uri":1}}`, `{"pkcs11":{}}{}`} {
		if _, err := parseWorkerSettings([]byte(text)); err == nil {
			t.Errorf("took %q", text)
		}
	}
	if s, err := parseWorkerSettings([]byte(`{"pkcs11":{"uri":"pkcs11:token=a"}}`)); err != nil || s.PKCS11.URI != "pkcs11:token=a" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := openSettings(t.Context(), workerSettings{}, slog.New(slog.NewTextHandler(io.Discard, nil))); !errors.Is(err, errScheme) {
		t.Errorf("opened nothing: %v", err)
	}
}

// FuzzWorkerSettings: nothing a pipe can carry makes the reader crash.
func FuzzWorkerSettings(f *testing.F) {
	f.Add([]byte(`{"pkcs11":{"uri":"pkcs11:token=a","allowedModules":["/m.so"],"sessions":8}}`))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = parseWorkerSettings(data) })
}

// TestInProcess: keys.in-process opens a token in this process, with the same refusals.
func TestInProcess(t *testing.T) {
	dir := layout{t.TempDir()}
	module := filepath.Join(dir.root, "no-module.so")
	if err := os.WriteFile(module, []byte("no ELF"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, inProcess := range []bool{true, false} {
		ring := newKeyring(Keys{Token: "pkcs11:token=a?module-path=" + module + "&pin-source=/pin", InProcess: inProcess}, dir, slog.New(slog.DiscardHandler))
		_, err := ring.signer(t.Context(), strings.Replace(ring.cfg.Token, "token=a", "token=a;object=x", 1))
		if !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), module+" cannot be loaded") {
			t.Errorf("in-process %v: %v", inProcess, err)
		}
		ring.close()
	}
}
