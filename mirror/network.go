package mirror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Access says how logs on the network are reached. Directories need none of it.
type Access struct {
	// Proxy is the URL of a proxy for every request. Empty means what HTTP_PROXY, HTTPS_PROXY and NO_PROXY say, "direct" none.
	Proxy string
	// Roots are the authorities whose servers are believed; nil means the machine's.
	Roots *x509.CertPool
	// Rate is the largest number of requests a second to one host; 0 sets no limit.
	Rate float64
	// AtOnce is the largest number of requests to one host under way; 0 means 8.
	AtOnce int
	// Contact tells a log's operator whom to ask: an address or a URL, part of the user agent.
	Contact string
}

// Network reaches logs over HTTP as a polite guest: few requests at once, none above the rate, retries that double their pause and
// obey Retry-After, redirects only within the host. Safe for concurrent use.
type Network struct {
	client *http.Client
	access Access
	agent  string
	now    func() time.Time
	sleep  func(context.Context, time.Duration) error

	mu    sync.Mutex
	hosts map[string]*gate
}

// gate is where requests to one host wait for their turn.
type gate struct {
	slots chan struct{}
	limit *rate.Limiter
}

const (
	attempts    = 5
	longestWait = 5 * time.Minute // a server that asks for more is left alone until the next pull
	atOnce      = 8
	maxAtOnce   = 64
	userAgent   = "redoubt-mirror/1"
)

// FirstPause passes before the second attempt, and doubles for each after that. Tests shorten it; the program does not.
var FirstPause = 500 * time.Millisecond

// NewNetwork returns the network that a describes. It opens nothing.
func NewNetwork(a Access) (*Network, error) {
	if a.Rate < 0 || a.AtOnce < 0 || a.AtOnce > maxAtOnce {
		return nil, fmt.Errorf("%w: a rate of %g and %d requests at once; at most %d, and neither is negative", ErrConfig, a.Rate, a.AtOnce, maxAtOnce)
	}
	if a.AtOnce == 0 {
		a.AtOnce = atOnce
	}
	if len(a.Contact) > 200 || strings.ContainsFunc(a.Contact, func(r rune) bool { return r < ' ' || r > '~' || r == '(' || r == ')' }) {
		return nil, fmt.Errorf("%w: contact %.80q; an address or a URL is needed", ErrConfig, a.Contact)
	}
	proxy := http.ProxyFromEnvironment
	switch {
	case a.Proxy == "direct":
		proxy = nil
	case a.Proxy != "":
		u, err := url.Parse(a.Proxy)
		if err != nil || u.User != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
			return nil, fmt.Errorf("%w: a proxy is an http, https or socks5 URL without user and password, or %q", ErrConfig, "direct")
		}
		proxy = http.ProxyURL(u)
	}
	n := &Network{access: a, agent: userAgent, now: time.Now, sleep: sleep, hosts: make(map[string]*gate)}
	if a.Contact != "" {
		n.agent += " (" + a.Contact + ")"
	}
	n.client = &http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{
			Proxy: proxy, TLSClientConfig: &tls.Config{RootCAs: a.Roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: a.AtOnce, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 20 * time.Second,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 || req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
				return errors.New("redirected away from the log's host")
			}
			return nil
		},
	}
	return n, nil
}

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (n *Network) gate(host string) *gate {
	n.mu.Lock()
	defer n.mu.Unlock()
	g := n.hosts[host]
	if g == nil {
		g = &gate{slots: make(chan struct{}, n.access.AtOnce), limit: rate.NewLimiter(rate.Inf, 1)}
		if n.access.Rate > 0 {
			g.limit.SetLimit(rate.Limit(n.access.Rate))
		}
		n.hosts[host] = g
	}
	return g
}

// ask is one question to a server.
type ask struct {
	method, url string
	body        string // JSON, for POST
	etag        string // of the answer that is held
	limit       int64  // longest answer in bytes
}

// answer is what a server said to an ask.
type answer struct {
	body      []byte
	etag      string
	unchanged bool // what is held under the ask's etag is still so
}

// do asks until there is an answer, it is plain that there will be none, or the attempts are used up.
func (n *Network) do(ctx context.Context, a ask) (answer, error) {
	u, err := url.Parse(a.url)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %v", ErrRemote, err)
	}
	g := n.gate(u.Host)
	pause := FirstPause
	for try := 1; ; try++ {
		got, wait, err := n.once(ctx, g, a)
		switch {
		case err == nil || wait < 0 || ctx.Err() != nil:
			return got, err
		case wait > longestWait:
			return got, fmt.Errorf("%w; it asks to come back in %s", err, wait)
		case try == attempts:
			return got, err
		}
		jitter := time.Duration(rand.Int64N(int64(pause)))
		if err := n.sleep(ctx, max(pause/2+jitter, wait)); err != nil {
			return got, err
		}
		pause *= 2
	}
}

// once asks once, when it is the ask's turn. wait is how long the server asked to wait, negative when another try is no use.
func (n *Network) once(ctx context.Context, g *gate, a ask) (got answer, wait time.Duration, err error) {
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	case <-ctx.Done():
		return got, -1, ctx.Err()
	}
	now := n.now()
	if d := g.limit.ReserveN(now, 1).DelayFrom(now); d > 0 {
		if err := n.sleep(ctx, d); err != nil {
			return got, -1, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, a.method, a.url, strings.NewReader(a.body))
	if err != nil {
		return got, -1, fmt.Errorf("%w: %v", ErrRemote, err)
	}
	req.Header.Set("User-Agent", n.agent)
	if a.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.etag != "" {
		req.Header.Set("If-None-Match", a.etag)
	}
	res, err := n.client.Do(req)
	if err != nil {
		if errors.As(err, new(*tls.CertificateVerificationError)) {
			wait = -1
		}
		return got, wait, fmt.Errorf("%w: %w", ErrRemote, err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusOK:
		if got.etag = res.Header.Get("ETag"); len(got.etag) > 256 {
			got.etag = ""
		}
		got.body, err = readLimited(res.Body, a.url, a.limit)
		return got, 0, err
	case res.StatusCode == http.StatusNotModified && a.etag != "":
		return answer{unchanged: true, etag: a.etag}, 0, nil
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusGone:
		return got, -1, fmt.Errorf("%s: %w", a.url, fs.ErrNotExist)
	case res.StatusCode == http.StatusForbidden: // object stores that list nothing say this of what is not there
		return got, -1, fmt.Errorf("%w: %s: %s: %w", ErrRemote, a.url, res.Status, fs.ErrPermission)
	case res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500 && res.StatusCode != http.StatusNotImplemented:
		return got, n.retryAfter(res), fmt.Errorf("%w: %s: %s", ErrRemote, a.url, res.Status)
	}
	return got, -1, fmt.Errorf("%w: %s: %s", ErrRemote, a.url, res.Status)
}

// retryAfter is how long a server asked to wait: RFC 9110, section 10.2.3, in seconds or as a date.
func (n *Network) retryAfter(res *http.Response) time.Duration {
	v := res.Header.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(n.now()))
	}
	return 0
}

func readLimited(r io.Reader, name string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: reading %s: %v", ErrRemote, name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrRemote, name, limit)
	}
	return b, nil
}
