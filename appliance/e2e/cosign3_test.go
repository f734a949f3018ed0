//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	cosign3 = "cosign-v3.1.3"
	cosign2 = "cosign-v2.6.5"
)

// generations are the two wire formats of the log, by the signing config that selects them.
var generations = []struct{ name, signingConfig string }{
	{rekorV1, "signing_config.v0.2.json"},
	{rekorV2, "signing_config_rekor_v2.v0.2.json"},
}

const (
	rekorV1 = "rekor v1"
	rekorV2 = "rekor v2"
)

// guarded are the fields of a bundle that the clients look at, one bit of which may not change. Rekor v2 keeps no time, so the
// timestamp counts there; v1 has the log's promise instead.
var guarded = map[string][]string{
	rekorV1: {"signature", "signedEntryTimestamp", "canonicalizedBody", "envelope", "rawBytes"},
	rekorV2: {"signature", "signedTimestamp", "canonicalizedBody", "envelope", "rawBytes"},
}

// Why clients refuse, in their own words; several where versions differ.
var (
	wrongIdentity  = []string{"none of the expected identities matched", "no matching CertificateIdentity", "expected SAN value"}
	wrongSignature = []string{"invalid signature", "could not verify", "failed to verify", "matching bundle to payload", "did not match", "provided artifact digest does not match"}
)

func testCosign3(t *testing.T, l *lab) {
	cosign := client(t, cosign3)
	for _, generation := range generations {
		signing := []string{"--signing-config", l.in(generation.signingConfig), "--trusted-root", l.in("trusted_root.json")}
		t.Run("blob on "+generation.name, func(t *testing.T) { cosign3Blob(t, l, cosign, signing, guarded[generation.name]) })
		t.Run("blob with a key on "+generation.name, func(t *testing.T) { cosign3Key(t, l, cosign, signing) })
		t.Run("image on "+generation.name, func(t *testing.T) { cosign3Image(t, l, cosign, signing) })
		t.Run("attestation on "+generation.name, func(t *testing.T) { cosign3Attest(t, l, cosign, signing) })
	}
	t.Run("from the TUF repository alone", func(t *testing.T) { cosignTUF(t, l, cosign) })
	t.Run("refuses keyless rekor v2 without a timestamp", func(t *testing.T) { cosign3WithoutTSA(t, l, cosign) })
	t.Run("refuses an unverified e-mail address", func(t *testing.T) { cosign3UnverifiedEmail(t, l, cosign) })
}

func cosign3Blob(t *testing.T, l *lab, cosign string, signing, fields []string) {
	s := l.session(t)
	blob := s.write(t, "blob", "what is signed\n")
	bundle := s.path("bundle.json")
	verify := []string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle"}

	s.run(t, cosign, join([]string{"sign-blob", "-y"}, signing, []string{"--identity-token", l.token(t), "--bundle", bundle, blob})...)
	s.run(t, cosign, join(verify, []string{bundle}, l.who(), []string{blob})...)
	t.Run("our verify agrees", func(t *testing.T) {
		s.run(t, l.binary, join([]string{"verify", blob, "--bundle", bundle, "--trusted-root", l.in("trusted_root.json")}, l.who())...)
	})
	keep(t, l, blob, bundle)

	t.Run("wrong identity", func(t *testing.T) {
		other := []string{"--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC}
		s.refuse(t, wrongIdentity, cosign, join(verify, []string{bundle}, other, []string{blob})...)
	})
	t.Run("wrong issuer", func(t *testing.T) {
		other := []string{"--certificate-identity", identity, "--certificate-oidc-issuer", "https://elsewhere.internal"}
		s.refuse(t, []string{"none of the expected identities matched", "expected issuer value"}, cosign, join(verify, []string{bundle}, other, []string{blob})...)
	})
	t.Run("wrong artifact", func(t *testing.T) {
		other := s.write(t, "other", "what is signed.\n")
		s.refuse(t, wrongSignature, cosign, join(verify, []string{bundle}, l.who(), []string{other})...)
	})
	t.Run("flipped bundle", func(t *testing.T) {
		for _, field := range fields {
			t.Run(field, func(t *testing.T) {
				flipped := s.write(t, field+".json", flip(t, bundle, field))
				s.refuse(t, nil, cosign, join(verify, []string{flipped}, l.who(), []string{blob})...)
				s.refuse(t, nil, l.binary, join([]string{"verify", blob, "--bundle", flipped, "--trusted-root", l.in("trusted_root.json")}, l.who())...)
			})
		}
	})
}

func cosign3Key(t *testing.T, l *lab, cosign string, signing []string) {
	s := l.session(t)
	blob := s.write(t, "blob", "signed with a key of one's own\n")
	bundle := s.path("bundle.json")
	s.run(t, cosign, "generate-key-pair")
	s.run(t, cosign, join([]string{"sign-blob", "-y", "--key", "cosign.key"}, signing, []string{"--bundle", bundle, blob})...)
	verify := []string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle", bundle}
	s.run(t, cosign, join(verify, []string{"--key", "cosign.pub", blob})...)
	s.run(t, l.binary, "verify", blob, "--bundle", bundle, "--trusted-root", l.in("trusted_root.json"), "--key", "cosign.pub")
	t.Run("wrong key", func(t *testing.T) {
		s.run(t, cosign, "generate-key-pair", "--output-key-prefix", "other")
		s.refuse(t, nil, cosign, join(verify, []string{"--key", "other.pub", blob})...)
	})
}

func cosign3Image(t *testing.T, l *lab, cosign string, signing []string) {
	s := l.session(t)
	image := pushImage(t, l.registry, "cosign3/image")
	s.run(t, cosign, join([]string{"sign", "-y", "--allow-http-registry"}, signing, []string{"--identity-token", l.token(t), image})...)
	verify := []string{"verify", "--allow-http-registry", "--trusted-root", l.in("trusted_root.json")}
	s.run(t, cosign, join(verify, l.who(), []string{image})...)
	ours := []string{"verify", "--trusted-root", l.in("trusted_root.json"), "oci://" + image}
	s.run(t, l.binary, join(ours, l.who())...)
	t.Run("wrong identity", func(t *testing.T) {
		other := []string{"--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC}
		s.refuse(t, wrongIdentity, cosign, join(verify, other, []string{image})...)
		s.refuse(t, []string{"identity or issuer not accepted"}, l.binary, join(ours, other)...)
	})
	t.Run("unsigned image", func(t *testing.T) {
		s.refuse(t, []string{"no signatures found", "no matching signatures"}, cosign, join(verify, l.who(), []string{pushImage(t, l.registry, "cosign3/unsigned")})...)
	})
}

func cosign3Attest(t *testing.T, l *lab, cosign string, signing []string) {
	s := l.session(t)
	image := pushImage(t, l.registry, "cosign3/attested")
	predicate := s.write(t, "predicate.json", `{"tests":"green"}`)
	s.run(t, cosign, join([]string{"attest", "-y", "--allow-http-registry"}, signing,
		[]string{"--identity-token", l.token(t), "--predicate", predicate, "--type", "custom", image})...)
	verify := []string{"verify-attestation", "--allow-http-registry", "--trusted-root", l.in("trusted_root.json"), "--type", "custom"}
	s.run(t, cosign, join(verify, l.who(), []string{image})...)
	ours := []string{"verify", "--trusted-root", l.in("trusted_root.json"), "oci://" + image}
	s.run(t, l.binary, join(ours, []string{"--type", "custom"}, l.who())...)
	s.refuse(t, []string{"which is no signature"}, l.binary, join(ours, l.who())...)
	t.Run("wrong identity", func(t *testing.T) {
		s.refuse(t, wrongIdentity, cosign, join(verify, []string{"--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC, image})...)
	})
}

// cosignTUF uses no file but the first root: everything else comes from the TUF repository.
func cosignTUF(t *testing.T, l *lab, cosign string) {
	s := l.session(t)
	s.run(t, cosign, "initialize", "--mirror", l.urls.TUF, "--root", l.in("tuf-root.json"))
	blob := s.write(t, "blob", "signed with what TUF delivered\n")
	if strings.HasSuffix(cosign, cosign2) {
		s.run(t, cosign, "sign-blob", "-y", "--fulcio-url", l.urls.Fulcio, "--rekor-url", l.urls.Rekor, "--oidc-issuer", l.urls.OIDC,
			"--identity-token", l.token(t), "--bundle", "bundle.json", blob)
	} else {
		s.run(t, cosign, "sign-blob", "-y", "--identity-token", l.token(t), "--bundle", "bundle.json", blob)
	}
	s.run(t, cosign, join([]string{"verify-blob", "--bundle", "bundle.json"}, l.who(), []string{blob})...)
}

// cosign3WithoutTSA: Rekor v2 keeps no time, so a keyless signature without a timestamp proves nothing.
func cosign3WithoutTSA(t *testing.T, l *lab, cosign string) {
	s := l.session(t)
	content, err := os.ReadFile(l.in("signing_config_rekor_v2.v0.2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(content, &config); err != nil {
		t.Fatal(err)
	}
	delete(config, "tsaUrls")
	delete(config, "tsaConfig")
	content, err = json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	withoutTSA := s.write(t, "signing_config.json", string(content))
	blob := s.write(t, "blob", "signed at no provable time\n")
	s.refuse(t, []string{"timestamp", "TSA"}, cosign, "sign-blob", "-y", "--signing-config", withoutTSA, "--trusted-root", l.in("trusted_root.json"),
		"--identity-token", l.token(t), "--bundle", "bundle.json", blob)
}

func cosign3UnverifiedEmail(t *testing.T, l *lab, cosign string) {
	s := l.session(t)
	blob := s.write(t, "blob", "signed by nobody in particular\n")
	token := l.token(t, "--email", identity, "--claim", "email_verified=false")
	s.refuse(t, []string{"verified"}, cosign, "sign-blob", "-y", "--signing-config", l.in("signing_config.v0.2.json"),
		"--trusted-root", l.in("trusted_root.json"), "--identity-token", token, "--bundle", "bundle.json", blob)
}

// keep puts a signed file aside for the check that follows when the server is gone.
func keep(t *testing.T, l *lab, blob, bundle string) {
	t.Helper()
	for from, to := range map[string]string{blob: "kept", bundle: "kept.bundle"} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(l.scratch, to), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// flip returns the bundle with one character changed a quarter into the first field of that name: in a checkpoint, that is in the
// root hash, while the name on its signature line, further on, is not signed.
func flip(t *testing.T, bundle, field string) string {
	t.Helper()
	content, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	var document any
	if err := json.Unmarshal(content, &document); err != nil {
		t.Fatal(err)
	}
	if !flipField(document, field) {
		t.Fatalf("the bundle has no %s\n%s", field, content)
	}
	content, err = json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func flipField(node any, field string) bool {
	switch node := node.(type) {
	case map[string]any:
		if value, ok := node[field].(string); ok && len(value) > 8 {
			at := len(value) / 4
			replacement := "A"
			if value[at] == 'A' {
				replacement = "B"
			}
			node[field] = value[:at] + replacement + value[at+1:]
			return true
		}
		for _, child := range node {
			if flipField(child, field) {
				return true
			}
		}
	case []any:
		for _, child := range node {
			if flipField(child, field) {
				return true
			}
		}
	}
	return false
}

func join(parts ...[]string) []string {
	var all []string
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}
