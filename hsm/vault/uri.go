package vault

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"redoubt.internal/hsm"
)

// Schemes of key URIs. OpenBao speaks the same API, and sigstore names its keys
// by the same two schemes (sigstore, pkg/signature/kms/hashivault).
const (
	Scheme        = "hashivault://"
	SchemeOpenBao = "openbao://"
)

const (
	maxURI     = 4 << 10
	maxName    = 128
	maxVersion = 1 << 24
)

// parameters of a URI that say where the server is, in canonical order. They
// repeat the keys of the configuration block; files only, never a secret.
var parameters = []string{"address", "ca-file", "system-roots", "namespace", "mount", "auth", "auth-mount", "token-file", "role-id", "secret-id-file", "role", "jwt-file", "cert-file", "key-file"}

// uri is a parsed key URI: SCHEME NAME ?version=N and connection parameters.
type uri struct {
	scheme  string
	name    string
	version int // 0: not given
	values  url.Values
}

// parseURI reads a URI strictly: what it does not know, it refuses.
func parseURI(s string) (*uri, error) {
	bad := func(format string, args ...any) (*uri, error) {
		return nil, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), hsm.ErrUnsupported)
	}
	if len(s) > maxURI {
		return bad("Vault key URI of %d octets, limit %d", len(s), maxURI)
	}
	u := &uri{scheme: Scheme}
	rest, ok := strings.CutPrefix(s, Scheme)
	if !ok {
		u.scheme = SchemeOpenBao
		if rest, ok = strings.CutPrefix(s, SchemeOpenBao); !ok {
			return bad("key URI begins with neither %q nor %q", Scheme, SchemeOpenBao)
		}
	}
	name, query, _ := strings.Cut(rest, "?")
	if !isPrefix(name) {
		return bad("Vault key name %q is not letters, digits, '-', '_' and '.' (128 at most, the first no '-' or '.')", clip(name))
	}
	u.name = name
	var err error
	if u.values, err = url.ParseQuery(query); err != nil || strings.Contains(s, "#") {
		return bad("Vault key URI with a malformed query")
	}
	for key, values := range u.values {
		switch {
		case len(values) > 1:
			return bad("Vault key URI with %s given twice", clip(key))
		case strings.ContainsFunc(values[0], func(r rune) bool { return r < 0x20 || r == 0x7f }):
			return bad("Vault key URI with a control character in %s", clip(key))
		case key == "version":
			if u.version, err = strconv.Atoi(values[0]); err != nil || u.version < 1 || u.version > maxVersion || strconv.Itoa(u.version) != values[0] {
				return bad("Vault key version %q is not a number from 1", clip(values[0]))
			}
		case !slices.Contains(parameters, key):
			return bad("Vault key URI with unknown parameter %q; there are version, %s", clip(key), strings.Join(parameters, ", "))
		case values[0] == "":
			return bad("Vault key URI with an empty %s", key)
		}
	}
	if v := u.values.Get("system-roots"); v != "" && v != "true" {
		return bad("Vault key URI with system-roots=%s; the only value is true", clip(v))
	}
	delete(u.values, "version")
	return u, nil
}

// String is the canonical spelling.
func (u *uri) String() string {
	var query []string
	if u.version > 0 {
		query = append(query, "version="+strconv.Itoa(u.version))
	}
	if rest := u.encodeValues(); rest != "" {
		query = append(query, rest)
	}
	s := u.scheme + u.name
	if len(query) > 0 {
		s += "?" + strings.Join(query, "&")
	}
	return s
}

// encodeValues writes the connection parameters in their canonical order, paths
// and addresses readable.
func (u *uri) encodeValues() string {
	var out []string
	for _, key := range parameters {
		if v := u.values.Get(key); v != "" {
			out = append(out, key+"="+strings.NewReplacer("%2F", "/", "%3A", ":").Replace(url.QueryEscape(v)))
		}
	}
	return strings.Join(out, "&")
}

// field returns the configuration's text field of a parameter.
func (c *Config) field(parameter string) *string {
	return map[string]*string{
		"address": &c.Address, "ca-file": &c.CAFile, "namespace": &c.Namespace, "mount": &c.Mount, "auth": &c.Auth, "auth-mount": &c.AuthMount,
		"token-file": &c.TokenFile, "role-id": &c.RoleID, "secret-id-file": &c.SecretIDFile, "role": &c.Role, "jwt-file": &c.JWTFile,
		"cert-file": &c.CertFile, "key-file": &c.KeyFile,
	}[parameter]
}

// With adds the connection parameters of a URI to the configuration. A parameter
// that contradicts the configuration is an error, not a choice.
func (c Config) With(keyURI string) (Config, error) {
	u, err := parseURI(keyURI)
	if err != nil {
		return c, err
	}
	for key, values := range u.values {
		if key == "system-roots" {
			c.SystemRoots = true
			continue
		}
		f := c.field(key)
		if *f != "" && *f != values[0] {
			return c, fmt.Errorf("Vault key URI says %s=%s, the configuration %s: %w", key, clip(values[0]), clip(*f), hsm.ErrUnsupported)
		}
		*f = values[0]
	}
	return c, nil
}

// TokenURI cuts a key URI down to what names the server: scheme and connection
// parameters. A URI that does not parse is returned as it is, for Open to refuse.
func TokenURI(keyURI string) string {
	u, err := parseURI(keyURI)
	if err != nil {
		return keyURI
	}
	u.name, u.version = "", 0
	return u.String()
}

// KeyURI names version 1 of the key called name in the engine token points at; a
// name in token is a prefix. A token URI that does not parse is extended as it
// is, for Open to refuse.
func KeyURI(token, name string) string {
	u, err := parseURI(token)
	if err != nil {
		return token + name
	}
	u.name, u.version = u.name+name, 1
	return u.String()
}

// CheckKeyURI refuses a URI that does not name one version of one key.
func CheckKeyURI(keyURI string) error {
	_, err := parseKeyURI(keyURI)
	return err
}

func parseKeyURI(s string) (*uri, error) {
	u, err := parseURI(s)
	if err != nil {
		return nil, err
	}
	if u.name == "" || strings.HasSuffix(u.name, "-") || strings.HasSuffix(u.name, ".") {
		return nil, fmt.Errorf("Vault key URI names no key (a name does not end in '-' or '.'): %w", hsm.ErrUnsupported)
	}
	if u.version == 0 {
		return nil, fmt.Errorf("Vault key URI %s pins no version; a new key's first is ?version=1: %w", u, hsm.ErrUnsupported)
	}
	return u, nil
}

// keyURI parses the URI of a key of this token; it must agree with the token about
// the server.
func (t *Token) keyURI(s string) (*uri, error) {
	u, err := parseKeyURI(s)
	if err != nil {
		return nil, err
	}
	given, err := Config{}.With(s)
	if err != nil {
		return nil, err
	}
	for _, key := range parameters {
		if key == "system-roots" {
			continue
		}
		want, have := *t.cfg.field(key), *given.field(key)
		if have != "" && strings.Trim(have, "/") != strings.Trim(want, "/") {
			return nil, fmt.Errorf("Vault key URI says %s=%s, the open token has %q: %w", key, clip(have), want, hsm.ErrUnsupported)
		}
	}
	return u, nil
}

// isPrefix: the beginning of a name by Vault's own rule for names in paths
// (framework.GenericNameRegex); the whole must not end in '-' or '.' either.
func isPrefix(s string) bool {
	if len(s) > maxName || strings.HasPrefix(s, "-") || strings.HasPrefix(s, ".") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) && r != '-' && r != '.' })
}

func isWord(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_'
}

// isPath: elements of a mount or namespace path. Dots alone would climb.
func isPath(s string) bool {
	if len(s) > 256 {
		return false
	}
	for element := range strings.SplitSeq(s, "/") {
		if strings.Trim(element, ".") == "" || strings.ContainsFunc(element, func(r rune) bool { return !isWord(r) && r != '-' && r != '.' }) {
			return false
		}
	}
	return true
}

// clip shortens what comes from outside for an error.
func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "..."
	}
	return s
}
