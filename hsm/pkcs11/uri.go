package pkcs11

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	pkcs11uri "github.com/stefanberger/go-pkcs11uri"

	"redoubt.internal/hsm"
)

// Scheme begins every key URI of this package (RFC 7512).
const Scheme = "pkcs11:"

// maxURI bounds what is parsed.
const maxURI = 4 << 10

// uri is a parsed PKCS#11 URI. Empty fields were absent.
type uri struct {
	token, serial, manufacturer, model string
	object                             string
	id                                 []byte
	modulePath, pinSource              string
	pinValue                           string // never printed
	raw                                *pkcs11uri.Pkcs11URI
}

var (
	pathAttributes  = []string{"token", "serial", "manufacturer", "model", "object", "id", "type"}
	queryAttributes = []string{"module-path", "pin-source", "pin-value"}
)

// parseURI reads a PKCS#11 URI strictly: attributes outside RFC 7512 and those
// that select by something unstable (slot-id) are refused rather than ignored,
// so that a misspelt attribute cannot widen the match.
func parseURI(s string) (*uri, error) {
	if len(s) > maxURI {
		return nil, fmt.Errorf("PKCS#11 URI of %d octets, limit %d: %w", len(s), maxURI, hsm.ErrUnsupported)
	}
	if !strings.HasPrefix(s, Scheme) {
		return nil, fmt.Errorf("key URI does not begin with %q: %w", Scheme, hsm.ErrUnsupported)
	}
	if err := knownAttributes(s); err != nil {
		return nil, fmt.Errorf("%w: %w", err, hsm.ErrUnsupported)
	}
	p := pkcs11uri.New()
	if err := p.Parse(s); err != nil {
		return nil, fmt.Errorf("parsing PKCS#11 URI %s: %w: %w", redact(s), errors.New(redact(err.Error())), hsm.ErrUnsupported)
	}
	u := &uri{raw: p}
	for name, field := range map[string]*string{"token": &u.token, "serial": &u.serial, "manufacturer": &u.manufacturer, "model": &u.model, "object": &u.object} {
		*field, _ = p.GetPathAttribute(name, false)
		if strings.ContainsRune(*field, 0) {
			return nil, fmt.Errorf("PKCS#11 URI with a NUL in %s: %w", name, hsm.ErrUnsupported)
		}
	}
	if id, ok := p.GetPathAttribute("id", false); ok {
		if id == "" {
			return nil, fmt.Errorf("PKCS#11 URI with an empty id: %w", hsm.ErrUnsupported)
		}
		u.id = []byte(id)
	}
	if typ, ok := p.GetPathAttribute("type", false); ok && typ != "private" {
		return nil, fmt.Errorf("PKCS#11 URI of type %q, expected private: %w", typ, hsm.ErrUnsupported)
	}
	u.modulePath, _ = p.GetQueryAttribute("module-path", false)
	u.pinSource, _ = p.GetQueryAttribute("pin-source", false)
	u.pinValue, _ = p.GetQueryAttribute("pin-value", false)
	return u, nil
}

// knownAttributes refuses attribute names this package does not act on.
func knownAttributes(s string) error {
	path, query, hasQuery := strings.Cut(strings.TrimPrefix(s, Scheme), "?")
	check := func(part, sep string, known []string) error {
		for _, a := range strings.Split(part, sep) {
			name, _, _ := strings.Cut(a, "=")
			if !slices.Contains(known, name) {
				return fmt.Errorf("PKCS#11 URI attribute %q is not supported, known are %s", name, strings.Join(known, ", "))
			}
		}
		return nil
	}
	if path != "" {
		if err := check(path, ";", pathAttributes); err != nil {
			return err
		}
	}
	if hasQuery {
		return check(query, "&", queryAttributes)
	}
	return nil
}

// module returns the shared object the URI names, if the list allows it.
func (u *uri) module(allowed []string) (string, error) {
	if u.modulePath == "" {
		return "", fmt.Errorf("PKCS#11 URI names no module-path: %w", hsm.ErrUnsupported)
	}
	if slices.Contains(allowed, "") {
		return "", errors.New("list of allowed PKCS#11 modules has an empty entry")
	}
	if strings.Contains(u.modulePath, "/../") || strings.Contains(u.modulePath, "/./") || strings.Contains(u.modulePath, "//") {
		return "", fmt.Errorf("module-path %s is not a plain path: %w", u.modulePath, hsm.ErrUnsupported)
	}
	u.raw.SetAllowedModulePaths(allowed)
	path, err := u.raw.GetModule()
	if err != nil {
		return "", fmt.Errorf("PKCS#11 module %s%s: %w (allowed: %s; modules found: %s): %w", u.modulePath, configHint(u.modulePath), err, strings.Join(allowed, " "), foundModules(u.modulePath, allowed), hsm.ErrUnsupported)
	}
	return path, nil
}

// foundModules lists shared objects where a module was looked for, for the error
// of a wrong path.
func foundModules(path string, allowed []string) string {
	var found []string
	for _, place := range append([]string{filepath.Dir(path) + "/"}, allowed...) {
		files, _ := filepath.Glob(filepath.Join(filepath.Dir(place), "*.so*"))
		for _, f := range files {
			if !slices.Contains(found, f) && len(found) < 12 {
				found = append(found, f)
			}
		}
	}
	if len(found) == 0 {
		return "none"
	}
	return strings.Join(found, " ")
}

// configHint names the environment a module is configured by, since a missing
// one shows only as "no token".
func configHint(path string) string {
	base := filepath.Base(path)
	for _, h := range []struct{ match, env string }{
		{"softhsm", "SOFTHSM2_CONF"}, {"tpm2_pkcs11", "TPM2_PKCS11_STORE"}, {"yubihsm", "YUBIHSM_PKCS11_CONF"},
		{"CryptoServer", "CS_PKCS11_R3_CFG"}, {"cs_pkcs11", "CS_PKCS11_R3_CFG"}, {"cryptoki", "ChrystokiConfigurationPath"},
		{"cknfast", "CKNFAST_LOADSHARING"}, {"opencryptoki", "OPENCRYPTOKI_TRACE_LEVEL"},
	} {
		if strings.Contains(base, h.match) {
			if v := os.Getenv(h.env); v != "" {
				return fmt.Sprintf(" (%s=%s)", h.env, v)
			}
			return fmt.Sprintf(" (%s is not set)", h.env)
		}
	}
	return ""
}

// pinPath returns the file pin-source names, "" when there is none.
func (u *uri) pinPath() (string, error) {
	if u.pinSource == "" {
		return "", nil
	}
	path := u.pinSource
	if rest, ok := strings.CutPrefix(path, "file:"); ok {
		p, err := url.Parse("file:" + rest)
		if err != nil || p.Host != "" && p.Host != "localhost" {
			return "", fmt.Errorf("pin-source %q is not a local file: %w", u.pinSource, hsm.ErrUnsupported)
		}
		path = p.Path
	}
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("pin-source %q is not an absolute path or file: URI: %w", u.pinSource, hsm.ErrUnsupported)
	}
	return path, nil
}

// sameToken refuses a key URI that names another token or module than t.
func (u *uri) sameToken(t *uri) error {
	for _, a := range []struct{ name, key, token string }{
		{"token", u.token, t.token}, {"serial", u.serial, t.serial},
		{"manufacturer", u.manufacturer, t.manufacturer}, {"model", u.model, t.model},
		{"module-path", u.modulePath, t.modulePath},
	} {
		if a.key != "" && a.key != a.token {
			return fmt.Errorf("key URI names %s %q, the open token has %q: %w", a.name, a.key, a.token, hsm.ErrUnsupported)
		}
	}
	return nil
}

// canonicalURI writes the canonical URI of a key, without any PIN.
func canonicalURI(token, serial, object string, id []byte, module string) string {
	var b strings.Builder
	b.WriteString(Scheme)
	sep := ""
	add := func(name, value string) {
		if value != "" {
			b.WriteString(sep + name + "=" + escape(value))
			sep = ";"
		}
	}
	add("token", token)
	add("serial", serial)
	add("object", object)
	if len(id) > 0 {
		b.WriteString(sep + "id=")
		for _, o := range id {
			b.WriteString("%" + hex.EncodeToString([]byte{o}))
		}
		sep = ";"
	}
	b.WriteString(sep + "type=private?module-path=" + strings.ReplaceAll(escape(module), "%2F", "/"))
	return b.String()
}

// escape percent-encodes everything but the unreserved characters of RFC 3986.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// redact blanks the value of pin-value wherever it stands in s.
func redact(s string) string {
	const name = "pin-value="
	i := strings.Index(s, name)
	if i < 0 {
		return s
	}
	rest := s[i+len(name):]
	if end := strings.IndexByte(rest, '&'); end >= 0 {
		return s[:i+len(name)] + "***" + redact(rest[end:])
	}
	return s[:i+len(name)] + "***"
}
