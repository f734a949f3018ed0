package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	jose "github.com/go-jose/go-jose/v4"
)

// Bounds of talking to an issuer.
const (
	fetchTimeout = 10 * time.Second
	maxRedirects = 3
	maxBody      = maxJWKS
)

// newRemoteKeys is the key source of an issuer without pinned keys: its
// discovery document names where its keys are (OpenID Connect Discovery 1.0,
// section 4). Nothing is fetched until the first token asks.
func newRemoteKeys(iss string, c IssuerRules, now func() time.Time) (keySource, error) {
	home, err := url.Parse(strings.ReplaceAll(iss, "*", "x"))
	if err != nil {
		return nil, errors.New("is not a URL")
	}
	if home.Scheme != "https" && !loopback(home.Hostname()) {
		return nil, errors.New("fetching keys needs https; pin them with jwks")
	}
	client, err := issuerClient(home, c)
	if err != nil {
		return nil, err
	}
	r := &remoteKeys{now: now, turn: make(chan struct{}, 1)}
	r.fetch = func(ctx context.Context) ([]jose.JSONWebKey, error) {
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		return fetchKeys(oidc.ClientContext(ctx, client), client, iss, home, c)
	}
	return r.get, nil
}

// issuerClient may talk to the issuer's host and the configured further hosts,
// and to nothing else: the transport itself refuses other addresses.
func issuerClient(home *url.URL, c IssuerRules) (*http.Client, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if c.CACert != "" && !pool.AppendCertsFromPEM([]byte(c.CACert)) {
		return nil, errors.New("ca-cert holds no PEM certificate")
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		TLSClientConfig:        &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    fetchTimeout / 2,
		ResponseHeaderTimeout:  fetchTimeout,
		IdleConnTimeout:        time.Minute,
		MaxIdleConns:           2,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	return &http.Client{
		Transport: fencedTransport{t, home, c.JWKSHosts},
		Timeout:   fetchTimeout,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			if r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
				return fmt.Errorf("redirect to another host (%q) refused", clip(r.URL.Host))
			}
			return nil
		},
	}, nil
}

// fencedTransport is an http.RoundTripper that reaches named hosts only and
// bounds every body.
type fencedTransport struct {
	next  http.RoundTripper
	home  *url.URL
	hosts []string
}

// RoundTrip refuses hosts that are not named.
func (t fencedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !mayFetch(r.URL, t.home, t.hosts) {
		return nil, fmt.Errorf("host %q is not the issuer's (name it in jwks-hosts to allow it)", clip(r.URL.Host))
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{resp.Body, maxBody}
	return resp, nil
}

// mayFetch reports whether u is on the issuer's own host, or a named one, by
// the issuer's scheme.
func mayFetch(u, home *url.URL, hosts []string) bool {
	if u.User != nil || u.Scheme != home.Scheme {
		return false
	}
	return u.Host == home.Host || slices.Contains(hosts, u.Host)
}

// boundedBody errs, rather than ends, when a body is longer than allowed.
type boundedBody struct {
	io.ReadCloser
	left int
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("answer is longer than %d bytes", maxBody)
	}
	return n, err
}

// fetchKeys runs discovery, then gets the key set.
func fetchKeys(ctx context.Context, client *http.Client, iss string, home *url.URL, c IssuerRules) ([]jose.JSONWebKey, error) {
	provider, err := oidc.NewProvider(ctx, iss) // demands that the document names iss
	if err != nil {
		return nil, fmt.Errorf("discovering issuer: %w", err)
	}
	var doc struct {
		JWKSURI string `json:"jwks_uri"`
	}
	if err := provider.Claims(&doc); err != nil {
		return nil, fmt.Errorf("reading discovery document: %w", err)
	}
	u, err := url.Parse(doc.JWKSURI)
	if err != nil || !mayFetch(u, home, c.JWKSHosts) {
		return nil, fmt.Errorf("jwks_uri %q is on another host (name it in jwks-hosts to allow it)", clip(doc.JWKSURI))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("asking for keys: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking for keys: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking for keys: answer %d", resp.StatusCode)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	return parseKeySet(body)
}
