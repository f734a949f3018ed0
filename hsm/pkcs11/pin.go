package pkcs11

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/scrypt"
	"golang.org/x/sys/unix"

	"redoubt.internal/hsm"
)

// maxPIN bounds a PIN file.
const maxPIN = 1 << 10

// latchWork is log2 of scrypt's N for the latch: a refused PIN is often the
// right one mistyped, so its mark must not be cheap to search.
const latchWork = 15

// pinSource reads the PIN and remembers, durably, the one PIN the token
// refused, so that a mistyped PIN costs one of the token's few tries and not
// all of them, across reconnections, restarts and several Tokens of one source.
//
// The latch file holds {"salt", "mark"} with mark = scrypt(PIN, salt). It is
// compared by content: a service manager that copies the same PIN anew at each
// start must not spend a try each time. A PIN that was reset on the token to
// the value in the file is tried again once the latch file is removed.
type pinSource struct {
	file  string // PIN file, or ""
	value []byte // pin-value, development only
	latch string // latch file, or "" (pin-value without one: memory only)

	mu        sync.Mutex
	unwritten *latchMark // a refusal that has no file, or whose file could not be written
}

type latchMark struct {
	Salt []byte `json:"salt"`
	Mark []byte `json:"mark"`
}

// newPINSource decides where the PIN comes from; it does not read it.
func newPINSource(c Config, u *uri) (*pinSource, error) {
	p := &pinSource{file: c.PINFile}
	if u.pinValue != "" {
		if !c.AllowPINValue {
			return nil, fmt.Errorf("PKCS#11 URI holds pin-value, expected pin-source=FILE: a PIN in a URI ends up in logs: %w", hsm.ErrUnsupported)
		}
		if p.file == "" {
			p.value = []byte(u.pinValue)
			return p, nil
		}
	}
	if p.file == "" {
		var err error
		if p.file, err = u.pinPath(); err != nil {
			return nil, err
		}
	}
	if p.file == "" {
		return nil, errors.New("no PIN: set a PIN file, or pin-source in the PKCS#11 URI")
	}
	p.latch = p.file + ".refused"
	if p.writable() == nil || c.LatchDir == "" {
		return p, nil
	}
	if err := os.MkdirAll(c.LatchDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the refused-PIN mark: %w", err)
	}
	sum := sha256.Sum256([]byte(filepath.Clean(p.file))) // one mark per PIN file
	p.latch = filepath.Join(c.LatchDir, fmt.Sprintf("pin-%x.refused", sum[:6]))
	return p, nil
}

// read returns the PIN if it may be tried; hsm.ErrBadPIN when it is the one
// that was refused.
func (p *pinSource) read() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pin := p.value
	if p.file != "" {
		var err error
		if pin, err = hsm.ReadSecret(p.file, maxPIN); err != nil {
			return nil, fmt.Errorf("reading PIN: %w", err)
		}
	}
	if len(pin) == 0 {
		return nil, fmt.Errorf("PIN file %s is empty", p.file)
	}
	mark := p.unwritten
	if mark == nil && p.latch != "" {
		if err := p.writable(); err != nil {
			return nil, err
		}
		var err error
		if mark, err = readLatch(p.latch); err != nil {
			return nil, err
		}
	}
	if mark == nil {
		return pin, nil
	}
	sum, err := scrypt.Key(pin, mark.Salt, 1<<latchWork, 8, 1, 32)
	if err != nil {
		return nil, fmt.Errorf("comparing PIN with the refused one: %w", err)
	}
	if subtle.ConstantTimeCompare(sum, mark.Mark) != 1 {
		return pin, nil // another PIN: it gets its one try
	}
	return nil, fmt.Errorf("%w: the token refused this PIN before and it is not tried again; put the right PIN into %s, or, if the PIN was reset on the token, remove %s", hsm.ErrBadPIN, p.name(), p.latch)
}

// name says where the PIN is, for errors.
func (p *pinSource) name() string {
	if p.file != "" {
		return p.file
	}
	return "the URI's pin-value"
}

// refuse remembers that the token refused pin.
func (p *pinSource) refuse(pin []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	sum, err := scrypt.Key(pin, salt, 1<<latchWork, 8, 1, 32)
	if err != nil {
		return fmt.Errorf("remembering the refused PIN: %w", err)
	}
	p.unwritten = &latchMark{salt, sum}
	if p.latch == "" {
		return nil
	}
	if err := writeLatch(p.latch, p.unwritten); err != nil {
		return err
	}
	p.unwritten = nil
	return nil
}

// accept forgets a refused PIN after a good login.
func (p *pinSource) accept() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unwritten = nil
	if p.latch == "" {
		return nil
	}
	if err := os.Remove(p.latch); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the mark of a refused PIN: %w", err)
	}
	return nil
}

// writable refuses to try a PIN whose refusal could not be remembered.
func (p *pinSource) writable() error {
	dir := filepath.Dir(p.latch)
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("directory %s of the refused-PIN mark is not writable (%w): set a latch directory in the state directory", dir, err)
	}
	return nil
}

// readLatch returns nil when there is none. A latch that cannot be understood
// is an error: when in doubt, no PIN is tried.
func readLatch(path string) (*latchMark, error) {
	data, err := hsm.ReadPrivate(path, 4<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the mark of a refused PIN: %w", err)
	}
	m, err := parseLatch(data)
	if err != nil {
		return nil, fmt.Errorf("reading the mark of a refused PIN in %s: %w", path, err)
	}
	return m, nil
}

// parseLatch reads the content of a latch file.
func parseLatch(data []byte) (*latchMark, error) {
	var m latchMark
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the end")
	}
	if len(m.Salt) != 16 || len(m.Mark) != 32 {
		return nil, errors.New("salt or mark of a wrong length")
	}
	return &m, nil
}

// writeLatch replaces the latch file durably.
func writeLatch(path string, m *latchMark) (err error) {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding the mark of a refused PIN: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".refused-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing the mark of a refused PIN: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(append(data, '\n'))
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing the mark of a refused PIN: %w", err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("syncing the mark of a refused PIN: %w", err)
	}
	return nil
}
