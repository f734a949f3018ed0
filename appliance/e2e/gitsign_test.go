//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
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
			if mode.name == "offline" {
				t.Run("rekor v2", func(t *testing.T) { gitsignV2(t, l, gitsign) })
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

// gitsignV2 signs into Rekor v2, with a timestamp, and refuses it without: that log gives no time.
func gitsignV2(t *testing.T, l *lab, gitsign string) {
	config, err := os.ReadFile(l.in("signing_config_rekor_v2.v0.2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var services struct {
		RekorTlogUrls []struct{ URL string }
	}
	if err := json.Unmarshal(config, &services); err != nil || len(services.RekorTlogUrls) != 1 {
		t.Fatalf("%v: %s", err, config)
	}
	for _, stamped := range []bool{true, false} {
		s := l.session(t, append(l.legacyEnv(), "GITSIGN_REKOR_MODE=offline", "GITSIGN_REKOR_VERSION=2", "GITSIGN_FULCIO_URL="+l.urls.Fulcio, "GITSIGN_REKOR_URL="+services.RekorTlogUrls[0].URL,
			"GITSIGN_OIDC_ISSUER="+l.urls.OIDC, "SIGSTORE_ID_TOKEN="+l.token(t))...)
		if stamped {
			s.env = append(s.env, "GITSIGN_TIMESTAMP_SERVER_URL="+l.urls.TSA)
		}
		for _, args := range [][]string{
			{"init", "-q", "-b", "main"}, {"config", "user.name", "Dev"}, {"config", "user.email", identity}, {"config", "gpg.format", "x509"}, {"config", "gpg.x509.program", gitsign},
			{"commit", "-q", "--allow-empty", "-S", "-m", "Signed into the second log"},
		} {
			s.run(t, "git", args...)
		}
		ours := join([]string{"verify", "git:HEAD", "--trusted-root", l.in("trusted_root.json"), "--prove-offline", "-o", "json"}, l.who())
		if !stamped {
			s.refuse(t, []string{"time invalid"}, l.binary, ours...)
			continue
		}
		if out := s.run(t, l.binary, ours...); !strings.Contains(out, `"version": "0.0.2"`) {
			t.Errorf("not by the second log:\n%s", out)
		}
		commit := s.output(t, "git", "cat-file", "commit", "HEAD")
		changed := strings.TrimSpace(s.output(t, "git", "hash-object", "-t", "commit", "-w", s.write(t, "changed", strings.Replace(commit, "Signed into", "Forged into", 1))))
		s.refuse(t, []string{"signature or digest mismatch"}, l.binary, join([]string{"verify", "git:" + changed, "--trusted-root", l.in("trusted_root.json")}, l.who())...)
	}
}
