//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const notationV1 = "notation-v1.3.2"

// TestNotation: the stock client signs with a certificate of the profile notation and a timestamp of ours, verifies that by the trust store we write,
// and redoubt verifies it too: in both envelopes, in a registry with the referrers API and in Debian's, which has none.
func TestNotation(t *testing.T) {
	notation := client(t, notationV1)
	l := newLab(t, nil)
	enableNotation(t, l)
	s := l.session(t)
	signer := newNotary(t, l, s, "release")
	store := "XDG_CONFIG_HOME=" + l.setup
	for where, registry := range map[string]string{"referrers": l.registry, "tag": debianRegistry(t)} {
		for _, format := range []string{"jws", "cose"} {
			t.Run(where+" "+format, func(t *testing.T) {
				ref := pushAnywhere(t, registry, "team/"+format)
				signer.run(t, notation, "sign", "--signature-format", format, "--timestamp-url", signer.tsa, "--timestamp-root-cert", signer.root, "--insecure-registry", ref)
				stock := l.session(t, store)
				stock.run(t, notation, "verify", "--insecure-registry", ref)
				out := s.run(t, l.binary, verifyNotation(l, ref, "CN=release")...)
				if !strings.Contains(out, "signer     CN=release,O=Corp,ST=Berlin,C=DE") || !strings.Contains(out, "time ") {
					t.Error(out)
				}
				exitsWith(t, s, 11, verifyNotation(l, ref, "CN=other")...)
				exitsWith(t, s, 11, "verify", "oci://"+ref, "--setup", l.setup, "--certificate-subject", "C=DE,ST=Berlin,O=Corp Ltd")
				exitsWith(t, s, 10, append([]string{"verify", "oci://" + ref, "--setup", l.setup}, l.who()...)...)
				exitsWith(t, s, 10, verifyNotation(l, pushAnywhere(t, registry, "team/"+format), "CN=release")...)
			})
		}
	}
	t.Run("moved to another image", func(t *testing.T) {
		ref := pushAnywhere(t, l.registry, "team/moved")
		signer.run(t, notation, "sign", "--timestamp-url", signer.tsa, "--timestamp-root-cert", signer.root, "--insecure-registry", ref)
		other := pushAnywhere(t, l.registry, "team/moved")
		reattach(t, ref, other, func(b []byte) []byte { return b })
		l.session(t, store).refuse(t, nil, notation, "verify", "--insecure-registry", other)
		exitsWith(t, s, 12, verifyNotation(l, other, "CN=release")...)
	})
	t.Run("timestamp taken away", func(t *testing.T) {
		ref := pushAnywhere(t, l.registry, "team/untimed")
		signer.run(t, notation, "sign", "--insecure-registry", ref)
		l.session(t, store).refuse(t, nil, notation, "verify", "--insecure-registry", ref)
		exitsWith(t, s, 24, verifyNotation(l, ref, "CN=release")...)
	})
	t.Run("envelope changed", func(t *testing.T) {
		ref := pushAnywhere(t, l.registry, "team/changed")
		signer.run(t, notation, "sign", "--timestamp-url", signer.tsa, "--timestamp-root-cert", signer.root, "--insecure-registry", ref)
		copied := pushCopy(t, ref, "team/changed2")
		reattach(t, ref, copied, func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"signature":"`), []byte(`"signature":"AAAA`), 1)
		})
		l.session(t, store).refuse(t, nil, notation, "verify", "--insecure-registry", copied)
		exitsWith(t, s, 12, verifyNotation(l, copied, "CN=release")...)
		reattach(t, ref, copied, func(b []byte) []byte { return b }) // beside it one that verifies
		s.run(t, l.binary, verifyNotation(l, copied, "CN=release")...)
	})
	t.Run("a keyless certificate", func(t *testing.T) { keylessNotary(t, l, s, notation, store) })
	t.Run("another site", func(t *testing.T) {
		other := newLab(t, nil)
		enableNotation(t, other)
		theirs := newNotary(t, other, other.session(t), "release")
		ref := pushAnywhere(t, l.registry, "team/foreign")
		theirs.run(t, notation, "sign", "--timestamp-url", theirs.tsa, "--timestamp-root-cert", theirs.root, "--insecure-registry", ref)
		l.session(t, store).refuse(t, nil, notation, "verify", "--insecure-registry", ref)
		exitsWith(t, s, 20, verifyNotation(l, ref, "CN=release")...)
		mixed := pushAnywhere(t, l.registry, "team/mixed")
		signer.run(t, notation, "sign", "--timestamp-url", theirs.tsa, "--timestamp-root-cert", theirs.root, "--insecure-registry", mixed)
		l.session(t, store).refuse(t, nil, notation, "verify", "--insecure-registry", mixed)
		exitsWith(t, s, 24, verifyNotation(l, mixed, "CN=release")...)
	})
	t.Run("denied", func(t *testing.T) {
		ref := pushAnywhere(t, l.registry, "team/denied")
		signer.run(t, notation, "sign", "--timestamp-url", signer.tsa, "--timestamp-root-cert", signer.root, "--insecure-registry", ref)
		s.run(t, l.binary, "--config", l.config, "identity", "deny", "--issuer", "notation", "--identity", "CN=release,O=Corp,ST=Berlin,C=DE", "--reason", "key lost")
		s.run(t, l.binary, "--config", l.config, "client", "setup", "--out", l.setup)
		exitsWith(t, s, 25, verifyNotation(l, ref, "CN=release")...)
		s.refuse(t, []string{"denied"}, l.binary, "--config", l.config, "ca", "issue", "--csr", signer.csr, "--name", "release", "--out", s.path("again.pem"))
	})
}

// enableNotation has an instance issue by the profile.
func enableNotation(t *testing.T, l *lab) {
	t.Helper()
	text := must(os.ReadFile(l.config))
	mustDo(t, os.WriteFile(l.config, append(text, "ca:\n    notation: {country: DE, state: Berlin, organization: Corp}\n"...), 0o600))
	l.stop(t)
	l.serve(t)
	l.session(t).run(t, l.binary, "--config", l.config, "client", "setup", "--out", l.setup)
}

// A notary is a user with a key and a certificate in notation's configuration.
type notary struct {
	*session
	csr, tsa, root string
}

// newNotary makes a key and has it certified under a name, which is not the one that its request says.
func newNotary(t *testing.T, l *lab, s *session, name string) notary {
	t.Helper()
	home := t.TempDir()
	n := notary{l.session(t, "XDG_CONFIG_HOME="+home), s.path(name + ".csr"), strings.TrimSuffix(l.urls.TSA, "/api/v1/timestamp") + "/tsr", filepath.Join(l.setup, "notation/truststore/x509/tsa", domain, "root-1.pem")}
	key, chain := filepath.Join(home, "key.pem"), filepath.Join(home, "chain.pem")
	s.run(t, "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
	s.run(t, "openssl", "req", "-new", "-key", key, "-subj", "/CN=mallory", "-out", n.csr)
	s.run(t, l.binary, "--config", l.config, "ca", "issue", "--profile", "notation", "--csr", n.csr, "--name", name, "--out", chain)
	issued := s.run(t, l.binary, "--config", l.config, "ca", "issued", "--identity", "CN="+name+",O=Corp,ST=Berlin,C=DE")
	if !strings.Contains(issued, "  issued  ") {
		t.Fatal(issued)
	}
	n.keys(t, home, key, chain)
	return n
}

// keys writes notation's signingkeys.json.
func (n notary) keys(t *testing.T, home, key, chain string) {
	t.Helper()
	mustDo(t, os.MkdirAll(filepath.Join(home, "notation"), 0o700))
	mustDo(t, os.WriteFile(filepath.Join(home, "notation/signingkeys.json"), fmt.Appendf(nil, `{"default":"k","keys":[{"name":"k","keyPath":%q,"certPath":%q}]}`, key, chain), 0o600))
}

// keylessNotary signs as Notation does with a certificate of Fulcio's profile: by neither is it taken for a signer with a subject.
func keylessNotary(t *testing.T, l *lab, s *session, notation, store string) {
	home := t.TempDir()
	key, csr := filepath.Join(home, "key.pem"), s.path("keyless.csr")
	s.run(t, "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
	s.run(t, "openssl", "req", "-new", "-key", key, "-subj", "/C=DE/ST=Berlin/O=Corp/CN=release", "-out", csr)
	body, err := json.Marshal(map[string]any{"credentials": map[string]any{"oidcIdentityToken": l.token(t)}, "certificateSigningRequest": must(os.ReadFile(csr))})
	mustDo(t, err)
	res, err := http.Post(l.urls.Fulcio+"/api/v2/signingCert", "application/json", bytes.NewReader(body))
	mustDo(t, err)
	defer res.Body.Close()
	var answer struct {
		Certificate struct {
			Chain struct{ Certificates []string }
		} `json:"signedCertificateEmbeddedSct"`
	}
	mustDo(t, json.NewDecoder(res.Body).Decode(&answer))
	if len(answer.Certificate.Chain.Certificates) < 3 {
		t.Fatalf("%s %+v", res.Status, answer)
	}
	chain := filepath.Join(home, "chain.pem")
	mustDo(t, os.WriteFile(chain, []byte(strings.Join(answer.Certificate.Chain.Certificates, "\n")), 0o600))
	n := notary{session: l.session(t, "XDG_CONFIG_HOME="+home)}
	n.keys(t, home, key, chain)
	ref := pushAnywhere(t, l.registry, "team/keyless")
	n.run(t, notation, "sign", "--timestamp-url", strings.TrimSuffix(l.urls.TSA, "/api/v1/timestamp")+"/tsr", "--timestamp-root-cert", filepath.Join(l.setup, "notation/truststore/x509/tsa", domain, "root-1.pem"), "--insecure-registry", ref)
	l.session(t, store).refuse(t, nil, notation, "verify", "--insecure-registry", ref)
	exitsWith(t, s, 11, verifyNotation(l, ref, "CN=release")...)
}

func verifyNotation(l *lab, ref, name string) []string {
	return []string{"verify", "oci://" + ref, "--setup", l.setup, "--certificate-subject", "C=DE, ST=Berlin, O=Corp, " + name}
}

// exitsWith wants that exit code of redoubt.
func exitsWith(t *testing.T, s *session, code int, args ...string) {
	t.Helper()
	_, both, err := s.exec(s.lab.binary, args...)
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != code {
		t.Errorf("%s: %v, want exit %d\n%s", describe(s.lab.binary, args), err, code, both)
	}
}

// pushAnywhere is pushImage for a registry that wants an upload to be begun first.
func pushAnywhere(t *testing.T, registry, name string) string {
	t.Helper()
	layer := []byte(t.Name() + t.TempDir()) // nobody has seen it before
	config := []byte(`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["` + digest(layer) + `"]}}`)
	for _, blob := range [][]byte{layer, config} {
		upload(t, registry, name, blob)
	}
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		imageManifest, digest(config), len(config), digest(layer), len(layer))
	send(t, http.MethodPut, fmt.Sprintf("http://%s/v2/%s/manifests/%s", registry, name, digest(manifest)), imageManifest, manifest)
	return fmt.Sprintf("%s/%s@%s", registry, name, digest(manifest))
}

const imageManifest = "application/vnd.oci.image.manifest.v1+json"

func upload(t *testing.T, registry, name string, blob []byte) {
	t.Helper()
	res, err := http.Post(fmt.Sprintf("http://%s/v2/%s/blobs/uploads/", registry, name), "", nil)
	mustDo(t, err)
	res.Body.Close()
	at, err := res.Request.URL.Parse(res.Header.Get("Location"))
	mustDo(t, err)
	q := at.Query()
	q.Set("digest", digest(blob))
	at.RawQuery = q.Encode()
	send(t, http.MethodPut, at.String(), "application/octet-stream", blob)
}

// pushCopy puts the image of a reference under another name, where no signature of it stands.
func pushCopy(t *testing.T, ref, name string) string {
	t.Helper()
	registry, rest, _ := strings.Cut(ref, "/")
	from, at, _ := strings.Cut(rest, "@")
	manifest := fetch(t, fmt.Sprintf("http://%s/v2/%s/manifests/%s", registry, from, at))
	for _, d := range blobsOf(t, manifest) {
		upload(t, registry, name, fetch(t, fmt.Sprintf("http://%s/v2/%s/blobs/%s", registry, from, d)))
	}
	send(t, http.MethodPut, fmt.Sprintf("http://%s/v2/%s/manifests/%s", registry, name, at), imageManifest, manifest)
	return fmt.Sprintf("%s/%s@%s", registry, name, at)
}

func blobsOf(t *testing.T, manifest []byte) (all []string) {
	t.Helper()
	var m struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	mustDo(t, json.Unmarshal(manifest, &m))
	all = append(all, m.Config.Digest)
	for _, l := range m.Layers {
		all = append(all, l.Digest)
	}
	return all
}

// reattach puts the Notation signature of one image, changed, beside another of the same registry.
func reattach(t *testing.T, from, to string, change func([]byte) []byte) {
	t.Helper()
	registry, rest, _ := strings.Cut(from, "/")
	name, at, _ := strings.Cut(rest, "@")
	_, rest, _ = strings.Cut(to, "/")
	toName, toDigest, _ := strings.Cut(rest, "@")
	var index struct{ Manifests []struct{ Digest string } }
	mustDo(t, json.Unmarshal(fetch(t, fmt.Sprintf("http://%s/v2/%s/referrers/%s", registry, name, at)), &index))
	if len(index.Manifests) != 1 {
		t.Fatalf("%d referrers of %s", len(index.Manifests), from)
	}
	m := map[string]any{}
	mustDo(t, json.Unmarshal(fetch(t, fmt.Sprintf("http://%s/v2/%s/manifests/%s", registry, name, index.Manifests[0].Digest)), &m))
	layer := m["layers"].([]any)[0].(map[string]any)
	envelope := change(fetch(t, fmt.Sprintf("http://%s/v2/%s/blobs/%s", registry, name, layer["digest"])))
	sum := sha256.Sum256(envelope)
	layer["digest"], layer["size"] = "sha256:"+hex.EncodeToString(sum[:]), len(envelope)
	subject := fetch(t, fmt.Sprintf("http://%s/v2/%s/manifests/%s", registry, toName, toDigest))
	m["subject"] = map[string]any{"mediaType": imageManifest, "digest": toDigest, "size": len(subject)}
	upload(t, registry, toName, envelope)
	upload(t, registry, toName, fetch(t, fmt.Sprintf("http://%s/v2/%s/blobs/%s", registry, name, m["config"].(map[string]any)["digest"])))
	manifest, err := json.Marshal(m)
	mustDo(t, err)
	send(t, http.MethodPut, fmt.Sprintf("http://%s/v2/%s/manifests/%s", registry, toName, digest(manifest)), imageManifest, manifest)
}
