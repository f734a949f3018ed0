// Package vault keeps private keys in the Transit engine of a HashiCorp Vault
// or OpenBao server.
//
// It guarantees:
//   - a key URI pins a version (hashivault://NAME?version=N), every signature is
//     asked of that version, and the public key is compared with the one seen
//     when the key was opened after each new connection: a rotated or replaced
//     Transit key is never signed with by surprise;
//   - a new key is read back before it is used: its type (the server answers a
//     creation over a key of another type with success), and that it cannot be
//     exported, backed up in plaintext or deleted (hsm.ErrInsecureKey otherwise);
//   - nothing but the configured address is contacted: no redirect, no proxy, no
//     VAULT_ or BAO_ variable of the environment is followed, and the server's
//     certificate is verified against the configured pool, without the
//     system's roots unless told;
//   - a configured namespace is one the server honours. Editions without
//     namespaces ignore the header and answer from the root, so this is proved
//     at each login with a namespace that cannot exist;
//   - a call is answered within Config.Timeout, tokens are renewed before they
//     end, and where renewal no longer extends one, there is a new login;
//   - a login that was refused is not repeated with the same credential in quick
//     succession, because servers lock accounts;
//   - no token, secret id or private key stands in an error or an Info.
//
// It does not guarantee that the server keeps the key in hardware, nor that no
// other client of the server may use it: both are the server's configuration,
// and Info.Evidence says so.
//
// Start at Token.Signer. login.go is how a session comes to be and
// ends, client.go the wire. docs/adr/0032 has the reasons. Facts of the API:
// Vault 1.21 API documentation, secret/transit, auth/approle, auth/cert,
// auth/kubernetes, auth/token, and the source under builtin/logical/transit.
package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"redoubt.internal/hsm"
)

const (
	// DefaultTimeout bounds one signature and the opening of one key, reconnection
	// included.
	DefaultTimeout = 2 * time.Second
	// generateTimeout bounds Generate: a busy server makes RSA keys in many seconds.
	generateTimeout = 2 * time.Minute
	// retryAfter is how long a failed connection answers for the next callers.
	retryAfter = 200 * time.Millisecond
)

// Token is the Transit engine of one server under one identity. It implements
// hsm.Token and is safe for concurrent use.
type Token struct {
	cfg    Config
	wire   *wire
	logger *slog.Logger
	where  string // address, mount and namespace, for people

	live   atomic.Pointer[session] // nil while there is none
	closed atomic.Bool
	making chan struct{} // held by the one Generate at a time
	ended  chan struct{} // closed by Close

	gate    chan struct{} // held by whoever connects; guards the fields below
	lastErr error         // result of the last connection that failed
	lastAt  time.Time
	kept    *grant // the token of a lost session, which may still be good
	refused refusal
	renewal *time.Timer
}

// Open checks the configuration and reads the certificates; it contacts nothing.
// The first Signer or Generate logs in and proves the namespace. So a server that is
// away, sealed or refuses the login is an error of the key: it heals without another
// Open, and a refused login is remembered between the keys of one server. Open fails
// with hsm.ErrUnsupported, or hsm.ErrInsecureKey for a key-file open to others.
func Open(c Config) (*Token, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	w, err := newWire(c)
	if err != nil {
		return nil, err
	}
	return &Token{cfg: c, wire: w, logger: c.Logger, where: c.where(), gate: make(chan struct{}, 1), making: make(chan struct{}, 1), ended: make(chan struct{})}, nil
}

// Close ends the session of this Token. A token this package logged in for is
// given back to the server, if it answers at once.
func (t *Token) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	close(t.ended)
	t.gate <- struct{}{}
	if t.renewal != nil {
		t.renewal.Stop()
	}
	s, kept := t.live.Swap(nil), t.kept
	<-t.gate
	if s != nil {
		kept = s.grant
	}
	if kept != nil && t.cfg.Auth != AuthToken {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = t.wire.call(ctx, kept.token, "POST", "auth/token/revoke-self", nil, nil) // it ends by itself anyway
	}
	t.wire.close()
	return nil
}

// connect returns the live session, making one if there is none. One caller
// connects, the others wait for it or for their context.
func (t *Token) connect(ctx context.Context) (*session, error) {
	if s := t.live.Load(); s != nil {
		return s, nil
	}
	select {
	case t.gate <- struct{}{}:
		defer func() { <-t.gate }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for %s: %w", hsm.ErrUnavailable, t.where, ctx.Err())
	}
	if s := t.live.Load(); s != nil {
		return s, nil
	}
	if t.closed.Load() {
		return nil, errClosed
	}
	if t.lastErr != nil && time.Since(t.lastAt) < retryAfter {
		return nil, t.lastErr
	}
	s, err := t.establish(ctx)
	if err != nil {
		if !errors.Is(err, hsm.ErrBadPIN) && !errors.Is(err, hsm.ErrUnsupported) && !errors.Is(err, hsm.ErrUnavailable) {
			err = fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		}
		if !errors.Is(ctx.Err(), context.Canceled) { // a caller that gave up says nothing about the server
			t.lastErr, t.lastAt = err, time.Now()
		}
		return nil, err
	}
	if t.lastErr != nil {
		t.logger.Info("Vault is back", "address", t.cfg.Address, "mount", t.cfg.Mount)
	}
	t.lastErr, t.kept = nil, nil
	t.live.Store(s)
	t.schedule(s.grant)
	return s, nil
}

var errClosed = fmt.Errorf("%w: token is closed", hsm.ErrUnavailable)

// lose gives up a session. keep says that its token may still be good: the server
// went away, not the token.
func (t *Token) lose(ctx context.Context, s *session, reason error, keep bool) {
	select {
	case t.gate <- struct{}{}: // also where the loss is that ctx ended
	default:
		select {
		case t.gate <- struct{}{}:
		case <-ctx.Done():
			return // the next caller will find out
		}
	}
	defer func() { <-t.gate }()
	if !t.live.CompareAndSwap(s, nil) {
		return // another caller was first
	}
	if t.kept = nil; keep {
		t.kept = s.grant
	}
	if t.renewal != nil {
		t.renewal.Stop()
	}
	t.wire.dropIdle()
	t.logger.Warn("Vault session lost, connecting again", "address", t.cfg.Address, "mount", t.cfg.Mount, "reason", reason)
}

// with runs fn on a live session and once more on a new one when the first turns
// out to be lost. Every error names the server and is one of hsm's.
func (t *Token) with(ctx context.Context, fn func(ctx context.Context, s *session) error) error {
	var last error // why the first attempt ended
	for attempt := 0; ; attempt++ {
		if t.closed.Load() {
			return errClosed
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: %s: %w", hsm.ErrUnavailable, t.where, errors.Join(err, last))
		}
		s, err := t.connect(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", t.where, err)
		}
		err = fn(ctx, s)
		last = err
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errDenied) && attempt == 0 && t.tokenEnded(ctx, s):
			t.lose(ctx, s, err, false)
		case errors.Is(err, errLost) && attempt == 0:
			t.lose(ctx, s, err, true)
		case errors.Is(err, errLost):
			t.lose(ctx, s, err, true)
			return fmt.Errorf("%w: %s: %w", hsm.ErrUnavailable, t.where, err)
		case errors.Is(err, errDenied):
			return fmt.Errorf("%w: %s: %w; does the policy of this identity allow it?", hsm.ErrUnavailable, t.where, err)
		case errors.Is(err, errFault):
			return fmt.Errorf("%w: %s: %w", hsm.ErrUnavailable, t.where, err)
		case ctx.Err() != nil && !errors.Is(err, hsm.ErrUnavailable):
			return fmt.Errorf("%w: %s: %w", hsm.ErrUnavailable, t.where, err)
		default:
			return fmt.Errorf("%s: %w", t.where, err)
		}
	}
}

// tokenEnded tells an ended token from a policy that says no: both are 403. A token
// of the last second did not end; identities that may not even look their own token
// up would log in for every refusal.
func (t *Token) tokenEnded(ctx context.Context, s *session) bool {
	return time.Since(s.grant.born) > time.Second && errors.Is(t.wire.call(ctx, s.grant.token, "GET", "auth/token/lookup-self", nil, nil), errDenied)
}
