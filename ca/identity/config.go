package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/sigstore/fulcio/pkg/config"
	"go.yaml.in/yaml/v3"
)

// Config names the issuers whose tokens are accepted. The three blocks and
// their fields are Fulcio's own YAML, accepted unchanged
// (fulcio config/identity/config.yaml); everything else is an addition.
//
//	oidc-issuers:
//	  https://login.corp.example:
//	    issuer-url: https://login.corp.example   # equals the key; may be left out
//	    client-id: sigstore                      # the audience tokens must name
//	    type: email                              # see IssuerRules
//	    jwks: /etc/redoubt/login-keys.json       # pinned: no network for this issuer
type Config struct {
	// Define is where Fulcio's own file keeps its YAML anchors. It is ignored.
	Define []any `yaml:"define,omitempty"`
	// OIDCIssuers maps an issuer URL, exactly as in the token's iss, to how its
	// tokens are read.
	OIDCIssuers map[string]IssuerRules `yaml:"oidc-issuers,omitempty"`
	// MetaIssuers maps a pattern of issuer URLs to how their tokens are read. "*"
	// stands for one or more of [-_a-zA-Z0-9]; the pattern is anchored at both
	// ends, an exact issuer wins, and of several matching patterns the longest.
	MetaIssuers map[string]IssuerRules `yaml:"meta-issuers,omitempty"`
	// CIIssuerMetadata holds the claim templates of type ci-provider, by the name
	// an issuer gives as ci-provider.
	CIIssuerMetadata map[string]config.IssuerMetadata `yaml:"ci-issuer-metadata,omitempty"`

	// Dir is where relative names of jwks files start; empty is the working
	// directory.
	Dir string `yaml:"-"`
	// Now is the clock; nil is time.Now.
	Now func() time.Time `yaml:"-"`
	// Logger receives refused fetches; nil discards.
	Logger *slog.Logger `yaml:"-"`
}

// IssuerRules is one entry of oidc-issuers or meta-issuers: Fulcio's fields
// (issuer-url, client-id, type, issuer-claim, subject-domain,
// spiffe-trust-domain, challenge-claim, description, contact, ca-cert,
// ci-provider, skip-email-verification) and these.
type IssuerRules struct {
	config.OIDCIssuer `yaml:",inline"`

	// JWKS pins the issuer's keys (RFC 7517): a JSON Web Key Set given inline, as
	// a mapping or a string, or the name of a file that holds one. With pinned
	// keys no discovery document and no key is ever fetched.
	JWKS JWKS `yaml:"jwks,omitempty"`
	// Algorithms narrows the signature algorithms accepted (RFC 7518, 8037).
	// Default: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512,
	// EdDSA.
	Algorithms []string `yaml:"algorithms,omitempty"`
	// JWKSHosts names further hosts (host or host:port) the issuer's discovery
	// document may send us to for keys. Default: the issuer's own host only.
	JWKSHosts []string `yaml:"jwks-hosts,omitempty"`
	// SingleAudience refuses tokens made for further audiences besides client-id.
	SingleAudience bool `yaml:"single-audience,omitempty"`
	// TokenUses is how many certificates one token may obtain; 0, the default, is
	// unlimited, as with Fulcio. 1 fits interactive logins. A retry with the same
	// key does not count.
	TokenUses int `yaml:"token-uses,omitempty"`
	// Pseudonyms is a domain, nobody's for mail, below which the people of an
	// issuer of type email get a name that tells nobody who they are: it stands in
	// certificates, logs and records in the place of their address and of the sub
	// claim. Only the register of the authority knows both.
	Pseudonyms string `yaml:"pseudonyms,omitempty"`
}

// JWKS is a pinned key set: at most one of the two fields is set.
type JWKS struct {
	// Inline is a JSON Web Key Set document.
	Inline json.RawMessage
	// File names a file that holds one.
	File string
}

// maxJWKS bounds a key set document in bytes.
const maxJWKS = 256 << 10

// set reports whether keys are pinned.
func (j JWKS) set() bool { return len(j.Inline) > 0 || j.File != "" }

// IsZero lets yaml leave an absent pin out.
func (j JWKS) IsZero() bool { return !j.set() }

// UnmarshalYAML reads a mapping or a string starting with "{" as the document,
// any other string as a file name.
func (j *JWKS) UnmarshalYAML(n *yaml.Node) error {
	switch n.Kind {
	case yaml.MappingNode:
		var doc map[string]any
		if err := n.Decode(&doc); err != nil {
			return err
		}
		raw, err := json.Marshal(doc)
		j.Inline = raw
		return err
	case yaml.ScalarNode:
		s := strings.TrimSpace(n.Value)
		if s == "" {
			return fmt.Errorf("line %d: jwks is empty: give a key set or the name of a file", n.Line)
		}
		if strings.HasPrefix(s, "{") {
			j.Inline = json.RawMessage(s)
			return nil
		}
		j.File = s
		return nil
	}
	return fmt.Errorf("line %d: jwks must be a key set or the name of a file", n.Line)
}

// MarshalYAML writes what UnmarshalYAML reads.
func (j JWKS) MarshalYAML() (any, error) {
	if j.File != "" {
		return j.File, nil
	}
	return string(j.Inline), nil
}

// load reads a file form into the inline form.
func (j JWKS) load(dir string) (JWKS, error) {
	if j.File == "" {
		if len(j.Inline) > maxJWKS {
			return JWKS{}, fmt.Errorf("jwks is larger than %d bytes", maxJWKS)
		}
		return j, nil
	}
	name := j.File
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	f, err := os.Open(name)
	if err != nil {
		return JWKS{}, fmt.Errorf("opening pinned keys: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxJWKS+1))
	if err != nil {
		return JWKS{}, fmt.Errorf("reading pinned keys: %w", err)
	}
	if len(raw) > maxJWKS {
		return JWKS{}, fmt.Errorf("%s is larger than %d bytes", name, maxJWKS)
	}
	return JWKS{Inline: raw}, nil
}

// ParseConfig reads the YAML of a Config strictly: an unknown or repeated key is
// an error that names the line. Fulcio's own configuration file parses as it is.
func ParseConfig(doc []byte) (Config, error) {
	var c Config
	d := yaml.NewDecoder(bytes.NewReader(doc))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return c, c.check()
}

// pseudonymDomain is what pseudonyms may be: host name labels (RFC 1123, 2.1), two or more, in lower case.
var pseudonymDomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?){1,3}$`)

// defaultAlgorithms are accepted unless an issuer says otherwise: signatures
// only, none with a shared secret.
var defaultAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func (i IssuerRules) algorithms() []string {
	if len(i.Algorithms) > 0 {
		return i.Algorithms
	}
	return defaultAlgorithms
}

// check validates everything that needs neither file nor network.
func (c Config) check() error {
	for name, iss := range c.OIDCIssuers {
		if iss.IssuerURL != "" && iss.IssuerURL != name {
			return fmt.Errorf("%w: issuer %q: issuer-url says %q; it must equal the key", ErrConfig, name, iss.IssuerURL)
		}
		if _, err := issuerURL(name); err != nil {
			return fmt.Errorf("%w: issuer %q: %w", ErrConfig, name, err)
		}
		if err := c.checkIssuer(name, iss); err != nil {
			return fmt.Errorf("%w: issuer %q: %w", ErrConfig, name, err)
		}
	}
	for pattern, iss := range c.MetaIssuers {
		if err := c.checkMeta(pattern, iss); err != nil {
			return fmt.Errorf("%w: meta issuer %q: %w", ErrConfig, pattern, err)
		}
	}
	for name, m := range c.CIIssuerMetadata {
		if err := checkTemplates(m); err != nil {
			return fmt.Errorf("%w: ci-issuer-metadata %q: %w", ErrConfig, name, err)
		}
	}
	return nil
}

// checkIssuer holds for both blocks.
func (c Config) checkIssuer(name string, i IssuerRules) error {
	if i.ClientID == "" {
		return errors.New("client-id is missing")
	}
	if _, ok := mappings[i.Type]; !ok {
		return fmt.Errorf("type %q is unknown", i.Type)
	}
	if i.IssuerClaim != "" && i.Type != config.IssuerTypeEmail {
		return errors.New("issuer-claim is for type email only")
	}
	if i.Type == config.IssuerTypeCIProvider {
		if _, ok := c.CIIssuerMetadata[i.CIProvider]; !ok {
			return fmt.Errorf("ci-provider %q has no entry in ci-issuer-metadata", i.CIProvider)
		}
	}
	for _, a := range i.Algorithms {
		if !slices.Contains(defaultAlgorithms, a) {
			return fmt.Errorf("algorithm %q is not one of %s", a, strings.Join(defaultAlgorithms, ", "))
		}
	}
	if i.Pseudonyms != "" && i.Type != config.IssuerTypeEmail {
		return errors.New("pseudonyms are for type email only")
	}
	if i.Pseudonyms != "" && !pseudonymDomain.MatchString(i.Pseudonyms) {
		return fmt.Errorf("pseudonyms %q is not a domain in lower case, such as pseudonym.corp.internal", clip(i.Pseudonyms))
	}
	if i.TokenUses < 0 {
		return errors.New("token-uses is negative")
	}
	if i.CACert != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(i.CACert)) {
		return errors.New("ca-cert holds no PEM certificate")
	}
	return checkSubjectDomain(name, i)
}

// checkMeta refuses patterns that reach beyond a domain somebody owns.
func (c Config) checkMeta(pattern string, i IssuerRules) error {
	u, err := issuerURL(strings.ReplaceAll(pattern, "*", "x"))
	if err != nil {
		return err
	}
	if !strings.Contains(pattern, "*") {
		return errors.New("has no *; put it into oidc-issuers")
	}
	if i.IssuerURL != "" {
		return errors.New("issuer-url has no meaning for a pattern")
	}
	// The host as written, and its last two labels without a wildcard.
	host := strings.SplitN(strings.SplitN(pattern, "//", 2)[1], "/", 2)[0]
	labels := strings.Split(host, ".")
	if tail := labels[max(0, len(labels)-2):]; strings.Contains(strings.Join(tail, "."), "*") || (len(labels) < 2 && u.Hostname() != "localhost") {
		return errors.New("the last two labels of the host must be written out")
	}
	if i.Type == config.IssuerTypeSpiffe {
		return errors.New("type spiffe needs one issuer per trust domain, not a pattern")
	}
	return c.checkIssuer(pattern, i)
}

// checkSubjectDomain repeats Fulcio's rules for the types that carry a domain.
func checkSubjectDomain(name string, i IssuerRules) error {
	switch i.Type {
	case config.IssuerTypeSpiffe:
		d := i.SPIFFETrustDomain
		if d == "" || strings.Trim(d, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" {
			return fmt.Errorf("spiffe-trust-domain %q is not a trust domain", d)
		}
	case config.IssuerTypeURI:
		d, err := url.Parse(i.SubjectDomain)
		if err != nil || d.Scheme == "" || d.Hostname() == "" {
			return fmt.Errorf("subject-domain %q of type uri must be a URL with scheme and host", i.SubjectDomain)
		}
		u, err := url.Parse(name)
		if err != nil {
			return err
		}
		if d.Scheme != u.Scheme {
			return fmt.Errorf("subject-domain has scheme %q, the issuer %q", d.Scheme, u.Scheme)
		}
		return sameDomain(d.Hostname(), u.Hostname())
	case config.IssuerTypeUsername:
		if i.SubjectDomain == "" || strings.Contains(i.SubjectDomain, "/") || strings.Contains(i.SubjectDomain, ":") {
			return fmt.Errorf("subject-domain %q of type username must be a host name without scheme", i.SubjectDomain)
		}
		u, err := url.Parse(name)
		if err != nil {
			return err
		}
		return sameDomain(i.SubjectDomain, u.Hostname())
	}
	return nil
}

// sameDomain demands equal hosts or equal last two labels (Fulcio
// pkg/config/config.go, validateAllowedDomain).
func sameDomain(subject, issuer string) error {
	if subject == issuer {
		return nil
	}
	s, i := strings.Split(subject, "."), strings.Split(issuer, ".")
	if len(s) < 2 || len(i) < 2 || !slices.Equal(s[len(s)-2:], i[len(i)-2:]) {
		return fmt.Errorf("subject-domain host %q and issuer host %q share no domain", subject, issuer)
	}
	return nil
}

// checkTemplates parses every template once, as Fulcio does at its start.
func checkTemplates(m config.IssuerMetadata) error {
	if strings.TrimSpace(m.SubjectAlternativeNameTemplate) == "" {
		return errors.New("subject-alternative-name-template is empty")
	}
	all := []string{m.SubjectAlternativeNameTemplate}
	for v, i := reflect.ValueOf(m.ExtensionTemplates), 0; i < v.NumField(); i++ {
		all = append(all, v.Field(i).String())
	}
	for _, s := range all {
		if _, err := template.New("").Option("missingkey=error").Parse(s); err != nil {
			return err
		}
	}
	return nil
}

// issuerURL accepts what an issuer may be called: an absolute http(s) URL with
// a host, and no user, query or fragment (OpenID Connect Discovery 1.0,
// section 2).
func issuerURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("is not a URL")
	}
	if (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" {
		return nil, errors.New("must be an http or https URL with a host")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(s, "#") {
		return nil, errors.New("must not carry a user, a query or a fragment")
	}
	if strings.Contains(u.Hostname(), "%") {
		return nil, errors.New("must not name an address zone")
	}
	return u, nil
}

// loopback reports whether host is this machine itself.
func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
