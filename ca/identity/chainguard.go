package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"net/url"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/sigstore/fulcio/pkg/certificate"
	fulcioid "github.com/sigstore/fulcio/pkg/identity"
)

// chainguardPrincipal maps tokens of type chainguard-identity as Fulcio does
// (pkg/identity/chainguard/principal.go): the SAN is the issuer's URL with the
// subject as its last element. It stands here because the tests of Fulcio's
// package need a module no proxy serves, which would break go mod tidy.
type chainguardPrincipal struct {
	issuer, subject, name string
}

// chainguardFromIDToken reads the claims. The name proven is what clients sign:
// the email when the token carries one, which must be verified, else sub.
func chainguardFromIDToken(_ context.Context, token *oidc.IDToken) (fulcioid.Principal, error) {
	var claims struct {
		Email    string `json:"email"`
		Verified any    `json:"email_verified"`
	}
	if err := token.Claims(&claims); err != nil {
		return nil, err
	}
	name := token.Subject
	if claims.Email != "" {
		if claims.Verified != true && claims.Verified != "true" {
			return nil, errors.New("email_verified is not true")
		}
		name = claims.Email
	}
	return chainguardPrincipal{token.Issuer, token.Subject, name}, nil
}

// Name implements Fulcio's Principal.
func (p chainguardPrincipal) Name(context.Context) string { return p.name }

// Embed implements Fulcio's Principal.
func (p chainguardPrincipal) Embed(_ context.Context, cert *x509.Certificate) error {
	base, err := url.Parse(p.issuer)
	if err != nil {
		return err
	}
	cert.URIs = []*url.URL{base.JoinPath(p.subject)}
	cert.ExtraExtensions, err = certificate.Extensions{Issuer: p.issuer, Subject: p.subject}.Render()
	return err
}
