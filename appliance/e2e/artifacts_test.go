//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	helm = "helm-v3.22.0"
	opa  = "opa-v1.21.4"
)

// TestArtifacts: charts, modules of infrastructure, bundles of policies and binaries are signed by stock cosign and by `redoubt sign`, and verified by both
// and by one policy; with one byte changed nobody takes them. A chart is verified in a registry too, where stock helm put it, in registries with and
// without the referrers API.
func TestArtifacts(t *testing.T) {
	l := newLab(t, nil)
	s := l.session(t)
	made := makeArtifacts(t, l, s)
	s.write(t, "policy.yaml", fmt.Sprintf(`version: redoubt.policy/v1
roots: {own: {file: %s}}
signers: {us: [{root: own, identity: %s, issuer: %q}]}
rules:
- {name: archives, artifacts: ['*.tgz', '*.tar.gz', redoubt], signatures: {by: [us]}}
- {name: charts, images: ['localhost:*/charts/*'], signatures: {by: [us]}}
`, l.in("trusted_root.json"), identity, l.urls.OIDC))
	for name, file := range made {
		t.Run(name, func(t *testing.T) { signedArchive(t, s, file) })
	}
	t.Run("verdicts in Rego", func(t *testing.T) { verdictInRego(t, s, made["chart"]) })
	for name, registry := range map[string]string{"with referrers": l.registry, "without referrers": debianRegistry(t)} {
		t.Run("chart in a registry "+name, func(t *testing.T) { pushedChart(t, s, registry, made["chart"]) })
	}
}

// makeArtifacts makes one of each kind with the tool that users make it with, and returns where each is by its kind.
func makeArtifacts(t *testing.T, l *lab, s *session) map[string]string {
	t.Helper()
	s.run(t, client(t, helm), "create", "app")
	s.run(t, client(t, helm), "package", "app")
	for file, content := range map[string]string{
		"module/main.tf": "variable \"name\" { type = string }\noutput \"name\" { value = var.name }\n", "module/versions.tf": "terraform { required_version = \">= 1.5\" }\n",
		"rules/allow.rego": "package app\n\ndefault allow := false\n\nallow if input.user == \"dev\"\n", "policies/policy.yaml": "version: redoubt.policy/v1\n",
	} {
		if err := os.MkdirAll(s.path(filepath.Dir(file)), 0o700); err != nil {
			t.Fatal(err)
		}
		s.write(t, file, content)
	}
	s.run(t, "tar", "-czf", "module-1.0.0.tar.gz", "module")
	s.run(t, "tar", "-czf", "policies.tar.gz", "policies")
	s.run(t, client(t, opa), "build", "-b", "rules", "-o", "bundle.tar.gz")
	binary, err := os.ReadFile(l.binary)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "redoubt", string(binary))
	return map[string]string{"chart": "app-0.1.0.tgz", "terraform module": "module-1.0.0.tar.gz", "policy bundle": "bundle.tar.gz", "policy folder": "policies.tar.gz", "binary": "redoubt"}
}

// signedArchive signs a file by cosign, in both generations, and by redoubt.
func signedArchive(t *testing.T, s *session, file string) {
	l, cosign := s.lab, client(t, cosign3)
	content, err := os.ReadFile(s.path(file))
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	changed := filepath.Join("changed", file)
	if err := os.MkdirAll(s.path("changed"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.write(t, changed, string(content))
	bundles := []string{file + ".redoubt.json"}
	s.run(t, l.binary, "sign", file, "--setup", l.setup, "--identity-token", l.token(t), "--bundle", bundles[0])
	for i, generation := range generations {
		bundle := fmt.Sprintf("%s.cosign-%d.json", file, i)
		s.run(t, cosign, "sign-blob", "-y", "--signing-config", l.in(generation.signingConfig), "--trusted-root", l.in("trusted_root.json"), "--identity-token", l.token(t), "--bundle", bundle, file)
		bundles = append(bundles, bundle)
	}
	for _, bundle := range bundles {
		theirs := join([]string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle", bundle}, l.who())
		s.run(t, cosign, join(theirs, []string{file})...)
		s.refuse(t, wrongSignature, cosign, join(theirs, []string{changed})...)
		ours := join([]string{"--bundle", bundle, "--trusted-root", l.in("trusted_root.json"), "--prove-offline"}, l.who())
		s.run(t, l.binary, join([]string{"verify", file}, ours)...)
		s.refuse(t, []string{"signature or digest mismatch"}, l.binary, join([]string{"verify", changed}, ours)...)
		s.run(t, l.binary, "verify", file, "--bundle", bundle, "--policy", "policy.yaml")
		s.refuse(t, []string{"signature or digest mismatch"}, l.binary, "verify", changed, "--bundle", bundle, "--policy", "policy.yaml")
	}
}

var pushedDigest = regexp.MustCompile(`(?m)^Digest: (sha256:[0-9a-f]{64})$`)

// pushedChart has helm push a chart, and cosign of both generations sign it where it stands: under a tag, or as a referrer.
func pushedChart(t *testing.T, s *session, registry, chart string) {
	l := s.lab
	pushed := s.run(t, client(t, helm), "push", chart, "oci://"+registry+"/charts", "--plain-http")
	match := pushedDigest.FindStringSubmatch(pushed)
	if match == nil {
		t.Fatalf("helm names no digest:\n%s", pushed)
	}
	reference := registry + "/charts/app@" + match[1]
	ours := join([]string{"verify", "--trusted-root", l.in("trusted_root.json"), "oci://" + reference}, l.who())
	byTag := []string{"verify", "oci://" + registry + "/charts/app:0.1.0", "--policy", "policy.yaml"}
	s.refuse(t, []string{"nothing vouches for"}, l.binary, ours...)
	s.refuse(t, []string{"0 of 1 needed"}, l.binary, byTag...)
	for _, sign := range [][]string{
		join([]string{client(t, cosign2), "sign", "-y", "--allow-http-registry"}, l.legacyServices(), []string{"--identity-token", l.token(t), reference}),
		{client(t, cosign3), "sign", "-y", "--allow-http-registry", "--signing-config", l.in(generations[1].signingConfig), "--trusted-root", l.in("trusted_root.json"), "--identity-token", l.token(t), reference},
	} {
		l.session(t, l.legacyEnv()...).run(t, sign[0], sign[1:]...)
		s.run(t, l.binary, ours...)
		s.run(t, l.binary, byTag...)
		s.refuse(t, []string{"identity or issuer not accepted"}, l.binary, "verify", "--trusted-root", l.in("trusted_root.json"), "oci://"+reference, "--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC)
	}
	for _, cosign := range []string{cosign2, cosign3} {
		dir := "saved-" + strings.ReplaceAll(registry, ":", "-") + cosign
		s.run(t, client(t, cosign), "save", "--dir", dir, reference)
		s.run(t, l.binary, join([]string{"verify", "oci-layout:" + dir, "--trusted-root", l.in("trusted_root.json"), "--prove-offline"}, l.who())...)
		flipBlob(t, s.path(dir), match[1])
		s.refuse(t, nil, l.binary, join([]string{"verify", "oci-layout:" + dir, "--trusted-root", l.in("trusted_root.json")}, l.who())...)
	}
	// The chart itself comes out as it went in, and its own bundle still is for it.
	pulled := t.TempDir()
	s.run(t, client(t, helm), "pull", "oci://"+registry+"/charts/app", "--version", "0.1.0", "--plain-http", "--destination", pulled)
	s.run(t, l.binary, "verify", filepath.Join(pulled, chart), "--bundle", chart+".redoubt.json", "--policy", "policy.yaml")
}

// regoBlock is the example of docs/verdict.md.
var regoBlock = regexp.MustCompile("(?s)```rego\n(.*?)```")

// verdictInRego has stock opa decide by what `redoubt verify -o json` prints, with the rule that the documentation shows.
func verdictInRego(t *testing.T, s *session, file string) {
	l := s.lab
	document, err := os.ReadFile("../../docs/verdict.md")
	if err != nil {
		t.Fatal(err)
	}
	match := regoBlock.FindSubmatch(document)
	if match == nil {
		t.Fatal("docs/verdict.md shows no Rego")
	}
	rule := strings.NewReplacer("dev@corp.internal", identity, "https://sso.corp.internal", l.urls.OIDC).Replace(string(match[1]))
	s.write(t, "verdict.rego", rule)
	ours := join([]string{"verify", file, "--bundle", file + ".redoubt.json", "--trusted-root", l.in("trusted_root.json"), "--prove-offline", "-o", "json"}, l.who())
	verdict := s.output(t, l.binary, ours...)
	decide := func(verdict string) string {
		return strings.TrimSpace(s.output(t, client(t, opa), "eval", "--format", "raw", "--data", "verdict.rego", "--input", s.write(t, "input.json", verdict), "data.redoubt.allow"))
	}
	if got := decide(verdict); got != "true" {
		t.Fatalf("opa says %q of\n%s", got, verdict)
	}
	refused, _, err := s.exec(l.binary, "verify", "module-1.0.0.tar.gz", "--bundle", file+".redoubt.json", "--trusted-root", l.in("trusted_root.json"), "--prove-offline", "-o", "json", "--certificate-identity", identity, "--certificate-oidc-issuer", l.urls.OIDC)
	if err == nil {
		t.Fatal("another file verified")
	}
	for name, other := range map[string]string{"a refusal": refused, "another signer": strings.Replace(verdict, identity, "eve@corp.internal", 1), "no proof": strings.Replace(verdict, "seccomp", "hope", 1), "nothing": "{}"} {
		if got := decide(other); got != "false" {
			t.Errorf("%s: opa says %q", name, got)
		}
	}
}

// flipBlob changes one byte of a manifest in a layout, and leaves its name.
func flipBlob(t *testing.T, dir, digest string) {
	t.Helper()
	file := filepath.Join(dir, "blobs", strings.Replace(digest, ":", "/", 1))
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(content, []byte(`"schemaVersion":2`), []byte(`"schemaVersion":3`), 1)
	if bytes.Equal(changed, content) {
		t.Fatalf("no manifest: %s", content)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, changed, 0o600); err != nil {
		t.Fatal(err)
	}
}

// debianRegistry starts Debian's docker-registry, which has no referrers API, and returns where it answers.
func debianRegistry(t *testing.T) string {
	t.Helper()
	dir, address := t.TempDir(), fmt.Sprintf("localhost:%d", freePort(t))
	config := filepath.Join(dir, "registry.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: '%s'}\n", filepath.Join(dir, "images"), address), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command("docker-registry", "serve", config)
	if err := server.Start(); err != nil {
		t.Fatalf("%v; .ci/packages e2e installs it", err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	wait(t, "the registry", func() bool {
		res, err := http.Get("http://" + address + "/v2/")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return address
}
