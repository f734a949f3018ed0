package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"redoubt.internal/ca/denied"
)

// Policy says what a bundle must show. One of Identities, Key and Subjects is set.
type Policy struct {
	// Identities are the accepted signers; one of them must match.
	Identities []Identity
	// Key is the accepted public key of a signer who manages his own.
	Key *Key
	// Subjects are the accepted signers of Notation signatures; one of them must match.
	Subjects []Subject
	// Denied lists identities that are refused even if accepted above, within
	// the windows it gives for signed times; nil denies nobody.
	Denied *denied.List
	// PredicateTypes, when set, demands an attestation of one of these types.
	PredicateTypes []string
	// MaxTrustAge, when set, refuses roots whose Root.AsOf is older or unknown.
	MaxTrustAge time.Duration
	// WithoutLog skips the transparency log: neither an entry nor its proof is
	// looked at. It gives up that the signature is public, and is for bundles
	// made without a log. A signed timestamp is still required for certificates.
	WithoutLog bool
}

// Identity matches the certificate's subject alternative name and the issuer of
// the token behind it. Each is given exactly or as a Go regular expression,
// which, as in cosign, matches anywhere: anchor it with ^ and $.
type Identity struct {
	SAN          string
	SANRegexp    string
	Issuer       string
	IssuerRegexp string
	// Root, when set, limits the identity to the trusted root of that name, so
	// that one deployment cannot speak for the people of another.
	Root string
	// WithoutLog accepts the identity without a log entry and without a certificate timestamp. It holds only where Root is set to a root that
	// names no log of either kind: what such an authority vouches for stands in none.
	WithoutLog bool
}

// Key is a public key trusted by itself.
type Key struct {
	Public crypto.PublicKey
	// NotBefore and NotAfter bound the signed times at which it counts, both
	// inclusive; zero is unbounded. With a bound, a signed time is required.
	NotBefore, NotAfter time.Time
}

// ParseKey reads one PEM public key (PKIX): ECDSA P-256, P-384, P-521, RSA of
// 2048, 3072 or 4096 bits, or Ed25519.
func ParseKey(data []byte) (*Key, error) {
	bad := func(format string, args ...any) (*Key, error) {
		return nil, fmt.Errorf("%w: public key: %w", ErrMalformed, fmt.Errorf(format, args...))
	}
	if len(data) > 64<<10 {
		return bad("file too large")
	}
	block, rest := pem.Decode(data)
	if block == nil || len(bytes.TrimSpace(rest)) != 0 {
		return bad("not one PEM block")
	}
	if block.Type != "PUBLIC KEY" {
		return bad("PEM block is %.40q, want PUBLIC KEY", block.Type)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return bad("%w", err)
	}
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, k.Curve) {
			return bad("curve %s", k.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if !slices.Contains([]int{2048, 3072, 4096}, k.N.BitLen()) { // no other size has a name in sigstore's registry of algorithms
			return bad("RSA of %d bits, 2048, 3072 and 4096 are taken", k.N.BitLen())
		}
	case ed25519.PublicKey:
	default:
		return bad("type %T", pub)
	}
	return &Key{Public: pub}, nil
}

// policy is a checked Policy.
type policy struct {
	Policy
	allow       []rule
	keyMaterial root.TrustedMaterial
	keySPKI     []byte
	unstamped   bool // certificates bear no timestamp of a log: the root names none
}

type rule struct {
	root       string
	id         sgverify.CertificateIdentity
	withoutLog bool
}

// under is the policy as it holds under one root, with the identities accepted there.
func (p *policy) under(r *trustedRoot) (*policy, error) {
	c := *p
	c.allow = nil
	without := 0
	for _, a := range p.allow {
		if a.root != "" && a.root != r.name {
			continue
		}
		c.allow = append(c.allow, a)
		if a.withoutLog {
			without++
		}
	}
	if without == 0 {
		return &c, nil
	}
	if len(r.RekorLogs())+len(r.CTLogs()) > 0 || without != len(c.allow) {
		return nil, fmt.Errorf("%w: an identity without a log is accepted under root %s alone if that names no log, and every identity under it is one", ErrUsage, r.name)
	}
	c.WithoutLog, c.unstamped = true, true
	return &c, nil
}

func (p Policy) compile() (*policy, error) {
	kinds := 0
	for _, given := range []bool{len(p.Identities) > 0, p.Key != nil, len(p.Subjects) > 0} {
		if given {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, fmt.Errorf("%w: name the accepted identities, the key or the subjects of certificates", ErrUsage)
	}
	c := &policy{Policy: p}
	var err error
	if c.allow, err = compileRules(p.Identities); err != nil {
		return nil, err
	}
	if p.Key != nil {
		if c.keySPKI, err = x509.MarshalPKIXPublicKey(p.Key.Public); err != nil {
			return nil, fmt.Errorf("%w: public key: %w", ErrMalformed, err)
		}
		v, err := signature.LoadDefaultVerifier(p.Key.Public)
		if err != nil {
			return nil, fmt.Errorf("%w: public key: %w", ErrMalformed, err)
		}
		expiring := root.NewExpiringKey(v, p.Key.NotBefore, p.Key.NotAfter)
		// The hint in a bundle is chosen by its maker; the key is the caller's.
		c.keyMaterial = root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return expiring, nil })
	}
	return c, nil
}

func compileRules(ids []Identity) (rules []rule, err error) {
	for _, i := range ids {
		if len(i.SANRegexp) > 4096 || len(i.IssuerRegexp) > 4096 {
			return nil, fmt.Errorf("%w: regular expression too long", ErrUsage)
		}
		id, err := sgverify.NewShortCertificateIdentity(i.Issuer, i.IssuerRegexp, i.SAN, i.SANRegexp)
		if err != nil {
			return nil, fmt.Errorf("%w: identity: %w", ErrUsage, err)
		}
		if i.WithoutLog && i.Root == "" {
			return nil, fmt.Errorf("%w: an identity without a log names the root it is accepted under", ErrUsage)
		}
		rules = append(rules, rule{i.Root, id, i.WithoutLog})
	}
	return rules, nil
}

// checkKind refuses a bundle whose signature is not of the kind asked for.
func (p *policy) checkKind(b *decoded) error {
	switch {
	case p.Key != nil && b.content.Certificate() != nil:
		return fmt.Errorf("%w: a key was given, the bundle is signed with a certificate", ErrNoSignature)
	case p.Key == nil && b.content.Certificate() == nil:
		return fmt.Errorf("%w: an identity was given, the bundle is signed with a key", ErrNoSignature)
	case len(p.PredicateTypes) > 0 && b.statement == nil:
		return fmt.Errorf("%w: an attestation was asked for, the bundle holds a plain signature", ErrNoSignature)
	}
	if _, ed := p.keyPublic().(ed25519.PublicKey); ed && b.message != "" {
		b.wholeMessage = true
	}
	return nil
}

func (p *policy) keyPublic() crypto.PublicKey {
	if p.Key == nil {
		return nil
	}
	return p.Key.Public
}

// options chooses what sigstore-go must demand: a log entry and, for
// certificates, an SCT always; each kind of signed time the bundle offers
// (stamped: a token of a known authority). At
// least one signed time is demanded unless a key without bounds was given.
func (p *policy) options(b *decoded, stamped bool) ([]sgverify.VerifierOption, error) {
	options := []sgverify.VerifierOption{sgverify.WithoutStatementPredicate()}
	if b.content.Certificate() != nil && !p.unstamped {
		options = append(options, sgverify.WithSignedCertificateTimestamps(1))
	}
	timed := false
	if stamped {
		options, timed = append(options, sgverify.WithSignedTimestamps(1)), true
	}
	if !p.WithoutLog {
		options = append(options, sgverify.WithTransparencyLog(1))
		if b.HasInclusionPromise() {
			options, timed = append(options, sgverify.WithIntegratedTimestamps(1)), true
		}
	}
	switch {
	case timed:
	case p.Key != nil && p.Key.NotBefore.IsZero() && p.Key.NotAfter.IsZero():
		options = append(options, sgverify.WithNoObserverTimestamps())
	case len(b.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps()) > 0:
		return nil, fmt.Errorf("%w: the bundle's timestamp is of an authority the root does not know, and there is no other signed time", ErrTime)
	default:
		return nil, fmt.Errorf("%w: the bundle bears no signed time", ErrTime)
	}
	return options, nil
}

// policyOptions gives sigstore-go the signers accepted under the root this policy is for.
func (p *policy) policyOptions() ([]sgverify.PolicyOption, error) {
	if p.Key != nil {
		return []sgverify.PolicyOption{sgverify.WithKey()}, nil
	}
	var options []sgverify.PolicyOption
	for _, r := range p.allow {
		options = append(options, sgverify.WithCertificateIdentity(r.id))
	}
	if len(options) == 0 {
		return nil, fmt.Errorf("%w: no identity is accepted under this root", ErrIdentity)
	}
	return options, nil
}

// check applies what sigstore-go knows nothing of.
func (p *policy) check(b *decoded, v *sgverify.VerificationResult) error {
	if v.Signature != nil && v.Signature.Certificate != nil {
		var at []time.Time
		for _, t := range v.VerifiedTimestamps {
			at = append(at, t.Timestamp)
		}
		if err := p.checkDenied(*v.Signature.Certificate, at); err != nil {
			return err
		}
	} else if p.Key == nil {
		return fmt.Errorf("%w: no certificate was verified", ErrInternal)
	}
	return p.checkType(b)
}

// checkType refuses an attestation of another predicate type than was asked for.
func (p *policy) checkType(b *decoded) error {
	if len(p.PredicateTypes) > 0 && !slices.Contains(p.PredicateTypes, b.statement.GetPredicateType()) {
		return fmt.Errorf("%w: predicate type %.200q", ErrPolicy, b.statement.GetPredicateType())
	}
	return nil
}

// material is a root, with the key where there is one.
func (p *policy) material(r *trustedRoot) root.TrustedMaterial {
	if p.Key == nil {
		return r.TrustedRoot
	}
	return root.TrustedMaterialCollection{p.keyMaterial, r.TrustedRoot}
}

func (p *policy) checkDenied(c certificate.Summary, at []time.Time) error {
	if e := p.Denied.Match(c.Issuer, c.SubjectAlternativeName, at...); e != nil {
		return fmt.Errorf("%w: %s", ErrDenied, e)
	}
	return nil
}

// explainIdentity says whom the bundle names and whom it should.
func explainIdentity(err error, c *x509.Certificate) error {
	s, serr := certificate.SummarizeCertificate(c)
	if serr != nil {
		return fmt.Errorf("%w: %w", ErrIdentity, errors.Join(err, serr))
	}
	return fmt.Errorf("%w: signed by %q of issuer %q", ErrIdentity, s.SubjectAlternativeName, s.Issuer)
}
