package ceremony

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"redoubt.internal/ca/lint"
	"redoubt.internal/hsm"
)

// Roles of keys. Every role has its own key; no key signs for two.
const (
	RoleRoot            = "root"             // self-signed anchor of both chains
	RoleIssuing         = "issuing"          // code-signing certificates
	RoleTSAIntermediate = "tsa-intermediate" // optional, between root and tsa
	RoleTSA             = "tsa"              // time-stamp tokens
	RoleRekor           = "rekor"            // artifact log, Rekor v1
	RoleRekor2          = "rekor-2"          // artifact log of Rekor v2, optional
	RoleCT              = "ct"               // certificate transparency log
	RoleAudit           = "audit"            // audit log
	RoleTUF             = "tuf"              // trust repository
	RoleOIDC            = "oidc"             // built-in issuer
	RoleExporter        = "exporter"         // parcels of the mirror
)

// ErrPlan: the plan cannot be carried out as it stands.
var ErrPlan = errors.New("ceremony plan refused")

// maxPlan bounds a plan file.
const maxPlan = 64 << 10

// planVersion is the format of the plan this package reads.
const planVersion = 1

// Plan is everything a ceremony needs to know. It holds no secret: PINs and
// passphrases come from where the tokens' configuration says.
type Plan struct {
	// Version of the plan format: 1.
	Version int `yaml:"version"`
	// Domain of the deployment, for example corp.internal.
	Domain string `yaml:"domain"`
	// Organization is the O of every certificate's subject.
	Organization string `yaml:"organization"`
	// BackdateSeconds sets notBefore this far before the ceremony, so that
	// clients whose clocks are late accept what is made; 0 to 86400.
	BackdateSeconds int `yaml:"backdateSeconds"`
	// Keys says where each role's key is made.
	Keys Keys `yaml:"keys"`
	// Certificates says what is issued over the keys.
	Certificates Certificates `yaml:"certificates"`

	// text is the file the plan was read from, comments and all.
	text []byte
}

// Keys names each role's key. TSAIntermediate and Rekor2 are optional, the others are not.
type Keys struct {
	Root            *KeyPlan `yaml:"root"`
	Issuing         *KeyPlan `yaml:"issuing"`
	TSAIntermediate *KeyPlan `yaml:"tsa-intermediate,omitempty"`
	TSA             *KeyPlan `yaml:"tsa"`
	Rekor           *KeyPlan `yaml:"rekor"`
	Rekor2          *KeyPlan `yaml:"rekor-2,omitempty"`
	CT              *KeyPlan `yaml:"ct"`
	Audit           *KeyPlan `yaml:"audit"`
	TUF             *KeyPlan `yaml:"tuf"`
	OIDC            *KeyPlan `yaml:"oidc"`
	Exporter        *KeyPlan `yaml:"exporter"`
}

// KeyPlan is one key to make.
type KeyPlan struct {
	// URI of the key: "soft:PATH" or "pkcs11:...;object=NAME". A pin-value is refused.
	URI string `yaml:"uri"`
	// Algorithm: ecdsa-p256, ecdsa-p384, rsa-3072, rsa-4096 or ed25519.
	Algorithm hsm.Algorithm `yaml:"algorithm"`
}

// Certificates are those a ceremony issues.
type Certificates struct {
	Root            *CertificatePlan `yaml:"root"`
	Issuing         *CertificatePlan `yaml:"issuing"`
	TSAIntermediate *CertificatePlan `yaml:"tsa-intermediate,omitempty"`
	TSA             *CertificatePlan `yaml:"tsa"`
}

// CertificatePlan is one certificate to issue.
type CertificatePlan struct {
	// CommonName of the subject.
	CommonName string `yaml:"commonName"`
	// Days of validity from notBefore; never past the issuer's.
	Days int `yaml:"days"`
}

// Default is the plan of a new deployment: P-384 root, P-256 elsewhere (what
// the unmodified clients verify), RSA-3072 for the built-in issuer (cosign
// takes an identity token inline only when it is RS256), the time-stamping
// certificate directly below the root. keyURI names each role's key; "" leaves
// the role out.
func Default(domain string, keyURI func(role string) string) Plan {
	key := func(role string, alg hsm.Algorithm) *KeyPlan {
		if uri := keyURI(role); uri != "" {
			return &KeyPlan{uri, alg}
		}
		return nil
	}
	return Plan{
		Version: planVersion, Domain: domain, Organization: domain, BackdateSeconds: 60,
		Keys: Keys{
			Root: key(RoleRoot, hsm.ECDSAP384), Issuing: key(RoleIssuing, hsm.ECDSAP256), TSA: key(RoleTSA, hsm.ECDSAP256),
			Rekor: key(RoleRekor, hsm.ECDSAP256), Rekor2: key(RoleRekor2, hsm.ECDSAP256), CT: key(RoleCT, hsm.ECDSAP256), Audit: key(RoleAudit, hsm.ECDSAP256),
			TUF: key(RoleTUF, hsm.ECDSAP256), OIDC: key(RoleOIDC, hsm.RSA3072), Exporter: key(RoleExporter, hsm.ECDSAP256),
		},
		Certificates: Certificates{
			Root:    &CertificatePlan{"Redoubt Root", 3653},
			Issuing: &CertificatePlan{"Redoubt Issuing CA", 1826},
			TSA:     &CertificatePlan{"Redoubt Time Stamping", 1826},
		},
	}
}

// roleKey is a key with its role.
type roleKey struct {
	role string
	KeyPlan
}

// all lists the roles in the order of generation; nil where absent.
func (k *Keys) all() []struct {
	role string
	key  *KeyPlan
} {
	return []struct {
		role string
		key  *KeyPlan
	}{
		{RoleRoot, k.Root}, {RoleIssuing, k.Issuing}, {RoleTSAIntermediate, k.TSAIntermediate}, {RoleTSA, k.TSA}, {RoleRekor, k.Rekor}, {RoleRekor2, k.Rekor2},
		{RoleCT, k.CT}, {RoleAudit, k.Audit}, {RoleTUF, k.TUF}, {RoleOIDC, k.OIDC}, {RoleExporter, k.Exporter},
	}
}

// roles lists the keys to make.
func (p *Plan) roles() []roleKey {
	var out []roleKey
	for _, k := range p.Keys.all() {
		if k.key != nil {
			out = append(out, roleKey{k.role, *k.key})
		}
	}
	return out
}

// certificate is a certificate to issue, with everything the plan implies.
type certificate struct {
	role, issuer string
	CertificatePlan
	profile lint.Profile
}

// certificates lists the certificates to issue, parents first.
func (p *Plan) certificates() []certificate {
	out := []certificate{
		{RoleRoot, RoleRoot, *p.Certificates.Root, lint.Root},
		{RoleIssuing, RoleRoot, *p.Certificates.Issuing, lint.Issuing},
	}
	tsaIssuer := RoleRoot
	if p.Certificates.TSAIntermediate != nil {
		tsaIssuer = RoleTSAIntermediate
		out = append(out, certificate{RoleTSAIntermediate, RoleRoot, *p.Certificates.TSAIntermediate, lint.TSAIntermediate})
	}
	return append(out, certificate{RoleTSA, tsaIssuer, *p.Certificates.TSA, lint.TSALeaf})
}

// backdate is BackdateSeconds as a duration.
func (p *Plan) backdate() time.Duration { return time.Duration(p.BackdateSeconds) * time.Second }

var domainName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate says everything that is wrong with the plan, not only the first.
func (p *Plan) Validate() error {
	var bad []string
	want := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	text := func(s string) bool {
		return s != "" && len(s) <= 64 && strings.TrimSpace(s) == s && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '�' })
	}
	want(p.Version == planVersion, "version is %d, expected %d", p.Version, planVersion)
	want(len(p.Domain) <= 200 && domainName.MatchString(p.Domain), "domain %q is not a lower-case DNS name", p.Domain)
	want(text(p.Organization), "organization %q is empty, longer than 64 octets or not plain text", p.Organization)
	want(p.BackdateSeconds >= 0 && p.BackdateSeconds <= 86400, "backdateSeconds is %d, allowed are 0 to 86400", p.BackdateSeconds)
	uris := map[string]string{}
	for _, k := range p.Keys.all() {
		if k.key == nil {
			want(k.role == RoleTSAIntermediate || k.role == RoleRekor2, "keys.%s is missing", k.role)
			continue
		}
		want(k.key.URI != "" && len(k.key.URI) <= 4096, "keys.%s.uri is empty or too long", k.role)
		want(!strings.Contains(k.key.URI, "pin-value"), "keys.%s.uri holds a pin-value; expected pin-source, the plan goes into the transcript", k.role)
		want(!strings.ContainsFunc(k.key.URI, func(r rune) bool { return r < 0x20 || r == 0x7f }), "keys.%s.uri holds control characters", k.role)
		want(slices.Contains(hsm.Algorithms(), k.key.Algorithm), "keys.%s.algorithm is %q, known are %v", k.role, k.key.Algorithm, hsm.Algorithms())
		other, dup := uris[k.key.URI]
		want(!dup, "keys.%s and keys.%s have one URI; no key serves two roles", other, k.role)
		uris[k.key.URI] = k.role
	}
	for _, role := range []string{RoleRekor, RoleRekor2, RoleCT, RoleTSA} {
		for _, k := range p.roles() {
			want(k.role != role || k.Algorithm == hsm.ECDSAP256, "keys.%s.algorithm is %s; clients verify only ecdsa-p256 there", role, k.Algorithm)
		}
	}
	c := p.Certificates
	for _, e := range []struct {
		role string
		plan *CertificatePlan
	}{{RoleRoot, c.Root}, {RoleIssuing, c.Issuing}, {RoleTSAIntermediate, c.TSAIntermediate}, {RoleTSA, c.TSA}} {
		if e.plan == nil {
			want(e.role == RoleTSAIntermediate, "certificates.%s is missing", e.role)
			continue
		}
		want(text(e.plan.CommonName), "certificates.%s.commonName %q is empty, longer than 64 octets or not plain text", e.role, e.plan.CommonName)
		want(e.plan.Days >= 1 && e.plan.Days <= 36525, "certificates.%s.days is %d, allowed are 1 to 36525", e.role, e.plan.Days)
		want(c.Root == nil || e.plan.Days <= c.Root.Days, "certificates.%s.days is longer than the root's", e.role)
		want(c.Root == nil || e.role == RoleRoot || e.plan.CommonName != c.Root.CommonName, "certificates.%s has the root's commonName", e.role)
	}
	want((p.Keys.TSAIntermediate == nil) == (c.TSAIntermediate == nil), "tsa-intermediate needs a key and a certificate, or neither")
	want(c.TSAIntermediate == nil || c.TSA == nil || c.TSA.Days <= c.TSAIntermediate.Days, "certificates.tsa.days is longer than its issuer's")
	if len(bad) > 0 {
		return fmt.Errorf("%w: %s", ErrPlan, strings.Join(bad, "; "))
	}
	return nil
}

// ParsePlan reads a plan strictly: one YAML document, no unknown or repeated
// keys. Errors name the line.
func ParsePlan(data []byte) (Plan, error) {
	var p Plan
	if len(data) > maxPlan {
		return p, fmt.Errorf("%w: %d octets, limit %d", ErrPlan, len(data), maxPlan)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil {
		return Plan{}, fmt.Errorf("%w: %s", ErrPlan, explain(err))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Plan{}, fmt.Errorf("%w: more than one YAML document", ErrPlan)
	}
	p.text = bytes.Clone(data)
	return p, p.Validate()
}

// source is the text that goes into the transcript: the reviewed file, octet by
// octet, when the plan was read from one and still says the same; else YAML.
func (p *Plan) source() []byte {
	if p.text != nil {
		read, err := ParsePlan(p.text)
		if err == nil && reflect.DeepEqual(read, *p) {
			return p.text
		}
	}
	return p.YAML()
}

var unknownField = regexp.MustCompile(`field (\S+) not found in type ceremony\.(\w+)`)

// explain turns the YAML library's words into the operator's.
func explain(err error) string {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		return strings.TrimPrefix(err.Error(), "yaml: ")
	}
	var out []string
	for _, e := range te.Errors {
		out = append(out, unknownField.ReplaceAllStringFunc(e, func(m string) string {
			part := unknownField.FindStringSubmatch(m)
			return fmt.Sprintf("unknown key %q, known here are %s", part[1], strings.Join(knownKeys(part[2]), ", "))
		}))
	}
	return strings.Join(out, "; ")
}

// knownKeys lists the YAML keys of one of the plan's types.
func knownKeys(name string) []string {
	for _, v := range []any{Plan{}, Keys{}, KeyPlan{}, Certificates{}, CertificatePlan{}} {
		if t := reflect.TypeOf(v); t.Name() == name {
			var keys []string
			for i := range t.NumField() {
				key, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
				keys = append(keys, key)
			}
			return keys
		}
	}
	return nil
}

// YAML writes the plan as the commented file an operator edits and reviews.
// ParsePlan reads it back to an equal plan.
func (p *Plan) YAML() []byte {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Plan of a Redoubt key ceremony. It is the only input of `redoubt ceremony run`,")
	line("# is copied into the signed transcript, and holds no secret.")
	line("version: %d", p.Version)
	line("# DNS domain of the deployment; part of every log's name for good.")
	line("domain: %s", quote(p.Domain))
	line("# O of every certificate.")
	line("organization: %s", quote(p.Organization))
	line("# notBefore lies this long before the ceremony, for clients whose clocks are late.")
	line("backdateSeconds: %d", p.BackdateSeconds)
	line("# One key per role, made in the token its URI names; no key serves two roles.")
	line("# algorithm: ecdsa-p256, ecdsa-p384, rsa-3072, rsa-4096 or ed25519.")
	line("keys:")
	for _, k := range p.roles() {
		line("  %s:", k.role)
		line("    uri: %s", quote(k.URI))
		line("    algorithm: %s", quote(string(k.Algorithm)))
	}
	line("# days of validity; nothing outlives its issuer.")
	line("certificates:")
	for _, c := range []struct {
		role string
		plan *CertificatePlan
	}{{RoleRoot, p.Certificates.Root}, {RoleIssuing, p.Certificates.Issuing}, {RoleTSAIntermediate, p.Certificates.TSAIntermediate}, {RoleTSA, p.Certificates.TSA}} {
		if c.plan != nil {
			line("  %s:", c.role)
			line("    commonName: %s", quote(c.plan.CommonName))
			line("    days: %d", c.plan.Days)
		}
	}
	return []byte(b.String())
}

// quote writes a YAML single-quoted scalar.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
