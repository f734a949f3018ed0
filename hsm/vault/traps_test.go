package vault

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// Each test here is one way in which the server's answers mislead, shown by the
// administrator's client first and then kept out of the product.

func keyAt(name string) string { return Scheme + name + "?version=1" }

func generate(t testing.TB, tok *Token, name string, alg hsm.Algorithm) *hsm.Key {
	t.Helper()
	key, err := tok.Generate(t.Context(), keyAt(name), alg)
	check(t, err)
	return key
}

func failsWith(t testing.TB, err, want error, parts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v\ndoes not say %q", err, part)
		}
	}
}

func sign(key *hsm.Key) error {
	sum := sha256.Sum256([]byte("m"))
	_, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	return err
}

func (f *front) saw(method, path string) bool {
	_, ok := f.log.Load(method + " /v1/" + path)
	return ok
}

// Vault signs a "digest" of five octets.
func TestFiveOctetDigest(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		tok := p.open(t, p.config(t))
		key := generate(t, tok, "k", hsm.ECDSAP256)
		s := p.write(t, p.mount+"/sign/k", map[string]any{"input": base64.StdEncoding.EncodeToString([]byte("12345")), "prehashed": true, "hash_algorithm": "sha2-256"})
		if sig, _ := s.Data["signature"].(string); !strings.HasPrefix(sig, "vault:v1:") {
			t.Fatalf("the server no longer signs five octets: %v", s.Data)
		}
		before := p.front.hits.Load()
		if _, err := key.Sign(rand.Reader, []byte("12345"), crypto.SHA256); err == nil {
			t.Error("five octets were signed")
		}
		if _, err := requestFor(&keyRef{uri: &uri{version: 1}, alg: hsm.ECDSAP256}, []byte("12345"), crypto.SHA256); err == nil {
			t.Error("a request for five octets was made")
		}
		if p.front.hits.Load() != before {
			t.Error("the server was asked")
		}
	})
}

// A signature that names no version is of the latest; ours is of the pinned one.
func TestVersionIsPinned(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		tok := p.open(t, p.config(t))
		key := generate(t, tok, "k", hsm.ECDSAP256)
		if got := key.Info().URI; got != keyAt("k") {
			t.Errorf("Info names %s", got)
		}
		p.write(t, p.mount+"/keys/k/rotate", nil)
		sum := sha256.Sum256([]byte("m"))
		s := p.write(t, p.mount+"/sign/k", map[string]any{"input": base64.StdEncoding.EncodeToString(sum[:]), "prehashed": true})
		if sig, _ := s.Data["signature"].(string); !strings.HasPrefix(sig, "vault:v2:") {
			t.Fatalf("an unpinned signature is no longer of the latest version: %s", sig)
		}
		check(t, sign(key)) // verified against version 1's public key
		second, err := tok.Signer(t.Context(), Scheme+"k?version=2")
		check(t, err)
		check(t, sign(second))
		if second.Info().Fingerprint == key.Info().Fingerprint {
			t.Error("two versions are one key")
		}
		_, err = tok.Signer(t.Context(), Scheme+"k?version=3")
		failsWith(t, err, hsm.ErrNotFound, "its latest is 2")
		_, err = tok.Signer(t.Context(), Scheme+"k")
		failsWith(t, err, hsm.ErrUnsupported, "pins no version")
		_, err = tok.Generate(t.Context(), Scheme+"other", hsm.ECDSAP256)
		failsWith(t, err, hsm.ErrUnsupported, "?version=1")
		_, err = tok.Generate(t.Context(), Scheme+"k?version=3", hsm.ECDSAP256)
		failsWith(t, err, hsm.ErrUnsupported, "begins with version 1")
		_, err = tok.Generate(t.Context(), keyAt("k"), hsm.ECDSAP256)
		failsWith(t, err, hsm.ErrExists)
		bao, err := tok.Signer(t.Context(), SchemeOpenBao+"k?version=1")
		check(t, err)
		check(t, sign(bao))
	})
}

// Below min_encryption_version the server answers 500 without a reason.
func TestMinimumVersion(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		tok := p.open(t, p.config(t))
		key := generate(t, tok, "k", hsm.ECDSAP256)
		p.write(t, p.mount+"/keys/k/rotate", nil)
		p.write(t, p.mount+"/keys/k/config", map[string]any{"min_encryption_version": 2})
		failsWith(t, sign(key), hsm.ErrUnavailable, "version 1 may not sign, min_encryption_version is 2", p.front.url, p.mount)
		_, err := tok.Signer(t.Context(), keyAt("k"))
		failsWith(t, err, hsm.ErrUnavailable, "min_encryption_version is 2")
		p.write(t, p.mount+"/keys/k/config", map[string]any{"min_encryption_version": 0})
		check(t, sign(key))
		p.write(t, p.mount+"/keys/k/config", map[string]any{"min_decryption_version": 2})
		_, err = tok.Signer(t.Context(), keyAt("k"))
		failsWith(t, err, hsm.ErrUnavailable, "archived, min_decryption_version is 2")
	})
}

// Creating over a key of another type is answered with success.
func TestNameReusedWithAnotherType(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		tok := p.open(t, p.config(t))
		p.write(t, p.mount+"/keys/k", map[string]any{"type": "ecdsa-p256"})
		if s := p.write(t, p.mount+"/keys/k", map[string]any{"type": "ed25519"}); s != nil && len(s.Warnings) > 0 { // an error ends the test
			t.Errorf("the server warns now: %q", s.Warnings)
		}
		if kind := p.read(t, p.mount+"/keys/k").Data["type"]; kind != "ecdsa-p256" {
			t.Fatalf("the second creation changed the type to %v", kind)
		}
		_, err := tok.Generate(t.Context(), keyAt("k"), hsm.Ed25519)
		failsWith(t, err, hsm.ErrExists)

		// Somebody else's key of another type appears between our look and our
		// creation. Of the same type it could not be told from ours.
		p.front.do(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet && strings.HasSuffix(r.URL.Path, "/keys/raced") {
				p.write(t, p.mount+"/keys/raced", map[string]any{"type": "ecdsa-p384"})
			}
			return false
		})
		_, err = tok.Generate(t.Context(), keyAt("raced"), hsm.Ed25519)
		failsWith(t, err, hsm.ErrExists, "type ecdsa-p384")
	})
}

func TestRefusesUnprotectedKey(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		tok := p.open(t, p.config(t))
		p.write(t, p.mount+"/keys/exportable", map[string]any{"type": "ecdsa-p256", "exportable": true})
		p.write(t, p.mount+"/keys/allow_plaintext_backup", map[string]any{"type": "ecdsa-p256", "allow_plaintext_backup": true})
		p.write(t, p.mount+"/keys/deletion_allowed", map[string]any{"type": "ecdsa-p256"})
		p.write(t, p.mount+"/keys/deletion_allowed/config", map[string]any{"deletion_allowed": true})
		for _, name := range []string{"exportable", "allow_plaintext_backup", "deletion_allowed"} {
			_, err := tok.Signer(t.Context(), keyAt(name))
			failsWith(t, err, hsm.ErrInsecureKey, name+" is true")
		}
		// A creation that was tampered with on the way is read back.
		p.front.do(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet || !strings.HasSuffix(r.URL.Path, "/keys/k") {
				return false
			}
			p.write(t, p.mount+"/keys/k", map[string]any{"type": "ecdsa-p256", "exportable": true})
			w.WriteHeader(http.StatusNoContent)
			return true
		})
		_, err := tok.Generate(t.Context(), keyAt("k"), hsm.ECDSAP256)
		failsWith(t, err, hsm.ErrInsecureKey, "exportable is true")
	})
}

// Editions without namespaces answer from the root as if nothing had been asked.
func TestNamespaceIsProved(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		c := p.config(t)
		c.Namespace = "team1"
		tok, err := connected(c)
		if err == nil {
			tok.Close()
		}
		failsWith(t, err, hsm.ErrUnsupported, "the server ignores namespaces", p.front.url)
	})
}

// After a loss the key is read again and compared with the pinned one.
func TestReplacedKey(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		tok := p.open(t, p.config(t))
		key := generate(t, tok, "k", hsm.ECDSAP256)
		p.write(t, p.mount+"/keys/k/config", map[string]any{"deletion_allowed": true})
		_, err := p.admin.Logical().Delete(p.mount + "/keys/k")
		check(t, err)
		failsWith(t, sign(key), hsm.ErrUnavailable, "the key is gone")
		p.write(t, p.mount+"/keys/k", map[string]any{"type": "ecdsa-p256"})
		failsWith(t, sign(key), hsm.ErrBadSignature) // the server signed with the other key, nothing was lost
		p.outage(t, tok, key)
		err = sign(key)
		failsWith(t, err, hsm.ErrUnavailable, "another public key")
		failsWith(t, err, hsm.ErrInsecureKey)
	})
}

// outage cuts one request, so that the session is made anew.
func (p *peer) outage(t testing.TB, tok *Token, key *hsm.Key) {
	t.Helper()
	p.front.do(cut)
	if err := sign(key); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("signing through a cut line: %v", err)
	}
	p.front.do(nil)
	time.Sleep(retryAfter)
}

// cut ends the connection without an answer.
func cut(w http.ResponseWriter, _ *http.Request) bool {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
	return true
}

// A token another way round: the server echoes it, the file is open to others.
func TestSecretsStaySecret(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		token, file := p.token(t, nil)
		c := p.config(t)
		c.TokenFile = file
		tok := p.open(t, c)
		key := generate(t, tok, "k", hsm.ECDSAP256)
		p.front.do(func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(jsonText(t, map[string]any{"errors": []string{"bad token " + r.Header.Get("X-Vault-Token") + "\n\x1b[31m" + strings.Repeat("x", 5000)}})))
			return true
		})
		err := sign(key)
		failsWith(t, err, hsm.ErrUnavailable, "***", "status 400")
		if s := err.Error(); strings.Contains(s, token) || strings.ContainsAny(s, "\x1b\n") || len(s) > 2000 {
			t.Errorf("the error shows %d octets: %.300q", len(s), s)
		}
		if strings.Contains(jsonText(t, key.Info()), token) {
			t.Error("Info shows the token")
		}
		p.front.do(nil)

		check(t, os.Chmod(file, 0o644))
		_, err = connected(c)
		failsWith(t, err, hsm.ErrBadPIN, file, "open to others (mode 0644)")
		if errors.Is(err, hsm.ErrInsecureKey) {
			t.Error("a token file open to others is taken for a key that is")
		}
		c.TokenFile += ".absent"
		_, err = connected(c)
		failsWith(t, err, hsm.ErrBadPIN, c.TokenFile)
	})
}

func TestPolicySaysNo(t *testing.T) {
	t.Parallel()
	eachPeer(t, func(t *testing.T, p *peer) {
		tok := p.open(t, p.config(t))
		key := generate(t, tok, "k", hsm.ECDSAP256)
		time.Sleep(1100 * time.Millisecond)
		p.write(t, "sys/policies/acl/"+p.mount, map[string]any{"policy": `path "` + p.mount + `/keys/*" { capabilities = ["read"] }`})
		failsWith(t, sign(key), hsm.ErrUnavailable, "403", "does the policy", p.front.url)
		p.write(t, "sys/policies/acl/"+p.mount, map[string]any{"policy": `path "` + p.mount + `/*" { capabilities = ["read", "update"] }`})
		check(t, sign(key))
	})
}
