package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// Bounds of what the built-in issuer mints.
const (
	defaultTTL = 5 * time.Minute
	maxTTL     = 24 * time.Hour
)

// IssuerConfig describes the built-in issuer.
type IssuerConfig struct {
	// URL is the issuer's name, the iss of its tokens: scheme, host and optional
	// path, under which Handler serves.
	URL string
	// Signer is an RSA key of at least 2048 bits (RS256) or an ECDSA P-256 key
	// (ES256). cosign takes a token on its command line only when it is RS256
	// (internal/auth/auth.go, idToken); others it takes for the name of a file.
	Signer crypto.Signer
	// Former are public keys that signed before Signer and whose tokens may still
	// be alive: they stay in the key set.
	Former []crypto.PublicKey
	// Audience of tokens minted without one; empty is "sigstore".
	Audience string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Issuer is the built-in OpenID Connect issuer of the dev profile: it mints
// tokens for whoever may call Mint, and publishes discovery and keys. It has no
// login and no authorization endpoint.
type Issuer struct {
	url      *url.URL
	signer   crypto.Signer
	alg      string // RS256 or ES256
	kid      string
	audience string
	now      func() time.Time
	jwks     []byte
	metadata []byte
}

// Claims says what a minted token states.
type Claims struct {
	// Subject is the sub claim; empty is Email.
	Subject string
	// Email is the email claim; with it email_verified is true unless Extra says
	// otherwise.
	Email string
	// Audience is the aud claim; empty is the issuer's default.
	Audience string
	// TTL is the token's life, at most 24 hours; 0 is five minutes.
	TTL time.Duration
	// Extra holds further claims. It cannot replace iss, sub, aud, exp, nbf, iat,
	// jti or email.
	Extra map[string]any
}

// NewIssuer returns a built-in issuer.
func NewIssuer(c IssuerConfig) (*Issuer, error) {
	u, err := issuerURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: issuer URL %q: %w", ErrConfig, c.URL, err)
	}
	if c.Signer == nil {
		return nil, fmt.Errorf("%w: built-in issuer has no key", ErrConfig)
	}
	alg := tokenAlgorithm(c.Signer.Public())
	if alg == "" {
		return nil, fmt.Errorf("%w: the built-in issuer signs with RSA of at least 2048 bits or ECDSA P-256, not %T", ErrConfig, c.Signer.Public())
	}
	i := &Issuer{url: u, signer: c.Signer, alg: alg, audience: c.Audience, now: c.Now}
	if i.now == nil {
		i.now = time.Now
	}
	if i.audience == "" {
		i.audience = "sigstore"
	}
	var set jose.JSONWebKeySet
	algorithms := []string{}
	for _, public := range append([]crypto.PublicKey{c.Signer.Public()}, c.Former...) {
		key := jose.JSONWebKey{Key: public, Algorithm: tokenAlgorithm(public), Use: "sig"}
		if key.Algorithm == "" {
			return nil, fmt.Errorf("%w: a former key of the built-in issuer is %T", ErrConfig, public)
		}
		thumb, err := key.Thumbprint(crypto.SHA256) // RFC 7638
		if err != nil {
			return nil, fmt.Errorf("naming issuer key: %w", err)
		}
		key.KeyID = base64.RawURLEncoding.EncodeToString(thumb)
		set.Keys = append(set.Keys, key)
		if !slices.Contains(algorithms, key.Algorithm) {
			algorithms = append(algorithms, key.Algorithm)
		}
	}
	i.kid = set.Keys[0].KeyID
	if i.jwks, err = json.Marshal(set); err != nil {
		return nil, fmt.Errorf("encoding issuer key: %w", err)
	}
	base := strings.TrimSuffix(c.URL, "/")
	i.metadata, err = json.Marshal(map[string]any{
		"issuer":                                c.URL,
		"jwks_uri":                              base + "/keys",
		"authorization_endpoint":                base + "/auth",
		"token_endpoint":                        base + "/token",
		"response_types_supported":              []string{"code"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": algorithms,
		"scopes_supported":                      []string{"openid", "email"},
		"claims_supported":                      []string{"aud", "email", "email_verified", "exp", "iat", "iss", "jti", "sub"},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding discovery document: %w", err)
	}
	return i, nil
}

// URL returns the issuer's name.
func (i *Issuer) URL() string { return i.url.String() }

// JWKS returns the issuer's JSON Web Key Set, to pin it in Config.
func (i *Issuer) JWKS() json.RawMessage { return slices.Clone(i.jwks) }

// Mint signs a token.
func (i *Issuer) Mint(c Claims) (string, error) {
	all := map[string]any{}
	maps.Copy(all, c.Extra)
	for _, name := range []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "email"} {
		if _, ok := c.Extra[name]; ok {
			return "", fmt.Errorf("claim %q has its own field and cannot be given twice", name)
		}
	}
	if c.Subject == "" {
		c.Subject = c.Email
	}
	if c.Subject == "" {
		return "", errors.New("a token needs a subject or an email")
	}
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	if c.TTL < time.Second || c.TTL > maxTTL {
		return "", fmt.Errorf("token life %s is not between 1s and %s", c.TTL, maxTTL)
	}
	if c.Audience == "" {
		c.Audience = i.audience
	}
	now := i.now()
	all["iss"], all["sub"], all["aud"], all["jti"] = i.URL(), c.Subject, c.Audience, rand.Text()
	all["iat"], all["nbf"], all["exp"] = now.Unix(), now.Unix(), now.Add(c.TTL).Unix()
	if c.Email != "" {
		all["email"] = c.Email
		if _, ok := all["email_verified"]; !ok {
			all["email_verified"] = true
		}
	}
	return i.sign(all)
}

// tokenAlgorithm returns the JWS algorithm a key signs tokens with, empty for a
// key the issuer does not take.
func tokenAlgorithm(pub crypto.PublicKey) string {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		if pub.N.BitLen() >= 2048 {
			return "RS256"
		}
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P256() {
			return "ES256"
		}
	}
	return ""
}

// sign makes a compact JWS (RFC 7515, 7.1; RFC 7518, 3.3 and 3.4).
func (i *Issuer) sign(claims map[string]any) (string, error) {
	head, err := json.Marshal(map[string]string{"alg": i.alg, "kid": i.kid, "typ": "JWT"})
	if err != nil {
		return "", fmt.Errorf("encoding token header: %w", err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding claims: %w", err)
	}
	signed := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := sha256.Sum256([]byte(signed))
	signature, err := i.signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("signing token: %w", err)
	}
	if i.alg == "ES256" {
		if signature, err = fixedSignature(signature); err != nil {
			return "", err
		}
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// fixedSignature turns an ASN.1 P-256 signature into R and S of 32 bytes each.
func fixedSignature(der []byte) ([]byte, error) {
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 || sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || sig.R.BitLen() > 256 || sig.S.BitLen() > 256 {
		return nil, errors.New("issuer key returned a malformed signature")
	}
	fixed := make([]byte, 64)
	sig.R.FillBytes(fixed[:32])
	sig.S.FillBytes(fixed[32:])
	return fixed, nil
}

// Handler serves the discovery document and the key set under the path of URL.
func (i *Issuer) Handler() http.Handler {
	base := strings.TrimSuffix(i.url.Path, "/")
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+base+"/.well-known/openid-configuration", serveDocument(i.metadata))
	mux.HandleFunc("GET "+base+"/keys", serveDocument(i.jwks))
	return mux
}

// serveDocument answers with one fixed JSON document.
func serveDocument(doc []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "max-age=300")
		_, _ = w.Write(doc) // a client that left is no error of ours
	}
}
