package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// maxKeys bounds the keys of one issuer.
const maxKeys = 64

// keySource answers with the keys of one issuer: static, or fetched. It is a
// function type, not an interface: it has one operation.
type keySource func(ctx context.Context, kid string) ([]jose.JSONWebKey, error)

// verifiedSet is what go-oidc asks for the signature check (oidc.KeySet). It
// keeps the error that go-oidc would flatten into text.
type verifiedSet struct {
	token *token
	keys  keySource
	err   error
}

// VerifySignature checks the one signature with a key of the issuer and returns
// the signed claims. Both are those parseToken cut out of the token before
// go-oidc saw it; go-oidc hands over the same text.
func (s *verifiedSet) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	payload, err := s.verify(ctx, raw)
	s.err = err
	return payload, err
}

func (s *verifiedSet) verify(ctx context.Context, raw string) ([]byte, error) {
	t := s.token
	if raw != t.raw {
		return nil, fmt.Errorf("%w: another token than the one that was parsed", ErrToken)
	}
	keys, err := s.keys(ctx, t.header.Kid)
	if err != nil {
		return nil, err
	}
	for i := range keys {
		if k := &keys[i]; usable(k, t.header) && signed(k.Key, t.header.Alg, t.input(), t.signature) {
			return t.payload, nil
		}
	}
	return nil, fmt.Errorf("%w: no key of the issuer verifies the signature", ErrToken)
}

// signed reports whether sig is key's signature of input under a JWS algorithm
// (RFC 7518, 3.3 to 3.5; RFC 8037, 3.1).
func signed(key any, alg, input string, sig []byte) bool {
	if pub, ok := key.(ed25519.PublicKey); ok {
		return alg == "EdDSA" && ed25519.Verify(pub, []byte(input), sig)
	}
	var hash crypto.Hash
	family, size, _ := strings.Cut(alg, "S") // ES256: E, 256
	switch size {
	case "256":
		hash = crypto.SHA256
	case "384":
		hash = crypto.SHA384
	case "512":
		hash = crypto.SHA512
	default:
		return false
	}
	h := hash.New()
	io.WriteString(h, input)
	digest := h.Sum(nil)
	switch pub := key.(type) {
	case *rsa.PublicKey:
		if family == "P" {
			return rsa.VerifyPSS(pub, hash, digest, sig, nil) == nil
		}
		return family == "R" && rsa.VerifyPKCS1v15(pub, hash, digest, sig) == nil
	case *ecdsa.PublicKey: // two numbers of the curve's size, no more and no less
		n := (pub.Curve.Params().BitSize + 7) / 8
		return family == "E" && len(sig) == 2*n && ecdsa.Verify(pub, digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
	}
	return false
}

// usable reports whether key k may verify a token with header h: the key id
// matches when both have one, a stated algorithm is the token's, and the key is
// of the type, curve and size the algorithm demands (RFC 7518, 3.3 to 3.5).
func usable(k *jose.JSONWebKey, h header) bool {
	if h.Kid != "" && k.KeyID != "" && k.KeyID != h.Kid {
		return false
	}
	if k.Algorithm != "" && k.Algorithm != h.Alg {
		return false
	}
	if k.Use != "" && k.Use != "sig" {
		return false
	}
	switch pub := k.Key.(type) {
	case *rsa.PublicKey:
		return (strings.HasPrefix(h.Alg, "RS") || strings.HasPrefix(h.Alg, "PS")) && pub.N.BitLen() >= 2048 && pub.N.BitLen() <= 8192
	case *ecdsa.PublicKey:
		switch h.Alg {
		case "ES256":
			return pub.Curve == elliptic.P256()
		case "ES384":
			return pub.Curve == elliptic.P384()
		case "ES512":
			return pub.Curve == elliptic.P521()
		}
		return false
	case ed25519.PublicKey:
		return h.Alg == "EdDSA"
	}
	return false
}

// parseKeySet reads a JSON Web Key Set. Keys of unknown kinds are skipped, as
// RFC 7517, section 5, asks; at least one must be usable.
func parseKeySet(doc []byte) ([]jose.JSONWebKey, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if len(doc) > maxJWKS {
		return nil, fmt.Errorf("key set is larger than %d bytes", maxJWKS)
	}
	if err := json.Unmarshal(doc, &raw); err != nil {
		return nil, fmt.Errorf("key set is not JSON: %w", err)
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("key set has %d keys, limit %d", len(raw.Keys), maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, r := range raw.Keys {
		var k jose.JSONWebKey
		if err := json.Unmarshal(r, &k); err != nil || !k.Valid() {
			continue
		}
		switch k.Key.(type) {
		case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("key set has no usable public key")
	}
	return keys, nil
}

// pinnedKeys is the source of a pinned key set. It refuses private and shared
// keys: a configuration file is no place for them.
func pinnedKeys(doc []byte) (keySource, error) {
	if err := strictJSON(doc); err != nil {
		return nil, err
	}
	var raw struct {
		Keys []map[string]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(doc, &raw); err != nil {
		return nil, fmt.Errorf("key set is not JSON: %w", err)
	}
	for i, k := range raw.Keys {
		for _, secret := range []string{"d", "k", "p", "q"} {
			if _, ok := k[secret]; ok {
				return nil, fmt.Errorf("key %d of the set is private or shared; pin public keys only", i+1)
			}
		}
	}
	keys, err := parseKeySet(doc)
	if err != nil {
		return nil, err
	}
	if len(raw.Keys) != len(keys) {
		return nil, fmt.Errorf("%d of %d pinned keys are not usable (RSA, P-256, P-384, P-521 or Ed25519 public keys)", len(raw.Keys)-len(keys), len(raw.Keys))
	}
	return func(context.Context, string) ([]jose.JSONWebKey, error) { return keys, nil }, nil
}

// How fetched keys age.
const (
	// keysFresh is how long fetched keys serve without asking again; a key the
	// issuer withdrew is refused at the latest after this.
	keysFresh = time.Hour
	// keysUsable is how long they serve while the issuer cannot be reached.
	keysUsable = 24 * time.Hour
	// fetchPause is the least time between two fetches for one issuer, so that
	// tokens with made-up key ids cause no traffic.
	fetchPause = 10 * time.Second
)

// remoteKeys fetches and remembers the keys of one issuer.
type remoteKeys struct {
	fetch func(ctx context.Context) ([]jose.JSONWebKey, error)
	now   func() time.Time
	// turn holds one token: whoever has it may fetch.
	turn chan struct{}

	mu      sync.Mutex // guards what follows
	keys    []jose.JSONWebKey
	fetched time.Time
	tried   time.Time
	err     error // of the last try
}

// get returns the issuer's keys, fetching them when they are missing, old, or
// none has the key id asked for.
func (r *remoteKeys) get(ctx context.Context, kid string) ([]jose.JSONWebKey, error) {
	if keys, ok := r.cached(kid); ok {
		return keys, nil
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrIssuerUnreachable, ctx.Err())
	}
	if keys, ok := r.cached(kid); ok { // another request fetched meanwhile
		return keys, nil
	}
	r.mu.Lock()
	pause := r.now().Sub(r.tried) < fetchPause && !r.tried.IsZero()
	r.mu.Unlock()
	if !pause {
		// The fetch serves every waiting request, so it does not end with this one.
		keys, err := r.fetch(context.WithoutCancel(ctx))
		r.mu.Lock()
		r.tried, r.err = r.now(), err
		if err == nil {
			r.keys, r.fetched = keys, r.tried
		}
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.keys) > 0 && r.now().Sub(r.fetched) < keysUsable {
		return r.keys, nil
	}
	if r.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIssuerUnreachable, r.err)
	}
	return nil, ErrIssuerUnreachable
}

// cached returns the keys when they are fresh and hold kid.
func (r *remoteKeys) cached(kid string) ([]jose.JSONWebKey, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.keys) == 0 || r.now().Sub(r.fetched) >= keysFresh {
		return nil, false
	}
	if kid == "" {
		return r.keys, true
	}
	for i := range r.keys {
		if r.keys[i].KeyID == kid || r.keys[i].KeyID == "" {
			return r.keys, true
		}
	}
	return nil, false
}
