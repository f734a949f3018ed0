//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const chainsSign = "chains-sign-v0.22.0"

// chainsBlock is the configuration of Tekton Chains that docs/ci.md shows.
var chainsBlock = regexp.MustCompile("(?s)```yaml\n# chains: [^\n]*\n(.*?)```")

// TestChains: Tekton Chains' own code, configured as the documentation says, signs the provenance of a file and of an image with a key; both verify by that
// key and by a policy, and not by another key, of another artifact or of another builder. Its keyless way leaves no time that anybody signed.
func TestChains(t *testing.T) {
	l := newLab(t, nil)
	s := l.session(t)
	data := chainsConfig(t)
	s.run(t, client(t, cosign3), "generate-key-pair")
	s.write(t, "cosign.password", "")
	s.run(t, client(t, cosign3), "generate-key-pair", "--output-key-prefix", "other")
	file := s.write(t, "app.tgz", "what a task has built\n")
	s.write(t, "other.tgz", "what no task has built\n")
	envelope := s.chains(t, data, fmt.Sprintf("%x", sha256.Sum256([]byte("what a task has built\n"))))
	s.write(t, "provenance.json", string(envelope.Envelope))
	ours := []string{"--signature", "provenance.json", "--trusted-root", l.in("trusted_root.json"), "--type", "slsaprovenance1", "--prove-offline"}
	byKey := join(ours, []string{"--key", "cosign.pub", "--without-log"})
	s.run(t, l.binary, join([]string{"verify", file}, byKey)...)
	s.refuse(t, []string{"signature or digest mismatch"}, l.binary, join([]string{"verify", "other.tgz"}, byKey)...)
	s.refuse(t, []string{"signature or digest mismatch"}, l.binary, join([]string{"verify", file}, ours, []string{"--key", "other.pub", "--without-log"})...)
	for builder, allowed := range map[string]bool{data["builder.id"]: true, "https://elsewhere.internal/chains": false} {
		s.write(t, "policy.yaml", fmt.Sprintf(`version: redoubt.policy/v1
roots: {own: {file: %s}}
keys: {chains: {file: cosign.pub, root: own, without-log: true}}
signers: {chains: [{key: chains}]}
rules: [{name: built, artifacts: ['*.tgz'], images: ['localhost:*/built/*'], attestations: [{type: slsa-provenance, by: [chains], slsa: {level: 2, builders: [{id: %q, level: 2}]}}]}]
`, l.in("trusted_root.json"), builder))
		verify := []string{"verify", file, "--signature", "provenance.json", "--policy", "policy.yaml"}
		if allowed {
			s.run(t, l.binary, verify...)
			s.chainsImage(t, data)
		} else {
			s.refuse(t, []string{"builder"}, l.binary, verify...)
		}
	}
	t.Run("keyless", func(t *testing.T) { s.chainsKeyless(t, data, file) })
}

// chainsImage signs the provenance of an image, which Chains puts under cosign's tag .att, as cosign attach does.
func (s *session) chainsImage(t *testing.T, data map[string]string) {
	image := pushImage(t, s.lab.registry, "built/app")
	_, digest, _ := strings.Cut(image, "@sha256:")
	s.write(t, "image.json", string(s.chains(t, data, digest).Envelope))
	verify := []string{"verify", "oci://" + image, "--policy", "policy.yaml"}
	s.refuse(t, []string{"0 of 1 needed"}, s.lab.binary, verify...)
	s.run(t, client(t, cosign2), "attach", "attestation", "--allow-http-registry", "--attestation", "image.json", image)
	s.run(t, s.lab.binary, verify...)
}

// chainsKeyless has Chains get a certificate here.
func (s *session) chainsKeyless(t *testing.T, data map[string]string, file string) {
	l := s.lab
	keyless := map[string]string{"signers.x509.fulcio.enabled": "true", "signers.x509.fulcio.address": l.urls.Fulcio, "signers.x509.fulcio.issuer": l.urls.OIDC, "signers.x509.tuf.mirror.url": l.urls.TUF,
		"signers.x509.identity.token.file": s.write(t, "token", l.token(t))}
	for name, value := range data {
		keyless[name] = value
	}
	got := s.chains(t, keyless, fmt.Sprintf("%x", sha256.Sum256([]byte("what a task has built\n"))))
	s.write(t, "keyless.json", string(got.Envelope))
	s.write(t, "keyless.pem", got.Certificate)
	verify := join([]string{"verify", file, "--signature", "keyless.json", "--certificate", "keyless.pem", "--trusted-root", l.in("trusted_root.json"), "--type", "slsaprovenance1"}, l.who())
	s.refuse(t, []string{"bad log proof"}, l.binary, verify...)
	s.refuse(t, []string{"time invalid"}, l.binary, append(verify, "--without-log")...)
}

type chainsSigned struct {
	Envelope    json.RawMessage `json:"envelope"`
	Certificate string          `json:"certificate"`
	Config      json.RawMessage `json:"config"`
}

// chains has Chains' code sign provenance of that SHA-256, and wants it to have understood every setting.
func (s *session) chains(t *testing.T, data map[string]string, digest string) (out chainsSigned) {
	t.Helper()
	statement := s.write(t, "statement.json", fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"app","digest":{"sha256":%q}}],"predicateType":"https://slsa.dev/provenance/v1","predicate":{"buildDefinition":{"buildType":"https://tekton.dev/chains/v2/slsa","externalParameters":{}},"runDetails":{"builder":{"id":%q}}}}`, digest, data["builder.id"]))
	settings, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(client(t, chainsSign), s.dir, statement)
	cmd.Env, cmd.Dir, cmd.Stdin = s.env, s.dir, strings.NewReader(string(settings))
	var said strings.Builder
	cmd.Stderr = &said
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("chains-sign: %v\n%s", err, said.String())
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	for name, value := range data {
		if value != "false" && value != "true" && !strings.Contains(string(out.Config), value) {
			t.Errorf("Chains knows nothing of %s: %s\n%s", name, value, out.Config)
		}
	}
	return out
}

// chainsConfig is the data of the ConfigMap in the documentation.
func chainsConfig(t *testing.T) map[string]string {
	t.Helper()
	document, err := os.ReadFile("../../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	match := chainsBlock.FindSubmatch(document)
	if match == nil {
		t.Fatal("docs/ci.md shows no configuration of Chains")
	}
	var config struct {
		Data map[string]string `yaml:"data"`
	}
	if err := yaml.Unmarshal(match[1], &config); err != nil || len(config.Data) < 5 {
		t.Fatalf("%v: %v", err, config)
	}
	return config.Data
}
