package vault

import (
	"crypto/x509"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// otherCertificate is one no server here answers with.
func otherCertificate(t testing.TB) *x509.Certificate {
	t.Helper()
	key, certificate := clientCertificate(t)
	_ = key
	return certificate
}

func TestConfigIsChecked(t *testing.T) {
	file := secretFile(t, "x")
	good := Config{Address: "https://vault.corp.internal:8200", CAFile: file, Auth: AuthToken, TokenFile: file}
	for says, change := range map[string]func(*Config){
		"without an address":           func(c *Config) { c.Address = "" },
		"not https://HOST:PORT":        func(c *Config) { c.Address = "https://user:pass@vault/" },
		"is not https://HOST":          func(c *Config) { c.Address += "/v1/elsewhere" },
		"neither https nor http":       func(c *Config) { c.Address = "ldap://vault:1" },
		"plain http and not on":        func(c *Config) { c.Address = "http://vault.corp.internal:8200" },
		"without a ca-file":            func(c *Config) { c.CAFile = "" },
		"one of them decides":          func(c *Config) { c.SystemRoots = true },
		`auth "ldap"`:                  func(c *Config) { c.Auth = "ldap" },
		"token needs token-file":       func(c *Config) { c.TokenFile = "" },
		"approle needs role-id":        func(c *Config) { c.Auth = AuthAppRole },
		"approle needs secret-id-file": func(c *Config) { c.Auth, c.RoleID = AuthAppRole, "r" },
		"kubernetes needs role":        func(c *Config) { c.Auth = AuthKubernetes },
		"cert needs cert-file":         func(c *Config) { c.Auth = AuthCert },
		"needs https":                  func(c *Config) { c.Auth, c.Address, c.CertFile, c.KeyFile = AuthCert, "http://127.0.0.1:1", file, file },
		"mount \"a/../b\"":             func(c *Config) { c.Mount = "a/../b" },
		"namespace \"a?b\"":            func(c *Config) { c.Namespace = "a?b" },
		"timeout":                      func(c *Config) { c.Timeout = -time.Second },
		"holds no certificate":         func(*Config) {},
		"reading ca-file":              func(c *Config) { c.CAFile += ".absent" },
	} {
		c := good
		change(&c)
		_, err := Open(c)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v", says, err)
		}
	}
}

func TestURIs(t *testing.T) {
	const full = "hashivault://p-?address=https://vault:8200&ca-file=/etc/ca.pem&auth=approle&role-id=r&secret-id-file=/etc/sid"
	if got, want := KeyURI(full, "root"), "hashivault://p-root?version=1&"+strings.SplitN(full, "?", 2)[1]; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := TokenURI(KeyURI(full, "root")), "hashivault://?"+strings.SplitN(full, "?", 2)[1]; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := KeyURI("openbao://", "root"); got != "openbao://root?version=1" {
		t.Error(got)
	}
	c, err := Config{Mount: "pki-keys"}.With(full)
	check(t, err)
	if c.Address != "https://vault:8200" || c.RoleID != "r" || c.Mount != "pki-keys" || c.SecretIDFile != "/etc/sid" {
		t.Errorf("%+v", c)
	}
	_, err = Config{Address: "https://other:8200"}.With(full)
	failsWith(t, err, hsm.ErrUnsupported, "https://other:8200")
	for _, bad := range []string{"", "vault://k", "hashivault:k", "hashivault://a/b", "hashivault://a?version=0", "hashivault://a?version=01", "hashivault://a?version=-1", "hashivault://a?version=1&version=2",
		"hashivault://a?version=99999999999999999999", "hashivault://a?token=hvs.x", "hashivault://a?mount=", "hashivault://a#b", "hashivault://.a", "hashivault://-a", "hashivault://a?version=%zz",
		"hashivault://a?mount=%0a", "hashivault://ä?version=1", "hashivault://a b", "hashivault://a?system-roots=false", "hashivault://" + strings.Repeat("a", 129)} {
		if _, err := parseURI(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestKeyURIOfAnotherServer(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		tok := p.open(t, p.config(t))
		generate(t, tok, "k", hsm.ECDSAP256)
		_, err := tok.Signer(t.Context(), keyAt("k-"))
		failsWith(t, err, hsm.ErrUnsupported, "names no key")
		_, err = tok.Signer(t.Context(), keyAt("k")+"&mount=elsewhere")
		failsWith(t, err, hsm.ErrUnsupported, "elsewhere")
		_, err = tok.Signer(t.Context(), keyAt("k")+"&address=https://elsewhere:1")
		failsWith(t, err, hsm.ErrUnsupported, "elsewhere")
		key, err := tok.Signer(t.Context(), keyAt("k")+"&mount="+p.mount+"&address="+p.front.url)
		check(t, err)
		check(t, sign(key))
	})
}

// A server that is not Vault, or not there, says so at Open.
func TestNoServer(t *testing.T) {
	s := httptest.NewTLSServer(nil) // 404 for everything
	defer s.Close()
	c := Config{Address: s.URL, CAFile: secretFile(t, string(pemOf(s.Certificate()))), Auth: AuthToken, TokenFile: secretFile(t, "hvs.x")}
	_, err := connected(c)
	failsWith(t, err, hsm.ErrUnavailable, s.URL, "404")
	s.Close()
	_, err = connected(c)
	failsWith(t, err, hsm.ErrUnavailable, s.URL, "refused")
	c.CAFile, c.SystemRoots = "", true
	_, err = connected(c)
	failsWith(t, err, hsm.ErrUnavailable)
}

func FuzzURI(f *testing.F) {
	for _, seed := range []string{"hashivault://k?version=1", "openbao://a.b-c_d?version=16777216&mount=x/y", "hashivault://?address=https://a:1&ca-file=/x", "hashivault://k?version=1&auth=cert&cert-file=/a%20b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parseURI(s)
		if err != nil {
			return
		}
		again, err := parseURI(u.String())
		if err != nil || again.String() != u.String() || again.name != u.name || again.version != u.version {
			t.Errorf("%q became %q: %v", s, u, err)
		}
		if strings.HasPrefix(TokenURI(s), "hashivault://k") || TokenURI(TokenURI(s)) != TokenURI(s) {
			t.Errorf("the token of %q is %q", s, TokenURI(s))
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add("ecdsa-p256", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", "vault:v1:AAAA", 1)
	f.Add("ed25519", strings.Repeat("A", 43)+"=", "vault:v2:", 2)
	f.Add("rsa-3072", "-----BEGIN RSA PUBLIC KEY-----\nMAA=\n-----END RSA PUBLIC KEY-----\n", "", 0)
	f.Fuzz(func(t *testing.T, kind, public, signature string, version int) {
		if pub, err := parsePublic(hsm.Algorithm(kind), public); err == nil {
			if alg, err := hsm.AlgorithmOf(pub); err != nil || string(alg) != kind {
				t.Errorf("a key of type %s was read as %s", kind, alg)
			}
		}
		if sig, err := parseSignature(signature, version); err == nil && len(sig) == 0 {
			t.Error("an empty signature was taken")
		}
	})
}

// FuzzPolicy: whatever a server says of a key, an accepted version has a key of its
// type, and no flag that gives it away.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"type":"ed25519","latest_version":1,"keys":{"1":{"public_key":"` + strings.Repeat("A", 43) + `=","creation_time":"2026-11-20T00:00:00Z"}}}`))
	f.Add([]byte(`{"type":"aes256-gcm96","latest_version":1,"keys":{"1":1}}`))
	f.Add([]byte(`{"type":"ecdsa-p256","derived":true,"exportable":true,"backup_info":{"time":1},"keys":null,"min_encryption_version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p policy
		if json.Unmarshal(data, &p) != nil {
			return
		}
		alg, pub, _, err := p.version(1)
		if err != nil {
			return
		}
		if got, err := hsm.AlgorithmOf(pub); err != nil || got != alg {
			t.Errorf("a key of type %s was read as %s", got, alg)
		}
		if p.acceptable() == nil && (p.Exportable || p.AllowPlaintextBackup || p.DeletionAllowed || p.Imported) {
			t.Error("an unprotected key was accepted")
		}
	})
}
