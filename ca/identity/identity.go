// Package identity turns an OpenID Connect ID token into a Principal: who asks
// for a certificate, and which names and extensions the certificate will carry.
// Tokens become certificates only through it.
//
// It guarantees:
//   - a token is measured, split and parsed strictly before any key is fetched
//     and before any cryptography runs: bounded size, exactly three parts, one
//     JSON object without duplicate names, an algorithm from the issuer's list
//     (never none, never a shared secret), no critical header, no encryption;
//     keys named inside the token (jwk, jku, x5u, x5c) are never looked at;
//   - only keys of the issuer the token names verify it: pinned in the
//     configuration, or fetched from that issuer's own host, bounded in size and
//     time, without a redirect to another host;
//   - no network request is made before the first token of an issuer without
//     pinned keys arrives, so an unreachable issuer never blocks the start;
//   - names that reach a certificate are printable, and SANs are ASCII.
//
// It does not limit how often a token is used (ca does, with the count beside
// the certificates), and it does not decide who may sign.
//
// Configuration is Fulcio's own (oidc-issuers, meta-issuers,
// ci-issuer-metadata) plus pinned keys: start at Config. The path of a token is
// Verifier.Verify. Issuer is the built-in issuer of the dev profile.
package identity

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/sigstore/fulcio/pkg/certificate"
	"github.com/sigstore/fulcio/pkg/config"
	fulciolog "github.com/sigstore/fulcio/pkg/log"
	"go.uber.org/zap"
)

// Errors of Verify, to be tested with errors.Is. All but ErrIssuerUnreachable
// and ErrConfig are the fault of the token.
var (
	// ErrToken: the token is malformed, not signed by its issuer, expired, for
	// another audience, or lacks a claim its issuer type demands.
	ErrToken = errors.New("identity token refused")
	// ErrUnknownIssuer: the token names an issuer that is not configured.
	ErrUnknownIssuer = errors.New("issuer is not configured")
	// ErrIssuerUnreachable: the issuer's keys are not pinned and could not be
	// fetched now.
	ErrIssuerUnreachable = errors.New("keys of the issuer could not be fetched")
	// ErrConfig: the configuration is contradictory or incomplete.
	ErrConfig = errors.New("identity configuration")
)

// maxToken bounds a token in bytes. CI tokens are about 2 KiB, tokens with
// group lists reach 10 KiB.
const maxToken = 32 << 10

// SANType is the kind of the one subject alternative name of a certificate.
type SANType string

// The kinds of names Fulcio's certificate profile knows.
const (
	// SANEmail is an rfc822Name.
	SANEmail SANType = "email"
	// SANURI is a uniformResourceIdentifier.
	SANURI SANType = "uri"
	// SANUserName is an otherName 1.3.6.1.4.1.57264.1.7 holding user!domain.
	SANUserName SANType = "username"
)

// SAN is the one subject alternative name a certificate will carry.
type SAN struct {
	Type  SANType
	Value string
}

// Principal is a verified identity. Only Verify makes one.
type Principal struct {
	// TokenIssuer is the token's iss claim, an exact key of the configuration.
	TokenIssuer string
	// Issuer is what the certificate names as issuer: TokenIssuer, or the claim
	// the configuration's issuer-claim selects (a federated login).
	Issuer string
	// Subject is the token's sub claim.
	Subject string
	// Name is the string a client signs as proof of possession: the email claim
	// for email issuers, sub for all others.
	Name string
	// Type is the issuer's type: "email", "uri", "kubernetes", ...
	Type string
	// SAN is the name of the certificate.
	SAN SAN
	// Extensions are the Sigstore extensions 1.3.6.1.4.1.57264.1.N in the order
	// they are embedded; N = 1 (raw bytes), 8 and 24 (DER UTF8String) are always
	// there (Fulcio docs/oid-info.md).
	Extensions []pkix.Extension
	// JTI is the token's own identifier, empty when it has none.
	JTI string
	// TokenID is the lower-case hex SHA-256 of the token's signed part (header
	// and claims, without the signature): equal for every use of one token.
	TokenID string
	// Pseudonyms is the domain of the issuer's pseudonyms; empty where people stand
	// in certificates as the token names them. See IssuerRules.
	Pseudonyms string
	// Expiry is when the token ends.
	Expiry time.Time
	// TokenUses is how many certificates one token may obtain; 0 is unlimited.
	TokenUses int
}

// As is p under another name, wherever a certificate or a record would name it.
// What its client signs as proof of possession, Name, stays.
func (p Principal) As(name string) Principal {
	p.SAN.Value, p.Subject = name, name
	p.Extensions = slices.Clone(p.Extensions)
	for i, e := range p.Extensions {
		if e.Id.Equal(certificate.OIDTokenSubject) {
			p.Extensions[i].Value = utf8String(name)
		}
	}
	return p
}

// Verifier verifies tokens of the configured issuers. It is safe for
// concurrent use. Changing the configuration means making a new one.
type Verifier struct {
	issuers map[string]*issuer // by iss, exact
	meta    []metaIssuer       // longest pattern first
	hidden  []string           // domains of pseudonyms, which no token may name
	fulcio  *config.FulcioConfig
	now     func() time.Time
	logger  *slog.Logger

	// mu guards concrete: issuers that matched a pattern, at most maxConcrete.
	mu       sync.Mutex
	concrete map[string]*issuer
}

// maxConcrete bounds how many issuers that matched a pattern are remembered
// with their keys.
const maxConcrete = 128

// issuer is one configured issuer, ready to verify.
type issuer struct {
	url    string
	config IssuerRules
	algs   []string
	keys   keySource
	// fulcio holds this issuer alone, so that Fulcio's claim mapping finds
	// exactly it.
	fulcio *config.FulcioConfig
}

// metaIssuer is a pattern of issuers.
type metaIssuer struct {
	pattern string
	match   *regexp.Regexp
	config  IssuerRules
}

// silence ends the writing of Fulcio's claim mapping to standard output, once.
var silence = sync.OnceFunc(func() { fulciolog.Logger = zap.NewNop().Sugar() })

// New checks c and returns a Verifier. It reads pinned key files and makes no
// network request.
func New(c Config) (*Verifier, error) {
	silence()
	if err := c.check(); err != nil {
		return nil, err
	}
	v := &Verifier{
		issuers:  make(map[string]*issuer, len(c.OIDCIssuers)),
		concrete: map[string]*issuer{},
		fulcio:   &config.FulcioConfig{OIDCIssuers: map[string]config.OIDCIssuer{}, MetaIssuers: map[string]config.OIDCIssuer{}, CIIssuerMetadata: c.CIIssuerMetadata},
		now:      c.Now,
		logger:   c.Logger,
	}
	if v.now == nil {
		v.now = time.Now
	}
	if v.logger == nil {
		v.logger = slog.New(slog.DiscardHandler)
	}
	for name, iss := range c.OIDCIssuers {
		iss.IssuerURL = name
		i, err := v.newIssuer(name, iss, c.Dir)
		if err != nil {
			return nil, fmt.Errorf("%w: issuer %q: %w", ErrConfig, name, err)
		}
		v.issuers[name] = i
		if iss.Pseudonyms != "" {
			v.hidden = append(v.hidden, "@"+iss.Pseudonyms)
		}
		v.fulcio.OIDCIssuers[name] = iss.OIDCIssuer
	}
	for pattern, iss := range c.MetaIssuers {
		re, err := config.MetaRegex(pattern)
		if err != nil {
			return nil, fmt.Errorf("%w: meta issuer %q: %w", ErrConfig, pattern, err)
		}
		// Made once here only so that a bad pin or algorithm shows at the start.
		if _, err := v.newIssuer(pattern, iss, c.Dir); err != nil {
			return nil, fmt.Errorf("%w: meta issuer %q: %w", ErrConfig, pattern, err)
		}
		if iss.JWKS, err = iss.JWKS.load(c.Dir); err != nil {
			return nil, fmt.Errorf("%w: meta issuer %q: %w", ErrConfig, pattern, err)
		}
		if iss.Pseudonyms != "" {
			v.hidden = append(v.hidden, "@"+iss.Pseudonyms)
		}
		v.meta = append(v.meta, metaIssuer{pattern, re, iss})
		v.fulcio.MetaIssuers[pattern] = iss.OIDCIssuer
	}
	slices.SortFunc(v.meta, func(a, b metaIssuer) int {
		if d := len(b.pattern) - len(a.pattern); d != 0 {
			return d
		}
		return strings.Compare(a.pattern, b.pattern)
	})
	return v, nil
}

// newIssuer prepares one issuer; dir is where relative key files lie.
func (v *Verifier) newIssuer(iss string, c IssuerRules, dir string) (*issuer, error) {
	i := &issuer{url: iss, config: c, algs: c.algorithms()}
	one := c.OIDCIssuer
	one.IssuerURL = iss
	i.fulcio = &config.FulcioConfig{
		OIDCIssuers:      map[string]config.OIDCIssuer{iss: one},
		CIIssuerMetadata: v.fulcio.CIIssuerMetadata,
	}
	pinned, err := c.JWKS.load(dir)
	if err != nil {
		return nil, err
	}
	if pinned.set() {
		if i.keys, err = pinnedKeys(pinned.Inline); err != nil {
			return nil, fmt.Errorf("reading pinned keys: %w", err)
		}
		return i, nil
	}
	if i.keys, err = newRemoteKeys(iss, c, v.now); err != nil {
		return nil, err
	}
	return i, nil
}

// Fulcio returns the configuration in Fulcio's own type, without pinned keys,
// for the configuration endpoint. The caller must not change it.
func (v *Verifier) Fulcio() *config.FulcioConfig { return v.fulcio }

// lookup finds the issuer a token names: an exact key of oidc-issuers, else the
// longest matching pattern of meta-issuers.
func (v *Verifier) lookup(iss string) (*issuer, error) {
	if i, ok := v.issuers[iss]; ok {
		return i, nil
	}
	for _, m := range v.meta {
		if !m.match.MatchString(iss) {
			continue
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if i, ok := v.concrete[iss]; ok {
			return i, nil
		}
		u, err := url.Parse(iss)
		if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("%w: %w %q", ErrToken, ErrUnknownIssuer, clip(iss))
		}
		i, err := v.newIssuer(iss, m.config, "")
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrToken, err)
		}
		if len(v.concrete) >= maxConcrete {
			for k := range v.concrete { // any one: it is only a cache
				delete(v.concrete, k)
				break
			}
		}
		v.concrete[iss] = i
		return i, nil
	}
	return nil, fmt.Errorf("%w: %w: %q", ErrToken, ErrUnknownIssuer, clip(iss))
}

// Verify checks one compact token and returns who it speaks for. Errors wrap
// ErrToken (with ErrUnknownIssuer where it applies) or ErrIssuerUnreachable and
// never repeat the token.
func (v *Verifier) Verify(ctx context.Context, raw string) (Principal, error) {
	// 1. Form, before anything is looked up: size, three parts, header, claims.
	t, err := parseToken(raw)
	if err != nil {
		return Principal{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	// 2. The issuer, by exact name, and what it allows.
	iss, err := v.lookup(t.claims.Issuer)
	if err != nil {
		return Principal{}, err
	}
	if !slices.Contains(iss.algs, t.header.Alg) {
		return Principal{}, fmt.Errorf("%w: algorithm %q is not allowed for issuer %s", ErrToken, clip(t.header.Alg), iss.url)
	}
	// 3. Audience and times, still without a key.
	if err := t.claims.check(iss.config, v.now()); err != nil {
		return Principal{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	// 4. The signature, by a key of this issuer of the type the algorithm needs.
	set := &verifiedSet{token: t, keys: iss.keys}
	verifier := oidc.NewVerifier(iss.url, set, &oidc.Config{
		ClientID: iss.config.ClientID, SupportedSigningAlgs: []string{t.header.Alg}, Now: v.now,
		SkipExpiryCheck: true, // step 3 did, with this package's skew
	})
	id, err := verifier.Verify(ctx, raw)
	if set.err != nil { // go-oidc flattens errors; the cause is what callers test for
		return Principal{}, set.err
	}
	if err != nil {
		return Principal{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	// 5. Claims to names, by the table of the issuer's type.
	p, err := principal(ctx, iss, id, t)
	if err != nil {
		return Principal{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	for _, domain := range v.hidden {
		if strings.HasSuffix(strings.ToLower(p.SAN.Value), domain) {
			return Principal{}, fmt.Errorf("%w: the token names %q, which would pass for a pseudonym", ErrToken, clip(p.SAN.Value))
		}
	}
	return p, nil
}

// clip shortens an untrusted string for an error message.
func clip(s string) string {
	const limit = 120
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
