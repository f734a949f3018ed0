//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// legacyEnv is how cosign v2 and gitsign learn whom to trust without TUF.
func (l *lab) legacyEnv() []string {
	return []string{
		"SIGSTORE_ROOT_FILE=" + l.in("fulcio-chain.pem"),
		"SIGSTORE_REKOR_PUBLIC_KEY=" + l.in("rekor.pub"),
		"SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=" + l.in("ctfe.pub"),
	}
}

// legacyServices are the flags that came before signing configs.
func (l *lab) legacyServices() []string {
	return []string{"--fulcio-url", l.urls.Fulcio, "--rekor-url", l.urls.Rekor, "--oidc-issuer", l.urls.OIDC}
}

// testCosign2 drives the old generation: Fulcio's v1 API, detached or legacy bundles, signatures under image tags.
func testCosign2(t *testing.T, l *lab) {
	cosign := client(t, cosign2)
	t.Run("legacy blob", func(t *testing.T) { cosign2Blob(t, l, cosign) })
	t.Run("legacy blob with a timestamp", func(t *testing.T) { cosign2Timestamp(t, l, cosign) })
	t.Run("legacy image", func(t *testing.T) { cosign2Image(t, l, cosign) })
	t.Run("legacy attestation", func(t *testing.T) { cosign2Attest(t, l, cosign) })
	t.Run("legacy key", func(t *testing.T) { cosign2Key(t, l, cosign) })
	for _, generation := range generations {
		t.Run("new bundle on "+generation.name, func(t *testing.T) { cosign2NewBundle(t, l, cosign, generation.signingConfig) })
	}
	t.Run("from the TUF repository alone", func(t *testing.T) { cosignTUF(t, l, cosign) })
}

func cosign2Blob(t *testing.T, l *lab, cosign string) {
	s := l.session(t, l.legacyEnv()...)
	blob := s.write(t, "blob", "signed the old way\n")
	s.run(t, cosign, join([]string{"sign-blob", "-y"}, l.legacyServices(), []string{"--identity-token", l.token(t), "--bundle", "legacy.json", blob})...)
	verify := []string{"verify-blob", "--bundle", "legacy.json"}
	s.run(t, cosign, join(verify, l.who(), []string{blob})...)
	t.Run("our verify agrees", func(t *testing.T) {
		ours := []string{"verify", blob, "--trusted-root", l.in("trusted_root.json"), "--prove-offline", "--bundle"}
		s.run(t, l.binary, join(ours, []string{"legacy.json"}, l.who())...)
		s.refuse(t, nil, l.binary, join(ours, []string{s.write(t, "ours.json", flip(t, s.path("legacy.json"), "SignedEntryTimestamp"))}, l.who())...)
		s.refuse(t, nil, l.binary, join(ours, []string{"legacy.json", "--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC})...)
	})
	// Signing the same file again is another certificate and another entry.
	s.run(t, cosign, join([]string{"sign-blob", "-y"}, l.legacyServices(), []string{"--identity-token", l.token(t), "--bundle", "again.json", blob})...)
	t.Run("wrong identity", func(t *testing.T) {
		s.refuse(t, wrongIdentity, cosign, join(verify, []string{"--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC, blob})...)
	})
	t.Run("wrong artifact", func(t *testing.T) {
		s.refuse(t, wrongSignature, cosign, join(verify, l.who(), []string{s.write(t, "other", "signed the odd way\n")})...)
	})
	t.Run("flipped bundle", func(t *testing.T) {
		s.refuse(t, nil, cosign, join([]string{"verify-blob", "--bundle", s.write(t, "flipped.json", flip(t, s.path("legacy.json"), "SignedEntryTimestamp"))}, l.who(), []string{blob})...)
	})
}

func cosign2Timestamp(t *testing.T, l *lab, cosign string) {
	s := l.session(t, l.legacyEnv()...)
	blob := s.write(t, "blob", "signed the old way, at a proven time\n")
	s.run(t, cosign, join([]string{"sign-blob", "-y"}, l.legacyServices(),
		[]string{"--timestamp-server-url", l.urls.TSA, "--rfc3161-timestamp", "timestamp.tsr", "--identity-token", l.token(t), "--bundle", "legacy.json",
			"--output-signature", "blob.sig", "--output-certificate", "blob.crt", blob})...)
	s.run(t, cosign, join([]string{"verify-blob", "--bundle", "legacy.json", "--use-signed-timestamps", "--rfc3161-timestamp", "timestamp.tsr",
		"--timestamp-certificate-chain", l.in("tsa-chain.pem")}, l.who(), []string{blob})...)
	ours := []string{"verify", blob, "--trusted-root", l.in("trusted_root.json"), "--rfc3161-timestamp", "timestamp.tsr"}
	s.run(t, l.binary, join(ours, []string{"--bundle", "legacy.json"}, l.who())...)
	s.run(t, l.binary, join(ours, []string{"--signature", "blob.sig", "--certificate", "blob.crt", "--without-log"}, l.who())...)
	s.refuse(t, nil, l.binary, join(ours, []string{"--signature", "blob.sig", "--certificate", "blob.crt"}, l.who())...)
}

func cosign2Image(t *testing.T, l *lab, cosign string) {
	s := l.session(t, l.legacyEnv()...)
	image := pushImage(t, l.registry, "cosign2/image")
	s.run(t, cosign, join([]string{"sign", "-y", "--allow-http-registry"}, l.legacyServices(), []string{"--identity-token", l.token(t), image})...)
	s.run(t, cosign, join([]string{"verify", "--allow-http-registry"}, l.who(), []string{image})...)
	ours := []string{"verify", "--trusted-root", l.in("trusted_root.json"), "oci://" + image}
	s.run(t, l.binary, join(ours, l.who())...)
	s.refuse(t, nil, l.binary, join(ours, []string{"--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC})...)
	s.run(t, cosign, "save", "--dir", "saved", image)
	s.run(t, l.binary, join([]string{"verify", "--trusted-root", l.in("trusted_root.json"), "--prove-offline", "oci-layout:saved"}, l.who())...)
	// Asking the log: cosign looks the entry up by proposing it again.
	s.run(t, cosign, join([]string{"verify", "--allow-http-registry", "--rekor-url", l.urls.Rekor}, l.who(), []string{image})...)
	t.Run("wrong identity", func(t *testing.T) {
		s.refuse(t, wrongIdentity, cosign, "verify", "--allow-http-registry", "--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC, image)
	})
}

func cosign2Attest(t *testing.T, l *lab, cosign string) {
	s := l.session(t, l.legacyEnv()...)
	image := pushImage(t, l.registry, "cosign2/attested")
	predicate := s.write(t, "predicate.json", `{"tests":"green"}`)
	attest := join([]string{"attest", "-y", "--allow-http-registry"}, l.legacyServices(), []string{"--predicate", predicate, "--type", "custom", "--identity-token"})
	s.run(t, cosign, join(attest, []string{l.token(t), image})...)
	s.run(t, cosign, join([]string{"verify-attestation", "--allow-http-registry", "--type", "custom"}, l.who(), []string{image})...)
	ours := []string{"verify", "--trusted-root", l.in("trusted_root.json"), "oci://" + image}
	s.run(t, l.binary, join(ours, []string{"--type", "custom"}, l.who())...)
	s.refuse(t, nil, l.binary, join(ours, l.who())...)
	t.Run("as the form before dsse", func(t *testing.T) {
		image := pushImage(t, l.registry, "cosign2/intoto")
		s.run(t, cosign, join(attest, []string{l.token(t), "--rekor-entry-type", "intoto", image})...)
		s.run(t, cosign, join([]string{"verify-attestation", "--allow-http-registry", "--type", "custom"}, l.who(), []string{image})...)
		ours := []string{"verify", "--trusted-root", l.in("trusted_root.json"), "--type", "custom", "oci://" + image}
		if said := s.run(t, l.binary, join(ours, l.who())...); !strings.Contains(said, "intoto 0.0.1") {
			t.Errorf("logged as something else:\n%s", said)
		}
		s.refuse(t, []string{"identity or issuer not accepted"}, l.binary, join(ours, []string{"--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC})...)
	})
}

func cosign2Key(t *testing.T, l *lab, cosign string) {
	s := l.session(t, l.legacyEnv()...)
	blob := s.write(t, "blob", "signed the old way with a key\n")
	s.run(t, cosign, "generate-key-pair")
	s.run(t, cosign, "sign-blob", "-y", "--key", "cosign.key", "--rekor-url", l.urls.Rekor, "--output-signature", "blob.sig", "--bundle", "legacy.json", blob)
	s.run(t, cosign, "verify-blob", "--key", "cosign.pub", "--bundle", "legacy.json", blob)
	ours := []string{"verify", blob, "--trusted-root", l.in("trusted_root.json"), "--key", "cosign.pub"}
	s.run(t, l.binary, join(ours, []string{"--bundle", "legacy.json"})...)
	s.run(t, l.binary, join(ours, []string{"--signature", "blob.sig", "--without-log"})...)
	s.refuse(t, nil, l.binary, join(ours, []string{"--signature", "blob.sig"})...)
	// No bundle: the client finds the entry in the log.
	s.run(t, cosign, "verify-blob", "--key", "cosign.pub", "--rekor-url", l.urls.Rekor, "--signature", "blob.sig", blob)
}

func cosign2NewBundle(t *testing.T, l *lab, cosign, signingConfig string) {
	s := l.session(t)
	blob := s.write(t, "blob", "signed by the old client in the new form\n")
	s.run(t, cosign, "sign-blob", "-y", "--new-bundle-format", "--signing-config", l.in(signingConfig), "--trusted-root", l.in("trusted_root.json"),
		"--identity-token", l.token(t), "--bundle", "bundle.json", blob)
	verify := []string{"verify-blob", "--new-bundle-format", "--trusted-root", l.in("trusted_root.json"), "--use-signed-timestamps", "--bundle", "bundle.json"}
	s.run(t, cosign, join(verify, l.who(), []string{blob})...)
	s.run(t, l.binary, join([]string{"verify", blob, "--bundle", "bundle.json", "--trusted-root", l.in("trusted_root.json")}, l.who())...)
}

// testAcrossVersions: what one generation of client signed, the other verifies.
func testAcrossVersions(t *testing.T, l *lab) {
	old, new := client(t, cosign2), client(t, cosign3)
	for _, generation := range generations {
		signing := []string{"--signing-config", l.in(generation.signingConfig), "--trusted-root", l.in("trusted_root.json"), "--identity-token"}
		t.Run("blob of v3 read by v2 on "+generation.name, func(t *testing.T) {
			s := l.session(t)
			blob := s.write(t, "blob", "from new to old\n")
			s.run(t, new, join([]string{"sign-blob", "-y"}, signing, []string{l.token(t), "--bundle", "bundle.json", blob})...)
			s.run(t, old, join([]string{"verify-blob", "--new-bundle-format", "--use-signed-timestamps", "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json"}, l.who(), []string{blob})...)
		})
		t.Run("image of v3 read by v2 on "+generation.name, func(t *testing.T) {
			s := l.session(t)
			image := pushImage(t, l.registry, "across/new")
			s.run(t, new, join([]string{"sign", "-y", "--allow-http-registry"}, signing, []string{l.token(t), image})...)
			s.run(t, old, join([]string{"verify", "--allow-http-registry", "--new-bundle-format", "--use-signed-timestamps", "--trusted-root", l.in("trusted_root.json")}, l.who(), []string{image})...)
		})
		t.Run("blob of v2 read by v3 on "+generation.name, func(t *testing.T) {
			s := l.session(t)
			blob := s.write(t, "blob", "from old to new\n")
			s.run(t, old, join([]string{"sign-blob", "-y", "--new-bundle-format"}, signing, []string{l.token(t), "--bundle", "bundle.json", blob})...)
			s.run(t, new, join([]string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json"}, l.who(), []string{blob})...)
		})
	}
	t.Run("attestations", func(t *testing.T) { attestationsAcross(t, l, old, new) })
	t.Run("legacy image of v2 read by v3", func(t *testing.T) {
		s := l.session(t, l.legacyEnv()...)
		image := pushImage(t, l.registry, "across/old")
		s.run(t, old, join([]string{"sign", "-y", "--allow-http-registry"}, l.legacyServices(), []string{"--identity-token", l.token(t), image})...)
		s.run(t, new, join([]string{"verify", "--allow-http-registry", "--trusted-root", l.in("trusted_root.json")}, l.who(), []string{image})...)
	})
	t.Run("legacy blob of v2 read by v3", func(t *testing.T) {
		s := l.session(t, l.legacyEnv()...)
		blob := s.write(t, "blob", "from very old to new\n")
		s.run(t, old, join([]string{"sign-blob", "-y"}, l.legacyServices(), []string{"--identity-token", l.token(t), "--bundle", "legacy.json", blob})...)
		s.run(t, new, join([]string{"verify-blob", "--bundle", "legacy.json"}, l.who(), []string{blob})...)
	})
}

// attestationsAcross: attestations in the new form go both ways on Rekor v1. cosign 2 asks Rekor v2 for an entry kind that was taken
// out of it, and is told so.
func attestationsAcross(t *testing.T, l *lab, old, new string) {
	s := l.session(t)
	predicate := s.write(t, "predicate.json", `{"tests":"green"}`)
	attest := func(signingConfig, image string, flags ...string) []string {
		return join([]string{"attest", "-y", "--allow-http-registry", "--signing-config", l.in(signingConfig), "--trusted-root", l.in("trusted_root.json"),
			"--predicate", predicate, "--type", "custom", "--identity-token", l.token(t)}, flags, []string{image})
	}
	verify := func(image string, flags ...string) []string {
		return join([]string{"verify-attestation", "--allow-http-registry", "--trusted-root", l.in("trusted_root.json"), "--type", "custom"}, l.who(), flags, []string{image})
	}
	t.Run("of v3 read by v2", func(t *testing.T) {
		for _, generation := range generations {
			image := pushImage(t, l.registry, "across/attested-new")
			s.run(t, new, attest(generation.signingConfig, image)...)
			s.run(t, old, verify(image, "--new-bundle-format", "--use-signed-timestamps")...)
		}
	})
	t.Run("of v2 read by v3", func(t *testing.T) {
		image := pushImage(t, l.registry, "across/attested-old")
		s.run(t, old, attest(generations[0].signingConfig, image, "--new-bundle-format")...)
		s.run(t, new, verify(image)...)
	})
	t.Run("of v2 on rekor v2 is refused by the log", func(t *testing.T) {
		image := pushImage(t, l.registry, "across/attested-refused")
		s.refuse(t, []string{"hashedRekord"}, old, attest(generations[1].signingConfig, image, "--new-bundle-format")...)
	})
}
