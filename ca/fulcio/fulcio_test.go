package fulcio_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	fulcioclient "github.com/sigstore/fulcio/pkg/api"
	"github.com/sigstore/fulcio/pkg/certificate"
	fulciogrpc "github.com/sigstore/fulcio/pkg/generated/protobuf"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"redoubt.internal/ca"
	"redoubt.internal/ca/catest"
	"redoubt.internal/ca/fulcio"
	"redoubt.internal/ca/identity"
	"redoubt.internal/hsm"
)

// serve runs the handler on a real server that also speaks HTTP/2 in the clear.
func serve(t testing.TB, r *catest.Rig) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(fulcio.Handler(r.Authority, r.Verifier, fulcio.Options{}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// trusted is the trusted root a client of r would hold.
func trusted(t testing.TB, r *catest.Rig) root.TrustedMaterial {
	t.Helper()
	id := r.CT.ID()
	start := time.Now().Add(-time.Hour)
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: r.Chain[1], Intermediates: r.Chain[:1], ValidityPeriodStart: start}},
		map[string]*root.TransparencyLog{fmt.Sprintf("%x", id[:]): {ID: id[:], PublicKey: r.CTKey.Public(), HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256, ValidityPeriodStart: start}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestSigstoreGo runs sigstore-go's client for each algorithm and verifies what
// it got with sigstore-go's verifier: the chain, the SCT, the identity.
func TestSigstoreGo(t *testing.T) {
	r := catest.New(t, catest.Options{})
	s := serve(t, r)
	for _, alg := range []commonpb.PublicKeyDetails{
		commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, commonpb.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
		commonpb.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512, commonpb.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
	} {
		t.Run(alg.String(), func(t *testing.T) {
			keypair, err := sign.NewEphemeralKeypair(&sign.EphemeralKeypairOptions{Algorithm: alg})
			if err != nil {
				t.Fatal(err)
			}
			der, err := sign.NewFulcio(&sign.FulcioOptions{BaseURL: s.URL}).GetCertificate(t.Context(), keypair, &sign.CertificateProviderOptions{IDToken: r.Token(t, "dev@corp.example")})
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			chains, err := verify.VerifyLeafCertificate(leaf.NotBefore.Add(time.Second), leaf, trusted(t, r))
			if err != nil {
				t.Fatal(err)
			}
			if err := verify.VerifySignedCertificateTimestamp(chains, 1, trusted(t, r)); err != nil {
				t.Fatal(err)
			}
			summary, err := certificate.ParseExtensions(leaf.Extensions)
			if err != nil || summary.Issuer != catest.DefaultIssuer || summary.Subject != "dev@corp.example" || !slices.Equal(leaf.EmailAddresses, []string{"dev@corp.example"}) {
				t.Fatalf("%+v, %v", summary, err)
			}
		})
	}
}

// TestLegacyClient runs Fulcio's own version 1 client, as cosign 2 does.
func TestLegacyClient(t *testing.T) {
	r := catest.New(t, catest.Options{})
	s := serve(t, r)
	key := newKey(t)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := fulcioclient.NewClient(u)
	resp, err := client.SigningCert(fulcioclient.CertificateRequest{
		PublicKey:          fulcioclient.Key{Content: spki(t, key), Algorithm: "ecdsa"},
		SignedEmailAddress: catest.Proof(t, key, "dev@corp.example"),
	}, r.Token(t, "dev@corp.example"))
	if err != nil {
		t.Fatal(err)
	}
	leaf := firstPEM(t, resp.CertPEM)
	if leaf.EmailAddresses[0] != "dev@corp.example" {
		t.Fatal(leaf.EmailAddresses)
	}
	rest := resp.ChainPEM
	for _, want := range r.Chain {
		block, more := pem.Decode(rest)
		if block == nil || !bytes.Equal(block.Bytes, want.Raw) {
			t.Fatal("chain is not issuing certificate, root")
		}
		rest = more
	}
	if len(resp.SCT) != 0 {
		t.Fatal("a detached SCT was sent")
	}
	roots, err := client.RootCert()
	if err != nil {
		t.Fatal(err)
	}
	if c := firstPEM(t, roots.ChainPEM); !bytes.Equal(c.Raw, r.Chain[0].Raw) {
		t.Fatal("rootCert does not start with the issuing certificate")
	}
}

// TestGRPC speaks gRPC to the same port.
func TestGRPC(t *testing.T) {
	r := catest.New(t, catest.Options{})
	s := serve(t, r)
	conn, err := grpc.NewClient(strings.TrimPrefix(s.URL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := fulciogrpc.NewCAClient(conn)
	key := newKey(t)
	request := func(token string) *fulciogrpc.CreateSigningCertificateRequest {
		out := &fulciogrpc.CreateSigningCertificateRequest{Key: &fulciogrpc.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciogrpc.PublicKeyRequest{
			PublicKey: &fulciogrpc.PublicKey{Content: string(catest.PublicPEM(t, key.Public()))}, ProofOfPossession: catest.Proof(t, key, "dev@corp.example"),
		}}}
		if token != "" {
			out.Credentials = &fulciogrpc.Credentials{Credentials: &fulciogrpc.Credentials_OidcIdentityToken{OidcIdentityToken: token}}
		}
		return out
	}
	got, err := client.CreateSigningCertificate(t.Context(), request(r.Token(t, "dev@corp.example")))
	if err != nil || len(got.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()) != 3 {
		t.Fatalf("token in the request: %v, %v", got, err)
	}
	for _, md := range []metadata.MD{metadata.Pairs("oidcidentitytoken", r.Token(t, "dev@corp.example")), metadata.Pairs("authorization", "Bearer "+r.Token(t, "dev@corp.example"))} {
		if _, err := client.CreateSigningCertificate(metadata.NewOutgoingContext(t.Context(), md), request("")); err != nil {
			t.Fatalf("token as metadata: %v", err)
		}
	}
	if _, err := client.CreateSigningCertificate(t.Context(), request("")); status.Code(err) != codes.InvalidArgument {
		t.Fatalf("no token: %v", err)
	}
	if b, err := client.GetTrustBundle(t.Context(), &fulciogrpc.GetTrustBundleRequest{}); err != nil || len(b.GetChains()) != 1 || len(b.GetChains()[0].GetCertificates()) != 2 {
		t.Fatalf("trust bundle %v, %v", b, err)
	}
	if c, err := client.GetConfiguration(t.Context(), &fulciogrpc.GetConfigurationRequest{}); err != nil || len(c.GetIssuers()) != 1 {
		t.Fatalf("configuration %v, %v", c, err)
	}
	if h, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health %v, %v", h, err)
	}
}

// answer is one HTTP answer, read.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

func do(t testing.TB, method, url string, header map[string]string, body io.Reader) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, raw}
}

// v2Body is the JSON a client posts to version 2.
func v2Body(t testing.TB, token string, key *ecdsa.PrivateKey, name string) map[string]any {
	t.Helper()
	m := map[string]any{"publicKeyRequest": map[string]any{
		"publicKey":         map[string]any{"algorithm": "ECDSA", "content": string(catest.PublicPEM(t, key.Public()))},
		"proofOfPossession": catest.Proof(t, key, name),
	}}
	if token != "" {
		m["credentials"] = map[string]any{"oidcIdentityToken": token}
	}
	return m
}

func jsonBody(t testing.TB, v any) io.Reader {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(raw)
}

// TestWire holds the shapes unmodified clients depend on.
func TestWire(t *testing.T) {
	r := catest.New(t, catest.Options{})
	s := serve(t, r)
	key := newKey(t)
	chainOf := func(t *testing.T, a answer) []string {
		t.Helper()
		var doc struct {
			Embedded struct {
				Chain struct{ Certificates []string }
			} `json:"signedCertificateEmbeddedSct"`
		}
		if err := json.Unmarshal(a.body, &doc); err != nil || a.code != 200 || len(doc.Embedded.Chain.Certificates) != 3 {
			t.Fatalf("%d %s %v", a.code, a.body, err)
		}
		return doc.Embedded.Chain.Certificates
	}
	t.Run("token in the body, PEM asked for, trailing slash", func(t *testing.T) {
		a := do(t, "POST", s.URL+"/api/v2/signingCert/", map[string]string{"Accept": "application/pem-certificate-chain"}, jsonBody(t, v2Body(t, r.Token(t, "dev@corp.example"), key, "dev@corp.example")))
		certs := chainOf(t, a)
		if a.header.Get("Content-Type") != "application/json" || a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Fatalf("headers %v", a.header)
		}
		for i, want := range r.Chain {
			if !strings.Contains(certs[i+1], strings.TrimSpace(strings.Split(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: want.Raw})), "\n")[1])) {
				t.Fatal("chain is not leaf, issuing certificate, root")
			}
		}
	})
	t.Run("token in the header", func(t *testing.T) {
		chainOf(t, do(t, "POST", s.URL+"/api/v2/signingCert", map[string]string{"Authorization": "Bearer " + r.Token(t, "dev@corp.example")}, jsonBody(t, v2Body(t, "", key, "dev@corp.example"))))
	})
	t.Run("the body's token wins", func(t *testing.T) {
		a := do(t, "POST", s.URL+"/api/v2/signingCert", map[string]string{"Authorization": "Bearer nonsense"}, jsonBody(t, v2Body(t, r.Token(t, "dev@corp.example"), key, "dev@corp.example")))
		chainOf(t, a)
	})
	t.Run("CSR", func(t *testing.T) {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		header := map[string]string{"Authorization": "Bearer " + r.Token(t, "dev@corp.example")}
		chainOf(t, do(t, "POST", s.URL+"/api/v2/signingCert", header, jsonBody(t, map[string]any{"certificateSigningRequest": csr})))
		a := do(t, "POST", s.URL+"/api/v1/signingCert", header, jsonBody(t, map[string]any{"certificateSigningRequest": csr}))
		if a.code != 201 || a.header.Get("Content-Type") != "application/pem-certificate-chain" {
			t.Fatalf("%d %v", a.code, a.header)
		}
	})
	t.Run("unknown fields and other algorithm names", func(t *testing.T) {
		body := v2Body(t, r.Token(t, "dev@corp.example"), key, "dev@corp.example")
		body["future"] = 1
		body["publicKeyRequest"].(map[string]any)["publicKey"].(map[string]any)["algorithm"] = "ecdsa-sha2-nistp256"
		chainOf(t, do(t, "POST", s.URL+"/api/v2/signingCert", nil, jsonBody(t, body)))
	})
	t.Run("trustBundle", func(t *testing.T) {
		a := do(t, "GET", s.URL+"/api/v2/trustBundle", nil, nil)
		var doc struct {
			Chains []struct{ Certificates []string }
		}
		if err := json.Unmarshal(a.body, &doc); err != nil || len(doc.Chains) != 1 || len(doc.Chains[0].Certificates) != 2 {
			t.Fatalf("%s %v", a.body, err)
		}
	})
	t.Run("configuration", func(t *testing.T) {
		a := do(t, "GET", s.URL+"/api/v2/configuration", nil, nil)
		var doc struct {
			Issuers []struct {
				IssuerURL, Audience, ChallengeClaim, IssuerType string
			}
		}
		if err := json.Unmarshal(a.body, &doc); err != nil || len(doc.Issuers) != 1 || doc.Issuers[0].IssuerURL != catest.DefaultIssuer || doc.Issuers[0].ChallengeClaim != "email" || doc.Issuers[0].Audience != "sigstore" {
			t.Fatalf("%s %v", a.body, err)
		}
	})
	t.Run("methods and paths", func(t *testing.T) {
		for _, c := range []struct {
			method, path string
			code         int
		}{
			{"GET", "/api/v2/signingCert", 405}, {"PUT", "/api/v2/signingCert", 405}, {"POST", "/api/v2/trustBundle", 405}, {"DELETE", "/api/v1/rootCert", 405},
			{"OPTIONS", "/api/v2/signingCert", 204}, {"HEAD", "/api/v2/trustBundle", 200}, {"GET", "/healthz", 200},
			{"GET", "/", 404}, {"GET", "/api/v2", 404}, {"GET", "/api/v3/signingCert", 404}, {"POST", "/api/v2/signingCert/x", 404}, {"GET", "/api/v2/../v2/trustBundle/..", 404},
		} {
			if a := do(t, c.method, s.URL+c.path, nil, nil); a.code != c.code {
				t.Errorf("%s %s: %d", c.method, c.path, a.code)
			} else if c.code >= 400 {
				checkError(t, a)
			}
		}
	})
}

// checkError demands the error shape of grpc-gateway.
func checkError(t testing.TB, a answer) (code int, message string) {
	t.Helper()
	var doc struct {
		Code    *int   `json:"code"`
		Message string `json:"message"`
		Details []any  `json:"details"`
	}
	if err := json.Unmarshal(a.body, &doc); err != nil || doc.Code == nil || doc.Message == "" || doc.Details == nil || a.header.Get("Content-Type") != "application/json" {
		t.Fatalf("error body %q (%v)", a.body, err)
	}
	if len(a.body) > 2000 {
		t.Fatalf("error of %d bytes", len(a.body))
	}
	return *doc.Code, doc.Message
}

// TestBadInput posts every bad input and expects 400 with code 3, nothing
// signed, and no token repeated in the answer.
func TestBadInput(t *testing.T) {
	now := time.Now()
	r := catest.New(t, catest.Options{Now: func() time.Time { return now }})
	s := serve(t, r)
	key, other := newKey(t), newKey(t)
	good := r.Token(t, "dev@corp.example")
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	foreign := catest.New(t, catest.Options{IssuerURL: "https://evil.example"})
	impostor := catest.New(t, catest.Options{})
	now = now.Add(-time.Hour)
	expired := r.Token(t, "dev@corp.example")
	now = now.Add(time.Hour)
	otherAudience, err := r.Issuer.Mint(identity.Claims{Email: "dev@corp.example", Audience: "other"})
	if err != nil {
		t.Fatal(err)
	}
	unverified, err := r.Issuer.Mint(identity.Claims{Email: "dev@corp.example", Extra: map[string]any{"email_verified": false}})
	if err != nil {
		t.Fatal(err)
	}
	weakKey := &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int).Lsh(big.NewInt(1), 1023), 0, 1), E: 65537}
	offCurve, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	offCurve[len(offCurve)-1] ^= 1
	with := func(content string) map[string]any {
		m := v2Body(t, good, key, "dev@corp.example")
		m["publicKeyRequest"].(map[string]any)["publicKey"].(map[string]any)["content"] = content
		return m
	}
	token := func(raw string) map[string]any { return v2Body(t, raw, key, "dev@corp.example") }
	bodies := map[string]io.Reader{
		"expired token":        jsonBody(t, token(expired)),
		"unsigned token":       jsonBody(t, token(parts[0]+"."+parts[1]+".")),
		"alg none":             jsonBody(t, token(b64([]byte(`{"alg":"none"}`))+"."+parts[1]+".")),
		"wrong audience":       jsonBody(t, token(otherAudience)),
		"wrong issuer":         jsonBody(t, token(foreign.Token(t, "dev@corp.example"))),
		"issuer's name, other": jsonBody(t, token(impostor.Token(t, "dev@corp.example"))),
		"unverified email":     jsonBody(t, token(unverified)),
		"1 MiB of dots":        jsonBody(t, token(strings.Repeat(".", 1<<20))),
		"64 KiB of dots":       jsonBody(t, token(strings.Repeat(".", 64<<10))),
		"no token":             jsonBody(t, token("")),
		"PoP by another key": jsonBody(t, map[string]any{"credentials": map[string]any{"oidcIdentityToken": good}, "publicKeyRequest": map[string]any{
			"publicKey": map[string]any{"content": string(catest.PublicPEM(t, key.Public()))}, "proofOfPossession": catest.Proof(t, other, "dev@corp.example")}}),
		"weak RSA":             jsonBody(t, with(string(catest.PublicPEM(t, weakKey)))),
		"off the curve":        jsonBody(t, with(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: offCurve})))),
		"no key":               jsonBody(t, with("")),
		"no request":           jsonBody(t, map[string]any{"credentials": map[string]any{"oidcIdentityToken": good}}),
		"null everywhere":      strings.NewReader(`{"credentials":null,"publicKeyRequest":null,"certificateSigningRequest":null}`),
		"null key":             jsonBody(t, map[string]any{"credentials": map[string]any{"oidcIdentityToken": good}, "publicKeyRequest": map[string]any{"publicKey": nil, "proofOfPossession": nil}}),
		"two kinds of request": strings.NewReader(`{"publicKeyRequest":{},"certificateSigningRequest":"AA=="}`),
		"fields twice":         strings.NewReader(`{"credentials":{"oidcIdentityToken":"a"},"credentials":{"oidcIdentityToken":"b"}}`),
		"empty":                strings.NewReader(""),
		"null":                 strings.NewReader("null"),
		"a list":               strings.NewReader("[]"),
		"a number":             strings.NewReader("1"),
		"cut":                  strings.NewReader(`{"credentials":{`),
		"deep":                 strings.NewReader(strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000)),
		"not base64":           strings.NewReader(`{"certificateSigningRequest":"%%%"}`),
		"not UTF-8":            strings.NewReader("{\"credentials\":{\"oidcIdentityToken\":\"\xff\"}}"),
		"5 MiB":                io.LimitReader(zeros{}, 5<<20),
		"CSR of garbage":       jsonBody(t, map[string]any{"credentials": map[string]any{"oidcIdentityToken": good}, "certificateSigningRequest": []byte("garbage")}),
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			a := do(t, "POST", s.URL+"/api/v2/signingCert", map[string]string{"Content-Type": "application/json"}, body)
			code, message := checkError(t, a)
			if a.code != 400 || code != 3 || strings.Contains(string(a.body), parts[2]) {
				t.Fatalf("%d: %s", a.code, a.body)
			}
			t.Log(message)
		})
	}
	t.Run("version 1", func(t *testing.T) {
		for _, body := range []string{"", "{}", "null", `{"publicKey":null}`, `{"publicKey":{"content":"AA=="},"signedEmailAddress":"AA=="}`, `{"certificateSigningRequest":"AA=="}`} {
			a := do(t, "POST", s.URL+"/api/v1/signingCert", map[string]string{"Authorization": "Bearer " + good}, strings.NewReader(body))
			if code, _ := checkError(t, a); a.code != 400 || code != 3 {
				t.Fatalf("%q: %d %s", body, a.code, a.body)
			}
		}
	})
	t.Run("5 MiB to every route", func(t *testing.T) {
		for _, path := range []string{"/api/v2/signingCert", "/api/v1/signingCert", "/api/v2/trustBundle", "/api/v1/rootCert", "/nowhere"} {
			if a := do(t, "POST", s.URL+path, nil, bytes.NewReader(make([]byte, 5<<20))); a.code < 400 || a.code >= 500 {
				t.Fatalf("%s: %d", path, a.code)
			}
		}
	})
	t.Run("compressed", func(t *testing.T) {
		if a := do(t, "POST", s.URL+"/api/v2/signingCert", map[string]string{"Content-Encoding": "gzip"}, strings.NewReader("\x1f\x8b")); a.code != 400 {
			t.Fatalf("%d", a.code)
		}
	})
	if n := r.CAKey.Signatures.Load(); n != 0 {
		t.Fatalf("%d signatures for refused requests", n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestFailures shows what a client sees when the authority is at fault, that
// nothing of the cause reaches it, and that the answer heals with the cause.
func TestFailures(t *testing.T) {
	secret := errors.New("slot 7 of serial 0815 does not answer")
	request := func(t *testing.T, r *catest.Rig, s *httptest.Server) answer {
		t.Helper()
		return do(t, "POST", s.URL+"/api/v2/signingCert", nil, jsonBody(t, v2Body(t, r.Token(t, "dev@corp.example"), newKey(t), "dev@corp.example")))
	}
	for _, c := range []struct {
		name    string
		break_  func(*catest.Rig)
		heal    func(*catest.Rig)
		http    int
		message string
	}{
		{"issuing key broken", func(r *catest.Rig) { r.CAKey.FailWith(func(int64) error { return secret }) }, func(r *catest.Rig) { r.CAKey.FailWith(nil) }, 500, "error communicating with CA backend"},
		{"issuing key's token lost", func(r *catest.Rig) {
			r.CAKey.FailWith(func(int64) error { return fmt.Errorf("%w: %w", hsm.ErrUnavailable, secret) })
		}, func(r *catest.Rig) { r.CAKey.FailWith(nil) }, 503, "the issuing key's token is not available"},
		{"CT log stopped", func(r *catest.Rig) { r.StopCT() }, nil, 503, "the certificate transparency log is not available"},
		{"audit log stopped", func(r *catest.Rig) { r.StopAudit() }, nil, 503, "the audit log is not available"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := catest.New(t, catest.Options{})
			s := serve(t, r)
			if a := request(t, r, s); a.code != 200 {
				t.Fatalf("before: %d %s", a.code, a.body)
			}
			c.break_(r)
			a := request(t, r, s)
			_, message := checkError(t, a)
			if a.code != c.http || !strings.HasPrefix(message, c.message) || strings.Contains(string(a.body), "0815") {
				t.Fatalf("%d %s", a.code, a.body)
			}
			if c.heal != nil {
				c.heal(r)
				if a := request(t, r, s); a.code != 200 {
					t.Fatalf("after: %d %s", a.code, a.body)
				}
			}
		})
	}
}

// TestIssuerAway answers 503, so that clients try again, for a token whose issuer
// cannot be asked for its keys.
func TestIssuerAway(t *testing.T) {
	away := httptest.NewServer(http.NotFoundHandler())
	defer away.Close()
	r := catest.New(t, catest.Options{IssuerURL: away.URL, Identity: func(c *identity.Config) {
		rules := c.OIDCIssuers[away.URL]
		rules.JWKS = identity.JWKS{}
		c.OIDCIssuers[away.URL] = rules
	}})
	s := serve(t, r)
	a := do(t, "POST", s.URL+"/api/v2/signingCert", nil, jsonBody(t, v2Body(t, r.Token(t, "dev@corp.example"), newKey(t), "dev@corp.example")))
	if code, _ := checkError(t, a); a.code != 503 || code != 14 {
		t.Fatalf("%d %s", a.code, a.body)
	}
}

// TestConcurrent has clients of both versions and gRPC at once, and finds every
// certificate in the register and the log afterwards.
func TestConcurrent(t *testing.T) {
	r := catest.New(t, catest.Options{})
	s := serve(t, r)
	key := newKey(t)
	const clients, each = 8, 5
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := range each {
				path, want := "/api/v2/signingCert", 200
				body := any(v2Body(t, "", key, "dev@corp.example"))
				if i%2 == 1 {
					path, want = "/api/v1/signingCert", 201
					body = map[string]any{"publicKey": map[string]any{"content": spki(t, key), "algorithm": "ecdsa"}, "signedEmailAddress": catest.Proof(t, key, "dev@corp.example")}
				}
				if a := do(t, "POST", s.URL+path, map[string]string{"Authorization": "bearer " + r.Token(t, "dev@corp.example")}, jsonBody(t, body)); a.code != want {
					t.Errorf("%d %s", a.code, a.body)
				}
			}
		})
	}
	wg.Wait()
	found, err := ca.Search(t.Context(), r.DB, ca.Query{Identity: "dev@corp.example", Limit: 1000})
	if err != nil || len(found) != clients*each || r.CTLog.Head().Size != clients*each || r.AuditLog.Head().Size != 2*clients*each {
		t.Fatalf("%d registered, %d logged, %d audited, %v", len(found), r.CTLog.Head().Size, r.AuditLog.Head().Size, err)
	}
	for _, f := range found {
		if f.State != ca.StateIssued {
			t.Fatalf("%+v", f)
		}
	}
}

// FuzzSigningCert posts arbitrary bodies to both versions: never a 5xx, never a
// certificate.
func FuzzSigningCert(f *testing.F) {
	r := catest.New(f, catest.Options{})
	h := fulcio.Handler(r.Authority, r.Verifier, fulcio.Options{})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	good, err := io.ReadAll(jsonBody(f, v2Body(f, r.Token(f, "dev@corp.example"), key, "root@corp.example")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(false, good)
	f.Add(false, []byte(`{"credentials":{"oidcIdentityToken":"a.b.c"},"certificateSigningRequest":"AA=="}`))
	f.Add(true, []byte(`{"publicKey":{"content":"AA==","algorithm":"ecdsa"},"signedEmailAddress":"AA=="}`))
	f.Add(true, []byte(`{"certificateSigningRequest":"AA=="}`))
	f.Fuzz(func(t *testing.T, v1 bool, body []byte) {
		path := "/api/v2/signingCert"
		if v1 {
			path = "/api/v1/signingCert"
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), "POST", path, bytes.NewReader(body)))
		if w.Code != 400 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func spki(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func firstPEM(t testing.TB, raw []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(raw)
	if block == nil {
		t.Fatalf("no PEM in %q", raw)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
