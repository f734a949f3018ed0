//go:build e2e

package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"sync"
	"testing"
)

// testCosign3Keys signs with keys of every kind cosign takes, in both formats. (An Ed25519 key of one's own fails in cosign 3.1.3
// itself, in the check it makes after signing, against every log.)
func testCosign3Keys(t *testing.T, l *lab) {
	cosign := client(t, cosign3)
	curve := func(c elliptic.Curve) func() (crypto.Signer, error) {
		return func() (crypto.Signer, error) { return ecdsa.GenerateKey(c, rand.Reader) }
	}
	bits := func(n int) func() (crypto.Signer, error) {
		return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, n) }
	}
	for _, kind := range []struct {
		name     string
		generate func() (crypto.Signer, error)
		digest   string // verify-blob has to be told with a key that signs over anything but SHA-256
	}{
		{"P-256", curve(elliptic.P256()), "sha256"}, {"P-384", curve(elliptic.P384()), "sha384"}, {"P-521", curve(elliptic.P521()), "sha512"},
		{"RSA-2048", bits(2048), "sha256"}, {"RSA-4096", bits(4096), "sha256"},
	} {
		key, err := kind.generate()
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for _, generation := range generations {
			t.Run(kind.name+" on "+generation.name, func(t *testing.T) {
				s := l.session(t)
				imported := s.write(t, "openssl.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
				s.run(t, cosign, "import-key-pair", "-y", "--key", imported, "--output-key-prefix", "own")
				blob := s.write(t, "blob", kind.name+" on "+generation.name+"\n")
				s.run(t, cosign, "sign-blob", "-y", "--key", "own.key", "--signing-config", l.in(generation.signingConfig), "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json", blob)
				s.run(t, cosign, "verify-blob", "--key", "own.pub", "--signature-digest-algorithm", kind.digest, "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json", blob)
				s.run(t, l.binary, "verify", blob, "--key", "own.pub", "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json")
			})
		}
	}
}

// testOwnTrustFiles lets cosign make its own trusted root and signing config from our addresses, chains and keys.
func testOwnTrustFiles(t *testing.T, l *lab) {
	cosign := client(t, cosign3)
	const since = "start-time=2020-01-01T00:00:00Z"
	s := l.session(t)
	create := []string{"trusted-root", "create",
		"--fulcio", fmt.Sprintf("url=%s,certificate-chain=%s", l.urls.Fulcio, l.in("fulcio-chain.pem")),
		"--ctfe", fmt.Sprintf("url=%s,public-key=%s,%s", l.urls.CT, l.in("ctfe.pub"), since),
		"--tsa", fmt.Sprintf("url=%s,certificate-chain=%s", l.urls.TSA, l.in("tsa-chain.pem")),
		"--out", "root.json"}
	for n, log := range logsOf(t, l.in("trusted_root.json")) {
		key := s.write(t, fmt.Sprintf("log%d.pub", n), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: log.PublicKey.RawBytes})))
		create = append(create, "--rekor", fmt.Sprintf("url=%s,public-key=%s,%s", log.BaseURL, key, since))
	}
	s.run(t, cosign, create...)
	for version, name := range map[string]string{"1": rekorV1, "2": rekorV2} {
		t.Run(name, func(t *testing.T) {
			service := ",operator=site," + since
			s.run(t, cosign, "signing-config", "create",
				"--fulcio", "url="+l.urls.Fulcio+",api-version=1"+service,
				"--rekor", "url="+l.urls.Rekor+",api-version="+version+service, "--rekor-config", "ANY",
				"--oidc-provider", "url="+l.urls.OIDC+",api-version=1"+service,
				"--tsa", "url="+l.urls.TSA+",api-version=1"+service, "--tsa-config", "ANY",
				"--out", "config.json")
			blob := s.write(t, "blob", "trusted by files of the client's making\n")
			s.run(t, cosign, "sign-blob", "-y", "--signing-config", "config.json", "--trusted-root", "root.json", "--identity-token", l.token(t), "--bundle", "bundle.json", blob)
			s.run(t, cosign, join([]string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json"}, l.who(), []string{blob})...)
			s.run(t, cosign, join([]string{"verify-blob", "--trusted-root", "root.json", "--bundle", "bundle.json"}, l.who(), []string{blob})...)
		})
	}
}

// A trustedLog is one of the tlogs of a trusted root, as far as a test reads it.
type trustedLog struct {
	BaseURL   string
	PublicKey struct{ RawBytes []byte }
}

func logsOf(t *testing.T, trustedRoot string) []trustedLog {
	t.Helper()
	content, err := os.ReadFile(trustedRoot)
	if err != nil {
		t.Fatal(err)
	}
	var root struct{ Tlogs []trustedLog }
	if err := json.Unmarshal(content, &root); err != nil || len(root.Tlogs) == 0 {
		t.Fatalf("no logs in the trusted root: %v\n%s", err, content)
	}
	return root.Tlogs
}

// testRedoubtSigns: what our own sign wrote, the stock clients verify.
func testRedoubtSigns(t *testing.T, l *lab) {
	for _, generation := range []struct {
		name  string
		flags []string
	}{{rekorV1, nil}, {rekorV2, []string{"--rekor-v2"}}} {
		t.Run(generation.name, func(t *testing.T) {
			s := l.session(t)
			blob := s.write(t, "blob", "signed by redoubt\n")
			token := s.write(t, "token", l.token(t))
			s.run(t, l.binary, join([]string{"sign", blob, "--setup", l.setup, "--identity-token", token, "--bundle", "bundle.json"}, generation.flags)...)
			s.run(t, client(t, cosign3), join([]string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json"}, l.who(), []string{blob})...)
			s.run(t, client(t, cosign2), join([]string{"verify-blob", "--new-bundle-format", "--use-signed-timestamps", "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json"}, l.who(), []string{blob})...)
		})
	}
}

// testManyAtOnce: a build farm signs at the same moment, and every one gets its own entry and proof.
func testManyAtOnce(t *testing.T, l *lab) {
	cosign := client(t, cosign3)
	const clients = 12
	var done sync.WaitGroup
	for n := range clients {
		s := l.session(t)
		blob := s.write(t, "blob", fmt.Sprintf("one of many: %d\n", n))
		sign := []string{"sign-blob", "-y", "--signing-config", l.in(generations[n%2].signingConfig), "--trusted-root", l.in("trusted_root.json"),
			"--identity-token", l.token(t), "--bundle", "bundle.json", blob}
		verify := join([]string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json"}, l.who(), []string{blob})
		done.Add(1)
		go func() {
			defer done.Done()
			for _, args := range [][]string{sign, verify} {
				if _, both, err := s.exec(cosign, args...); err != nil {
					t.Errorf("client %d: %s: %v\n%s", n, describe(cosign, args), err, both)
					return
				}
			}
		}()
	}
	done.Wait()
}
