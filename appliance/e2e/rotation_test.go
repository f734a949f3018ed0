//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestRotation gives every online role a new key while stock clients sign: what they signed before and after verifies with the new
// trusted root, by file and through TUF, for clients that were initialised before and after.
func TestRotation(t *testing.T) {
	l := newLab(t, nil)
	cosign, old := client(t, cosign3), client(t, cosign2)
	s := l.session(t)
	blob := s.write(t, "blob", "what is signed across rotations\n")

	// Before: files, TUF and the older client, each with a home of its own.
	sign := func(t *testing.T, at *session, setup, bundle string) {
		t.Helper()
		for _, g := range generations {
			at.run(t, cosign, "sign-blob", "-y", "--signing-config", filepath.Join(setup, g.signingConfig), "--trusted-root", filepath.Join(setup, "trusted_root.json"),
				"--identity-token", l.token(t), "--bundle", bundle+g.name[len(g.name)-2:], blob)
		}
	}
	verify := func(t *testing.T, at *session, setup, bundle string) {
		t.Helper()
		for _, g := range generations {
			at.run(t, cosign, join([]string{"verify-blob", "--trusted-root", filepath.Join(setup, "trusted_root.json"), "--bundle", bundle + g.name[len(g.name)-2:]}, l.who(), []string{blob})...)
		}
	}
	before := s.path("before-")
	sign(t, s, l.setup, before)
	through3, through2 := l.session(t), l.session(t)
	through3.run(t, cosign, "initialize", "--mirror", l.urls.TUF, "--root", l.in("tuf-root.json"))
	through2.run(t, old, "initialize", "--mirror", l.urls.TUF, "--root", l.in("tuf-root.json"))
	bundle3, bundle2 := through3.path("before.json"), through2.path("before.json")
	through3.run(t, cosign, "sign-blob", "-y", "--identity-token", l.token(t), "--bundle", bundle3, blob)
	legacy := []string{"sign-blob", "-y", "--fulcio-url", l.urls.Fulcio, "--rekor-url", l.urls.Rekor, "--oidc-issuer", l.urls.OIDC}
	through2.run(t, old, join(legacy, []string{"--identity-token", l.token(t), "--bundle", bundle2, blob})...)

	// The rotations, one by one; after each the clients of before go on.
	for _, role := range []string{"tuf", "issuing", "tsa", "ct", "rekor", "rekor-2", "tuf", "oidc"} {
		s.run(t, l.binary, "--config", l.config, "keys", "rotate", role)
		through3.run(t, cosign, join([]string{"verify-blob", "--bundle", bundle3}, l.who(), []string{blob})...)
	}
	setup := filepath.Join(l.scratch, "setup-after")
	s.run(t, l.binary, "--config", l.config, "client", "setup", "--out", setup)

	t.Run("bundles of before with the new trusted root", func(t *testing.T) { verify(t, s, setup, before) })
	t.Run("bundles of before with the old trusted root", func(t *testing.T) { verify(t, s, l.setup, before) })
	after := s.path("after-")
	t.Run("sign and verify with the new files", func(t *testing.T) {
		sign(t, s, setup, after)
		verify(t, s, setup, after)
	})
	t.Run("the old trusted root does not know the new keys", func(t *testing.T) {
		for _, g := range generations {
			s.refuse(t, []string{"failed to verify", "unable to verify", "threshold not met"}, cosign,
				join([]string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle", after + g.name[len(g.name)-2:]}, l.who(), []string{blob})...)
		}
	})
	t.Run("a client initialised before follows the TUF repository", func(t *testing.T) {
		bundle := through3.path("after.json")
		through3.run(t, cosign, "sign-blob", "-y", "--identity-token", l.token(t), "--bundle", bundle, blob)
		for _, b := range []string{bundle3, bundle} {
			through3.run(t, cosign, join([]string{"verify-blob", "--bundle", b}, l.who(), []string{blob})...)
		}
	})
	t.Run("initialize walks from the first root", func(t *testing.T) {
		fresh := l.session(t)
		fresh.run(t, cosign, "initialize", "--mirror", l.urls.TUF, "--root", l.in("tuf-root.json"))
		for _, b := range []string{bundle3, after + "v1", after + "v2"} {
			fresh.run(t, cosign, join([]string{"verify-blob", "--bundle", b}, l.who(), []string{blob})...)
		}
	})
	t.Run("cosign 2 through TUF", func(t *testing.T) {
		bundle := through2.path("after.json")
		through2.run(t, old, join(legacy, []string{"--identity-token", l.token(t), "--bundle", bundle, blob})...)
		for _, b := range []string{bundle2, bundle} {
			through2.run(t, old, join([]string{"verify-blob", "--bundle", b}, l.who(), []string{blob})...)
		}
	})
	t.Run("rekor-cli reads both shards", func(t *testing.T) { rotationRekorCLI(t, l) })
	t.Run("our verify agrees", func(t *testing.T) {
		for _, b := range []string{before + "v1", before + "v2", after + "v1", after + "v2", bundle3} {
			s.run(t, l.binary, join([]string{"verify", blob, "--bundle", b, "--trusted-root", filepath.Join(setup, "trusted_root.json")}, l.who())...)
		}
	})
	l.stop(t)
	s.run(t, l.binary, "--config", l.config, "log", "fsck")
}

// rotationRekorCLI finds the entries of the frozen shard and of the one after it by one search, reads each, and proves each in its own tree.
func rotationRekorCLI(t *testing.T, l *lab) {
	rekor := client(t, "rekor-cli-v1.5.4")
	s := l.session(t)
	cli := func(verb string, args ...string) string {
		return s.run(t, rekor, join([]string{verb, "--rekor_server", l.urls.Rekor}, args)...)
	}
	trees := map[string]string{} // an entry of each tree
	for id := range strings.Lines(cli("search", "--email", identity)) {
		if id = strings.TrimSpace(id); len(id) == 80 {
			trees[id[:16]] = id
		}
	}
	if len(trees) != 4 { // of v1 and v2, before and after
		t.Errorf("entries of %d trees, want 4: %v", len(trees), trees)
	}
	text := cli("loginfo")
	response, err := http.Get(l.urls.Rekor + "/api/v1/log")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	text += string(body)
	if !strings.Contains(text, "Successfully validated inactive shards") {
		t.Errorf("loginfo: %s", text)
	}
	var v1 []string
	for id := range trees {
		number, err := strconv.ParseInt(id, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if decimal := strconv.FormatInt(number, 10); strings.Contains(text, decimal) {
			v1 = append(v1, id)
		}
	}
	if len(v1) != 2 {
		t.Errorf("loginfo tells of %d of these trees, want 2:\n%s", len(v1), text)
	}
	for _, id := range v1 {
		cli("get", "--uuid", trees[id]) // verified by the key of its own tree
	}
}
