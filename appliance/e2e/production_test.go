//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.yaml.in/yaml/v3"
)

// hosts are the names a production site gives its services; nameHosts makes them loopback addresses.
var hosts = []string{"fulcio." + domain, "rekor." + domain, "tsa." + domain, "ct." + domain, "tuf." + domain, "mirror." + domain, "vault." + domain}

// siteIssuer is the site's own identity provider. It is nowhere to be reached: its keys are pinned in redoubt.yaml.
const siteIssuer = "https://login.corp.internal"

// TestProduction serves a site as one would: every service under its own host name on one TLS port, with a certificate of the site's
// own CA, and identities of an issuer whose keys are pinned because nobody can reach it.
func TestProduction(t *testing.T) {
	ca, certificate, key := siteTLS(t, t.TempDir())
	l := newProductionLab(t, ca, "--tls-cert", certificate, "--tls-key", key)
	cosign := client(t, cosign3)
	for _, generation := range generations {
		signing := []string{"--signing-config", l.in(generation.signingConfig), "--trusted-root", l.in("trusted_root.json")}
		t.Run("blob on "+generation.name, func(t *testing.T) { cosign3Blob(t, l, cosign, signing, guarded[generation.name]) })
		t.Run("image on "+generation.name, func(t *testing.T) { cosign3Image(t, l, cosign, signing) })
	}
	t.Run("from the TUF repository alone", func(t *testing.T) { cosignTUF(t, l, cosign) })
	t.Run("legacy blob", func(t *testing.T) { cosign2Blob(t, l, client(t, cosign2)) })
	t.Run("rekor-cli", func(t *testing.T) { testRekorCLI(t, l) })
	t.Run("sigstore-js", func(t *testing.T) { testJS(t, l) })
	t.Run("gitsign", func(t *testing.T) { testGitsign(t, l) })
	t.Run("without the site's CA", func(t *testing.T) {
		s := l.session(t, "SSL_CERT_FILE=/dev/null")
		s.refuse(t, []string{"certificate"}, client(t, "rekor-cli-v1.5.4"), "loginfo", "--rekor_server", l.urls.Rekor)
	})
	t.Run("afterwards", func(t *testing.T) { afterwards(t, l) })
}

// TestOwnFrontEnd serves a site that has no TLS certificates of its own: stock clients trust the root that init made, under host names on
// one port and, without DNS, on an address with a port for each service. The certificate is renewed between two signatures.
func TestOwnFrontEnd(t *testing.T) {
	for name, arguments := range map[string][]string{"host names": nil, "own ports": {"--address", "127.0.0.1", "--first-port", "9441"}} {
		t.Run(name, func(t *testing.T) {
			l := newProductionLab(t, "", arguments...)
			cosign := client(t, cosign3)
			blob := func(t *testing.T) {
				signing := []string{"--signing-config", l.in(generations[1].signingConfig), "--trusted-root", l.in("trusted_root.json")}
				cosign3Blob(t, l, cosign, signing, guarded[generations[1].name])
			}
			t.Run("blob", blob)
			before := l.session(t).run(t, l.binary, "--config", l.config, "tls", "show", "-o", "json")
			after := l.session(t).run(t, l.binary, "--config", l.config, "tls", "renew", "-o", "json")
			if string(before) == string(after) {
				t.Fatalf("the certificate was not renewed: %s", after)
			}
			t.Run("blob after a renewal", blob)
			t.Run("from the TUF repository alone", func(t *testing.T) { cosignTUF(t, l, cosign) })
			t.Run("rekor-cli", func(t *testing.T) { testRekorCLI(t, l) })
			t.Run("sigstore-js", func(t *testing.T) { testJS(t, l) })
			t.Run("without the root", func(t *testing.T) {
				s := l.session(t, "SSL_CERT_FILE=/dev/null")
				s.refuse(t, []string{"certificate"}, client(t, "rekor-cli-v1.5.4"), "loginfo", "--rekor_server", l.urls.Rekor)
			})
			t.Run("afterwards", func(t *testing.T) { afterwards(t, l) })
		})
	}
}

// newProductionLab serves a production site; ca is what clients need, "" for the root that init makes.
func newProductionLab(t *testing.T, ca string, arguments ...string) *lab {
	t.Helper()
	l := &lab{scratch: t.TempDir(), binary: os.Getenv(binaryVariable)}
	state := filepath.Join(l.scratch, "state")
	l.config, l.setup = filepath.Join(state, "redoubt.yaml"), filepath.Join(l.scratch, "setup")
	t.Cleanup(func() { l.kill(t) })
	own := ca == ""
	if own {
		ca = filepath.Join(state, "pki", "tls-root.pem")
	}
	l.env = []string{"SSL_CERT_FILE=" + ca, "NODE_EXTRA_CA_CERTS=" + ca}
	issuerKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	l.mint = func(t *testing.T) string { return siteToken(t, issuerKey) }

	here := l.session(t)
	here.run(t, l.binary, append([]string{"init", "--dir", state, "--domain", domain, "--profile", "production", "--allow-software-keys", "--non-interactive"}, arguments...)...)
	if own {
		configureSite(t, l.config, "", issuerKey)
	} else {
		configureSite(t, l.config, ca, issuerKey)
	}
	here.run(t, l.binary, "config", "validate", "--config", l.config)
	l.serve(t)
	l.urls.OIDC = siteIssuer
	here.run(t, l.binary, "--config", l.config, "client", "setup", "--out", l.setup)
	l.registry = serveRegistry(t)
	return l
}

// configureSite adds to redoubt.yaml what an operator does: the site's CA for clients, unless init made one, and the issuer with its keys.
func configureSite(t *testing.T, file, ca string, issuerKey *rsa.PrivateKey) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := yaml.Unmarshal(content, &config); err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &issuerKey.PublicKey, KeyID: "site", Algorithm: "RS256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	if ca != "" {
		config["tls"].(map[string]any)["ca"] = ca
	}
	config["oidc-issuers"] = map[string]any{siteIssuer: map[string]any{"issuer-url": siteIssuer, "client-id": "sigstore", "type": "email", "jwks": string(keys)}}
	if content, err = yaml.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func siteToken(t *testing.T, key *rsa.PrivateKey) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "site"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	token, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: siteIssuer, Subject: "4711", Audience: jwt.Audience{"sigstore"}, ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(5 * time.Minute))}).
		Claims(map[string]any{"email": identity, "email_verified": true}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// siteTLS writes a CA certificate, and a certificate and key for all hosts.
func siteTLS(t *testing.T, dir string) (ca, certificate, key string) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Site TLS CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: hosts[0]}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		DNSNames: hosts, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, &leafKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("site-ca.pem", "CERTIFICATE", rootDER), write("site.pem", "CERTIFICATE", leafDER), write("site.key", "PRIVATE KEY", keyDER)
}
