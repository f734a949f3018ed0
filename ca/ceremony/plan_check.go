package ceremony

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"redoubt.internal/ca/approval"
)

var domainName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// plainText reports whether s is a line of at most 64 octets that a subject or a register can carry.
func plainText(s string) bool {
	return s != "" && len(s) <= 64 && strings.TrimSpace(s) == s && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '�' })
}

// Validate says everything that is wrong with the plan, not only the first.
func (p *Plan) Validate() error {
	want, bad := collect()
	want(p.Version == planVersion, "version is %d, expected %d", p.Version, planVersion)
	want(slices.Contains(Kinds(), p.Kind), "kind is %q, known are %v", p.Kind, Kinds())
	want(len(p.Domain) <= 200 && domainName.MatchString(p.Domain), "domain %q is not a lower-case DNS name", p.Domain)
	want(p.Profile == Dev || p.Profile == Production, "profile is %q, expected dev or production", p.Profile)
	want(p.BackdateSeconds >= 0 && p.BackdateSeconds <= 86400, "backdateSeconds is %d, allowed are 0 to 86400", p.BackdateSeconds)
	want(p.Organization == "" && p.Kind == Custodians || plainText(p.Organization), "organization %q is empty, longer than 64 octets or not plain text", p.Organization)
	if p.Operators != nil {
		p.Operators.check("operators", want)
	}
	p.checkExisting(want)
	p.checkRoles(want)
	p.checkURIs(want)
	p.checkCertificates(want)
	p.checkBackup(want)
	want((p.Custodians != nil) == (p.Kind == Custodians), "custodians belongs to kind custodians, and only there")
	if p.Custodians != nil {
		p.Custodians.check(want)
		want(p.Operators == nil, "operators has no place in a plan of kind custodians; the register says who signs")
	}
	if len(*bad) > 0 {
		return fmt.Errorf("%w: %s", ErrPlan, strings.Join(*bad, "; "))
	}
	return nil
}

// checkExisting looks at what the plan takes as given: the authority and the subject.
func (p *Plan) checkExisting(want wanting) {
	certified := p.Keys.Issuing != nil || p.Keys.TSAIntermediate != nil || p.Keys.TSA != nil
	switch p.Kind {
	case CrossSign, RotateRoot:
		want(p.Authority != nil, "authority is missing: the existing key that signs")
	case Rotate:
		want(p.Authority != nil || !certified, "authority is missing: certificates of issuing, tsa-intermediate and tsa need one")
	default:
		want(p.Authority == nil, "authority has no place in a plan of kind %s", p.Kind)
	}
	want((p.Subject != nil) == (p.Kind == CrossSign), "subject belongs to kind cross-sign, and only there")
	if p.Authority != nil {
		checkURI("authority.uri", p.Authority.URI, want)
		want(!p.Authority.Offline || certified, "authority.offline: nothing is requested from it; run the plan on its machine")
		chain, err := parseChain(p.Authority.Chain)
		if err != nil {
			want(false, "authority.chain: %v", err)
			return
		}
		err = checkChain(chain)
		want(err == nil, "authority.chain: %v", err)
		p.checkRoom(chain, want)
	}
	if p.Subject != nil {
		chain, err := parseChain(p.Subject.Certificate)
		if err == nil && len(chain) != 1 {
			err = fmt.Errorf("%d certificates, expected the root alone", len(chain))
		}
		if err == nil {
			err = checkChain(chain)
		}
		want(err == nil, "subject.certificate: %v", err)
	}
}

// checkRoom asks whether the authority may have below it what the plan puts there.
func (p *Plan) checkRoom(chain []*x509.Certificate, want wanting) {
	a := chain[0]
	limit := a.MaxPathLen
	if limit == 0 && !a.MaxPathLenZero {
		limit = -1
	}
	room := func(needed int, what string) {
		want(limit < 0 || limit >= needed, "authority.chain: its pathLenConstraint is %d, and %s needs %d", limit, what, needed)
	}
	if p.Keys.Issuing != nil && p.Kind == Rotate {
		room(1, "an issuing authority below it")
		want(len(a.ExtKeyUsage) == 0 && len(a.UnknownExtKeyUsage) == 0, "authority.chain: it is restricted in extended key usage and cannot certify an issuing authority")
	}
	if p.Keys.TSAIntermediate != nil && p.Kind == Rotate {
		room(1, "an authority below it")
	}
	if p.Kind == CrossSign || p.Kind == RotateRoot {
		room(2, "a cross-signed root with an issuing authority below it")
		want(len(chain) == 1, "authority.chain: %d certificates, expected the root alone", len(chain))
	}
	if p.Certificates.Root != nil {
		want(p.Certificates.Root.CommonName != a.Subject.CommonName, "certificates.root has the old root's commonName")
	}
}

// checkURIs holds every key of the plan apart from every other.
func (p *Plan) checkURIs(want wanting) {
	uris := map[string]string{}
	note := func(field, uri string) {
		other, dup := uris[uri]
		want(!dup, "%s and %s have one URI; no key serves two roles", other, field)
		uris[uri] = field
	}
	if p.Authority != nil {
		note("authority", p.Authority.URI)
	}
	for _, k := range p.roles() {
		note("keys."+k.role, k.URI)
	}
}

// checkCertificates looks at names and lives, and at keys without certificate or the reverse.
func (p *Plan) checkCertificates(want wanting) {
	c := p.Certificates
	for _, e := range []struct {
		role string
		plan *CertificatePlan
		key  *KeyPlan
	}{
		{RoleRoot, c.Root, p.Keys.Root}, {RoleSuccessor, c.Successor, p.Keys.Successor}, {RoleIssuing, c.Issuing, p.Keys.Issuing},
		{RoleTSAIntermediate, c.TSAIntermediate, p.Keys.TSAIntermediate}, {RoleTSA, c.TSA, p.Keys.TSA},
	} {
		want((e.plan == nil) == (e.key == nil), "%s needs a key and a certificate, or neither", e.role)
		if e.plan == nil {
			continue
		}
		want(plainText(e.plan.CommonName), "certificates.%s.commonName %q is empty, longer than 64 octets or not plain text", e.role, e.plan.CommonName)
		want(e.plan.Days >= 1 && e.plan.Days <= 36525, "certificates.%s.days is %d, allowed are 1 to 36525", e.role, e.plan.Days)
		if c.Root != nil && e.role != RoleRoot {
			want(e.role == RoleSuccessor || e.plan.Days <= c.Root.Days, "certificates.%s.days is longer than the root's", e.role)
			want(e.plan.CommonName != c.Root.CommonName, "certificates.%s has the root's commonName", e.role)
		}
	}
	crosses := p.Kind == RotateRoot || p.Kind == CrossSign || c.Successor != nil
	want((c.Cross != nil) == crosses, "certificates.cross belongs where a root is cross-signed (kinds cross-sign and rotate-root, or a root-successor), and only there")
	want(c.Cross == nil || c.Cross.Days >= 1 && c.Cross.Days <= 36525, "certificates.cross.days is outside 1 to 36525")
	want(c.TSAIntermediate == nil || c.TSA == nil || c.TSA.Days <= c.TSAIntermediate.Days, "certificates.tsa.days is longer than its issuer's")
}

// checkBackup looks at the declared copy of the keys.
func (p *Plan) checkBackup(want wanting) {
	b := p.Backup
	if b == nil {
		return
	}
	switch b.Profile {
	case BackupNone:
		want(len(b.Holders) == 0 && b.Place == "", "backup: profile none has no holders and no place")
	case BackupWrapped, BackupCloned:
		want(len(b.Holders) > 0 && len(b.Holders) <= approval.MaxOperators, "backup.holders: name one to %d people who keep it", approval.MaxOperators)
		want(plainText(b.Place), "backup.place %q is empty, longer than 64 octets or not plain text", b.Place)
	default:
		want(false, "backup.profile is %q, known are none, wrapped, cloned", b.Profile)
	}
	for _, h := range b.Holders {
		want(plainText(h), "backup.holders: %q is empty, longer than 64 octets or not plain text", h)
	}
	want(len(p.roles()) > 0, "backup has no place in a plan that makes no key")
}

// maxChain bounds the certificates a plan carries in one field.
const maxChain = 4

// parseChain reads PEM certificates spelt as pem.Encode spells them, so that
// nothing else can stand between them.
func parseChain(text string) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	rest := []byte(text)
	for len(rest) > 0 {
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 || !bytes.Equal(pem.EncodeToMemory(block), rest[:len(rest)-len(after)]) {
			return nil, errors.New("not PEM certificates and nothing else")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if chain = append(chain, cert); len(chain) > maxChain {
			return nil, fmt.Errorf("more than %d certificates", maxChain)
		}
		rest = after
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate")
	}
	return chain, nil
}

// checkChain asks that each certificate is an authority's and signed by the next, the last by itself.
func checkChain(chain []*x509.Certificate) error {
	for i, cert := range chain {
		if !cert.IsCA || !cert.BasicConstraintsValid {
			return fmt.Errorf("%s is no authority", cert.Subject)
		}
		parent := chain[min(i+1, len(chain)-1)]
		if err := cert.CheckSignatureFrom(parent); err != nil {
			return fmt.Errorf("%s is not signed by %s: %w", cert.Subject, parent.Subject, err)
		}
	}
	return nil
}
