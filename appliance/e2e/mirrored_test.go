//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestMirroredRekor plays an outside and an inside on one machine: what outside signed and logged is carried, outside is switched off, and
// stock clients go on with outside's log and trust as if nothing had happened.
func TestMirroredRekor(t *testing.T) {
	outside := newLab(t, nil)
	cosign := client(t, cosign3)
	s := outside.session(t)
	trust := []string{"--signing-config", outside.in("signing_config.v0.2.json"), "--trusted-root", outside.in("trusted_root.json")}
	s.write(t, "blob", "signed outside\n")
	s.run(t, cosign, join([]string{"sign-blob", "-y"}, trust, []string{"--identity-token", outside.token(t), "--bundle", "blob.json", "blob"})...)
	image := pushImage(t, outside.registry, "outside/image")
	s.run(t, cosign, join([]string{"sign", "-y", "--allow-http-registry"}, trust, []string{"--identity-token", outside.token(t), image})...)
	s.run(t, cosign, join([]string{"sign-blob", "-y"}, trust, []string{"--identity-token", outside.token(t), "--bundle", "late.json", "blob"})...)

	inside := newLab(t, nil, "--domain", "inside.internal")
	mirrorURL := carryRekor(t, outside, inside, s)
	who := outside.who()
	outside.stop(t)
	t.Run("rekor-cli", func(t *testing.T) { readMirroredRekor(t, outside, inside, mirrorURL+"/rekor."+domain, s.path("blob")) })
	t.Run("cosign and an image", func(t *testing.T) {
		offline := []string{"--trusted-root", outside.in("trusted_root.json")}
		s.run(t, cosign, join([]string{"verify-blob", "--bundle", "blob.json"}, offline, who, []string{"blob"})...)
		s.run(t, cosign, join([]string{"verify", "--allow-http-registry"}, offline, who, []string{image})...)
		s.refuse(t, []string{"no matching CertificateIdentity"}, cosign, join([]string{"verify", "--allow-http-registry"}, offline,
			[]string{"--certificate-identity", "else@corp.internal", "--certificate-oidc-issuer", outside.urls.OIDC, image})...)
	})
	t.Run("redoubt", func(t *testing.T) {
		state := filepath.Dir(inside.config)
		out := s.run(t, inside.binary, join([]string{"verify", "--bundle", "blob.json", "--trusted-root", outside.in("trusted_root.json"), "--mirror-state", state, "--observe", state, "--prove-offline"}, who, []string{"blob"})...)
		if !strings.Contains(out, "observed") || !strings.Contains(out, "fresh") {
			t.Errorf("it does not say when the log was observed:\n%s", out)
		}
		report := s.run(t, inside.binary, "--config", inside.config, "mirror", "reconcile", "-o", "json")
		if !strings.Contains(report, `"problems": []`) || strings.Contains(report, `"refused": 1`) {
			t.Errorf("reconcile:\n%s", report)
		}
	})
}

// carryRekor carries outside's v1 log through its own API and returns where inside serves it.
func carryRekor(t *testing.T, outside, inside *lab, s *session) string {
	t.Helper()
	key, err := os.ReadFile(outside.in("rekor.pub"))
	if err != nil {
		t.Fatal(err)
	}
	info := s.run(t, client(t, "rekor-cli-v1.5.4"), "loginfo", "--rekor_server", outside.urls.Rekor, "--format", "json", "--store_tree_state=false")
	tree := regexp.MustCompile(`"TreeID":"(\d+)"`).FindStringSubmatch(info)
	if tree == nil {
		t.Fatalf("no tree id: %s", info)
	}
	logs := func(source string) []map[string]any {
		l := map[string]any{"origin": "rekor." + domain + " - " + tree[1], "key": string(key), "layout": "rekor1", "scope": "full"}
		if source != "" {
			l["source"] = source
		}
		return []map[string]any{l}
	}
	config := readYAML(t, outside.config)
	config["mirror"] = map[string]any{"logs": logs(outside.urls.Rekor)}
	writeYAML(t, outside.config, config)
	outside.stop(t)
	outside.serve(t)
	var exporter struct{ Key, Stream string }
	decode(t, s.output(t, outside.binary, "--config", outside.config, "mirror", "key", "-o", "json"), &exporter)
	s.run(t, outside.binary, "--config", outside.config, "mirror", "pull")
	medium := t.TempDir()
	s.run(t, outside.binary, "--config", outside.config, "mirror", "export", "--out", medium)
	inside.stop(t)
	config = readYAML(t, inside.config)
	config["mirror"] = map[string]any{"stream": exporter.Stream, "exporters": []string{exporter.Key}, "logs": logs("")}
	writeYAML(t, inside.config, config)
	inside.serve(t)
	s.run(t, inside.binary, "--config", inside.config, "mirror", "import", medium)
	return digFor(t, readYAML(t, inside.config), "services", "mirror", "url")
}

// readMirroredRekor drives rekor-cli against the mirror as against the log; the key is pinned by value.
func readMirroredRekor(t *testing.T, outside, inside *lab, server, blob string) {
	key, err := os.ReadFile(outside.in("rekor.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s := inside.session(t, "REKOR_REKOR_SERVER_PUBLIC_KEY="+string(key))
	rekor := client(t, "rekor-cli-v1.5.4")
	cli := func(verb string, args ...string) string {
		return s.run(t, rekor, join([]string{verb, "--rekor_server", server}, args)...)
	}
	cli("loginfo")
	cli("loginfo") // once more, against the state it stored
	cli("logproof", "--first-size", "1", "--last-size", "3")
	var bundle struct {
		VerificationMaterial struct {
			TlogEntries []struct{ LogIndex string }
		}
	}
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(blob), "late.json"))
	if err != nil || json.Unmarshal(raw, &bundle) != nil || len(bundle.VerificationMaterial.TlogEntries) != 1 {
		t.Fatal(err)
	}
	got := cli("get", "--log-index", bundle.VerificationMaterial.TlogEntries[0].LogIndex)
	uuid := regexp.MustCompile(`(?m)^UUID: ([0-9a-f]{80})$`).FindStringSubmatch(got)
	if uuid == nil {
		t.Fatalf("get names no entry:\n%s", got)
	}
	cli("get", "--uuid", uuid[1])
	cli("get", "--uuid", uuid[1][16:])
	cli("verify", "--uuid", uuid[1])
	for _, by := range [][]string{{"--artifact", blob}, {"--email", identity}} {
		if out := cli("search", by...); !strings.Contains(out, uuid[1]) {
			t.Errorf("search %s does not find %s:\n%s", by, uuid[1], out)
		}
	}
	signed := signFile(t, s, "new", "nobody logged this\n")
	s.refuse(t, []string{"mirror"}, rekor, "upload", "--rekor_server", server, "--artifact", signed.file, "--signature", signed.signature, "--public-key", signed.key, "--pki-format", "x509")
}

// TestPublicBundlesOffline: cosign verifies every bundle of the public-good instance that is at hand, by digest, in this namespace without a
// network, and so does redoubt. Among them are npm publish attestations and provenance, PyPI's, GitHub's CLI, conda; none of Kubernetes,
// distroless, Debian, Fedora or RubyGems is at hand.
func TestPublicBundlesOffline(t *testing.T) {
	data := os.Getenv("REDOUBT_PUBLIC_LOG_DATA")
	if data == "" {
		data = filepath.Join("..", "..", "..", "shared", "public-log-data")
	}
	raw, err := os.ReadFile(filepath.Join(data, "entries_manifest.json"))
	if err != nil {
		t.Skip("public log data absent: set REDOUBT_PUBLIC_LOG_DATA")
	}
	var manifest []struct {
		File, Kind, Mode string
		Root             string `json:"trusted_root"`
	}
	if err := json.Unmarshal(raw, &manifest); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	s := &session{lab: &lab{}, dir: home, env: cleanEnv(home)}
	root := filepath.Join(data, "roots", "trusted_root.public-good.json")
	if root, err = filepath.Abs(root); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range manifest {
		if e.Kind != "bundle" || e.Root != "public-good" || e.Mode != "tlog+obsTS+SCT" {
			continue
		}
		file, err := filepath.Abs(filepath.Join(data, e.File))
		if err != nil {
			t.Fatal(err)
		}
		verb, args, digest, kind := ofBundle(t, file)
		anyone := []string{"--certificate-identity-regexp", ".*", "--certificate-oidc-issuer-regexp", ".*"}
		s.run(t, client(t, cosign3), join([]string{verb, "--bundle", file, "--trusted-root", root}, anyone, args)...)
		s.run(t, os.Getenv(binaryVariable), join([]string{"verify", "--bundle", file, "--trusted-root", root}, anyone, []string{digest})...)
		count[kind]++
	}
	t.Logf("verified by cosign and by redoubt: %v", count)
	for _, kind := range []string{"blob", "npm publish", "npm provenance", "PyPI publish", "GitHub CLI provenance", "conda publish"} {
		if count[kind] == 0 {
			t.Errorf("no %s was verified", kind)
		}
	}
}

// ofBundle is how cosign is asked to verify a bundle by digest, the digest, and what kind of bundle it is.
func ofBundle(t *testing.T, file string) (verb string, args []string, digest, kind string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b struct {
		MessageSignature *struct {
			MessageDigest struct{ Digest []byte }
		}
		DsseEnvelope struct{ Payload string }
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		t.Fatal(err)
	}
	if b.MessageSignature != nil {
		sum := b.MessageSignature.MessageDigest.Digest
		digest = fmt.Sprintf("sha%d:%x", 8*len(sum), sum)
		return "verify-blob", []string{fmt.Sprintf("sha256:%x", sum)}, digest, "blob" // cosign has one prefix for all lengths
	}
	payload, err := base64.StdEncoding.DecodeString(b.DsseEnvelope.Payload)
	if err != nil {
		t.Fatal(err)
	}
	var statement struct {
		PredicateType string
		Subject       []struct {
			Name   string
			Digest map[string]string
		}
	}
	if err := json.Unmarshal(payload, &statement); err != nil {
		t.Fatal(err)
	}
	subject := statement.Subject[0]
	var algorithms []string
	for a := range subject.Digest {
		algorithms = append(algorithms, a)
	}
	slices.Sort(algorithms)
	a := algorithms[0]
	kind = "other attestation"
	for part, name := range map[string]string{"npm/attestation": "npm publish", "pypi.org": "PyPI publish", "conda.org": "conda publish"} {
		if strings.Contains(statement.PredicateType, part) {
			kind = name
		}
	}
	switch {
	case strings.Contains(statement.PredicateType, "slsa.dev") && strings.HasPrefix(subject.Name, "pkg:npm/"):
		kind = "npm provenance"
	case strings.HasPrefix(subject.Name, "gh_"):
		kind = "GitHub CLI provenance"
	}
	return "verify-blob-attestation", []string{"--type", statement.PredicateType, "--digest", subject.Digest[a], "--digestAlg", a}, a + ":" + subject.Digest[a], kind
}
