// Package fulcio is the authority's wire: Fulcio's HTTP API in both versions and
// its gRPC service, spoken by unmodified Sigstore clients, on one handler.
//
//	POST /api/v2/signingCert    200, JSON, SCT embedded     (sigstore-go, cosign 3, Python, JavaScript)
//	GET  /api/v2/trustBundle    200, JSON
//	GET  /api/v2/configuration  200, JSON
//	POST /api/v1/signingCert    201, PEM, SCT embedded      (cosign 2, gitsign)
//	GET  /api/v1/rootCert       200, PEM
//	GET  /healthz               200
//	gRPC dev.sigstore.fulcio.v2.CA and grpc.health.v1.Health over HTTP/2 (Java)
//
// It guarantees: every body is bounded in size and in time; a request that is at
// fault is answered 400 with the reason, whatever is wrong with it, as Fulcio
// does; a failing authority is answered 500, or 503 with the reason when what
// failed may come back; the cause of a failure of ours goes to the logger and
// never to the client. Errors have the form {"code","message","details"} of
// grpc-gateway.
//
// What a request means is decided in package ca. Start at Handler (http.go), or
// at processSigningCert for what happens to a request.
package fulcio

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"slices"
	"strings"

	fulciogrpc "github.com/sigstore/fulcio/pkg/generated/protobuf"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"redoubt.internal/ca"
	"redoubt.internal/ca/identity"
)

// Options change what Handler serves.
type Options struct {
	// FormerChains are chains of earlier issuing certificates, issuing first, that
	// the trust bundle still names.
	FormerChains [][]*x509.Certificate
	// Logger takes failures of ours; nil discards.
	Logger *slog.Logger
}

// api is what HTTP and gRPC both answer from. It implements
// fulciogrpc.CAServer.
type api struct {
	fulciogrpc.UnimplementedCAServer
	authority *ca.Authority
	identity  *identity.Verifier
	chains    [][]*x509.Certificate
	above     []string // what stands above every certificate, PEM, issuing certificate first
	logger    *slog.Logger
}

// processSigningCert issues one certificate and returns it in PEM. A token in
// the request wins over the one beside it (header, metadata).
func (s *api) processSigningCert(ctx context.Context, token string, r *fulciogrpc.CreateSigningCertificateRequest) (string, error) {
	if inBody := r.GetCredentials().GetOidcIdentityToken(); inBody != "" {
		token = inBody
	}
	issued, err := s.authority.Issue(ctx, ca.Request{
		Token:     token,
		PublicKey: []byte(r.GetPublicKeyRequest().GetPublicKey().GetContent()),
		Proof:     r.GetPublicKeyRequest().GetProofOfPossession(),
		CSR:       r.GetCertificateSigningRequest(),
	})
	if err != nil {
		return "", s.status(ctx, err)
	}
	return pemOf(issued.Leaf), nil
}

// signingCertificate is the answer to a signing request.
func (s *api) signingCertificate(leaf string) *fulciogrpc.SigningCertificate {
	return &fulciogrpc.SigningCertificate{Certificate: &fulciogrpc.SigningCertificate_SignedCertificateEmbeddedSct{
		SignedCertificateEmbeddedSct: &fulciogrpc.SigningCertificateEmbeddedSCT{
			Chain: &fulciogrpc.CertificateChain{Certificates: append([]string{leaf}, s.above...)},
		},
	}}
}

// signingCertificateJSON is signingCertificate in proto-JSON: PEM needs no
// escapes but those of its line ends.
func (s *api) signingCertificateJSON(leaf string) []byte {
	b := append(make([]byte, 0, 8<<10), `{"signedCertificateEmbeddedSct":{"chain":{"certificates":["`...)
	b = append(b, strings.ReplaceAll(leaf, "\n", `\n`)...)
	for _, c := range s.above {
		b = append(b, `","`...)
		b = append(b, strings.ReplaceAll(c, "\n", `\n`)...)
	}
	return append(b, `"]}}}`...)
}

// processTrustBundle names the chains, the current one first.
func (s *api) processTrustBundle() *fulciogrpc.TrustBundle {
	bundle := &fulciogrpc.TrustBundle{}
	for _, chain := range s.chains {
		one := &fulciogrpc.CertificateChain{}
		for _, c := range chain {
			one.Certificates = append(one.Certificates, pemOf(c.Raw))
		}
		bundle.Chains = append(bundle.Chains, one)
	}
	return bundle
}

// processConfiguration names the issuers, sorted.
func (s *api) processConfiguration() *fulciogrpc.Configuration {
	issuers := s.identity.Fulcio().ToIssuers()
	slices.SortFunc(issuers, func(a, b *fulciogrpc.OIDCIssuer) int {
		return strings.Compare(a.GetIssuerUrl()+a.GetWildcardIssuerUrl(), b.GetIssuerUrl()+b.GetWildcardIssuerUrl())
	})
	return &fulciogrpc.Configuration{Issuers: issuers}
}

// answers maps the authority's errors to the wire, once. The first that matches
// counts. Errors of the request carry their reason to the client, failures of
// ours only the sentence given here (sentences as in fulcio pkg/server/error.go
// where a client may look for them).
var answers = []struct {
	err    error
	code   codes.Code
	text   string
	reason bool
}{
	{identity.ErrIssuerUnreachable, codes.Unavailable, "the keys of the token's issuer cannot be fetched now", false},
	{ca.ErrToken, codes.InvalidArgument, "There was an error processing the identity token", true},
	{ca.ErrTokenUsed, codes.InvalidArgument, "There was an error processing the identity token", true},
	{ca.ErrDenied, codes.PermissionDenied, "nothing is issued to this identity", false},
	{ca.ErrRequest, codes.InvalidArgument, "The public key supplied in the request could not be parsed", true},
	{ca.ErrKey, codes.InvalidArgument, "The public key supplied in the request is insecure or could not be parsed", true},
	{ca.ErrCSR, codes.InvalidArgument, "The certificate signing request could not be parsed", true},
	{ca.ErrProof, codes.InvalidArgument, "The signature supplied in the request could not be verified", true},
	{ca.ErrClock, codes.Unavailable, "the authority's clock is in doubt", true},
	{ca.ErrUnavailable, codes.Unavailable, "", false}, // the sentence of what is unavailable, see below
	{ca.ErrCT, codes.Internal, "Error entering certificate in CTL", false},
	{ca.ErrRecord, codes.Internal, "the issuance could not be recorded", false},
	{ca.ErrLint, codes.Internal, "the certificate would break the authority's profile", false},
	{ca.ErrExpired, codes.Internal, "the authority's certificate is not valid now", false},
	{ca.ErrSigning, codes.Internal, "error communicating with CA backend", false},
}

// lost says what is unavailable.
var lost = []struct {
	err  error
	text string
}{
	{ca.ErrSigning, "the issuing key's token is not available"},
	{ca.ErrCT, "the certificate transparency log is not available"},
	{ca.ErrRecord, "the audit log is not available"},
}

// status turns an error of ca.Issue into the status clients see.
func (s *api) status(ctx context.Context, err error) error {
	for _, a := range answers {
		if !errors.Is(err, a.err) {
			continue
		}
		text := a.text
		if a.err == ca.ErrUnavailable {
			for _, l := range lost {
				if errors.Is(err, l.err) {
					text = l.text
				}
			}
		}
		if a.reason {
			text += ": " + reason(err)
		}
		if a.code != codes.InvalidArgument {
			s.logger.ErrorContext(ctx, "signing request failed", "error", err)
		}
		return status.Error(a.code, text)
	}
	if errors.Is(err, context.Canceled) {
		return status.Error(codes.Canceled, "the client went away")
	}
	s.logger.ErrorContext(ctx, "signing request failed", "error", err)
	return status.Error(codes.Internal, "error communicating with CA backend")
}

// reason bounds an error's text for the wire.
func reason(err error) string {
	const limit = 400
	s := strings.ToValidUTF8(err.Error(), "?")
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
