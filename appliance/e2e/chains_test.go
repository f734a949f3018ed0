//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const chainsSign = "chains-sign-v0.22.0-2"

// chainsBlock is a configuration of Tekton Chains that docs/ci.md shows.
var chainsBlock = regexp.MustCompile("(?s)```yaml\n# (chains|keyless): [^\n]*\n(.*?)```")

// TestChains: Tekton Chains' own code, configured as the documentation says, signs the provenance of a file and of an image with a key; both verify by that
// key and by a policy, and not by another key, of another artifact or of another builder. So does what it signs keyless, with its entry of the log.
func TestChains(t *testing.T) {
	l := newLab(t, nil)
	s := l.session(t)
	data := chainsConfig(t, "chains")
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

// chainsImage signs the provenance of images, which Chains puts under cosign's tag .att, as cosign attach does. One of them it logs: cosign, which asks the
// log where nothing beside the image says so, finds that entry and none of the other's.
func (s *session) chainsImage(t *testing.T, data map[string]string) {
	logged := maps.Clone(data)
	logged["transparency.enabled"], logged["transparency.url"] = "true", s.lab.urls.Rekor
	for name, data := range map[string]map[string]string{"app": data, "logged": logged} {
		image := pushImage(t, s.lab.registry, "built/"+name)
		_, digest, _ := strings.Cut(image, "@sha256:")
		s.write(t, "image.json", string(s.chains(t, data, digest).Envelope))
		verify := []string{"verify", "oci://" + image, "--policy", "policy.yaml"}
		s.refuse(t, []string{"0 of 1 needed"}, s.lab.binary, verify...)
		s.run(t, client(t, cosign2), "attach", "attestation", "--allow-http-registry", "--attestation", "image.json", image)
		s.run(t, s.lab.binary, verify...)
		asking := []string{"SIGSTORE_REKOR_PUBLIC_KEY=" + s.lab.in("rekor.pub"), client(t, cosign2), "verify-attestation", "--allow-http-registry", "--key", "cosign.pub", "--rekor-url", s.lab.urls.Rekor, "--type", "slsaprovenance1", image}
		if name == "logged" {
			s.run(t, "env", asking...)
		} else {
			s.refuse(t, []string{"tlog", "transparency log"}, "env", asking...)
		}
	}
}

// chainsKeyless has Chains get a certificate here, and log what it signs.
func (s *session) chainsKeyless(t *testing.T, data map[string]string, file string) {
	l := s.lab
	keyless := chainsConfig(t, "keyless")
	for name, value := range map[string]string{"transparency.url": l.urls.Rekor, "signers.x509.fulcio.address": l.urls.Fulcio, "signers.x509.fulcio.issuer": l.urls.OIDC,
		"signers.x509.tuf.mirror.url": l.urls.TUF, "signers.x509.identity.token.file": s.write(t, "token", l.token(t))} {
		if keyless[name] == "" {
			t.Errorf("docs/ci.md says nothing of %s", name)
		}
		keyless[name] = value
	}
	for name, value := range data {
		if keyless[name] == "" {
			keyless[name] = value
		}
	}
	signed := func(name, content string) []string {
		got := s.chains(t, keyless, fmt.Sprintf("%x", sha256.Sum256([]byte(content))))
		answer, err := http.Get(got.Transparency)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		entry, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatal(answer.Status, err)
		}
		return []string{"--signature", s.write(t, name+".json", string(got.Envelope)), "--certificate", s.write(t, name+".pem", got.Certificate), "--log-entry", s.write(t, name+".entry.json", string(entry))}
	}
	ours, theirs := signed("ours", "what a task has built\n"), signed("theirs", "what no task has built\n")
	by := join([]string{"--trusted-root", l.in("trusted_root.json"), "--type", "slsaprovenance1", "--prove-offline"}, l.who())
	if said := s.run(t, l.binary, join([]string{"verify", file}, ours, by)...); !strings.Contains(said, "intoto 0.0.1") {
		t.Errorf("logged as something else:\n%s", said)
	}
	s.write(t, "keyless.yaml", fmt.Sprintf(`version: redoubt.policy/v1
roots: {own: {file: %s}}
signers: {chains: [{root: own, identity: %q, issuer: %q}]}
rules: [{name: built, artifacts: ['*.tgz'], attestations: [{type: slsa-provenance, by: [chains], slsa: {level: 2, builders: [{id: %q, level: 2}]}}]}]
`, l.in("trusted_root.json"), identity, l.urls.OIDC, data["builder.id"]))
	s.run(t, l.binary, join([]string{"verify", file, "--policy", "keyless.yaml"}, ours)...)
	for reason, args := range map[string][]string{
		"signature or digest mismatch":    join([]string{"verify", "other.tgz"}, ours, by),
		"it is of another envelope":       join([]string{"verify", file}, ours[:4], theirs[4:], by),
		"bad log proof":                   join([]string{"verify", file}, ours[:4], by),
		"time invalid":                    join([]string{"verify", file}, ours[:4], by, []string{"--without-log"}),
		"identity or issuer not accepted": join([]string{"verify", file}, ours, by[:5], []string{"--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC}),
	} {
		s.refuse(t, []string{reason}, l.binary, args...)
	}
}

type chainsSigned struct {
	Envelope    json.RawMessage `json:"envelope"`
	Certificate string          `json:"certificate"`
	Config      json.RawMessage `json:"config"`
	// Transparency is the address of the log entry.
	Transparency string `json:"transparency"`
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

// chainsConfig is the data of a ConfigMap in the documentation.
func chainsConfig(t *testing.T, name string) map[string]string {
	t.Helper()
	document, err := os.ReadFile("../../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	var block []byte
	for _, match := range chainsBlock.FindAllSubmatch(document, -1) {
		if string(match[1]) == name {
			block = match[2]
		}
	}
	var config struct {
		Data map[string]string `yaml:"data"`
	}
	if err := yaml.Unmarshal(block, &config); err != nil || len(config.Data) < 5 {
		t.Fatalf("%v: %v", err, config)
	}
	return config.Data
}
