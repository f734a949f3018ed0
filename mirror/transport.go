package mirror

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

// transport is a Network as an http.RoundTripper, for libraries that bring their own requests: it waits for its turn like every other
// request and tries again what may be tried again. Where it is sent is for its user to bound.
type transport struct{ n *Network }

// RoundTrip tries requests without a body as often as Network does.
func (t transport) RoundTrip(q *http.Request) (*http.Response, error) {
	ctx, g, pause := q.Context(), t.n.gate(q.URL.Host), FirstPause
	for try := 1; ; try++ {
		res, err := t.once(g, q)
		again := err != nil || res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500 && res.StatusCode != http.StatusNotImplemented
		if !again || try == attempts || ctx.Err() != nil || q.Body != nil && q.Body != http.NoBody {
			return res, err
		}
		wait := time.Duration(0)
		if err == nil {
			if wait = t.n.retryAfter(res); wait > longestWait {
				return res, nil
			}
			io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
			res.Body.Close()
		}
		if err := t.n.sleep(ctx, max(pause/2+time.Duration(rand.Int64N(int64(pause))), wait)); err != nil {
			return nil, err
		}
		pause *= 2
	}
}

func (t transport) once(g *gate, q *http.Request) (*http.Response, error) {
	ctx := q.Context()
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	now := t.n.now()
	if d := g.limit.ReserveN(now, 1).DelayFrom(now); d > 0 {
		if err := t.n.sleep(ctx, d); err != nil {
			return nil, err
		}
	}
	q = q.Clone(ctx)
	q.Header.Set("User-Agent", t.n.agent)
	res, err := t.n.client.Transport.RoundTrip(q)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRemote, err)
	}
	return res, nil
}

// Transport is the network for libraries that bring their own requests.
func (n *Network) Transport() http.RoundTripper { return transport{n} }
