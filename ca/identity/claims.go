package identity

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/sigstore/fulcio/pkg/certificate"
	"github.com/sigstore/fulcio/pkg/config"
	fulcioid "github.com/sigstore/fulcio/pkg/identity"
	"github.com/sigstore/fulcio/pkg/identity/buildkite"
	"github.com/sigstore/fulcio/pkg/identity/ciprovider"
	"github.com/sigstore/fulcio/pkg/identity/codefresh"
	"github.com/sigstore/fulcio/pkg/identity/email"
	"github.com/sigstore/fulcio/pkg/identity/github"
	"github.com/sigstore/fulcio/pkg/identity/gitlabcom"
	"github.com/sigstore/fulcio/pkg/identity/kubernetes"
	"github.com/sigstore/fulcio/pkg/identity/spiffe"
	"github.com/sigstore/fulcio/pkg/identity/uri"
	"github.com/sigstore/fulcio/pkg/identity/username"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// mappings is the table of issuer types: how the claims of a verified token
// become a name, a SAN and extensions. The functions are Fulcio's own, so that
// a certificate says exactly what the public service would say.
var mappings = map[config.IssuerType]func(context.Context, *oidc.IDToken) (fulcioid.Principal, error){
	config.IssuerTypeEmail:             email.PrincipalFromIDToken,
	config.IssuerTypeURI:               uri.PrincipalFromIDToken,
	config.IssuerTypeSpiffe:            spiffe.PrincipalFromIDToken,
	config.IssuerTypeKubernetes:        kubernetes.PrincipalFromIDToken,
	config.IssuerTypeUsername:          username.PrincipalFromIDToken,
	config.IssuerTypeCIProvider:        ciprovider.WorkflowPrincipalFromIDToken,
	config.IssuerTypeGithubWorkflow:    github.WorkflowPrincipalFromIDToken,    //nolint:staticcheck // old configurations name it
	config.IssuerTypeGitLabPipeline:    gitlabcom.JobPrincipalFromIDToken,      //nolint:staticcheck // old configurations name it
	config.IssuerTypeBuildkiteJob:      buildkite.JobPrincipalFromIDToken,      //nolint:staticcheck // old configurations name it
	config.IssuerTypeCodefreshWorkflow: codefresh.WorkflowPrincipalFromIDToken, //nolint:staticcheck // old configurations name it
	config.IssuerTypeChainguard:        chainguardFromIDToken,
}

var (
	oidSAN      = asn1.ObjectIdentifier{2, 5, 29, 17}
	sigstoreArc = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1}
)

// principal maps a verified token by the table and checks what came out.
func principal(ctx context.Context, iss *issuer, id *oidc.IDToken, t *token) (Principal, error) {
	if iss.config.Type == config.IssuerTypeEmail {
		if err := checkEmail(iss.config, t.claims); err != nil {
			return Principal{}, err
		}
	}
	if iss.config.Type == config.IssuerTypeKubernetes {
		if err := checkKubernetes(t.claims); err != nil {
			return Principal{}, err
		}
	}
	ctx = config.With(ctx, iss.fulcio)
	mapped, err := mappings[iss.config.Type](ctx, id)
	if err != nil {
		return Principal{}, err
	}
	// Embed writes into a certificate that is never signed; what it says is
	// taken over by value.
	var shape x509.Certificate
	if err := mapped.Embed(ctx, &shape); err != nil {
		return Principal{}, err
	}
	p := Principal{
		TokenIssuer: id.Issuer, Subject: id.Subject, Name: mapped.Name(ctx),
		Type: string(iss.config.Type), JTI: t.claims.JTI, TokenID: t.id,
		Expiry: t.claims.Expiry, TokenUses: iss.config.TokenUses, Pseudonyms: iss.config.Pseudonyms,
	}
	if err := p.takeNames(&shape); err != nil {
		return Principal{}, err
	}
	if err := p.takeExtensions(&shape); err != nil {
		return Principal{}, err
	}
	return p, p.checkText()
}

// checkEmail demands email_verified as true or "true", unless the issuer's
// configuration waives it.
func checkEmail(c IssuerRules, k claims) error {
	if _, err := stringMember(k.all, "email", 320); err != nil {
		return err
	}
	if c.SkipEmailVerification {
		return nil
	}
	switch v := strings.TrimSpace(string(k.all["email_verified"])); v {
	case "true", `"true"`:
		return nil
	case "":
		return errors.New("email_verified is missing")
	default:
		return errors.New("email_verified is not true")
	}
}

// checkKubernetes demands the two claims the SAN is made of; the mapping itself
// would put empty strings in their place.
func checkKubernetes(k claims) error {
	var c struct {
		Namespace      string `json:"namespace"`
		ServiceAccount struct {
			Name string `json:"name"`
		} `json:"serviceaccount"`
	}
	if err := json.Unmarshal(k.all["kubernetes.io"], &c); err != nil {
		return errors.New("kubernetes.io is missing or malformed")
	}
	for _, s := range []string{c.Namespace, c.ServiceAccount.Name} {
		// DNS labels and subdomains (Kubernetes object names), so no slash.
		if s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
			return errors.New("kubernetes.io names no namespace or no service account")
		}
	}
	return nil
}

// takeNames moves the one name out of shape.
func (p *Principal) takeNames(shape *x509.Certificate) error {
	n := len(shape.EmailAddresses) + len(shape.URIs)
	if len(shape.EmailAddresses) == 1 {
		p.SAN = SAN{SANEmail, shape.EmailAddresses[0]}
	}
	if len(shape.URIs) == 1 {
		p.SAN = SAN{SANURI, shape.URIs[0].String()}
	}
	for _, e := range shape.ExtraExtensions {
		if !e.Id.Equal(oidSAN) {
			continue
		}
		n++
		name, err := userName(e.Value)
		if err != nil {
			return err
		}
		p.SAN = SAN{SANUserName, name}
	}
	if n != 1 || len(shape.DNSNames) > 0 || len(shape.IPAddresses) > 0 {
		return fmt.Errorf("identity maps to %d names, not one", n)
	}
	return nil
}

// takeExtensions moves the Sigstore extensions out of shape and demands the
// three that are always there.
func (p *Principal) takeExtensions(shape *x509.Certificate) error {
	var has1, has24 bool
	for _, e := range shape.ExtraExtensions {
		switch {
		case e.Id.Equal(oidSAN):
			continue
		case len(e.Id) != len(sigstoreArc)+1 || !e.Id[:len(sigstoreArc)].Equal(sigstoreArc) || e.Critical:
			return fmt.Errorf("extension %s is not part of the profile", e.Id)
		case e.Id.Equal(certificate.OIDIssuer):
			p.Issuer, has1 = string(e.Value), true
		case e.Id.Equal(certificate.OIDIssuerV2):
			var v2 string
			if err := certificate.ParseDERString(e.Value, &v2); err != nil || v2 != p.Issuer {
				return errors.New("issuer extensions differ")
			}
		case e.Id.Equal(certificate.OIDTokenSubject):
			has24 = true
		}
		e.Value = bytes.Clone(e.Value)
		p.Extensions = append(p.Extensions, e)
	}
	if !has1 || !has24 {
		return errors.New("identity has no issuer or no subject")
	}
	return nil
}

// utf8String is s as the DER UTF8String that extensions from 8 on hold.
func utf8String(s string) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
	return b.BytesOrPanic() // of less than 4 GiB
}

// maxSAN bounds the name of a certificate and its issuer, in bytes.
const maxSAN = 1024

// checkText refuses names that would read as something else: SAN and proof name
// in printable ASCII (so no look-alikes), extension texts printable and valid
// UTF-8 (so no NUL, no line break, no direction marks).
func (p *Principal) checkText() error {
	for _, s := range []string{p.SAN.Value, p.Issuer} {
		if s == "" || strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) >= 0 {
			return fmt.Errorf("name %q is empty or not printable ASCII", clip(s))
		}
		if len(s) > maxSAN {
			return fmt.Errorf("name is longer than %d bytes", maxSAN)
		}
	}
	if (p.Type == config.IssuerTypeURI || p.Type == config.IssuerTypeSpiffe) && p.SAN.Value != p.Subject {
		return errors.New("subject is not in the form a certificate can carry unchanged")
	}
	if p.SAN.Type == SANURI {
		if u, err := url.Parse(p.SAN.Value); err != nil || u.Scheme == "" {
			return fmt.Errorf("name %q is not a URI with a scheme", clip(p.SAN.Value))
		}
	}
	texts := []string{p.Name, p.Subject}
	for _, e := range p.Extensions {
		s := string(e.Value)
		if n := e.Id[len(e.Id)-1]; n >= 8 {
			if err := certificate.ParseDERString(e.Value, &s); err != nil {
				return fmt.Errorf("extension %s: %w", e.Id, err)
			}
		}
		texts = append(texts, s)
	}
	for _, s := range texts {
		if !utf8.ValidString(s) || strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
			return fmt.Errorf("claim text %q is not printable", clip(s))
		}
		if len(s) > 4096 {
			return errors.New("claim text is longer than 4096 bytes")
		}
	}
	return nil
}

// userName reads GeneralNames { otherName { 1.3.6.1.4.1.57264.1.7, [0] UTF8String } }.
func userName(value []byte) (string, error) {
	in := cryptobyte.String(value)
	var names, other, explicit, text cryptobyte.String
	var oid asn1.ObjectIdentifier
	ok := in.ReadASN1(&names, cbasn1.SEQUENCE) && in.Empty() &&
		names.ReadASN1(&other, cbasn1.Tag(0).ContextSpecific().Constructed()) && names.Empty() &&
		other.ReadASN1ObjectIdentifier(&oid) &&
		other.ReadASN1(&explicit, cbasn1.Tag(0).ContextSpecific().Constructed()) && other.Empty() &&
		explicit.ReadASN1(&text, cbasn1.UTF8String) && explicit.Empty()
	if !ok || !oid.Equal(certificate.OIDOtherName) {
		return "", errors.New("user name SAN is malformed")
	}
	return string(text), nil
}
