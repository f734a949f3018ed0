package ceremony

import (
	"crypto/x509"
	"errors"
	"time"

	"redoubt.internal/ca/lint"
	"redoubt.internal/hsm"
)

// Roles of keys. Every role has its own key; no key signs for two. A further
// key of an online role is named ROLE-N: rekor-3, ct-2, tuf-2.
const (
	RoleRoot            = "root"             // self-signed anchor of both chains
	RoleSuccessor       = "root-successor"   // optional: the next root, cross-signed by this one in advance
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

	RoleAuthority = "authority" // not made here: the existing key that signs the plan's certificates
	RoleSubject   = "subject"   // not made here: another party's root, to be cross-signed
)

// Names of cross certificates: whose key, by whose.
const (
	CrossRootByAuthority  = "root-by-authority"      // the new root, for those who know the old one
	CrossAuthorityByRoot  = "authority-by-root"      // the old root, for those who know the new one
	CrossSuccessorByRoot  = "root-successor-by-root" // the successor, for those who know the root
	CrossSubjectAuthority = "subject-by-authority"   // another party's root
)

// Kind is what a ceremony is for; it decides which parts a plan has.
type Kind string

// The kinds of ceremony.
const (
	Found       Kind = "found"        // every key and certificate of a new deployment
	OfflineRoot Kind = "offline-root" // the same, the root's token on a machine without network
	Rotate      Kind = "rotate"       // new keys of some roles, certified by an existing authority
	RotateRoot  Kind = "rotate-root"  // a new root, cross-signed by the old one and back
	CrossSign   Kind = "cross-sign"   // a certificate over another party's root
	Custodians  Kind = "custodians"   // who may approve ceremonies from now on
)

// Kinds lists every Kind.
func Kinds() []Kind { return []Kind{Found, OfflineRoot, Rotate, RotateRoot, CrossSign, Custodians} }

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
	// Kind of the ceremony.
	Kind Kind `yaml:"kind"`
	// Domain of the deployment, for example corp.internal.
	Domain string `yaml:"domain"`
	// Profile is dev or production. Production refuses a root that dies with one
	// machine and has no cross-signed successor elsewhere.
	Profile string `yaml:"profile"`
	// Organization is the O of every certificate's subject.
	Organization string `yaml:"organization,omitempty"`
	// BackdateSeconds sets notBefore this far before the ceremony, so that
	// clients whose clocks are late accept what is made; 0 to 86400.
	BackdateSeconds int `yaml:"backdateSeconds"`
	// Operators approve the plan before it runs; nil: nobody is asked.
	Operators *Operators `yaml:"operators,omitempty"`
	// Authority is the existing key that signs, with its chain.
	Authority *Authority `yaml:"authority,omitempty"`
	// Subject is another party's root certificate, for cross-sign.
	Subject *Subject `yaml:"subject,omitempty"`
	// Keys says where each role's key is made.
	Keys Keys `yaml:"keys,omitempty"`
	// Certificates says what is issued over the keys.
	Certificates Certificates `yaml:"certificates,omitempty"`
	// Backup declares how the vendor's means copy the new keys; nil is none.
	Backup *Backup `yaml:"backup,omitempty"`
	// Custodians is the change of the register, for kind custodians.
	Custodians *Change `yaml:"custodians,omitempty"`

	// text is the file the plan was read from, comments and all.
	text []byte
}

// Keys names each role's key.
type Keys struct {
	Root            *KeyPlan `yaml:"root,omitempty"`
	Successor       *KeyPlan `yaml:"root-successor,omitempty"`
	Issuing         *KeyPlan `yaml:"issuing,omitempty"`
	TSAIntermediate *KeyPlan `yaml:"tsa-intermediate,omitempty"`
	TSA             *KeyPlan `yaml:"tsa,omitempty"`
	Rekor           *KeyPlan `yaml:"rekor,omitempty"`
	Rekor2          *KeyPlan `yaml:"rekor-2,omitempty"`
	CT              *KeyPlan `yaml:"ct,omitempty"`
	Audit           *KeyPlan `yaml:"audit,omitempty"`
	TUF             *KeyPlan `yaml:"tuf,omitempty"`
	OIDC            *KeyPlan `yaml:"oidc,omitempty"`
	Exporter        *KeyPlan `yaml:"exporter,omitempty"`
	// Further keys of online roles, by ROLE-N.
	Further map[string]*KeyPlan `yaml:",inline"`
}

// KeyPlan is one key to make.
type KeyPlan struct {
	// URI of the key: "soft:PATH" or "pkcs11:...;object=NAME". A pin-value is refused.
	URI string `yaml:"uri"`
	// Algorithm: ecdsa-p256, ecdsa-p384, rsa-3072, rsa-4096 or ed25519.
	Algorithm hsm.Algorithm `yaml:"algorithm"`
}

// Authority is a key that exists already and signs what the plan makes.
type Authority struct {
	// URI of its key.
	URI string `yaml:"uri"`
	// Chain is its certificate, then those above it up to the root: PEM.
	Chain string `yaml:"chain"`
	// Offline is true when the key is on a machine without network: the ceremony
	// is then held in parts, as that of an offline root is.
	Offline bool `yaml:"offline,omitempty"`
}

// Subject is a certificate of somebody else's key.
type Subject struct {
	// Certificate is the self-signed root, PEM.
	Certificate string `yaml:"certificate"`
}

// Certificates are those a ceremony issues.
type Certificates struct {
	Root            *CertificatePlan `yaml:"root,omitempty"`
	Successor       *CertificatePlan `yaml:"root-successor,omitempty"`
	Issuing         *CertificatePlan `yaml:"issuing,omitempty"`
	TSAIntermediate *CertificatePlan `yaml:"tsa-intermediate,omitempty"`
	TSA             *CertificatePlan `yaml:"tsa,omitempty"`
	// Cross is the life of every cross certificate the kind implies.
	Cross *CrossPlan `yaml:"cross,omitempty"`
}

// CertificatePlan is one certificate to issue.
type CertificatePlan struct {
	// CommonName of the subject.
	CommonName string `yaml:"commonName"`
	// Days of validity from notBefore; never past the issuer's.
	Days int `yaml:"days"`
}

// CrossPlan is the life of cross certificates, whose names are those of the keys they speak for.
type CrossPlan struct {
	// Days of validity from notBefore; never past the issuer's.
	Days int `yaml:"days"`
}

// Backup declares a copy of keys that the token vendor's own means make.
// Nothing here extracts a key: the declaration and the operator's statement are
// recorded.
type Backup struct {
	// Profile is none, wrapped (an encrypted blob under the vendor's wrapping key)
	// or cloned (a second token that holds the same keys).
	Profile string `yaml:"profile"`
	// Holders are the people who have it in their keeping.
	Holders []string `yaml:"holders,omitempty"`
	// Place is where it is kept.
	Place string `yaml:"place,omitempty"`
}

// The backup profiles.
const (
	BackupNone    = "none"
	BackupWrapped = "wrapped"
	BackupCloned  = "cloned"
)

// The profiles of a plan.
const (
	Dev        = "dev"
	Production = "production"
)

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
		Version: planVersion, Kind: Found, Domain: domain, Profile: Dev, Organization: domain, BackdateSeconds: 60,
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

// Rotation is the plan of new keys for some roles of an existing deployment.
// authority signs the certificates of issuing, tsa-intermediate and tsa; nil
// when none of them is among keys, whose names are roles (or ROLE-N). The
// certificates get the names and lives of Default, which the caller may change
// before Run.
func Rotation(domain string, authority *Authority, keys map[string]KeyPlan) Plan {
	p := Plan{Version: planVersion, Kind: Rotate, Domain: domain, Profile: Dev, Organization: domain, BackdateSeconds: 60, Authority: authority}
	def := Default(domain, func(string) string { return "" }).Certificates
	for role, k := range keys {
		p.Keys.set(role, &k)
		switch role {
		case RoleIssuing:
			p.Certificates.Issuing = def.Issuing
		case RoleTSAIntermediate:
			p.Certificates.TSAIntermediate = &CertificatePlan{"Redoubt Time Stamping CA", 1826}
		case RoleTSA:
			p.Certificates.TSA = def.TSA
		}
	}
	return p
}

// roleKey is a key with its role.
type roleKey struct {
	role string
	KeyPlan
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
	of           string // role of the key that is certified
	CertificatePlan
	profile lint.Profile
}

// certificates lists the certificates to issue, parents first.
func (p *Plan) certificates() []certificate {
	var out []certificate
	c := &p.Certificates
	add := func(plan *CertificatePlan, role, issuer string, profile lint.Profile) {
		if plan != nil {
			out = append(out, certificate{role, issuer, role, *plan, profile})
		}
	}
	cross := func(when bool, role, of, issuer string) {
		if when && c.Cross != nil {
			out = append(out, certificate{role, issuer, of, CertificatePlan{Days: c.Cross.Days}, lint.Cross})
		}
	}
	top := RoleRoot
	if p.Kind == Rotate {
		top = RoleAuthority
	}
	add(c.Root, RoleRoot, RoleRoot, lint.Root)
	add(c.Successor, RoleSuccessor, RoleSuccessor, lint.Root)
	cross(c.Successor != nil, CrossSuccessorByRoot, RoleSuccessor, RoleRoot)
	cross(p.Kind == RotateRoot, CrossRootByAuthority, RoleRoot, RoleAuthority)
	cross(p.Kind == RotateRoot, CrossAuthorityByRoot, RoleAuthority, RoleRoot)
	cross(p.Kind == CrossSign, CrossSubjectAuthority, RoleSubject, RoleAuthority)
	add(c.Issuing, RoleIssuing, top, lint.Issuing)
	add(c.TSAIntermediate, RoleTSAIntermediate, top, lint.TSAIntermediate)
	if c.TSAIntermediate != nil {
		top = RoleTSAIntermediate
	}
	add(c.TSA, RoleTSA, top, lint.TSALeaf)
	return out
}

// InParts tells whether the ceremony is held on two machines.
func (p *Plan) InParts() bool {
	return p.Kind == OfflineRoot || p.Authority != nil && p.Authority.Offline
}

// backdate is BackdateSeconds as a duration.
func (p *Plan) backdate() time.Duration { return time.Duration(p.BackdateSeconds) * time.Second }

// chain parses the authority's certificates, its own first; nil without one.
// Validate has parsed them before.
func (p *Plan) chain() []*x509.Certificate {
	if p.Authority == nil {
		return nil
	}
	chain, _ := parseChain(p.Authority.Chain)
	return chain
}

// subject parses the certificate to be cross-signed; nil without one.
func (p *Plan) subject() *x509.Certificate {
	if p.Subject == nil {
		return nil
	}
	chain, err := parseChain(p.Subject.Certificate)
	if err != nil {
		return nil
	}
	return chain[0]
}
