//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testEnvironment: after sourcing env.sh a user of the older clients types no URL and no key file.
func testEnvironment(t *testing.T, l *lab) {
	cosign := client(t, cosign2)
	s := l.session(t, "TOKEN="+l.token(t), "COSIGN="+cosign, "SETUP="+l.setup)
	s.write(t, "blob", "signed by what env.sh says\n")
	s.run(t, "sh", "-euc", `
		. "$SETUP/env.sh"
		"$COSIGN" sign-blob -y --fulcio-url "$REDOUBT_FULCIO_URL" --rekor-url "$REDOUBT_REKOR_URL" --oidc-issuer "$REDOUBT_OIDC_URL" --identity-token "$TOKEN" --bundle legacy.json blob
		"$COSIGN" verify-blob --bundle legacy.json --certificate-identity `+identity+` --certificate-oidc-issuer "$REDOUBT_OIDC_URL" blob`)
}

// testSetupReadme runs the commands of README.txt as they stand, with only its own placeholders filled in.
func testSetupReadme(t *testing.T, l *lab) {
	content, err := os.ReadFile(l.in("README.txt"))
	if err != nil {
		t.Fatal(err)
	}
	s := l.session(t)
	programs := t.TempDir()
	for name, file := range map[string]string{"redoubt": l.binary, "cosign": client(t, cosign3), "cosign2": client(t, cosign2), "rekor-cli": client(t, "rekor-cli-v1.5.4")} {
		if err := os.Symlink(file, filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.env = append(s.env, "PATH="+programs+":"+os.Getenv("PATH"))
	s.write(t, "token.jwt", l.token(t)+"\n") // as most tools write it
	s.write(t, "P.json", `{"tests":"green"}`)
	signed := signFile(t, s, "FILE", "signed by the page\n")
	for from, to := range map[string]string{signed.signature: "FILE.sig", signed.key: "KEY.pub"} {
		if err := os.Rename(from, s.path(to)); err != nil {
			t.Fatal(err)
		}
	}
	sections := readmeSections(string(content))
	shell := func(t *testing.T, names ...string) {
		t.Helper()
		// Each section has an image of its own: cosign 2 reads one that carries both forms of signature as the new one.
		image, digest, _ := strings.Cut(pushImage(t, l.registry, "readme/image"), "@sha256:")
		fill := strings.NewReplacer("REGISTRY/IMAGE", image, "DIGEST", digest)
		script := "set -eu\n"
		for _, name := range append([]string{"Put in your own values once"}, names...) {
			if sections[name] == "" {
				t.Fatalf("README.txt has no section %q:\n%s", name, content)
			}
			script += fill.Replace(sections[name])
		}
		if strings.HasPrefix(names[0], "cosign 2") {
			script = strings.ReplaceAll(script, "cosign ", "cosign2 ")
		}
		s.run(t, "sh", "-c", script)
	}
	for _, name := range []string{"cosign 3: files", "redoubt (opens no socket)", "cosign 3: images", "cosign 2: files", "cosign 2: images", "rekor-cli (env.sh pins the log's key)"} {
		t.Run(name, func(t *testing.T) { shell(t, name) })
	}
}

// readmeSections maps each headline of README.txt to the indented lines below it.
func readmeSections(text string) map[string]string {
	sections := map[string]string{}
	headline := ""
	for _, line := range strings.SplitAfter(text, "\n") {
		if command, indented := strings.CutPrefix(line, "  "); indented {
			sections[headline] += command
		} else if line = strings.TrimSpace(line); line != "" {
			headline = line
		}
	}
	return sections
}
