//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// testGitsign signs and verifies commits, with the log entry looked up (online) or carried in the commit (offline).
func testGitsign(t *testing.T, l *lab) {
	gitsign := client(t, "gitsign-v0.17.1")
	for _, mode := range []struct {
		name string
		env  []string
	}{
		{"online", []string{"GITSIGN_REKOR_MODE=online"}},
		{"offline", []string{"GITSIGN_REKOR_MODE=offline"}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			s := l.session(t, append(l.legacyEnv(), mode.env...)...)
			s.env = append(s.env, "GITSIGN_FULCIO_URL="+l.urls.Fulcio, "GITSIGN_REKOR_URL="+l.urls.Rekor, "GITSIGN_OIDC_ISSUER="+l.urls.OIDC, "SIGSTORE_ID_TOKEN="+l.token(t))
			for _, args := range [][]string{
				{"init", "-q", "-b", "main"},
				{"config", "user.name", "Dev"},
				{"config", "user.email", identity},
				{"config", "gpg.format", "x509"},
				{"config", "gpg.x509.program", gitsign},
			} {
				s.run(t, "git", args...)
			}
			s.write(t, "file", "a line\n")
			s.run(t, "git", "add", "file")
			s.run(t, "git", "commit", "-q", "-S", "-m", "Signed without a key to keep")
			out := s.run(t, gitsign, append([]string{"verify"}, l.who()...)...)
			if !strings.Contains(out, "Good signature") {
				t.Errorf("gitsign verify:\n%s", out)
			}
			s.run(t, "git", "verify-commit", "HEAD")
			ours := []string{"verify", "git:HEAD", "--trusted-root", l.in("trusted_root.json")}
			if mode.name == "online" {
				s.refuse(t, []string{"GITSIGN_REKOR_MODE=offline"}, l.binary, join(ours, l.who())...)
			} else {
				s.run(t, l.binary, join(ours, []string{"--prove-offline"}, l.who())...)
				s.run(t, "git", "tag", "-s", "-m", "A release", "v1")
				s.run(t, l.binary, join([]string{"verify", "git:v1", "--trusted-root", l.in("trusted_root.json")}, l.who())...)
				s.refuse(t, []string{"identity or issuer not accepted"}, l.binary, join(ours, []string{"--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC})...)
			}
			t.Run("wrong identity", func(t *testing.T) {
				s.refuse(t, wrongIdentity, gitsign, "verify", "--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC)
			})
			t.Run("changed commit", func(t *testing.T) {
				commit := s.output(t, "git", "cat-file", "commit", "HEAD")
				changed := s.write(t, "changed", strings.Replace(commit, "Signed without", "Forged without", 1))
				id := strings.TrimSpace(s.output(t, "git", "hash-object", "-t", "commit", "-w", changed))
				s.refuse(t, nil, gitsign, append([]string{"verify", id}, l.who()...)...)
				s.refuse(t, nil, l.binary, join([]string{"verify", "git:" + id, "--trusted-root", l.in("trusted_root.json")}, l.who())...)
			})
		})
	}
}
