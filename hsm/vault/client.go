package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"redoubt.internal/hsm"
)

// What an answer of the server means to with, which turns each into one of hsm's
// errors.
var (
	// errDenied: 403, an ended token or a policy that says no.
	errDenied = errors.New("the server denied the request (403)")
	// errLost: the server is away, sealed or a standby; the token may be good.
	errLost = errors.New("the server does not serve")
	// errAbsent: 404, nothing there.
	errAbsent = errors.New("nothing there (404)")
	// errRefused: 400, the server understood and said no.
	errRefused = errors.New("the server refused the request")
	// errFault: 500, the server could not do this one thing.
	errFault = errors.New("the server reports a fault")
)

const (
	// maxResponse bounds what is read of an answer: a key of a thousand versions
	// has less.
	maxResponse = 1 << 20
	// maxFile bounds certificate and token files.
	maxFile = 64 << 10
)

// wire sends requests to the one configured address. It holds no token.
type wire struct {
	cfg       Config
	api       *api.Client
	transport *http.Transport
}

// newWire builds the API client without a default of the library: its own HTTP
// transport, no retries (they are counted here), no redirects, and none of the
// headers, tokens and namespaces it takes from the environment.
func newWire(c Config) (*wire, error) {
	config, err := tlsConfig(c)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(c.Address)
	if err != nil {
		return nil, err
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), map[string]string{"https": "443", "http": "80"}[u.Scheme])
	}
	dialer := net.Dialer{Timeout: c.Timeout}
	transport := &http.Transport{
		Proxy: nil, // whatever HTTPS_PROXY says
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != host {
				return nil, fmt.Errorf("connection to %s refused: the configured server is %s", clip(address), host)
			}
			return dialer.DialContext(ctx, network, address)
		},
		TLSClientConfig:     config,
		TLSHandshakeTimeout: c.Timeout,
		// HTTP/1.1 only: a connection that hangs costs one request, not all that
		// would share it.
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
		DisableCompression:  true, // so that what is bounded is what was sent
		MaxIdleConnsPerHost: 16,
		MaxConnsPerHost:     64,
		IdleConnTimeout:     30 * time.Second,
	}
	client, err := api.NewClient(&api.Config{
		Address:          c.Address,
		HttpClient:       &http.Client{Transport: guard{transport}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		DisableRedirects: true,
		MinRetryWait:     time.Millisecond,
		MaxRetryWait:     time.Millisecond,
	})
	if err != nil {
		// The library reads every VAULT_ variable even when nothing of it is used,
		// and stops at one it cannot read.
		return nil, fmt.Errorf("starting the Vault client (a VAULT_ variable in the environment may be malformed: %s): %w: %w", vaultVariables(), err, hsm.ErrUnsupported)
	}
	client.ClearToken()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	if c.Namespace != "" {
		client.SetNamespace(c.Namespace)
	}
	return &wire{cfg: c, api: client, transport: transport}, nil
}

// vaultVariables names the variables the library reads, without their values.
func vaultVariables() string {
	var names []string
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "VAULT_") {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// tlsConfig pins the server's certificates and brings the client certificate, read
// at each handshake so that a renewed one is used.
func tlsConfig(c Config) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := readBounded(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading ca-file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca-file %s holds no certificate in PEM: %w", c.CAFile, hsm.ErrUnsupported)
		}
	}
	if c.Auth == AuthCert {
		load := func() (*tls.Certificate, error) {
			key, err := hsm.ReadPrivate(c.KeyFile, maxFile)
			if err != nil {
				return nil, fmt.Errorf("reading key-file: %w", err)
			}
			defer clear(key)
			chain, err := readBounded(c.CertFile)
			if err != nil {
				return nil, fmt.Errorf("reading cert-file: %w", err)
			}
			pair, err := tls.X509KeyPair(chain, key)
			if err != nil {
				return nil, fmt.Errorf("cert-file %s and key-file %s: %w", c.CertFile, c.KeyFile, err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return config, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than %d octets", path, maxFile)
	}
	return data, err
}

// guard is the last hand on every request: an answer that sends it elsewhere is
// an error, and answers are bounded.
type guard struct{ next http.RoundTripper }

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		resp.Body.Close()
		location, _ := url.Parse(resp.Header.Get("Location"))
		to := "elsewhere"
		if location != nil && location.Host != "" {
			to = clip(location.Host)
		}
		return nil, fmt.Errorf("it answers %d and sends to %s, which is not followed: is it a standby? Configure the active server's address", resp.StatusCode, to)
	}
	resp.Body = &bounded{body: resp.Body, left: maxResponse}
	return resp, nil
}

// bounded is a body that ends in an error when it is too long.
type bounded struct {
	body io.ReadCloser
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is longer than %d octets", maxResponse)
	}
	n, err := b.body.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func (b *bounded) Close() error { return b.body.Close() }

// call sends one request below /v1/ with a token ("" for none) and decodes the
// answer into out, when there is one.
func (w *wire) call(ctx context.Context, token, method, path string, in, out any) error {
	return w.callAs(ctx, w.api, token, method, path, in, out)
}

// callIn is call in another namespace.
func (w *wire) callIn(ctx context.Context, namespace, token, method, path string, in, out any) error {
	return w.callAs(ctx, w.api.WithNamespace(namespace), token, method, path, in, out)
}

func (w *wire) callAs(ctx context.Context, client *api.Client, token, method, path string, in, out any) error {
	r := client.NewRequest(method, "/v1/"+path)
	r.ClientToken = token
	if in != nil {
		if err := r.SetJSONBody(in); err != nil {
			return fmt.Errorf("encoding request: %w", err)
		}
	}
	resp, err := client.RawRequestWithContext(ctx, r)
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		return explain(err, path, token)
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%w: reading the answer to %s: %w", errLost, path, err)
	}
	if out == nil || len(data) == 0 && resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%w: the answer to %s is not what Vault sends: %w", errLost, path, err)
	}
	return nil
}

// explain sorts an error of the library. What the server wrote is shortened to one
// line, and the token is cut out should it stand in there.
func explain(err error, path, token string) error {
	var r *api.ResponseError
	if !errors.As(err, &r) {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the URL adds nothing to the address with names
		}
		return fmt.Errorf("%w: %w", errLost, err)
	}
	said := strings.Join(strings.FieldsFunc(strings.Join(r.Errors, "; "), func(c rune) bool { return c < 0x20 || c == 0x7f }), " ")
	if token != "" {
		said = strings.ReplaceAll(said, token, "***")
	}
	if len(said) > 300 {
		said = said[:300] + "..."
	}
	kind := errFault
	switch r.StatusCode {
	case http.StatusBadRequest:
		kind = errRefused
	case http.StatusForbidden:
		kind = errDenied
	case http.StatusNotFound:
		kind = errAbsent
	case http.StatusPreconditionFailed, http.StatusTooManyRequests, 472, 473, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		kind = errLost // behind its leader, over its quota, a standby, sealed
	}
	if said == "" {
		said = "no reason given"
	}
	return fmt.Errorf("%w: %s: status %d: %s", kind, path, r.StatusCode, said)
}

func (w *wire) dropIdle() { w.transport.CloseIdleConnections() }

func (w *wire) close() { w.transport.CloseIdleConnections() }
