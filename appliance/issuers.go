package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/mail"
	"reflect"
	"strings"
	"time"

	fulcio "github.com/sigstore/fulcio/pkg/config"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca"
	"redoubt.internal/ca/approval"
	fulcioapi "redoubt.internal/ca/fulcio"
	"redoubt.internal/ca/identity"
)

// The built-in issuer speaks under two names with one key: its URL for people (email tokens) and URL/workload for
// workloads, whose certificates carry the token's subject, a URI.
const (
	workloadPath     = "/workload"
	workloadProvider = "redoubt-builtin"
)

// identityConfig is what the verifier is told: the configured issuers, and the built-in one with its keys pinned, so that
// the server never fetches from itself.
func (in *instance) identityConfig(cfg *Config) identity.Config {
	c := identity.Config{
		OIDCIssuers: map[string]identity.IssuerRules{}, MetaIssuers: cfg.MetaIssuers, CIIssuerMetadata: map[string]fulcio.IssuerMetadata{},
		Dir: in.dir.root, Now: in.now, Logger: in.logger,
	}
	maps.Copy(c.OIDCIssuers, cfg.OIDCIssuers)
	maps.Copy(c.CIIssuerMetadata, cfg.CIIssuerMetadata)
	if in.issuer == nil {
		return c
	}
	pinned := identity.JWKS{Inline: in.issuer.JWKS()}
	audience := orDefault(cfg.Issuer.Audience, "sigstore")
	c.OIDCIssuers[in.issuer.URL()] = identity.IssuerRules{JWKS: pinned, Pseudonyms: cfg.Issuer.Pseudonyms,
		OIDCIssuer: fulcio.OIDCIssuer{ClientID: audience, Type: fulcio.IssuerTypeEmail, Description: "built-in issuer, people"}}
	c.OIDCIssuers[in.issuer.URL()+workloadPath] = identity.IssuerRules{JWKS: pinned,
		OIDCIssuer: fulcio.OIDCIssuer{ClientID: audience, Type: fulcio.IssuerTypeCIProvider, CIProvider: workloadProvider, Description: "built-in issuer, workloads"}}
	c.CIIssuerMetadata[workloadProvider] = fulcio.IssuerMetadata{SubjectAlternativeNameTemplate: "{{ .sub }}"}
	return c
}

// issuerHandler answers discovery and keys under both names of the built-in issuer.
func (in *instance) issuerHandler() http.Handler {
	people, workloads := in.issuer.Handler(), in.workloads.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, workloadPath+"/") {
			workloads.ServeHTTP(w, r)
			return
		}
		people.ServeHTTP(w, r)
	})
}

// readIssuers makes the verifier and the authority for the issuers of cfg; nil where another role issues.
func (in *instance) readIssuers(cfg *Config) (*issuance, error) {
	if !in.parts.runs(partCA) {
		return nil, nil
	}
	verifier, err := identity.New(in.identityConfig(cfg))
	if err != nil {
		return nil, err
	}
	authority, err := ca.New(ca.Config{Chain: in.caChain, Signer: in.active(roleIssuing), CT: in.ct, Audit: in.audit, DB: in.authorityDB,
		Denied: in.denied.Load, Identity: verifier, Now: in.now, Logger: in.logger})
	if err != nil {
		return nil, err
	}
	return &issuance{authority, verifier, fulcioapi.Handler(authority, verifier, fulcioapi.Options{FormerChains: in.otherChains(roleIssuing), Logger: in.logger})}, nil
}

// restartNeeded names the sections that differ and that a reload does not take.
func restartNeeded(running, next *Config) (sections []string) {
	a, b, t := reflect.ValueOf(*running), reflect.ValueOf(*next), reflect.TypeFor[Config]()
	for i := range t.NumField() {
		switch name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name {
		case "oidc-issuers", "meta-issuers", "ci-issuer-metadata", "define", "tls", "people", "approvers":
		default:
			is, will := a.Field(i).Interface(), b.Field(i).Interface()
			if l, ok := is.(Log); ok {
				l.Read = next.Log.Read // taken
				is = l
			}
			if !reflect.DeepEqual(is, will) {
				sections = append(sections, name)
			}
		}
	}
	return sections
}

// printToken ends the line on a terminal only: in a file, clients such as cosign would send the newline as part of the token.
func printToken(w io.Writer, token string) {
	fmt.Fprint(w, token)
	if cmdline.IsTerminal(w) {
		fmt.Fprintln(w)
	}
}

func claimValue(v string) any {
	switch v {
	case "true":
		return true
	case "false":
		return false
	}
	return v
}

type tokenArgs struct {
	Subject  string         `json:"subject"`
	Email    string         `json:"email"`
	Audience string         `json:"audience"`
	TTL      time.Duration  `json:"ttl"`
	Extra    map[string]any `json:"extra"`
	approvalArgs
}

// tokenResult is the JSON of `redoubt identity token -o json`.
type tokenResult struct {
	Token    string `json:"token"`
	Issuer   string `json:"issuer"`   // for --certificate-oidc-issuer
	Identity string `json:"identity"` // for --certificate-identity
}

var mintToken = verb[tokenArgs, tokenResult]{"identity.token", func(ctx context.Context, in *instance, actor string, a tokenArgs) (tokenResult, error) {
	if in.issuer == nil {
		return tokenResult{}, cmdline.Hinted(fmt.Errorf("the built-in issuer is off"), "issuer.enabled, in the dev profile only; in production take a token from your identity provider")
	}
	claims := identity.Claims{Subject: a.Subject, Email: a.Email, Audience: a.Audience, TTL: a.TTL, Extra: a.Extra}
	if _, err := mail.ParseAddress(a.Subject); err == nil && a.Email == "" {
		claims.Email = a.Subject
	}
	result := tokenResult{Issuer: in.issuer.URL(), Identity: claims.Email}
	issuer := in.issuer
	switch {
	case claims.Email != "":
	case claims.Subject == "":
		claims.Email = "dev@" + in.cfg.Domain
		result.Identity = claims.Email
	default:
		result.Issuer, result.Identity = in.issuer.URL()+workloadPath, claims.Subject
		issuer = in.workloads
	}
	if err := in.canIssue(ctx, issuer, claims); err != nil {
		return tokenResult{}, cmdline.Hinted(err, "a workload's --subject is a URI, such as https://ci.%s/build/7; a person is named by --email", in.cfg.Domain)
	}
	lines, err := mintText(result, a)
	if err != nil {
		return tokenResult{}, err
	}
	agreed, err := in.agree(ctx, actor, "identity.token", lines, a.approvalArgs)
	if err != nil {
		return tokenResult{}, err
	}
	if err := in.record(ctx, actor, "identity.token", result.Identity, map[string]string{"issuer": result.Issuer}); err != nil {
		return tokenResult{}, err
	}
	if err := agreed.finish(); err != nil { // before there is a token: one approval, one token
		return tokenResult{}, err
	}
	result.Token, err = issuer.Mint(claims)
	return result, err
}}

// mintText is what people approve of a token: everything that goes into it.
func mintText(r tokenResult, a tokenArgs) ([]string, error) {
	extra, err := json.Marshal(a.Extra)
	return []string{"issuer " + approval.Value(r.Issuer), "identity " + approval.Value(r.Identity), "subject " + approval.Value(a.Subject), "audience " + approval.Value(a.Audience),
		"life " + a.TTL.String(), "claims " + approval.Value(string(extra))}, err
}

// canIssue refuses the subject of a workload that no certificate can carry. What a person's claims or another audience lack is
// left to the CA to refuse: such tokens are made to see that.
func (in *instance) canIssue(ctx context.Context, issuer *identity.Issuer, claims identity.Claims) error {
	if claims.Email != "" || claims.Audience != "" || !in.parts.runs(partCA) {
		return nil
	}
	token, err := issuer.Mint(claims)
	if err != nil {
		return err
	}
	now := in.issuance.Load()
	who, err := now.verifier.Verify(ctx, token)
	if err == nil {
		err = now.authority.CheckIdentity(who)
	}
	if err != nil {
		return fmt.Errorf("no certificate would be issued for this token: %w", err)
	}
	return nil
}
