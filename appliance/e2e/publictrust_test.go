//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/ca/trust"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/parcel"
)

// The real public-good repository as it stood on this day, and GitHub's trusted root in a repository of that day; all of its metadata has expired.
var carriedAt = time.Date(2023, 4, 10, 12, 0, 0, 0, time.UTC)

// TestMirroredPublicTrust carries the real roots of trust of two public deployments across, years after their metadata expired. Inside they are
// served under roots of our own, and stock cosign verifies public bundles by them with nothing but the mirror within reach; so does redoubt, from
// the mirror's signed state, each deployment under its own root.
func TestMirroredPublicTrust(t *testing.T) {
	data := publicLogData(t)
	inside := newLab(t, nil, "--domain", "inside.internal")
	s := inside.session(t)
	mirrorURL := carryPublicTrust(t, data, inside, s)
	redoubt := func(args ...string) []string { return join([]string{"--config", inside.config}, args) }
	out := s.run(t, inside.binary, redoubt("mirror", "trust", "show")...)
	for _, want := range []string{"trust public-good: root 6, timestamp 78", "trust github: root 1", "STALE by ", "its timestamp expired at 2023-04-"} {
		if !strings.Contains(out, want) {
			t.Errorf("the mirror does not say %q:\n%s", want, out)
		}
	}
	s.run(t, inside.binary, redoubt("mirror", "trust", "export", "public-good", "--out", "taken")...)
	cosign, state := client(t, cosign3), filepath.Dir(inside.config)
	s.run(t, cosign, "initialize", "--mirror", mirrorURL+"/tuf/public-good", "--root", s.path("taken/root.json"))
	anyone := []string{"--certificate-identity-regexp", ".*", "--certificate-oidc-issuer-regexp", ".*"}
	count, unknown := map[string]int{}, 0
	var one []string
	for _, file := range publicGoodBundles(t, data) {
		verb, args, digest, kind := ofBundle(t, file)
		verify := join([]string{"verify", "--bundle", file, "--mirror-state", state, "--mirror-root", "public-good"}, anyone, []string{digest})
		if _, both, err := s.exec(inside.binary, verify...); err != nil { // of a log or an authority that was not there yet in 2023
			if !strings.Contains(both, "untrusted") && !strings.Contains(both, "does not know") && !strings.Contains(both, "bad log proof") {
				t.Errorf("%s: %s", file, both)
			}
			unknown++
			continue
		} else if !strings.Contains(both, "carried    trust last observed upstream at 2023-04-10T12:00:00Z") || !strings.Contains(both, "(warn)") {
			t.Errorf("it does not say how old its trust is:\n%s", both)
		}
		one = join([]string{verb, "--bundle", file}, anyone, args)
		s.run(t, cosign, one...)
		count[kind]++
	}
	t.Logf("verified by cosign from the mirrored repository, and by redoubt from the mirror's state: %v; %d are of logs and authorities younger than it", count, unknown)
	if len(count) < 4 || one == nil {
		t.Fatalf("too few kinds: %v", count)
	}
	t.Run("redoubt, both roots", func(t *testing.T) { verifyUnderBoth(t, inside, s, state, data) })
	t.Run("without the mirror", func(t *testing.T) {
		stranger := inside.session(t) // has not been initialised: cosign asks the public repository
		stranger.refuse(t, []string{"tuf", "TUF"}, cosign, one...)
		inside.stop(t)
		s.refuse(t, []string{"tuf", "TUF"}, cosign, "initialize", "--mirror", mirrorURL+"/tuf/public-good", "--root", s.path("taken/root.json"))
	})
}

// verifyUnderBoth verifies a bundle of each deployment in a site that trusts both, each for its own people alone.
func verifyUnderBoth(t *testing.T, inside *lab, s *session, state, data string) {
	github, err := filepath.Abs(filepath.Join("..", "verify", "testdata", "github-release.sigstore.json"))
	if err != nil {
		t.Fatal(err)
	}
	const digest = "sha256:e15b593c6ab8d7725a3cc82226ef816cac6bf9c70eed383bd459295cc65f5ec3"
	rule := func(root, identity string, without bool) string {
		return fmt.Sprintf("  - {root: %s, identity-regexp: '%s', issuer-regexp: '.*', without-log: %t}\n", root, identity, without)
	}
	args := []string{"verify", "--mirror-state", state, "--mirror-root", "public-good", "--mirror-root", "github", "--prove-offline"}
	s.write(t, "accept.yaml", "accept:\n"+rule("public-good", "^https://github.com/", false)+rule("github", "^https://dotcom.releases.github.com$", true))
	both := func(rules, bundle, digest string) []string {
		return join(args, []string{"--accept", s.path(rules), "--bundle", bundle, digest})
	}
	if out := s.run(t, inside.binary, both("accept.yaml", github, digest)...); !strings.Contains(out, "root       github") || !strings.Contains(out, "trust last observed upstream at 2023") {
		t.Errorf("GitHub's own:\n%s", out)
	}
	npm := ""
	for _, file := range publicGoodBundles(t, data) {
		if _, _, _, kind := ofBundle(t, file); kind == "npm provenance" {
			npm = file
			break
		}
	}
	_, _, npmDigest, _ := ofBundle(t, npm)
	if out := s.run(t, inside.binary, both("accept.yaml", npm, npmDigest)...); !strings.Contains(out, "root       public-good") {
		t.Errorf("public-good:\n%s", out)
	}
	s.write(t, "crossed.yaml", "accept:\n"+rule("github", "^https://github.com/", true)+rule("public-good", "^https://dotcom.releases.github.com$", false))
	s.refuse(t, []string{"not verified"}, inside.binary, both("crossed.yaml", npm, npmDigest)...)
	s.refuse(t, []string{"not verified"}, inside.binary, both("crossed.yaml", github, digest)...)
	s.refuse(t, []string{"give --accept"}, inside.binary, join(args, []string{"--certificate-identity-regexp", ".*", "--certificate-oidc-issuer-regexp", ".*", "--bundle", github, digest})...)
}

// publicLogData is the folder of real public data.
func publicLogData(t *testing.T) string {
	t.Helper()
	data := os.Getenv("REDOUBT_PUBLIC_LOG_DATA")
	if data == "" {
		data = filepath.Join("..", "..", "..", "shared", "public-log-data")
	}
	if _, err := os.Stat(data); err != nil {
		t.Skip("public log data absent: set REDOUBT_PUBLIC_LOG_DATA")
	}
	data, err := filepath.Abs(data)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// publicGoodBundles are the bundles of the public-good instance that verify in full.
func publicGoodBundles(t *testing.T, data string) (files []string) {
	t.Helper()
	var manifest []struct {
		File, Kind, Mode string
		Root             string `json:"trusted_root"`
	}
	if err := json.Unmarshal(read(t, data, "entries_manifest.json"), &manifest); err != nil {
		t.Fatal(err)
	}
	for _, e := range manifest {
		if e.Kind == "bundle" && e.Root == "public-good" && e.Mode == "tlog+obsTS+SCT" {
			files = append(files, filepath.Join(data, e.File))
		}
	}
	return files
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// carryPublicTrust makes a parcel as an exporter did on that day, whose clock is the only thing in this test that is not what it says, has inside
// import it today, and returns where inside serves.
func carryPublicTrust(t *testing.T, data string, inside *lab, s *session) string {
	t.Helper()
	dir := t.TempDir()
	now := func() time.Time { return carriedAt }
	layPublicGood(t, data, filepath.Join(dir, "public-good"))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = trust.Create(t.Context(), trust.RepositoryConfig{Dir: filepath.Join(dir, "github"), Signer: key, Now: now},
		[]trust.File{{Name: trust.TrustedRootName, Data: read(t, data, "roots", "trusted_root.github.json")}})
	if err != nil {
		t.Fatal(err)
	}
	configs := []mirror.TUFConfig{
		{Name: "github", Root: read(t, dir, "github", "1.root.json"), Source: filepath.Join(dir, "github")},
		{Name: "public-good", Root: read(t, dir, "public-good", "5.root.json"), Source: filepath.Join(dir, "public-good"), Floors: &parcel.Versions{Root: 5, Timestamp: 50}},
	}
	db, err := bolt.Create(filepath.Join(dir, "exporter.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	line, err := parcel.VerifierKey("exporter.outside", public)
	if err != nil {
		t.Fatal(err)
	}
	e, err := mirror.OpenExporter(mirror.ExporterConfig{DB: db, Dir: filepath.Join(dir, "out"), Stream: "outside", Name: "exporter.outside", Signer: private, TUF: configs, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	medium := t.TempDir()
	if _, err := e.Pull(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Export(context.Background(), mirror.ExportOptions{Out: medium}); err != nil {
		t.Fatal(err)
	}
	stale := map[string]any{"warn": "720h"}
	inside.stop(t)
	config := readYAML(t, inside.config)
	config["mirror"] = map[string]any{"stream": "outside", "exporters": []string{line}, "tuf": []map[string]any{
		{"name": "github", "root": filepath.Join(dir, "github", "1.root.json"), "stale": stale},
		{"name": "public-good", "root": filepath.Join(dir, "public-good", "5.root.json"), "floors": map[string]any{"root": 5, "timestamp": 50}, "stale": stale},
	}}
	writeYAML(t, inside.config, config)
	inside.serve(t)
	out := s.run(t, inside.binary, "--config", inside.config, "mirror", "import", medium)
	if !strings.Contains(out, "public-good") {
		t.Errorf("import:\n%s", out)
	}
	return digFor(t, readYAML(t, inside.config), "services", "mirror", "url")
}

// layPublicGood lays the repository out as its server had it: roots 5 and 6, timestamp 78 and what that leads to.
func layPublicGood(t *testing.T, data, dir string) {
	t.Helper()
	from := filepath.Join(data, "tuf-public-good")
	write := func(name string, b []byte) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for role, versions := range map[string][]int{"root": {5, 6}, "snapshot": {78}, "targets": {6}} {
		for _, v := range versions {
			name := fmt.Sprintf("%d.%s.json", v, role)
			write(name, read(t, from, "metadata", role, name))
		}
	}
	write("timestamp.json", read(t, from, "metadata", "timestamp", "78.timestamp.json"))
	var list struct {
		Signed struct {
			Targets map[string]struct{ Hashes struct{ SHA256 string } }
		}
	}
	if err := json.Unmarshal(read(t, dir, "6.targets.json"), &list); err != nil {
		t.Fatal(err)
	}
	for name, target := range list.Signed.Targets {
		var found []string
		for _, folder := range []string{".", "*"} {
			more, _ := filepath.Glob(filepath.Join(from, "targets", folder, target.Hashes.SHA256+".*"))
			found = append(found, more...)
		}
		if len(found) == 0 {
			t.Fatalf("no file of target %s", name)
		}
		at := filepath.ToSlash(filepath.Join("targets", filepath.Dir(name), target.Hashes.SHA256+"."+filepath.Base(name)))
		write(at, read(t, found[0]))
	}
}
