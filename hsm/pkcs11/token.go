//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// retryAfter is how long a failed connection answers for the next callers, so
// that a dead token is not logged into by every waiting signer in turn.
const retryAfter = 100 * time.Millisecond

// settleAfter is how long a connection on which a key is missing is kept: one
// deleted key must not cost the others their sessions at every attempt, and a
// token that came back half must be dialled again.
const settleAfter = 2 * time.Second

// maxLosses bounds how often one call sees its connection taken away.
const maxLosses = 4

// errGone ends waiting for a session of a connection that was given up.
var errGone = errors.New("session pool was discarded")

// Token is one open PKCS#11 token. It implements hsm.Token and is safe for
// concurrent use.
type Token struct {
	uri     *uri
	pin     *pinSource
	mod     *module
	size    int
	import_ bool // accept imported keys
	logger  *slog.Logger

	conn   atomic.Pointer[connection] // nil while there is none
	closed atomic.Bool
	making chan struct{} // held by the one Generate at a time

	gate    chan struct{} // held by whoever connects; guards the fields below
	lastErr error         // result of the last connection that failed
	lastAt  time.Time     // when it failed
	suspect bool          // the module itself must be restarted before the next connection
}

// Open loads the module, finds the one token the URI matches and logs in. The
// errors say what was tried: hsm.ErrUnsupported (URI or module refused),
// hsm.ErrNotFound, hsm.ErrAmbiguous, hsm.ErrBadPIN, hsm.ErrUnavailable.
func Open(c Config) (*Token, error) {
	u, err := parseURI(c.URI)
	if err != nil {
		return nil, err
	}
	if c.AllowedModules == nil {
		c.AllowedModules = DefaultModules()
	}
	path, err := u.module(c.AllowedModules)
	if err != nil {
		return nil, err
	}
	pin, err := newPINSource(c, u)
	if err != nil {
		return nil, err
	}
	if c.Sessions < 0 || c.Sessions > 1024 {
		return nil, fmt.Errorf("session pool of %d, allowed are 1 to 1024", c.Sessions)
	}
	if c.Sessions == 0 {
		c.Sessions = DefaultSessions
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	mod, err := loadModule(path, c.LibraryParameters)
	if err != nil {
		return nil, err
	}
	t := &Token{uri: u, pin: pin, mod: mod, size: c.Sessions, import_: c.AllowImported, logger: c.Logger, gate: make(chan struct{}, 1), making: make(chan struct{}, 1)}
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = ConnectTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.ConnectTimeout)
	defer cancel()
	conn, err := t.connect(ctx)
	if err != nil {
		mod.release()
		return nil, fmt.Errorf("opening PKCS#11 token: %w", err)
	}
	if err := conn.readSerial(ctx); err != nil {
		conn.discard(ctx, false)
		mod.release()
		return nil, fmt.Errorf("opening PKCS#11 token: %w", err)
	}
	// From now on the token is this one, even if another of that label appears.
	u.token, u.serial = trim(conn.info.Label), trim(conn.info.SerialNumber)
	u.manufacturer, u.model = trim(conn.info.ManufacturerID), trim(conn.info.Model)
	return t, nil
}

// Close ends the sessions of this Token; the module is finalized when no other
// Token of the process uses it. It waits a moment for signatures under way.
func (t *Token) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if c := t.conn.Swap(nil); c != nil {
		c.discard(ctx, false)
	}
	t.mod.release()
	return nil
}

// Algorithms returns the algorithms the token says it can make keys of and sign
// with.
func (t *Token) Algorithms(ctx context.Context) ([]hsm.Algorithm, error) {
	conn, err := t.connect(ctx)
	if err != nil {
		return nil, err
	}
	return slices.Clone(conn.algorithms), nil
}

// connect returns the live connection, making one if there is none. One caller
// connects, the others wait for it or for their context.
func (t *Token) connect(ctx context.Context) (*connection, error) {
	if t.closed.Load() {
		return nil, fmt.Errorf("%w: token is closed", hsm.ErrUnavailable)
	}
	if c := t.conn.Load(); c != nil && !c.isGone() {
		return c, nil
	}
	select {
	case t.gate <- struct{}{}:
		defer func() { <-t.gate }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for the token: %w", hsm.ErrUnavailable, ctx.Err())
	}
	if c := t.conn.Load(); c != nil {
		return c, nil
	}
	if t.lastErr != nil && time.Since(t.lastAt) < retryAfter {
		return nil, t.lastErr
	}
	c, err := t.reach(ctx)
	if err != nil {
		if !isVerdict(err) {
			err = fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		}
		t.lastErr, t.lastAt = err, time.Now()
		return nil, err
	}
	if t.lastErr != nil {
		t.logger.Info("PKCS#11 token is back", "token", trim(c.info.Label), "serial", trim(c.info.SerialNumber))
	}
	if c.info.Flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0 {
		t.logger.Warn("a wrong PIN was tried on this PKCS#11 token before this login", "token", trim(c.info.Label), "serial", trim(c.info.SerialNumber))
	}
	t.lastErr, t.suspect = nil, false
	t.conn.Store(c)
	if t.closed.Load() { // Close ran meanwhile
		if c := t.conn.Swap(nil); c != nil {
			c.discard(ctx, false)
		}
		return nil, fmt.Errorf("%w: token is closed", hsm.ErrUnavailable)
	}
	return c, nil
}

// isVerdict reports errors that stand for themselves and are no outage.
func isVerdict(err error) bool {
	for _, v := range []error{hsm.ErrBadPIN, hsm.ErrNotFound, hsm.ErrAmbiguous, hsm.ErrUnsupported, hsm.ErrUnavailable} {
		if errors.Is(err, v) {
			return true
		}
	}
	return false
}

// reach dials, and dials once more after restarting the module when that may
// help: modules list their tokens once, at C_Initialize.
func (t *Token) reach(ctx context.Context) (*connection, error) {
	if t.suspect {
		if err := t.mod.restart(ctx, t.mod.current()); err != nil {
			return nil, err
		}
	}
	seen := t.mod.current()
	c, err := dial(ctx, t.mod, t.uri, t.pin, t.size)
	if err == nil || errors.Is(err, hsm.ErrBadPIN) || errors.Is(err, hsm.ErrAmbiguous) || errors.Is(err, hsm.ErrUnsupported) || ctx.Err() != nil {
		return c, err
	}
	if t.suspect {
		return nil, err
	}
	if rerr := t.mod.restart(ctx, seen); rerr != nil {
		return nil, errors.Join(err, rerr)
	}
	return dial(ctx, t.mod, t.uri, t.pin, t.size)
}

// lose gives up a connection that failed with err. Its sessions are closed
// before anybody may dial: a module may give their numbers to new sessions.
func (t *Token) lose(ctx context.Context, c *connection, err error, suspect bool) {
	select {
	case t.gate <- struct{}{}:
		defer func() { <-t.gate }()
	case <-ctx.Done():
		return // the next caller will find out
	}
	if t.conn.Load() != c {
		return // another caller was first
	}
	t.logger.Warn("PKCS#11 token lost, reconnecting", "token", trim(c.info.Label), "serial", trim(c.info.SerialNumber), "reason", err)
	if suspect {
		t.suspect, t.lastErr, t.lastAt = true, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err), time.Now()
	}
	c.discard(ctx, isVoid(err))
	t.conn.CompareAndSwap(c, nil)
}

// with runs fn on a session of a live connection. When the session turns out to
// be lost, the pool is discarded and fn runs once more on a new connection,
// provided retry; fn looks its objects up through the connection each time.
func (t *Token) with(ctx context.Context, retry bool, fn func(c *pkcs11.Ctx, conn *connection, s pkcs11.SessionHandle) error) error {
	for attempt := 0; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		}
		conn, err := t.connect(ctx)
		if err != nil {
			return err
		}
		err = conn.use(ctx, fn)
		var gone *goneError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &gone): // reconnected, and the key is not there
			if errors.Is(err, hsm.ErrNotFound) && time.Since(conn.dialled) > settleAfter {
				t.lose(ctx, conn, err, false)
			}
			return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		case errors.Is(err, errGone), isLost(err):
			// A connection that worked for others and was lost again is a new loss,
			// not a failed retry; one that never worked ends the attempts.
			failed := attempt > 0 && !conn.worked.Load()
			t.lose(ctx, conn, err, failed)
			if failed || !retry || attempt == maxLosses {
				return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
			}
		case isCode(err, pkcs11.CKR_OPERATION_ACTIVE) && retry && attempt == 0:
			// That session was left in the middle of something; it is replaced already.
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		case isCode(err, pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_FUNCTION_NOT_SUPPORTED):
			return fmt.Errorf("%w: %w", hsm.ErrUnsupported, err)
		default:
			var e pkcs11.Error
			if errors.As(err, &e) {
				return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
			}
			return err
		}
	}
}
