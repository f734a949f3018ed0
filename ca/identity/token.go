package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"redoubt.internal/log/strictjson"
)

// Bounds of a token's inside.
const (
	maxDepth     = 8   // nesting of claims
	maxNames     = 256 // names of one object
	maxAudiences = 16  // entries of aud
	// skew is how far the clocks of issuer and authority may differ.
	skew = 30 * time.Second
	// farFuture is 9999-12-31T23:59:59Z, the end of what X.509 can say.
	farFuture = 253402300799
)

// header is the protected header of a compact JWS (RFC 7515, section 4.1). Its
// jwk, jku, x5u and x5c members are not even decoded: keys come from the
// issuer's configuration alone.
type header struct {
	Alg string
	Kid string
	Typ string
}

// claims are the registered claims this package judges itself (RFC 7519,
// section 4.1).
type claims struct {
	Issuer    string
	Subject   string
	Audience  []string
	Expiry    time.Time
	NotBefore time.Time // zero when absent
	IssuedAt  time.Time // zero when absent
	JTI       string
	// all holds every claim, still encoded.
	all map[string]json.RawMessage
}

// token is a token whose form is right; nothing in it is verified yet.
type token struct {
	raw     string
	id      string // hex SHA-256 of header.payload
	header  header
	claims  claims
	payload []byte
	// signature is the third part.
	signature []byte
}

// input is what is signed: header and payload as they stand (RFC 7515, 5.2).
func (t *token) input() string { return t.raw[:strings.LastIndexByte(t.raw, '.')] }

// parseToken takes a compact JWS apart. It is the whole of what runs on input
// nobody has vouched for, so its cost is bounded by maxToken.
func parseToken(raw string) (*token, error) {
	if raw == "" {
		return nil, errors.New("no token")
	}
	if len(raw) > maxToken {
		return nil, fmt.Errorf("token of %d bytes, limit %d", len(raw), maxToken)
	}
	switch strings.Count(raw, ".") {
	case 2:
	case 4:
		return nil, errors.New("encrypted tokens are not accepted")
	default:
		return nil, errors.New("token does not have three parts")
	}
	for i := range len(raw) {
		if c := raw[i]; c != '.' && c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return nil, errors.New("token is not base64url")
		}
	}
	parts := strings.Split(raw, ".")
	if parts[2] == "" {
		return nil, errors.New("token is not signed")
	}
	var bin [3][]byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(p)
		if err != nil {
			return nil, errors.New("token is not base64url")
		}
		bin[i] = b
	}
	t := &token{raw: raw, payload: bin[1], signature: bin[2]}
	sum := sha256.Sum256([]byte(t.input()))
	t.id = hex.EncodeToString(sum[:])
	var err error
	if t.header, err = parseHeader(bin[0]); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if t.claims, err = parseClaims(bin[1]); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	return t, nil
}

// parseHeader reads alg, kid and typ and refuses what changes the meaning of
// the rest.
func parseHeader(doc []byte) (header, error) {
	var h header
	all, err := strictObject(doc)
	if err != nil {
		return h, err
	}
	for _, name := range []string{"crit", "b64", "enc", "zip"} {
		if _, ok := all[name]; ok {
			return h, fmt.Errorf("%q is not accepted", name)
		}
	}
	if h.Alg, err = stringMember(all, "alg", 16); err != nil {
		return h, err
	}
	if h.Kid, err = stringMember(all, "kid", 512); err != nil {
		return h, err
	}
	if h.Typ, err = stringMember(all, "typ", 64); err != nil {
		return h, err
	}
	if h.Alg == "" {
		return h, errors.New("no algorithm")
	}
	if strings.EqualFold(h.Alg, "none") || strings.HasPrefix(strings.ToUpper(h.Alg), "HS") {
		return h, fmt.Errorf("algorithm %q is never accepted", h.Alg)
	}
	switch typ := strings.TrimPrefix(strings.ToLower(h.Typ), "application/"); typ {
	case "", "jwt", "at+jwt", "id+jwt":
	default: // logout tokens, proofs and events of the same issuer (RFC 8725, 3.11)
		return h, fmt.Errorf("type %q is not an identity token", clip(h.Typ))
	}
	return h, nil
}

// registered are the claim names whose spelling must be exact: decoders that
// match names without regard to case would read a twin.
var registered = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "email", "email_verified", "kubernetes.io"}

// parseClaims reads the registered claims.
func parseClaims(doc []byte) (claims, error) {
	var c claims
	all, err := strictObject(doc)
	if err != nil {
		return c, err
	}
	c.all = all
	for name := range all {
		for _, r := range registered {
			if name != r && strings.EqualFold(name, r) {
				return c, fmt.Errorf("claim %q is a twin of %q", clip(name), r)
			}
		}
	}
	if c.Issuer, err = stringMember(all, "iss", 1024); err != nil {
		return c, err
	}
	if c.Subject, err = stringMember(all, "sub", 2048); err != nil {
		return c, err
	}
	if c.JTI, err = stringMember(all, "jti", 1024); err != nil {
		return c, err
	}
	if c.Issuer == "" || c.Subject == "" {
		return c, errors.New("iss or sub is missing")
	}
	if c.Audience, err = audience(all["aud"]); err != nil {
		return c, err
	}
	if c.Expiry, err = numericDate(all, "exp"); err != nil {
		return c, err
	}
	if c.NotBefore, err = numericDate(all, "nbf"); err != nil {
		return c, err
	}
	if c.IssuedAt, err = numericDate(all, "iat"); err != nil {
		return c, err
	}
	if c.Expiry.IsZero() {
		return c, errors.New("exp is missing")
	}
	return c, nil
}

// check judges audience and times for one issuer.
func (c claims) check(i IssuerRules, now time.Time) error {
	if !slices.Contains(c.Audience, i.ClientID) {
		return fmt.Errorf("audience is not %q", i.ClientID)
	}
	if i.SingleAudience && len(c.Audience) != 1 {
		return errors.New("token is for further audiences")
	}
	if !now.Before(c.Expiry.Add(skew)) {
		return fmt.Errorf("token expired at %s", c.Expiry.UTC().Format(time.RFC3339))
	}
	if now.Add(skew).Before(c.NotBefore) {
		return fmt.Errorf("token is not valid before %s", c.NotBefore.UTC().Format(time.RFC3339))
	}
	if now.Add(skew).Before(c.IssuedAt) {
		return fmt.Errorf("token was issued in the future, at %s", c.IssuedAt.UTC().Format(time.RFC3339))
	}
	if !c.IssuedAt.IsZero() && c.Expiry.Before(c.IssuedAt) {
		return errors.New("token expires before it was issued")
	}
	return nil
}

// stringMember reads an optional string member of at most limit bytes. A member
// that is there and is no string, null included, is an error.
func stringMember(all map[string]json.RawMessage, name string, limit int) (string, error) {
	raw, ok := all[name]
	if !ok {
		return "", nil
	}
	s, ok := text(raw)
	if !ok {
		return "", fmt.Errorf("%q is not a string", name)
	}
	if len(s) > limit {
		return "", fmt.Errorf("%q is longer than %d bytes", name, limit)
	}
	return s, nil
}

// text reads one JSON string of a document that passed strictJSON. One without
// escapes stands between its quotes as it is.
func text(raw json.RawMessage) (string, bool) {
	if n := len(raw); n >= 2 && raw[0] == '"' && raw[n-1] == '"' && bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : n-1]), true
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", false
	}
	return *s, true
}

// audience reads aud: one string or an array of strings, never empty.
func audience(raw json.RawMessage) ([]string, error) {
	if one, ok := text(raw); ok && one != "" {
		return []string{one}, nil
	}
	var many []*string
	if err := json.Unmarshal(raw, &many); err != nil || len(many) == 0 || len(many) > maxAudiences {
		return nil, errors.New("aud is missing, empty or malformed")
	}
	out := make([]string, 0, len(many))
	for _, s := range many {
		if s == nil || *s == "" {
			return nil, errors.New("aud is missing, empty or malformed")
		}
		out = append(out, *s)
	}
	return out, nil
}

// numericDate reads an optional NumericDate, seconds since 1970 with or without
// a fraction (RFC 7519, section 2).
func numericDate(all map[string]json.RawMessage, name string) (time.Time, error) {
	raw, ok := all[name]
	if !ok {
		return time.Time{}, nil
	}
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil && n >= 1 && n <= farFuture {
		return time.Unix(n, 0), nil
	}
	var f *float64
	if err := json.Unmarshal(raw, &f); err != nil || f == nil || *f < 1 || *f > farFuture {
		return time.Time{}, fmt.Errorf("%q is not a time", name)
	}
	whole, frac := math.Modf(*f)
	return time.Unix(int64(whole), int64(frac*1e9)), nil
}

// strictObject decodes one JSON object. Names that repeat, or differ only in
// case, at any depth, invalid UTF-8, deep nesting and trailing bytes are
// errors, so that no two decoders can read two meanings.
func strictObject(doc []byte) (map[string]json.RawMessage, error) {
	if err := strictJSON(doc); err != nil {
		return nil, err
	}
	all, ok := members(doc)
	if !ok {
		return nil, errors.New("not a JSON object")
	}
	return all, nil
}

// members cuts one JSON object that passed strictJSON into its members, each
// value still encoded.
func members(doc []byte) (map[string]json.RawMessage, bool) {
	doc = bytes.TrimSpace(doc)
	if len(doc) == 0 || doc[0] != '{' {
		return nil, false
	}
	all := make(map[string]json.RawMessage, 16)
	var name string
	start, depth := 1, 0 // of the name or value being read, and its nesting
	for i := 1; i < len(doc); i++ {
		switch doc[i] {
		case '"':
			for i++; doc[i] != '"'; i++ {
				if doc[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case ':':
			if depth == 0 {
				ok := false
				if name, ok = text(bytes.TrimSpace(doc[start:i])); !ok {
					return nil, false
				}
				start = i + 1
			}
		case ']', '}', ',':
			if depth == 0 { // a comma of this object, or its end
				if value := bytes.TrimSpace(doc[start:i]); len(value) > 0 {
					all[name] = value
				}
				start = i + 1
			} else if doc[i] != ',' {
				depth--
			}
		}
	}
	return all, true
}

// strictJSON checks one JSON value and its nested values.
func strictJSON(doc []byte) error {
	return strictjson.Check(doc, strictjson.Limits{Depth: maxDepth, Names: maxNames, Fold: true})
}
