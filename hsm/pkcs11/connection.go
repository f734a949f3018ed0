//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// connection is one logged-in state of a token: one session that holds the
// login and a pool of sessions that sign. It is discarded as a whole, because
// logins, sessions and object handles are lost together.
type connection struct {
	mod        *module
	generation uint64 // of the module when dialled; later handles are void
	slot       uint
	info       pkcs11.TokenInfo
	identity   string
	algorithms []hsm.Algorithm // that the token can make and use keys of
	dialled    time.Time
	login      pkcs11.SessionHandle
	free       chan pkcs11.SessionHandle // idle sessions
	worked     atomic.Bool               // some call succeeded
	active     atomic.Int64              // when a session was last taken, Unix nanoseconds
	gone       chan struct{}             // closed when discarded
	goneOnce   sync.Once

	mu      sync.Mutex
	objects map[string]pkcs11.ObjectHandle // verified private keys by keyRef.spki
}

// dial finds the token, opens its sessions and logs in.
func dial(ctx context.Context, m *module, u *uri, pin *pinSource, size int) (*connection, error) {
	result := make(chan *connection, 1)
	err := m.do(ctx, func(c *pkcs11.Ctx, generation uint64) (err error) {
		conn := &connection{mod: m, generation: generation, dialled: time.Now(), gone: make(chan struct{}), objects: map[string]pkcs11.ObjectHandle{}}
		if conn.slot, conn.info, err = findSlot(c, u, m.path); err != nil {
			return err
		}
		if conn.login, err = c.OpenSession(conn.slot, pkcs11.CKF_SERIAL_SESSION); err != nil {
			return fmt.Errorf("opening session: %w", err)
		}
		conn.free = make(chan pkcs11.SessionHandle, size)
		defer func() {
			if err != nil || ctx.Err() != nil {
				conn.closeAll(c)
			}
		}()
		if err := conn.authenticate(ctx, c, pin); err != nil {
			return err
		}
		for range conn.poolSize(size) {
			s, err := c.OpenSession(conn.slot, pkcs11.CKF_SERIAL_SESSION)
			if isCode(err, pkcs11.CKR_SESSION_COUNT) && len(conn.free) > 0 {
				break // the token gives fewer; work with those
			}
			if err != nil {
				return fmt.Errorf("opening session: %w", err)
			}
			conn.free <- s
		}
		if conn.algorithms, err = probe(c, conn.slot); err != nil {
			return err
		}
		conn.identity = m.identity(c)
		conn.active.Store(conn.dialled.UnixNano())
		result <- conn
		return nil
	})
	if err != nil {
		return nil, err
	}
	return <-result, nil
}

// readSerial asks again for a serial number that is blank: SoftHSM leaves it so
// when another process has its file at that moment. A token may have none.
func (conn *connection) readSerial(ctx context.Context) error {
	for range 5 {
		if trim(conn.info.SerialNumber) != "" {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
		info := make(chan pkcs11.TokenInfo, 1)
		err := conn.mod.do(ctx, func(c *pkcs11.Ctx, _ uint64) error {
			ti, err := c.GetTokenInfo(conn.slot)
			if err == nil {
				info <- ti
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("reading the token's serial number: %w", err)
		}
		conn.info = <-info
	}
	return nil
}

// poolSize respects the token's session limit (0 and all-ones mean none said).
func (conn *connection) poolSize(size int) int {
	if limit := conn.info.MaxSessionCount; limit > 2 && limit < 1<<31 && int(limit)-2 < size {
		return int(limit) - 2
	}
	return size
}

// authenticate logs in, trying a PIN at most once in the life of its source. The
// token's own count of wrong PINs tells the outcome of a try whose process ended
// before the answer.
func (conn *connection) authenticate(ctx context.Context, c *pkcs11.Ctx, source *pinSource) error {
	if conn.info.Flags&pkcs11.CKF_LOGIN_REQUIRED == 0 {
		return nil
	}
	if err := mayLogin(conn.info); err != nil {
		return err
	}
	attempt, err := source.latch.Begin(ctx)
	if err != nil {
		return err
	}
	defer attempt.End()
	pin, err := source.read()
	if err != nil {
		return err
	}
	if attempt.Interrupted && conn.info.Flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0 {
		err := fmt.Errorf("%w: the process that last logged in to token %q ended before the answer, and the token counts a wrong PIN; the PIN of %s is not tried again until that changes", hsm.ErrBadPIN, trim(conn.info.Label), source.name())
		return errors.Join(err, source.refuse(pin))
	}
	if err := attempt.Try(); err != nil {
		return err
	}
	err = c.Login(conn.login, pkcs11.CKU_USER, string(pin))
	switch {
	case err == nil:
		return source.accept()
	case isCode(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
		return nil // by another Token of this process
	case isCode(err, pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED):
		err = fmt.Errorf("%w: token %q answered %w to the PIN of %s; it was tried once and is not tried again until that changes", hsm.ErrBadPIN, trim(conn.info.Label), err, source.name())
		return errors.Join(err, source.refuse(pin))
	}
	return fmt.Errorf("logging in: %w", err)
}

// use takes a session from the pool, runs fn on it and puts it back. After an
// error the session is closed and replaced: its state is unknown.
func (conn *connection) use(ctx context.Context, fn func(c *pkcs11.Ctx, conn *connection, s pkcs11.SessionHandle) error) error {
	var s pkcs11.SessionHandle
	select {
	case s = <-conn.free:
	case <-conn.gone:
		return errGone
	default:
		select {
		case s = <-conn.free:
		case <-conn.gone:
			return errGone
		case <-ctx.Done():
			return conn.busy(ctx.Err())
		}
	}
	now := time.Now()
	conn.active.Store(now.UnixNano())
	return conn.mod.doSince(ctx, now, func(c *pkcs11.Ctx, generation uint64) error {
		if generation != conn.generation {
			return pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
		}
		err := fn(c, conn, s)
		if isVoid(err) {
			return err // the handle may by now be another session's
		}
		if err == nil {
			conn.worked.Store(true)
		} else {
			_ = c.CloseSession(s)
			fresh, openErr := c.OpenSession(conn.slot, pkcs11.CKF_SERIAL_SESSION)
			if openErr != nil {
				return errors.Join(err, openErr) // one session less; a lost token is discarded anyway
			}
			s = fresh
		}
		conn.put(c, s)
		return err
	})
}

// busy is the error of a call that waited for a session in vain. When none was
// taken for long either, none came back: that is more than load.
func (conn *connection) busy(err error) error {
	err = fmt.Errorf("all %d sessions are busy: %w", cap(conn.free), err)
	if time.Since(time.Unix(0, conn.active.Load())) >= hungAfter {
		return fmt.Errorf("module %s does not answer, %w: %w", conn.mod.path, err, hsm.ErrHung)
	}
	return err
}

// put returns a session to the pool, or closes it when the pool is gone.
func (conn *connection) put(c *pkcs11.Ctx, s pkcs11.SessionHandle) {
	conn.free <- s // never blocks: the pool has room for every session
	if conn.isGone() {
		conn.drain(c)
	}
}

// drain closes the idle sessions.
func (conn *connection) drain(c *pkcs11.Ctx) {
	for {
		select {
		case s := <-conn.free:
			_ = c.CloseSession(s)
		default:
			return
		}
	}
}

// closeAll closes the pool and the login session.
func (conn *connection) closeAll(c *pkcs11.Ctx) {
	conn.drain(c)
	_ = c.CloseSession(conn.login)
}

// isGone reports whether the connection was discarded.
func (conn *connection) isGone() bool {
	select {
	case <-conn.gone:
		return true
	default:
		return false
	}
}

// discard wakes the waiters and closes the idle sessions; sessions at work are
// closed when they come back. Handles that are void, because the token closed
// all sessions or the module was restarted, could by now be somebody else's:
// they are left alone.
func (conn *connection) discard(ctx context.Context, void bool) {
	conn.goneOnce.Do(func() { close(conn.gone) })
	if void {
		return
	}
	_ = conn.mod.do(ctx, func(c *pkcs11.Ctx, generation uint64) error {
		if generation == conn.generation {
			conn.closeAll(c)
		}
		return nil
	})
}
