// Package worker runs a token in a child process. Modules of PKCS#11 are shared
// objects of somebody else's: a call that hangs in one cannot be taken back, and
// a crash in one ends the process it is loaded in.
//
// It guarantees:
//   - the process that serves never loads the token's code: a crash there is
//     hsm.ErrUnavailable for the calls under way, and a new child;
//   - a signature is answered within Config.Timeout, whatever the child does; a
//     child whose token holds a call past that is killed and replaced, by one
//     caller for all;
//   - a key stays the key it was: the first signature through each new child
//     looks the key up again and compares its public key with the one pinned
//     when it was opened (hsm.ErrInsecureKey if another took its name);
//   - the configuration crosses the pipe, never argv or the environment; the
//     child has the variables named in Config.Env, its pipe, and no other
//     descriptor, and it ends when its parent does;
//   - a signature is verified once, in the parent.
//
// It does not separate privileges: the child runs as the same user and could
// read the same files.
//
// Open is the parent's side and Serve the child's; both know nothing of the kind
// of token. The frames between them are drawn in frame.go.
package worker

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"redoubt.internal/hsm"
)

// DefaultTimeout bounds one signature when Config.Timeout is 0.
const DefaultTimeout = 2 * time.Second

// The other bounds.
const (
	openTimeout     = 30 * time.Second // starting a child and opening its token; also looking a key up
	reopenTimeout   = 4 * time.Second  // the same after a loss, or twice what the first start took
	generateTimeout = 5 * time.Minute  // RSA keys take long in small tokens
	answerGrace     = 5 * time.Second  // for answers that are no signature
	closePatience   = 5 * time.Second  // for the child to close its token
	firstPause      = 100 * time.Millisecond
	longestPause    = 2 * time.Second // between two failed starts
)

// Config says how a child is started and what it is told.
type Config struct {
	// Path is the program; it must be absolute. It calls Serve on the connection
	// ChildConn returns. "/proc/self/exe" is this program, also after its file was
	// replaced by another version.
	Path string
	// Args are its arguments, the first of them its name.
	Args []string
	// Config is handed to the open function of Serve, over the pipe.
	Config []byte
	// Env lists the variables of this process's environment the child gets; a
	// name that ends in "*" stands for all that begin so.
	Env []string
	// Timeout bounds one signature; 0 means DefaultTimeout.
	Timeout time.Duration
	// Logger receives starts, losses and what the child prints; nil discards them.
	Logger *slog.Logger
}

// Token is a token in a child process. It implements hsm.Token and is safe for
// concurrent use.
type Token struct {
	config Config
	env    []string

	mu       sync.Mutex
	closed   bool
	current  *process      // nil before the first and after a loss is noticed
	opening  *process      // of the start under way
	starting chan struct{} // closed when the start under way ends; nil when there is none
	lastErr  error         // result of the last start, nil when it succeeded
	pause    time.Duration // before the next start, doubled by each failure
	notUntil time.Time
	starts   int
	bound    time.Duration // of the next start
}

// Open starts a child and waits until it has opened the token. Its errors are
// those of the child's open function, and hsm.ErrUnavailable when the child
// cannot run.
func Open(c Config) (*Token, error) {
	t, err := Start(c)
	if err != nil {
		return nil, err
	}
	if _, err := t.process(context.Background()); err != nil {
		_ = t.Close()
		return nil, err
	}
	return t, nil
}

// Start is Open without the wait: the calls that need the child wait for it, each
// as long as its context lets it, and have the errors of Open. What Start itself
// refuses is a wrong Config.
func Start(c Config) (*Token, error) {
	if !strings.HasPrefix(c.Path, "/") || len(c.Args) == 0 {
		return nil, errors.New("worker without the absolute path and the name of a program")
	}
	if c.Timeout < 0 || c.Timeout > maxTime {
		return nil, fmt.Errorf("time of %s for a signature, allowed is up to %s", c.Timeout, maxTime)
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Token{config: c, env: Environment(c.Env), bound: openTimeout, starting: make(chan struct{})}
	go t.start(nil)
	return t, nil
}

// Environment picks the variables of this process that names lists; a name that ends in * stands for all that begin so.
func Environment(names []string) []string {
	env := []string{} // never nil, which would mean everything
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		for _, want := range names {
			prefix, all := strings.CutSuffix(want, "*")
			if name == want || all && prefix != "" && strings.HasPrefix(name, prefix) {
				env = append(env, kv)
				break
			}
		}
	}
	return env
}

// Close ends the child, which closes the token first.
func (t *Token) Close() error {
	t.mu.Lock()
	p, starting := t.current, t.starting
	t.closed, t.current = true, nil
	opening := t.opening
	t.mu.Unlock()
	if opening != nil { // perhaps in the middle of a login
		opening.retire(closePatience)
	}
	if starting != nil {
		<-starting // it sees closed and ends what it started
	}
	if p != nil {
		p.retire(closePatience)
	}
	return nil
}

// process returns the live child, starting one if there is none. One start is
// under way at a time and outlives the callers that wait for it.
func (t *Token) process(ctx context.Context) (*process, error) {
	for {
		t.mu.Lock()
		switch {
		case t.closed:
			t.mu.Unlock()
			return nil, fmt.Errorf("%w: token is closed", hsm.ErrUnavailable)
		case t.current != nil && !t.current.isDead():
			p := t.current
			t.mu.Unlock()
			return p, nil
		case t.starting == nil && t.lastErr != nil && time.Now().Before(t.notUntil):
			err := t.lastErr
			t.mu.Unlock()
			return nil, err
		}
		if t.starting == nil {
			t.starting = make(chan struct{})
			go t.start(t.current)
		}
		starting, last := t.starting, t.lastErr
		if t.current != nil {
			last = t.current.gone()
		}
		t.mu.Unlock()
		select {
		case <-starting:
			t.mu.Lock()
			err := t.lastErr
			t.mu.Unlock()
			if err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for the token worker to start: %w: %w", hsm.ErrUnavailable, ctx.Err()), last)
		}
	}
}

// start replaces the lost child, if any.
func (t *Token) start(lost *process) {
	began := time.Now()
	t.mu.Lock()
	bound, first := t.bound, t.starts == 0
	t.starts++
	t.mu.Unlock()
	if lost != nil {
		t.config.Logger.Warn("token worker lost, starting another", "pid", lost.cmd.Process.Pid, "reason", lost.gone())
		<-lost.reaped
	}
	p, err := t.launch(bound)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed && err == nil {
		go p.retire(closePatience)
		err = fmt.Errorf("%w: token is closed", hsm.ErrUnavailable)
	}
	t.opening = nil
	if t.lastErr = err; err != nil {
		t.current = nil
		t.pause = min(max(firstPause, 2*t.pause), longestPause)
		t.notUntil = time.Now().Add(t.pause)
	} else {
		t.current, t.pause = p, 0
		if took := time.Since(began); t.bound == openTimeout { // it opened once
			t.bound = min(openTimeout, max(reopenTimeout, 2*took))
		}
		if !first {
			t.config.Logger.Info("token worker is back", "pid", p.cmd.Process.Pid, "took", time.Since(began))
		}
	}
	close(t.starting)
	t.starting = nil
}

// launch starts a child and has it open its token.
func (t *Token) launch(bound time.Duration) (*process, error) {
	p, err := launch(t.config.Path, t.config.Args, t.env, t.config.Logger)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	t.mu.Lock()
	if t.opening = p; t.closed {
		p.end(nil)
	}
	t.mu.Unlock()
	if _, err := p.call(context.Background(), request{op: opOpen, time: bound * 4 / 5, config: t.config.Config}, bound/5); err != nil {
		p.end(err)
		<-p.reaped
		return nil, err
	}
	return p, nil
}

// Signer returns the one existing key the URI names.
func (t *Token) Signer(ctx context.Context, uri string) (*hsm.Key, error) {
	return t.key(ctx, request{op: opSigner, uri: uri}, openTimeout)
}

// Generate makes a new key in the token. It is never repeated by itself: when
// the child ends meanwhile, the key may or may not have been made.
func (t *Token) Generate(ctx context.Context, uri string, alg hsm.Algorithm) (*hsm.Key, error) {
	if len(alg) > 64 {
		return nil, fmt.Errorf("algorithm with a name of %d octets: %w", len(alg), hsm.ErrUnsupported)
	}
	return t.key(ctx, request{op: opGenerate, uri: uri, alg: alg}, generateTimeout)
}

// key asks for a key and wraps it.
func (t *Token) key(ctx context.Context, r request, bound time.Duration) (*hsm.Key, error) {
	ctx, cancel := context.WithTimeout(ctx, bound+answerGrace)
	defer cancel()
	p, err := t.process(ctx)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	r.time = bound
	if deadline, ok := ctx.Deadline(); ok {
		r.time = min(bound, time.Until(deadline))
	}
	body, err := p.call(ctx, r, answerGrace)
	if err != nil {
		return nil, err
	}
	a, pub, err := parseKey(body)
	if err != nil {
		p.end(err)
		return nil, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	pinned, ok := pub.(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return nil, fmt.Errorf("public key of type %T: %w", pub, hsm.ErrUnsupported)
	}
	ref := &keyRef{uri: a.Info.URI, name: a.Info.URI + "\n" + a.Info.Fingerprint, pub: pinned}
	p.remember(ref.name, a.Key)
	key, err := hsm.NewKey(a.Info, pub, func(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return t.sign(ctx, ref, digest, opts)
	})
	if err != nil {
		return nil, err
	}
	return key.WithTimeout(t.config.Timeout), nil
}
