package identity_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/sigstore/fulcio/pkg/config"

	"redoubt.internal/ca/identity"
)

// Issuers of the tests. Each has its own keys, all pinned.
const (
	mailIssuer  = "https://login.corp.example"
	uriIssuer   = "https://accounts.corp.example"
	k8sIssuer   = "https://k8s.corp.example"
	spiffeIss   = "https://spire.corp.example"
	userIssuer  = "https://git.corp.example"
	ciIssuer    = "https://ci.corp.example"
	waivedIss   = "https://adfs.corp.example"
	singleIss   = "https://single.corp.example"
	narrowIss   = "https://narrow.corp.example"
	fedIssuer   = "https://dex.corp.example"
	otherIssuer = "https://other.corp.example"
	imageIssuer = "https://images.corp.example"
)

// testKeys are made once: RSA keys are slow.
var testKeys = sync.OnceValue(func() map[string]crypto.Signer {
	keys := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521(), "foreign": elliptic.P256(), "other": elliptic.P256()} {
		keys[name], _ = ecdsa.GenerateKey(curve, rand.Reader)
	}
	keys["rsa"], _ = rsa.GenerateKey(rand.Reader, 2048)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	keys["ed"] = ed
	return keys
})

// jwk renders the public half of a test key.
func jwk(t testing.TB, name string) map[string]any {
	t.Helper()
	raw, err := json.Marshal(jose.JSONWebKey{Key: testKeys()[name].Public(), KeyID: name, Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func jwks(t testing.TB, names ...string) identity.JWKS {
	t.Helper()
	var keys []any
	for _, n := range names {
		keys = append(keys, jwk(t, n))
	}
	raw, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return identity.JWKS{Inline: raw}
}

var testNow = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// testConfig is one issuer of every kind.
func testConfig(t testing.TB) identity.Config {
	all := jwks(t, "p256", "p384", "p521", "rsa", "ed")
	rules := func(typ config.IssuerType, more func(*identity.IssuerRules)) identity.IssuerRules {
		r := identity.IssuerRules{OIDCIssuer: config.OIDCIssuer{ClientID: "sigstore", Type: typ}, JWKS: all}
		if more != nil {
			more(&r)
		}
		return r
	}
	return identity.Config{
		Now: func() time.Time { return testNow },
		OIDCIssuers: map[string]identity.IssuerRules{
			mailIssuer:  rules("email", nil),
			uriIssuer:   rules("uri", func(r *identity.IssuerRules) { r.SubjectDomain = "https://users.corp.example" }),
			k8sIssuer:   rules("kubernetes", nil),
			spiffeIss:   rules("spiffe", func(r *identity.IssuerRules) { r.SPIFFETrustDomain = "corp.example" }),
			userIssuer:  rules("username", func(r *identity.IssuerRules) { r.SubjectDomain = "git.corp.example" }),
			imageIssuer: rules("chainguard-identity", nil),
			ciIssuer:    rules("ci-provider", func(r *identity.IssuerRules) { r.CIProvider = "forge" }),
			waivedIss:   rules("email", func(r *identity.IssuerRules) { r.SkipEmailVerification = true }),
			singleIss:   rules("email", func(r *identity.IssuerRules) { r.SingleAudience = true }),
			narrowIss:   rules("email", func(r *identity.IssuerRules) { r.Algorithms = []string{"RS256"} }),
			fedIssuer:   rules("email", func(r *identity.IssuerRules) { r.IssuerClaim = "$.federated_claims.connector_id" }),
			otherIssuer: rules("email", func(r *identity.IssuerRules) {
				r.JWKS = jwks(t, "other")
			}),
		},
		MetaIssuers: map[string]identity.IssuerRules{
			"https://oidc.*.clusters.example/id/*": rules("kubernetes", nil),
		},
		CIIssuerMetadata: map[string]config.IssuerMetadata{"forge": {
			DefaultTemplateValues:          map[string]string{"url": "https://forge.corp.example"},
			SubjectAlternativeNameTemplate: "{{ .url }}/{{ .workflow }}",
		}},
	}
}

func newVerifier(t testing.TB, c identity.Config) *identity.Verifier {
	t.Helper()
	v, err := identity.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// claimSet is a good set of claims of the mail issuer, changed by edits: a nil
// value deletes.
func claimSet(edits map[string]any) map[string]any {
	c := map[string]any{
		"iss": mailIssuer, "sub": "u-1", "aud": "sigstore", "email": "dev@corp.example", "email_verified": true,
		"iat": testNow.Unix(), "exp": testNow.Add(5 * time.Minute).Unix(), "jti": "j-1",
	}
	maps.Copy(c, edits)
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	return c
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// signRaw signs exactly the given header and claim bytes.
func signRaw(t testing.TB, key crypto.Signer, alg, head, body string) string {
	t.Helper()
	input := b64([]byte(head)) + "." + b64([]byte(body))
	return input + "." + b64(rawSignature(t, key, alg, input))
}

// rawSignature is the JWS signature of input; go-jose makes it, with a header of
// its own that is thrown away only for EdDSA and RSA where it does not matter.
func rawSignature(t testing.TB, key crypto.Signer, alg, input string) []byte {
	t.Helper()
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(k, []byte(input))
	case *rsa.PrivateKey:
		var h crypto.Hash
		switch alg[2:] {
		case "384":
			h = crypto.SHA384
		case "512":
			h = crypto.SHA512
		default:
			h = crypto.SHA256
		}
		d := h.New()
		d.Write([]byte(input))
		var sig []byte
		var err error
		if strings.HasPrefix(alg, "PS") {
			sig, err = rsa.SignPSS(rand.Reader, k, h, d.Sum(nil), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			sig, err = rsa.SignPKCS1v15(rand.Reader, k, h, d.Sum(nil))
		}
		if err != nil {
			t.Fatal(err)
		}
		return sig
	case *ecdsa.PrivateKey:
		h := map[string]crypto.Hash{"ES384": crypto.SHA384, "ES512": crypto.SHA512}[alg]
		if h == 0 {
			h = crypto.SHA256
		}
		size := (k.Curve.Params().BitSize + 7) / 8
		if alg == "ES256" {
			size = max(size, 32)
		}
		d := h.New()
		d.Write([]byte(input))
		r, s, err := ecdsa.Sign(rand.Reader, k, d.Sum(nil))
		if err != nil {
			t.Fatal(err)
		}
		out := make([]byte, 2*size)
		r.FillBytes(out[:size])
		s.FillBytes(out[size:])
		return out
	}
	t.Fatalf("key of type %T", key)
	return nil
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// mint signs claims with a named test key and a plain header.
func mint(t testing.TB, keyName, alg string, claims map[string]any) string {
	t.Helper()
	head := mustJSON(t, map[string]any{"alg": alg, "kid": keyName, "typ": "JWT"})
	return signRaw(t, testKeys()[keyName], alg, head, mustJSON(t, claims))
}

// TestAccepted shows one good token of every issuer type and algorithm.
func TestAccepted(t *testing.T) {
	v := newVerifier(t, testConfig(t))
	k8s := map[string]any{"namespace": "build", "serviceaccount": map[string]any{"name": "signer", "uid": "1"}}
	cases := []struct {
		name, key, alg string
		edits          map[string]any
		want           identity.SAN
		pop, issuer    string
	}{
		{"email", "p256", "ES256", nil, identity.SAN{"email", "dev@corp.example"}, "dev@corp.example", mailIssuer},
		{"email verified as string", "p256", "ES256", map[string]any{"email_verified": "true"}, identity.SAN{"email", "dev@corp.example"}, "dev@corp.example", mailIssuer},
		{"email verification waived", "p256", "ES256", map[string]any{"iss": waivedIss, "email_verified": nil}, identity.SAN{"email", "dev@corp.example"}, "dev@corp.example", waivedIss},
		{"federated issuer", "p256", "ES256", map[string]any{"iss": fedIssuer, "federated_claims": map[string]any{"connector_id": "https://ldap.corp.example"}}, identity.SAN{"email", "dev@corp.example"}, "dev@corp.example", "https://ldap.corp.example"},
		{"audience list", "p256", "ES256", map[string]any{"aud": []string{"other", "sigstore"}}, identity.SAN{"email", "dev@corp.example"}, "dev@corp.example", mailIssuer},
		{"fractional times", "p256", "ES256", map[string]any{"iat": float64(testNow.Unix()) + 0.5, "exp": float64(testNow.Unix()) + 60.25}, identity.SAN{"email", "dev@corp.example"}, "dev@corp.example", mailIssuer},
		{"expired within skew", "p256", "ES256", map[string]any{"iat": nil, "exp": testNow.Unix() - 20}, identity.SAN{"email", "dev@corp.example"}, "dev@corp.example", mailIssuer},
		{"uri", "p256", "ES256", map[string]any{"iss": uriIssuer, "sub": "https://users.corp.example/1"}, identity.SAN{"uri", "https://users.corp.example/1"}, "https://users.corp.example/1", uriIssuer},
		{"kubernetes", "p256", "ES256", map[string]any{"iss": k8sIssuer, "sub": "system:serviceaccount:build:signer", "kubernetes.io": k8s}, identity.SAN{"uri", "https://kubernetes.io/namespaces/build/serviceaccounts/signer"}, "system:serviceaccount:build:signer", k8sIssuer},
		{"meta issuer", "p256", "ES256", map[string]any{"iss": "https://oidc.eu-1.clusters.example/id/ABC", "sub": "system:serviceaccount:build:signer", "kubernetes.io": k8s}, identity.SAN{"uri", "https://kubernetes.io/namespaces/build/serviceaccounts/signer"}, "system:serviceaccount:build:signer", "https://oidc.eu-1.clusters.example/id/ABC"},
		{"spiffe", "p256", "ES256", map[string]any{"iss": spiffeIss, "sub": "spiffe://corp.example/ns/build"}, identity.SAN{"uri", "spiffe://corp.example/ns/build"}, "spiffe://corp.example/ns/build", spiffeIss},
		{"username", "p256", "ES256", map[string]any{"iss": userIssuer, "sub": "alice"}, identity.SAN{"username", "alice!git.corp.example"}, "alice", userIssuer},
		{"ci-provider", "p256", "ES256", map[string]any{"iss": ciIssuer, "sub": "job-7", "workflow": "release.yml@v1"}, identity.SAN{"uri", "https://forge.corp.example/release.yml@v1"}, "job-7", ciIssuer},
	}
	cases = append(cases, []struct {
		name, key, alg string
		edits          map[string]any
		want           identity.SAN
		pop, issuer    string
	}{
		{"chainguard", "p256", "ES256", map[string]any{"iss": imageIssuer, "sub": "abc/def", "email": nil}, identity.SAN{Type: "uri", Value: imageIssuer + "/abc/def"}, "abc/def", imageIssuer},
		{"chainguard with an address", "p256", "ES256", map[string]any{"iss": imageIssuer, "sub": "abc/def"}, identity.SAN{Type: "uri", Value: imageIssuer + "/abc/def"}, "dev@corp.example", imageIssuer},
	}...)
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"} {
		c := cases[0]
		c.name, c.key, c.alg = alg, "rsa", alg
		cases = append(cases, c)
	}
	for key, alg := range map[string]string{"p384": "ES384", "p521": "ES512", "ed": "EdDSA"} {
		c := cases[0]
		c.name, c.key, c.alg = alg, key, alg
		cases = append(cases, c)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			claims := claimSet(c.edits)
			p, err := v.Verify(t.Context(), mint(t, c.key, c.alg, claims))
			if err != nil {
				t.Fatal(err)
			}
			if p.SAN != c.want || p.Name != c.pop || p.Issuer != c.issuer || p.TokenIssuer != claims["iss"] || p.Subject != claims["sub"] || p.JTI != "j-1" || len(p.TokenID) != 64 {
				t.Fatalf("principal = %+v", p)
			}
			seen := map[int]string{}
			for _, e := range p.Extensions {
				seen[e.Id[len(e.Id)-1]] = string(e.Value)
			}
			if seen[1] != c.issuer || !strings.HasSuffix(seen[8], c.issuer) || seen[8][0] != 0x0c || !strings.HasSuffix(seen[24], p.Subject) || seen[24][0] != 0x0c {
				t.Fatalf("extensions = %v", seen)
			}
		})
	}
}

// refusal is one attack and the error it must end in.
type refusal struct {
	name  string
	token string
	want  error
}

// refusals is the table of attacks on a verifier of testConfig.
func refusals(t testing.TB) []refusal {
	t.Helper()
	good := mustJSON(t, claimSet(nil))
	goodHead := `{"alg":"ES256","kid":"p256","typ":"JWT"}`
	key := testKeys()["p256"]
	es := func(head, body string) string { return signRaw(t, key, "ES256", head, body) }
	with := func(edits map[string]any) string { return mint(t, "p256", "ES256", claimSet(edits)) }
	valid := es(goodHead, good)
	parts := strings.Split(valid, ".")
	pub, _ := x509.MarshalPKIXPublicKey(testKeys()["rsa"].Public())
	pubPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub})
	hmacToken := func(alg string, secret []byte) string {
		in := b64([]byte(`{"alg":"`+alg+`"}`)) + "." + b64([]byte(good))
		var sum []byte
		fips140.WithoutEnforcement(func() { // an attacker's key may be of any length
			m := hmac.New(sha256.New, secret)
			m.Write([]byte(in))
			sum = m.Sum(nil)
		})
		return in + "." + b64(sum)
	}
	foreignJWK := mustJSON(t, jwk(t, "foreign"))
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	var wide strings.Builder
	for i := range 600 {
		wide.WriteString(`,"n` + b64([]byte{byte(i >> 8), byte(i)}) + `":1`)
	}
	bad := func(name, token string) refusal { return refusal{name, token, identity.ErrToken} }
	out := []refusal{
		// Form.
		bad("empty", ""),
		bad("one part", "abc"),
		bad("two parts", parts[0]+"."+parts[1]),
		bad("four parts", valid+".x"),
		bad("1 MiB of dots", strings.Repeat(".", 1<<20)),
		bad("32 KiB of dots", strings.Repeat(".", 32<<10)),
		bad("oversized", parts[0]+"."+strings.Repeat("A", 40<<10)+"."+parts[2]),
		bad("encrypted, five parts", "e30.e30.e30.e30.e30"),
		bad("JSON serialisation", `{"payload":"`+parts[1]+`","protected":"`+parts[0]+`","signature":"`+parts[2]+`"}`),
		bad("not base64", "!!!."+parts[1]+"."+parts[2]),
		bad("padded base64", parts[0]+"=."+parts[1]+"."+parts[2]),
		bad("line break inside", parts[0]+".\n"+parts[1]+"."+parts[2]),
		bad("blank before", " "+valid),
		bad("bearer prefix", "Bearer "+valid),
		bad("trailing bits", valid[:len(valid)-1]+nextChar(valid[len(valid)-1])),
		// Signature.
		bad("unsigned", parts[0]+"."+parts[1]+"."),
		bad("signature of zeros", parts[0]+"."+parts[1]+"."+b64(make([]byte, 64))),
		bad("signature cut short", parts[0]+"."+parts[1]+"."+b64(make([]byte, 63))),
		bad("DER signature", es(goodHead, good)[:len(parts[0])+len(parts[1])+2]+b64(derSignature(t, parts[0]+"."+parts[1]))),
		bad("other claims under the signature", parts[0]+"."+b64([]byte(mustJSON(t, claimSet(map[string]any{"email": "root@corp.example"}))))+"."+parts[2]),
		bad("foreign key, known kid", signRaw(t, testKeys()["foreign"], "ES256", goodHead, good)),
		bad("foreign key, own kid", signRaw(t, testKeys()["foreign"], "ES256", `{"alg":"ES256","kid":"foreign"}`, good)),
		bad("key of another issuer", signRaw(t, testKeys()["other"], "ES256", `{"alg":"ES256","kid":"other"}`, good)),
		bad("our key for another issuer", with(map[string]any{"iss": otherIssuer})),
		bad("kid unknown", es(`{"alg":"ES256","kid":"nobody"}`, good)),
		bad("kid as path", es(`{"alg":"ES256","kid":"../../../dev/null"}`, good)),
		bad("kid as SQL", es(`{"alg":"ES256","kid":"x' UNION SELECT 'k"}`, good)),
		bad("kid not a string", es(`{"alg":"ES256","kid":7}`, good)),
		bad("kid of another key", es(`{"alg":"ES256","kid":"p384"}`, good)),
		// Algorithm.
		bad("alg none, no signature", b64([]byte(`{"alg":"none"}`))+"."+parts[1]+"."),
		bad("alg none, signature kept", b64([]byte(`{"alg":"none"}`))+"."+parts[1]+"."+parts[2]),
		bad("alg NoNe", b64([]byte(`{"alg":"NoNe"}`))+"."+parts[1]+"."+parts[2]),
		bad("alg empty", es(`{"alg":""}`, good)),
		bad("alg missing", es(`{"typ":"JWT"}`, good)),
		bad("alg null", es(`{"alg":null}`, good)),
		bad("alg a number", es(`{"alg":256}`, good)),
		bad("alg a list", es(`{"alg":["ES256"]}`, good)),
		bad("alg in lower case", es(`{"alg":"es256","kid":"p256"}`, good)),
		bad("HS256 with the RSA public key", hmacToken("HS256", pubPEM)),
		bad("HS512 with the DER key", hmacToken("HS512", pub)),
		bad("HS256 with an empty secret", hmacToken("HS256", nil)),
		bad("RS256 named over an EC signature", es(`{"alg":"RS256","kid":"p256"}`, good)),
		bad("ES256 by a P-384 key", signRaw(t, testKeys()["p384"], "ES256", `{"alg":"ES256","kid":"p384"}`, good)),
		bad("ES384 by a P-256 key", signRaw(t, key, "ES384", `{"alg":"ES384","kid":"p256"}`, good)),
		bad("ES256K", es(`{"alg":"ES256K","kid":"p256"}`, good)),
		bad("PBES2", es(`{"alg":"PBES2-HS256+A128KW","kid":"p256"}`, good)),
		bad("algorithm not of this issuer", with(map[string]any{"iss": narrowIss})),
		// Header.
		bad("embedded jwk", signRaw(t, testKeys()["foreign"], "ES256", `{"alg":"ES256","jwk":`+foreignJWK+`}`, good)),
		bad("jku", signRaw(t, testKeys()["foreign"], "ES256", `{"alg":"ES256","jku":"https://evil.example/keys"}`, good)),
		bad("x5u", signRaw(t, testKeys()["foreign"], "ES256", `{"alg":"ES256","x5u":"https://evil.example/chain"}`, good)),
		bad("x5c", signRaw(t, testKeys()["foreign"], "ES256", `{"alg":"ES256","x5c":["AAAA"]}`, good)),
		bad("crit", es(`{"alg":"ES256","kid":"p256","crit":["exp"],"exp":1}`, good)),
		bad("crit empty", es(`{"alg":"ES256","kid":"p256","crit":[]}`, good)),
		bad("unencoded payload", es(`{"alg":"ES256","kid":"p256","b64":false}`, good)),
		bad("compressed", es(`{"alg":"ES256","kid":"p256","zip":"DEF"}`, good)),
		bad("enc in a signed token", es(`{"alg":"ES256","kid":"p256","enc":"A128GCM"}`, good)),
		bad("logout token", es(`{"alg":"ES256","kid":"p256","typ":"logout+jwt"}`, good)),
		bad("header twice alg", es(`{"alg":"ES256","alg":"none","kid":"p256"}`, good)),
		bad("header alg and ALG", es(`{"alg":"ES256","ALG":"none","kid":"p256"}`, good)),
		bad("header not an object", es(`["ES256"]`, good)),
		bad("header with a tail", es(goodHead+`{}`, good)),
		bad("header not JSON", es(`alg=ES256`, good)),
		// Issuer.
		{"issuer unknown", with(map[string]any{"iss": "https://evil.example"}), identity.ErrUnknownIssuer},
		{"issuer with a slash", with(map[string]any{"iss": mailIssuer + "/"}), identity.ErrUnknownIssuer},
		{"issuer in capitals", with(map[string]any{"iss": "https://LOGIN.corp.example"}), identity.ErrUnknownIssuer},
		{"issuer over http", with(map[string]any{"iss": "http://login.corp.example"}), identity.ErrUnknownIssuer},
		{"issuer with port", with(map[string]any{"iss": mailIssuer + ":443"}), identity.ErrUnknownIssuer},
		{"issuer with user", with(map[string]any{"iss": "https://login.corp.example@evil.example"}), identity.ErrUnknownIssuer},
		{"issuer in a query", with(map[string]any{"iss": "http://localhost?issuer=https://oidc.eu.clusters.example/id/x"}), identity.ErrUnknownIssuer},
		{"issuer in a path", with(map[string]any{"iss": "http://localhost/redirect/https://oidc.eu.clusters.example/id/x"}), identity.ErrUnknownIssuer},
		{"meta issuer, dot in the wildcard", with(map[string]any{"iss": "https://oidc.evil.example/.clusters.example/id/x"}), identity.ErrUnknownIssuer},
		{"meta issuer, longer path", with(map[string]any{"iss": "https://oidc.eu.clusters.example/id/x/y"}), identity.ErrUnknownIssuer},
		{"meta issuer, line break", with(map[string]any{"iss": "https://oidc.eu.clusters.example/id/x\n"}), identity.ErrUnknownIssuer},
		bad("issuer missing", with(map[string]any{"iss": nil})),
		bad("issuer a list", es(goodHead, strings.Replace(good, `"iss":"`+mailIssuer+`"`, `"iss":["`+mailIssuer+`"]`, 1))),
		bad("issuer null", es(goodHead, strings.Replace(good, `"iss":"`+mailIssuer+`"`, `"iss":null`, 1))),
		// Audience.
		bad("audience wrong", with(map[string]any{"aud": "other"})),
		bad("audience missing", with(map[string]any{"aud": nil})),
		bad("audience empty", with(map[string]any{"aud": ""})),
		bad("audience empty list", with(map[string]any{"aud": []string{}})),
		bad("audience list without us", with(map[string]any{"aud": []string{"a", "b"}})),
		bad("audience list of numbers", with(map[string]any{"aud": []any{"sigstore", 7}})),
		bad("audience in capitals", with(map[string]any{"aud": "Sigstore"})),
		bad("audience prefix", with(map[string]any{"aud": "sigstore2"})),
		bad("audience an object", with(map[string]any{"aud": map[string]any{"sigstore": true}})),
		bad("audience list endless", with(map[string]any{"aud": append(make([]string, 0), strings.Split(strings.Repeat("sigstore ", 40), " ")...)})),
		bad("further audience at a strict issuer", with(map[string]any{"iss": singleIss, "aud": []string{"sigstore", "b"}})),
		// Times.
		bad("expired", with(map[string]any{"exp": testNow.Unix() - 31, "iat": testNow.Unix() - 600})),
		bad("expiry missing", with(map[string]any{"exp": nil})),
		bad("expiry a string", with(map[string]any{"exp": "4102444800"})),
		bad("expiry null", es(goodHead, strings.Replace(good, `"exp":`, `"exp":null,"x":`, 1))),
		bad("expiry zero", with(map[string]any{"exp": 0})),
		bad("expiry negative", with(map[string]any{"exp": -5})),
		bad("expiry beyond all time", es(goodHead, strings.Replace(good, `"exp":`, `"exp":1e300,"x":`, 1))),
		bad("not yet valid", with(map[string]any{"nbf": testNow.Unix() + 31})),
		bad("issued in the future", with(map[string]any{"iat": testNow.Unix() + 31})),
		bad("expires before issued", with(map[string]any{"iat": testNow.Unix() + 20, "exp": testNow.Unix() + 10})),
		// Claims.
		bad("email missing", with(map[string]any{"email": nil})),
		bad("email empty", with(map[string]any{"email": ""})),
		bad("email not one", with(map[string]any{"email": "dev"})),
		bad("two emails", with(map[string]any{"email": "dev@corp.example,root@corp.example"})),
		bad("email a list", with(map[string]any{"email": []string{"dev@corp.example"}})),
		bad("email with look-alike letters", with(map[string]any{"email": "d\u0435v@corp.example"})),
		bad("email with a line break", with(map[string]any{"email": "dev@corp.example\n"})),
		bad("email with NUL", with(map[string]any{"email": "dev@corp.example\x00.evil.example"})),
		bad("email not verified", with(map[string]any{"email_verified": false})),
		bad("email verification missing", with(map[string]any{"email_verified": nil})),
		bad("email verified as \"false\"", with(map[string]any{"email_verified": "false"})),
		bad("email verified as \"True\"", with(map[string]any{"email_verified": "True"})),
		bad("email verified as 1", with(map[string]any{"email_verified": 1})),
		bad("email verified null", es(goodHead, strings.Replace(good, `"email_verified":true`, `"email_verified":null`, 1))),
		bad("email verified twin", with(map[string]any{"email_verified": nil, "Email_Verified": true})),
		bad("subject missing", with(map[string]any{"sub": nil})),
		bad("subject empty", with(map[string]any{"sub": ""})),
		bad("subject a number", with(map[string]any{"sub": 7})),
		bad("subject with NUL", with(map[string]any{"sub": "u\x00admin"})),
		bad("subject with a line break", with(map[string]any{"sub": "u\nadmin"})),
		bad("subject with a direction mark", with(map[string]any{"sub": "u\u202eadmin"})),
		bad("subject endless", with(map[string]any{"sub": strings.Repeat("u", 3000)})),
		bad("subject not UTF-8", es(goodHead, strings.Replace(good, `"u-1"`, "\"u\xff\"", 1))),
		bad("federated issuer missing", with(map[string]any{"iss": fedIssuer})),
		bad("uri of another host", with(map[string]any{"iss": uriIssuer, "sub": "https://evil.example/1"})),
		bad("uri of another scheme", with(map[string]any{"iss": uriIssuer, "sub": "http://users.corp.example/1"})),
		bad("uri with the host as user", with(map[string]any{"iss": uriIssuer, "sub": "https://users.corp.example@evil.example/1"})),
		bad("uri that would be rewritten", with(map[string]any{"iss": uriIssuer, "sub": "https://users.corp.example/a b"})),
		bad("uri that is an email", with(map[string]any{"iss": uriIssuer, "sub": "dev@users.corp.example"})),
		bad("spiffe of another domain", with(map[string]any{"iss": spiffeIss, "sub": "spiffe://evil.example/x"})),
		bad("spiffe of a subdomain", with(map[string]any{"iss": spiffeIss, "sub": "spiffe://a.corp.example/x"})),
		bad("kubernetes without claims", with(map[string]any{"iss": k8sIssuer})),
		bad("kubernetes with a path in the namespace", with(map[string]any{"iss": k8sIssuer, "kubernetes.io": map[string]any{"namespace": "a/serviceaccounts/b", "serviceaccount": map[string]any{"name": "c"}}})),
		bad("kubernetes without account", with(map[string]any{"iss": k8sIssuer, "kubernetes.io": map[string]any{"namespace": "a"}})),
		bad("chainguard with an unverified address", with(map[string]any{"iss": imageIssuer, "email_verified": false})),
		bad("chainguard climbing out", with(map[string]any{"iss": imageIssuer, "sub": "../../evil\u202e"})),
		bad("user name with the separator", with(map[string]any{"iss": userIssuer, "sub": "alice!root"})),
		bad("user name with look-alikes", with(map[string]any{"iss": userIssuer, "sub": "\u0430lice"})),
		bad("ci claim missing", with(map[string]any{"iss": ciIssuer})),
		// JSON.
		bad("claim twice", es(goodHead, strings.TrimSuffix(good, "}")+`,"email":"root@corp.example"}`)),
		bad("claim twin in capitals", es(goodHead, strings.TrimSuffix(good, "}")+`,"EMAIL":"root@corp.example"}`)),
		bad("claim twice, escaped", es(goodHead, strings.TrimSuffix(good, "}")+`,"\u0065mail":"root@corp.example"}`)),
		bad("claim twin by long s", es(goodHead, strings.TrimSuffix(good, "}")+`,"i\u017f\u017f":"https://other.corp.example"}`)),
		bad("nested claim twice", es(goodHead, strings.TrimSuffix(good, "}")+`,"x":{"a":1,"a":2}}`)),
		bad("claims with a tail", es(goodHead, good+`{"sub":"x"}`)),
		bad("claims a list", es(goodHead, "["+good+"]")),
		bad("claims null", es(goodHead, "null")),
		bad("claims empty", es(goodHead, "{}")),
		bad("claims not JSON", es(goodHead, "iss=a")),
		bad("claims cut off", es(goodHead, good[:len(good)-2])),
		bad("claims nested deeply", es(goodHead, strings.TrimSuffix(good, "}")+`,"x":`+deep+`}`)),
		bad("claims by the hundred", es(goodHead, strings.TrimSuffix(good, "}")+wide.String()+`}`)),
		bad("token inside a token", es(`{"alg":"ES256","kid":"p256","cty":"JWT"}`, mustJSON(t, valid))),
	}
	return out
}

func nextChar(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)^1])
}

func derSignature(t testing.TB, input string) []byte {
	t.Helper()
	d := sha256.Sum256([]byte(input))
	sig, err := testKeys()["p256"].Sign(rand.Reader, d[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// TestRefused runs every attack. A token of the table must be refused for its
// own reason, so the same claims without the attack are shown to pass first.
func TestRefused(t *testing.T) {
	v := newVerifier(t, testConfig(t))
	if _, err := v.Verify(t.Context(), mint(t, "p256", "ES256", claimSet(nil))); err != nil {
		t.Fatalf("the good token: %v", err)
	}
	cases := refusals(t)
	if len(cases) < 60 {
		t.Fatalf("only %d attacks", len(cases))
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, err := v.Verify(t.Context(), c.token)
			if !errors.Is(err, c.want) || !errors.Is(err, identity.ErrToken) {
				t.Fatalf("error %v, principal %+v", err, p)
			}
			if p.Name != "" || p.Extensions != nil {
				t.Fatalf("a refused token left a principal: %+v", p)
			}
			if len(err.Error()) > 600 {
				t.Fatalf("error of %d bytes", len(err.Error()))
			}
			t.Log(err)
		})
	}
}

// TestHeaderKeysIgnored shows that keys named in the header neither help nor
// hurt: a token our issuer signed passes whatever its header also says.
func TestHeaderKeysIgnored(t *testing.T) {
	v := newVerifier(t, testConfig(t))
	head := `{"alg":"ES256","kid":"p256","jku":"https://evil.example/k","x5u":"https://evil.example/c","jwk":` + mustJSON(t, jwk(t, "foreign")) + `}`
	p, err := v.Verify(t.Context(), signRaw(t, testKeys()["p256"], "ES256", head, mustJSON(t, claimSet(nil))))
	if err != nil || p.Name != "dev@corp.example" {
		t.Fatalf("%+v, %v", p, err)
	}
}

// TestDotsAreCheap bounds what a megabyte of dots allocates.
func TestDotsAreCheap(t *testing.T) {
	v := newVerifier(t, testConfig(t))
	dots := strings.Repeat(".", 1<<20)
	short := strings.Repeat(".", 32<<10)
	for _, raw := range []string{dots, short} {
		const runs = 200
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			if _, err := v.Verify(context.Background(), raw); !errors.Is(err, identity.ErrToken) {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 64<<10 {
			t.Fatalf("%d dots allocate %d bytes", len(raw), n)
		}
	}
}

// FuzzVerify feeds arbitrary tokens: no panic, and nothing not signed by a
// pinned key is accepted.
func FuzzVerify(f *testing.F) {
	v := newVerifier(f, testConfig(f))
	good := mint(f, "p256", "ES256", claimSet(nil))
	f.Add(good)
	for _, c := range refusals(f) {
		if len(c.token) < 8<<10 {
			f.Add(c.token)
		}
	}
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := v.Verify(t.Context(), raw)
		if err == nil && raw != good && p.Name == "" {
			t.Fatalf("accepted without a name: %q", raw)
		}
		if err != nil && !errors.Is(err, identity.ErrToken) {
			t.Fatalf("untyped error: %v", err)
		}
	})
}

// BenchmarkVerify is the cost of one token with a pinned P-256 key.
func BenchmarkVerify(b *testing.B) {
	v := newVerifier(b, testConfig(b))
	raw := mint(b, "p256", "ES256", claimSet(nil))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), raw); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDots is the cost of refusing a megabyte of dots.
func BenchmarkDots(b *testing.B) {
	v := newVerifier(b, testConfig(b))
	raw := strings.Repeat(".", 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = v.Verify(b.Context(), raw)
	}
}
