//go:build e2e

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"strings"
	"testing"
)

// testFulcio asks for certificates with tokens no client would send.
func testFulcio(t *testing.T, l *lab) {
	t.Run("good token", func(t *testing.T) {
		if status, body := signingCert(t, l, l.token(t), identity); status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
	})
	refused := func(name, token, proof string) {
		t.Run(name, func(t *testing.T) {
			status, body := signingCert(t, l, token, proof)
			if status != http.StatusBadRequest {
				t.Errorf("answered %d, want 400: %s", status, body)
			}
			if strings.Contains(body, "BEGIN CERTIFICATE") {
				t.Errorf("a certificate came with the refusal: %s", body)
			}
			if token != "" && strings.Contains(body, token) {
				t.Errorf("the answer repeats the token: %s", body)
			}
		})
	}
	refused("unverified e-mail", l.token(t, "--email", identity, "--claim", "email_verified=false"), identity)
	refused("wrong audience", l.token(t, "--email", identity, "--audience", "elsewhere"), identity)
	refused("proof over another name", l.token(t), "mallory@corp.internal")
	refused("not a token", strings.Repeat(".", 1<<20), identity)
	good := l.token(t)
	refused("flipped token signature", good[:len(good)-6]+"AAAAAA", identity)
	part := strings.Split(good, ".")
	refused("alg none", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))+"."+part[1]+".", identity)
	refused("no token", "", identity)
}

// signingCert asks Fulcio's v2 API for a certificate: the proof of possession is a signature over the name.
func signingCert(t *testing.T, l *lab, token, name string) (status int, body string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(name))
	proof, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	request, err := json.Marshal(map[string]any{
		"credentials": map[string]any{"oidcIdentityToken": token},
		"publicKeyRequest": map[string]any{
			"publicKey":         map[string]any{"algorithm": "ECDSA", "content": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))},
			"proofOfPossession": proof,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(l.urls.Fulcio+"/api/v2/signingCert", "application/json", bytes.NewReader(request))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}
