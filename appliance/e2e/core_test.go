//go:build e2e

package e2e

import (
	"path/filepath"
	"testing"
)

// TestCore is the group that is always run: every client of it signs against one server, one after the other as users come, and
// when all are done the server is stopped and its whole state is recomputed.
func TestCore(t *testing.T) {
	l := newLab(t)
	for _, group := range []struct {
		name string
		run  func(*testing.T, *lab)
	}{
		{"cosign3", testCosign3},
		{"cosign2", testCosign2},
		{"cosign across versions", testAcrossVersions},
		{"rekor-cli", testRekorCLI},
		{"sigstore-js", testJS},
		{"gitsign", testGitsign},
		{"openssl", testOpenSSL},
		{"fulcio", testFulcio},
		{"env.sh", testEnvironment},
	} {
		t.Run(group.name, func(t *testing.T) { group.run(t, l) })
	}
	t.Run("afterwards", func(t *testing.T) {
		l.stop(t)
		s := l.session(t)
		s.run(t, l.binary, "--config", l.config, "log", "fsck")
		// What was signed stays verifiable when nothing runs any more.
		signed := filepath.Join(l.scratch, "kept")
		s.run(t, l.binary, append([]string{"verify", signed, "--bundle", signed + ".bundle", "--trusted-root", l.in("trusted_root.json")}, l.who()...)...)
	})
}
