//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCore is the group that is always run: every client of it signs against one server, one after the other as users come, and
// when all are done the server is stopped and its whole state is recomputed.
func TestCore(t *testing.T) {
	l := newLab(t, nil)
	for _, group := range []struct {
		name string
		run  func(*testing.T, *lab)
	}{
		{"cosign3", testCosign3},
		{"cosign3 with own keys", testCosign3Keys},
		{"cosign3 with trust files it made", testOwnTrustFiles},
		{"cosign3, many at once", testManyAtOnce},
		{"redoubt sign", testRedoubtSigns},
		{"cosign2", testCosign2},
		{"cosign across versions", testAcrossVersions},
		{"rekor-cli", testRekorCLI},
		{"sigstore-js", testJS},
		{"gitsign", testGitsign},
		{"openssl", testOpenSSL},
		{"fulcio", testFulcio},
		{"env.sh", testEnvironment},
		{"README.txt", testSetupReadme},
		{"after a kill", testAfterKill},
	} {
		t.Run(group.name, func(t *testing.T) { group.run(t, l) })
	}
	t.Run("afterwards", func(t *testing.T) { afterwards(t, l) })
}

// afterwards stops the server and recomputes everything it signed. What was signed stays verifiable when nothing runs any more.
func afterwards(t *testing.T, l *lab) {
	l.stop(t)
	s := l.session(t)
	s.run(t, l.binary, "--config", l.config, "log", "fsck")
	signed := filepath.Join(l.scratch, "kept")
	s.run(t, l.binary, append([]string{"verify", signed, "--bundle", signed + ".bundle", "--trusted-root", l.in("trusted_root.json")}, l.who()...)...)
}

// TestKeysInToken: the same, with every key in a PKCS#11 token that does not give them out.
func TestKeysInToken(t *testing.T) {
	env, uri := softHSM(t)
	l := newLab(t, env, "--keys", uri)
	t.Run("no key is a file", func(t *testing.T) {
		s := l.session(t)
		if list := s.output(t, l.binary, "--config", l.config, "keys", "list"); strings.Contains(list, "soft:") || !strings.Contains(list, "pkcs11:") {
			t.Errorf("keys list:\n%s", list)
		}
		s.run(t, l.binary, "--config", l.config, "keys", "check")
	})
	cosign := client(t, cosign3)
	for _, generation := range generations {
		signing := []string{"--signing-config", l.in(generation.signingConfig), "--trusted-root", l.in("trusted_root.json")}
		t.Run("blob on "+generation.name, func(t *testing.T) { cosign3Blob(t, l, cosign, signing, guarded[generation.name]) })
	}
	t.Run("legacy blob", func(t *testing.T) { cosign2Blob(t, l, client(t, cosign2)) })
	t.Run("rekor-cli", func(t *testing.T) { testRekorCLI(t, l) })
	t.Run("openssl", func(t *testing.T) { testOpenSSL(t, l) })
	t.Run("afterwards", func(t *testing.T) { afterwards(t, l) })
}

// softHSM makes a token in a folder of the test and returns the environment that finds it and its URI.
func softHSM(t *testing.T) (env []string, uri string) {
	t.Helper()
	const module = "/usr/lib/softhsm/libsofthsm2.so"
	if _, err := os.Stat(module); err != nil {
		t.Fatalf("%v; .ci/packages e2e installs it", err)
	}
	dir := t.TempDir()
	s := (&lab{}).session(t)
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	config, pin := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	for file, content := range map[string]string{config: "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\n", pin: "73915\n"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env = []string{"SOFTHSM2_CONF=" + config}
	s.env = append(s.env, env...)
	s.run(t, "softhsm2-util", "--init-token", "--free", "--label", "redoubt-e2e", "--so-pin", "12345678", "--pin", "73915")
	return env, "pkcs11:token=redoubt-e2e?module-path=" + module + "&pin-source=" + pin
}

// TestDemo runs what a newcomer runs first, with software keys and with a token, here where there is no network.
func TestDemo(t *testing.T) {
	for _, keys := range []string{"soft", "softhsm"} {
		t.Run(keys, func(t *testing.T) {
			l := &lab{binary: os.Getenv(binaryVariable), serverLog: os.DevNull}
			s := l.session(t)
			s.run(t, l.binary, "demo", "--keys", keys)
		})
	}
}
