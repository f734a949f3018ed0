package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/vault/fake"
)

// appRole makes a role with the test's policy and returns the login for it.
func (p *peer) appRole(t testing.TB, options map[string]any) Config {
	t.Helper()
	at := p.mount + "-approle"
	p.write(t, "sys/auth/"+at, map[string]any{"type": "approle"})
	body := map[string]any{"token_policies": []string{p.mount}}
	for k, v := range options {
		body[k] = v
	}
	p.write(t, "auth/"+at+"/role/redoubt", body)
	id, _ := p.read(t, "auth/"+at+"/role/redoubt/role-id").Data["role_id"].(string)
	c := p.config(t)
	c.Auth, c.AuthMount, c.TokenFile, c.RoleID, c.SecretIDFile = AuthAppRole, at, "", id, secretFile(t, p.secretID(t))
	return c
}

func (p *peer) secretID(t testing.TB) string {
	t.Helper()
	id, _ := p.write(t, "auth/"+p.mount+"-approle/role/redoubt/secret-id", nil).Data["secret_id"].(string)
	return id
}

// counting counts the logins that pass the front.
func (p *peer) counting() *atomic.Int64 {
	var n atomic.Int64
	p.front.do(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/login") {
			n.Add(1)
		}
		return false
	})
	return &n
}

// A token of 4 s that lives 10 s at most, through two new logins: not one signature
// fails.
func TestRenewalAndNewLogin(t *testing.T) {
	t.Parallel()
	eachPeer(t, func(t *testing.T, p *peer) {
		t.Parallel()
		logins := p.counting()
		tok := p.open(t, p.appRole(t, map[string]any{"token_ttl": "4s", "token_max_ttl": "10s"}))
		key := generate(t, tok, "k", hsm.ECDSAP256)
		grants := map[string]bool{}
		signed := 0
		for logins.Load() < 3 || len(grants) < 3 {
			if err := sign(key); err != nil {
				t.Fatalf("after %d signatures and %d logins: %v", signed, logins.Load(), err)
			}
			if signed++; tok.live.Load() != nil {
				grants[tok.live.Load().grant.token] = true
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Logf("%d signatures with %d tokens", signed, len(grants))
		if !p.front.saw("POST", "auth/token/renew-self") {
			t.Error("nothing was renewed")
		}
	})
}

// The trap in the library's own watcher: at the maximum life it ends without an
// error, and the token is dead.
func TestWatcherEndsWithoutError(t *testing.T) {
	t.Parallel()
	eachPeer(t, func(t *testing.T, p *peer) {
		t.Parallel()
		secret, err := p.admin.Logical().Write("auth/token/create", map[string]any{"policies": []string{p.mount}, "ttl": "2s", "explicit_max_ttl": "4s"})
		check(t, err)
		client, err := p.admin.Clone()
		check(t, err)
		client.SetToken(secret.Auth.ClientToken)
		watcher, err := client.NewLifetimeWatcher(&api.LifetimeWatcherInput{Secret: secret})
		check(t, err)
		go watcher.Start()
		if err := <-watcher.DoneCh(); err != nil {
			t.Errorf("the watcher says %v", err)
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			if _, err := client.Auth().Token().LookupSelf(); err != nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the token lives on")
			}
		}
	})
}

// A token that ends without warning is one denied request, and one login.
func TestRevokedToken(t *testing.T) {
	t.Parallel()
	eachPeer(t, func(t *testing.T, p *peer) {
		logins := p.counting()
		tok := p.open(t, p.appRole(t, nil))
		key := generate(t, tok, "k", hsm.ECDSAP256)
		time.Sleep(1100 * time.Millisecond)
		p.write(t, "auth/token/revoke", map[string]any{"token": tok.live.Load().grant.token})
		var wg sync.WaitGroup
		for range 16 { // all are denied, one logs in
			wg.Go(func() {
				if err := sign(key); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := logins.Load(); n != 2 {
			t.Errorf("%d logins, want 2", n)
		}
	})
}

// A secret id counts its uses; when they are spent, the refused login is not
// repeated, and a new secret id in the file is tried at once.
func TestSpentSecretID(t *testing.T) {
	t.Parallel()
	eachPeer(t, func(t *testing.T, p *peer) {
		logins := p.counting()
		c := p.appRole(t, map[string]any{"secret_id_num_uses": 1})
		secret, err := os.ReadFile(c.SecretIDFile)
		check(t, err)
		tok := p.open(t, c)
		key := generate(t, tok, "k", hsm.ECDSAP256)
		time.Sleep(1100 * time.Millisecond)
		p.write(t, "auth/token/revoke", map[string]any{"token": tok.live.Load().grant.token})
		for range 5 {
			err := sign(key)
			failsWith(t, err, hsm.ErrUnavailable, p.front.url)
			failsWith(t, err, hsm.ErrBadPIN, "logging in by approle")
			if strings.Contains(err.Error(), strings.TrimSpace(string(secret))) {
				t.Error("the error shows the secret id")
			}
			time.Sleep(retryAfter)
		}
		if n := logins.Load(); n != 2 {
			t.Errorf("%d logins, want 2: the first, and one refused", n)
		}
		check(t, os.WriteFile(c.SecretIDFile, []byte(p.secretID(t)), 0o600))
		time.Sleep(retryAfter)
		check(t, sign(key))
	})
}

// Ten keys of a server that refuses the login cost one refused login, not ten.
func TestRefusedLoginIsRemembered(t *testing.T) {
	t.Parallel()
	eachPeer(t, func(t *testing.T, p *peer) {
		logins := p.counting()
		c := p.appRole(t, nil)
		check(t, os.WriteFile(c.SecretIDFile, []byte("00000000-0000-0000-0000-000000000000"), 0o600))
		tok, err := Open(c)
		check(t, err)
		defer tok.Close()
		for range 10 {
			_, err = tok.Signer(t.Context(), keyAt("k"))
			failsWith(t, err, hsm.ErrBadPIN, "invalid role or secret")
			time.Sleep(retryAfter / 2)
		}
		if n := logins.Load(); n != 1 {
			t.Errorf("%d logins, want 1", n)
		}
		check(t, os.WriteFile(c.SecretIDFile, []byte(p.secretID(t)), 0o600))
		time.Sleep(retryAfter)
		_, err = tok.Signer(t.Context(), keyAt("k"))
		failsWith(t, err, hsm.ErrNotFound)
	})
}

// A token file is read again when its token ends.
func TestTokenFileIsReadAgain(t *testing.T) {
	t.Parallel()
	eachPeer(t, func(t *testing.T, p *peer) {
		c := p.config(t)
		token, file := p.token(t, map[string]any{"ttl": "60s"})
		c.TokenFile = file
		tok := p.open(t, c)
		key := generate(t, tok, "k", hsm.ECDSAP256)
		time.Sleep(1100 * time.Millisecond)
		p.write(t, "auth/token/revoke", map[string]any{"token": token})
		err := sign(key)
		failsWith(t, err, hsm.ErrUnavailable)
		failsWith(t, err, hsm.ErrBadPIN)
		next, _ := p.token(t, nil)
		check(t, os.WriteFile(file, []byte(next), 0o600))
		time.Sleep(retryAfter)
		check(t, sign(key))
		check(t, os.WriteFile(file, []byte("not a token\x00"), 0o600))
		_, err = connected(c)
		failsWith(t, err, hsm.ErrBadPIN, "printable")
	})
}

// A token from a file is renewed; when it nears its maximum life, the file's next
// token takes over before the old one ends.
func TestTokenFromFileIsRenewed(t *testing.T) {
	t.Parallel()
	eachPeer(t, func(t *testing.T, p *peer) {
		t.Parallel()
		c := p.config(t)
		first, file := p.token(t, map[string]any{"ttl": "3s", "explicit_max_ttl": "9s"})
		c.TokenFile = file
		tok := p.open(t, c)
		key := generate(t, tok, "k", hsm.ECDSAP256)
		began, replaced := time.Now(), false
		for tok.live.Load() == nil || tok.live.Load().grant.token == first {
			if err := sign(key); err != nil {
				t.Fatalf("after %s: %v", time.Since(began).Round(time.Millisecond), err)
			}
			if !replaced && time.Since(began) > 4*time.Second { // it was renewed by now
				next, _ := p.token(t, nil)
				check(t, os.WriteFile(file, []byte(next), 0o600))
				replaced = true
			}
			time.Sleep(50 * time.Millisecond)
		}
		check(t, sign(key))
		if !replaced || !p.front.saw("POST", "auth/token/renew-self") {
			t.Error("it was not renewed")
		}
	})
}

func clientCertificate(t testing.TB) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "redoubt"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(t, err)
	certificate, err := x509.ParseCertificate(der)
	check(t, err)
	return key, certificate
}

// The client certificate is the credential; it goes to the server itself, without
// the front, which could not pass it on.
func TestCertificateLogin(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		at := p.mount + "-cert"
		key, certificate := clientCertificate(t)
		p.write(t, "sys/auth/"+at, map[string]any{"type": "cert"})
		p.write(t, "auth/"+at+"/certs/redoubt", map[string]any{"certificate": string(pemOf(certificate)), "token_policies": []string{p.mount}})
		der, err := x509.MarshalPKCS8PrivateKey(key)
		check(t, err)
		c := Config{Address: p.url, CAFile: p.caFile, Mount: p.mount, Auth: AuthCert, AuthMount: at, Role: "redoubt",
			CertFile: secretFile(t, string(pemOf(certificate))), KeyFile: secretFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))}
		tok := p.open(t, c)
		check(t, sign(generate(t, tok, "k", hsm.ECDSAP256)))
		strange := c
		other, stranger := clientCertificate(t)
		der, err = x509.MarshalPKCS8PrivateKey(other)
		check(t, err)
		strange.CertFile, strange.KeyFile = secretFile(t, string(pemOf(stranger))), secretFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
		_, err = connected(strange)
		failsWith(t, err, hsm.ErrBadPIN, "logging in by cert", p.url)
		check(t, os.Chmod(c.KeyFile, 0o640))
		_, err = connected(c)
		failsWith(t, err, hsm.ErrInsecureKey, c.KeyFile)
		check(t, os.Chmod(c.KeyFile, 0o600))
		c.CertFile = strange.CertFile
		if _, err = connected(c); err == nil || !strings.Contains(err.Error(), c.KeyFile) {
			t.Errorf("a certificate without its key: %v", err)
		}
	})
}

// tokenReviews stands in for a Kubernetes API server: it answers TokenReview for
// service account tokens as the real one does, and nothing else. It is a stub made
// by the test: the Vault behind it is real, its kubernetes auth method is real, the
// cluster is not. It believes any JWT whose signature part is "good".
func tokenReviews(t *testing.T) *httptest.Server {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct {
			Spec struct {
				Token     string   `json:"token"`
				Audiences []string `json:"audiences"`
			} `json:"spec"`
		}
		if r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || json.NewDecoder(r.Body).Decode(&review) != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		status := map[string]any{"audiences": review.Spec.Audiences, "authenticated": strings.HasSuffix(review.Spec.Token, "."+goodSignature),
			"user": map[string]any{"username": "system:serviceaccount:signing:redoubt", "uid": accountUID, "groups": []string{"system:serviceaccounts"}}}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status})
	}))
	t.Cleanup(s.Close)
	return s
}

const accountUID = "11111111-2222-4333-8444-555555555555"

var goodSignature = base64.RawURLEncoding.EncodeToString([]byte("good"))

// accountToken is a service account's token as a projected volume holds it.
func accountToken(t testing.TB, account string) string {
	t.Helper()
	part := func(v any) string { return base64.RawURLEncoding.EncodeToString([]byte(jsonText(t, v))) }
	return part(map[string]any{"alg": "RS256", "kid": "k"}) + "." + part(map[string]any{
		"iss": "https://kubernetes.default.svc.cluster.local", "aud": []string{"vault"}, "sub": "system:serviceaccount:signing:" + account,
		"iat": time.Now().Unix(), "nbf": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": "signing", "serviceaccount": map[string]any{"name": account, "uid": accountUID}, "pod": map[string]any{"name": "redoubt-0", "uid": "p"}},
	}) + "." + goodSignature
}

func TestKubernetesLogin(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		cluster := tokenReviews(t)
		at := p.mount + "-kubernetes"
		p.write(t, "sys/auth/"+at, map[string]any{"type": "kubernetes"})
		p.write(t, "auth/"+at+"/config", map[string]any{"kubernetes_host": cluster.URL, "kubernetes_ca_cert": string(pemOf(cluster.Certificate())),
			"disable_local_ca_jwt": true, "token_reviewer_jwt": accountToken(t, "reviewer")})
		p.write(t, "auth/"+at+"/role/redoubt", map[string]any{"bound_service_account_names": []string{"redoubt"}, "bound_service_account_namespaces": []string{"signing"}, "token_policies": []string{p.mount}})
		c := p.config(t)
		c.Auth, c.AuthMount, c.TokenFile, c.Role = AuthKubernetes, at, "", "redoubt"
		c.JWTFile = filepath.Join(t.TempDir(), "token")
		check(t, os.WriteFile(c.JWTFile, []byte(accountToken(t, "redoubt")), 0o644)) // the kubelet's mode
		tok := p.open(t, c)
		check(t, sign(generate(t, tok, "k", hsm.ECDSAP256)))
		check(t, os.WriteFile(c.JWTFile, []byte(accountToken(t, "somebody")), 0o644))
		_, err := connected(c)
		failsWith(t, err, hsm.ErrBadPIN, "service account name not authorized")
		c.Role = "nosuch"
		_, err = connected(c)
		failsWith(t, err, hsm.ErrBadPIN, "invalid role name")
	})
}

// What only editions with namespaces can show: the fake plays one of them. No such
// server can be built here.
func TestNamespaceThatIsHonoured(t *testing.T) {
	s := fake.Start(t)
	s.Namespaces = []string{"team1"}
	p := newPeer(t, &peer{url: s.URL, caFile: s.CAFile, root: s.RootToken, unsealKey: s.UnsealKey})
	c := p.config(t)
	c.Namespace = "team1/"
	tok := p.open(t, c)
	key := generate(t, tok, "k", hsm.ECDSAP256)
	if info := key.Info(); !strings.Contains(info.Token, "in team1") || info.TokenState["namespace"] != "team1" {
		t.Errorf("%+v", info)
	}
	c.Namespace = "team2"
	_, err := connected(c)
	failsWith(t, err, hsm.ErrUnavailable, "404")
}
