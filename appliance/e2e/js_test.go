//go:build e2e

package e2e

import (
	"path/filepath"
	"testing"
)

// testJS drives the JavaScript client as a library, the way npm does; testdata/client.js is the program around it.
func testJS(t *testing.T, l *lab) {
	modules := client(t, "js-4.1.1")
	script, err := filepath.Abs(filepath.Join("testdata", "client.js"))
	if err != nil {
		t.Fatal(err)
	}
	s := l.session(t, "NODE_PATH="+filepath.Join(modules, "node_modules"),
		"FULCIO_URL="+l.urls.Fulcio, "REKOR_URL="+l.urls.Rekor, "TSA_URL="+l.urls.TSA, "TUF_URL="+l.urls.TUF, "TUF_ROOT="+l.in("tuf-root.json"), "ISSUER="+l.urls.OIDC)
	js := func(t *testing.T, args ...string) {
		t.Helper()
		s.run(t, "node", append([]string{script}, args...)...)
	}
	blob := s.write(t, "blob", "signed from JavaScript\n")

	for _, kind := range []string{"sign", "sign-with-timestamp", "attest", "attest-legacy"} {
		t.Run(kind, func(t *testing.T) {
			bundle := s.path(kind + ".json")
			s.env = append(s.env, "IDENTITY_TOKEN="+l.token(t))
			js(t, kind, blob, bundle)
			js(t, "verify", blob, bundle, identity)
			s.refuse(t, nil, "node", script, "verify", blob, bundle, "mallory@corp.internal")
			if kind == "sign" {
				s.refuse(t, nil, "node", script, "verify", s.write(t, "other", "signed from Java\n"), bundle, identity)
				s.run(t, l.binary, join([]string{"verify", blob, "--bundle", bundle, "--trusted-root", l.in("trusted_root.json")}, l.who())...)
			}
		})
	}
	cosign := client(t, cosign3)
	for _, generation := range generations {
		t.Run("reads what cosign signed on "+generation.name, func(t *testing.T) {
			bundle := s.path("cosign.json")
			s.run(t, cosign, "sign-blob", "-y", "--signing-config", l.in(generation.signingConfig), "--trusted-root", l.in("trusted_root.json"),
				"--identity-token", l.token(t), "--bundle", bundle, blob)
			js(t, "verify", blob, bundle, identity)
		})
	}
	t.Run("cosign reads what it signed", func(t *testing.T) {
		s.run(t, cosign, join([]string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle", s.path("sign.json")}, l.who(), []string{blob})...)
	})
}
