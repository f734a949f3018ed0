//go:build cgo

package pkcs11

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// modules holds the loaded modules of the process. C_Initialize and C_Finalize
// are per process and shared object, so Tokens of one module share its entry;
// the last Close finalizes it.
var modules = struct {
	sync.Mutex
	loaded map[string]*module
}{loaded: map[string]*module{}}

// module is one initialized shared object.
type module struct {
	path   string
	params string // C_Initialize library parameters
	sum    string // SHA-256 of the file, hex
	ctx    *pkcs11.Ctx
	users  int // guarded by modules.Mutex

	// calls is held shared by every call into the module and exclusively while
	// it is finalized: Cryptoki forbids C_Finalize during other calls.
	calls sync.RWMutex
	// generation counts initializations; handles of an older one are void.
	generation uint64
	restarted  time.Time // when it was last restarted
	done       sync.Pool // of chan error, for calls
}

// restartEvery is the least time between two restarts of a module with several
// users: a token that stays away must not cost the others their sessions again
// and again.
const restartEvery = 2 * time.Second

// loadModule returns the shared module, loading it for its first user.
func loadModule(path, params string) (*module, error) {
	modules.Lock()
	defer modules.Unlock()
	if m := modules.loaded[path]; m != nil {
		if m.params != params {
			return nil, fmt.Errorf("module %s is already loaded with other library parameters", path)
		}
		m.users++
		return m, nil
	}
	sum, err := fileSum(path)
	if err != nil {
		return nil, fmt.Errorf("reading module: %w", err)
	}
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, fmt.Errorf("module %s cannot be loaded: not a PKCS#11 library of this machine, or a library it needs is missing: %w", path, hsm.ErrUnavailable)
	}
	m := &module{path: path, params: params, sum: sum, ctx: ctx, users: 1, generation: 1}
	if err := m.initialize(); err != nil {
		return nil, fmt.Errorf("initializing module %s%s: %w: %w", path, configHint(path), hsm.ErrUnavailable, err)
	}
	modules.loaded[path] = m
	return m, nil
}

// release gives the module back; the last user finalizes it. The shared object
// stays mapped: unloading modules that run threads of their own is unsafe.
func (m *module) release() {
	modules.Lock()
	defer modules.Unlock()
	if m.users--; m.users > 0 {
		return
	}
	delete(modules.loaded, m.path)
	if m.calls.TryLock() { // a hung call keeps it initialized
		_ = m.ctx.Finalize()
		m.generation++
		m.calls.Unlock()
	}
}

// initialize calls C_Initialize; another user in the process is no error.
func (m *module) initialize() error {
	var opts []pkcs11.InitializeOption
	if m.params != "" {
		// NSS reads its LibraryParameters where others have pReserved.
		p := append([]byte(m.params), 0)
		opts = append(opts, pkcs11.InitializeWithReserved(unsafe.Pointer(&p[0])))
	}
	err := m.ctx.Initialize(opts...)
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return nil
	}
	return err
}

// restart finalizes and initializes the module, unless somebody did since
// generation seen or just before. Every session of the process is lost; the Tokens concerned
// notice and recover by themselves.
func (m *module) restart(ctx context.Context, seen uint64) error {
	for !m.calls.TryLock() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("module %s holds a call and cannot be restarted: %w: %w", m.path, ctx.Err(), hsm.ErrHung)
		case <-time.After(time.Millisecond):
		}
	}
	defer m.calls.Unlock()
	spacing := restartEvery
	if m.alone() {
		spacing = 0
	}
	if m.generation != seen || time.Since(m.restarted) < spacing {
		return nil
	}
	m.generation++
	m.restarted = time.Now()
	_ = m.ctx.Finalize() // CKR_CRYPTOKI_NOT_INITIALIZED is what we come from
	if err := m.initialize(); err != nil {
		return fmt.Errorf("initializing module %s%s: %w", m.path, configHint(m.path), err)
	}
	return nil
}

// hungAfter is how long a call must be inside the module at its deadline to
// count as hung. One that only came late to its turn is a sign of load.
const hungAfter = time.Second

// alone reports whether one Token is the module's only user here.
func (m *module) alone() bool {
	modules.Lock()
	defer modules.Unlock()
	return m.users <= 1
}

// do runs fn, which calls into the module, and returns when it is done or ctx
// ends; in that case fn runs on to its end in the background. fn always runs.
func (m *module) do(ctx context.Context, fn func(c *pkcs11.Ctx, generation uint64) error) error {
	return m.doSince(ctx, time.Now(), fn)
}

// doSince is do for a caller that looked at the clock already.
func (m *module) doSince(ctx context.Context, began time.Time, fn func(c *pkcs11.Ctx, generation uint64) error) error {
	done, ok := m.done.Get().(chan error)
	if !ok {
		done = make(chan error, 1)
	}
	go func() {
		m.calls.RLock()
		err := fn(m.ctx, m.generation)
		m.calls.RUnlock()
		done <- err // after the unlock, so that the caller may finalize
	}()
	select {
	case err := <-done:
		m.done.Put(done) // empty again; one that was left behind is not used again
		return err
	case <-ctx.Done():
		if time.Since(began) >= hungAfter {
			return fmt.Errorf("module %s does not answer: %w: %w", m.path, ctx.Err(), hsm.ErrHung)
		}
		return fmt.Errorf("module %s did not answer in the time left: %w", m.path, ctx.Err())
	}
}

// identity names the module for Info: path, library and version, file digest.
func (m *module) identity(c *pkcs11.Ctx) string {
	s := m.path
	if info, err := c.GetInfo(); err == nil {
		s += fmt.Sprintf(" (%s, %s %d.%d)", strings.TrimSpace(info.ManufacturerID), strings.TrimSpace(info.LibraryDescription), info.LibraryVersion.Major, info.LibraryVersion.Minor)
	}
	return s + " sha256:" + m.sum
}

// fileSum is the SHA-256 of a file, hex.
func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// lost are the errors after which the session, the object, the login or the
// whole module state must be assumed gone (PKCS#11 v2.40, 5.1).
var lost = []pkcs11.Error{
	pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
	pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_TOKEN_NOT_PRESENT,
	pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED,
	pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_DEVICE_MEMORY,
}

// isLost reports whether a reconnection may help.
func isLost(err error) bool {
	var e pkcs11.Error
	return errors.As(err, &e) && slices.Contains(lost, e)
}

// isVoid reports that session handles mean nothing any more.
func isVoid(err error) bool {
	return isCode(err, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
		pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT)
}

// isCode reports whether err is one of codes.
func isCode(err error, codes ...pkcs11.Error) bool {
	var e pkcs11.Error
	return errors.As(err, &e) && slices.Contains(codes, e)
}

// current returns the generation of the module's state.
func (m *module) current() uint64 {
	m.calls.RLock()
	defer m.calls.RUnlock()
	return m.generation
}
