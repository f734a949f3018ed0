package hsm

import (
	"bytes"
	"context"
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
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/scrypt"
	"golang.org/x/sys/unix"
)

// latchWork is log2 of scrypt's N for the latch: a refused secret is often the
// right one mistyped, so its mark must not be cheap to search.
const latchWork = 15

// Latch remembers, durably, the one secret (a PIN, an authorisation value) a
// token refused, so that a mistyped secret costs one of the token's few tries
// and not all of them, across reconnections, restarts and several users of one
// source. It is safe for concurrent use.
//
// The latch file holds {"salt", "mark"} with mark = scrypt(secret, salt). It is
// compared by content: a service manager that copies the same secret anew at
// each start must not spend a try each time. A secret that was reset on the
// token to the value that was refused is tried again once the file is removed.
type Latch struct {
	path string // latch file, or "" (memory only)
	work int    // log2 of scrypt's N

	mu        sync.Mutex
	unwritten *latchMark // a refusal that has no file, or whose file could not be written
}

type latchMark struct {
	Salt []byte `json:"salt"`
	Mark []byte `json:"mark"`
}

// NewLatch returns the latch of the secret in the file source. The mark stands
// beside source, with ".refused" appended to its name, or, where that directory
// is not writable (/etc, systemd's credentials), in fallback under a name made
// from source; fallback is then made (0700) when needed, "" means there is none.
func NewLatch(source, fallback string) (*Latch, error) {
	l := &Latch{path: source + ".refused", work: latchWork}
	if l.writable() == nil || fallback == "" {
		return l, nil
	}
	if err := os.MkdirAll(fallback, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the refused-PIN mark: %w", err)
	}
	sum := sha256.Sum256([]byte(filepath.Clean(source))) // one mark per source
	l.path = filepath.Join(fallback, fmt.Sprintf("pin-%x.refused", sum[:6]))
	return l, nil
}

// LatchAt returns the latch whose mark is the file at path; "" keeps the mark
// in memory, for development.
func LatchAt(path string) *Latch { return &Latch{path: path, work: latchWork} }

// Path is the file of the mark, "" when it is kept in memory.
func (l *Latch) Path() string { return l.path }

// Allow says whether secret may be tried: nil, ErrBadPIN when it is the one
// that was refused, another error when that cannot be told or when a refusal
// could not be remembered. where names the secret's place in the error.
func (l *Latch) Allow(secret []byte, where string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	refused := l.unwritten
	if refused == nil && l.path != "" {
		if err := l.writable(); err != nil {
			return err
		}
		var err error
		if refused, err = readLatch(l.path); err != nil {
			return err
		}
	}
	if refused == nil {
		return nil
	}
	sum, err := scrypt.Key(secret, refused.Salt, 1<<l.work, 8, 1, 32)
	if err != nil {
		return fmt.Errorf("comparing PIN with the refused one: %w", err)
	}
	if subtle.ConstantTimeCompare(sum, refused.Mark) != 1 {
		return nil // another secret: it gets its one try
	}
	mark := l.path
	if mark == "" {
		mark = "the mark by starting anew"
	}
	return fmt.Errorf("%w: the token refused this PIN before and it is not tried again; put the right PIN into %s, or, if the PIN was reset on the token, remove %s", ErrBadPIN, where, mark)
}

// Refuse remembers that the token refused secret.
func (l *Latch) Refuse(secret []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	sum, err := scrypt.Key(secret, salt, 1<<l.work, 8, 1, 32)
	if err != nil {
		return fmt.Errorf("remembering the refused PIN: %w", err)
	}
	l.unwritten = &latchMark{salt, sum}
	if l.path == "" {
		return nil
	}
	if err := writeLatch(l.path, l.unwritten); err != nil {
		return err
	}
	l.unwritten = nil
	return nil
}

// Accept forgets a refused secret after a good one.
func (l *Latch) Accept() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unwritten = nil
	if l.path == "" {
		return nil
	}
	if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the mark of a refused PIN: %w", err)
	}
	return nil
}

// Attempt is a login that has its turn: no other with the same secret's file is
// under way, in this process or another.
type Attempt struct {
	file *os.File // nil when the latch is in memory
	// Interrupted: the process that tried last ended before the token answered,
	// so that nobody knows whether the token counted a wrong secret.
	Interrupted bool
}

// Begin takes the turn; it waits as long as ctx lets it. It changes nothing that
// outlives this process.
func (l *Latch) Begin(ctx context.Context) (*Attempt, error) {
	if l.path == "" {
		return &Attempt{}, nil
	}
	if err := l.writable(); err != nil {
		return nil, err
	}
	path := strings.TrimSuffix(l.path, ".refused") + ".trying"
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("marking a login: %w", err)
		}
		interrupted, err := hold(ctx, f, path)
		if err == nil {
			return &Attempt{f, interrupted}, nil
		}
		if err := errors.Join(err, f.Close()); !errors.Is(err, errStale) {
			return nil, fmt.Errorf("marking a login: %w", err)
		}
	}
}

// Try says, durably, that the secret goes to the token now. A process that ends
// between Try and End leaves that behind.
func (a *Attempt) Try() error {
	if a.file == nil {
		return nil
	}
	_, err := a.file.WriteString("a login is under way\n")
	if err == nil {
		err = errors.Join(a.file.Sync(), syncDir(filepath.Dir(a.file.Name())))
	}
	if err != nil {
		return fmt.Errorf("marking a login: %w", err)
	}
	return nil
}

// End gives the turn back, after the token answered or without a try.
func (a *Attempt) End() {
	if a.file != nil {
		_, _ = os.Remove(a.file.Name()), a.file.Close()
	}
}

// errStale: the file that was locked is no longer the one of that name.
var errStale = errors.New("another login ended")

// hold locks the mark of a login and tells whether one was left in it.
func hold(ctx context.Context, f *os.File, path string) (interrupted bool, err error) {
	for unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("another login with the same PIN is under way: %w: %w", ErrUnavailable, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	if there, err := os.Stat(path); err != nil || !os.SameFile(mine, there) {
		return false, errStale
	}
	return mine.Size() > 0, nil
}

// Latched reports whether a refused secret is remembered, without comparing
// one; a mark that cannot be read is an error.
func (l *Latch) Latched() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unwritten != nil || l.path == "" {
		return l.unwritten != nil, nil
	}
	mark, err := readLatch(l.path)
	return mark != nil, err
}

// writable refuses to try a secret whose refusal could not be remembered.
func (l *Latch) writable() error {
	dir := filepath.Dir(l.path)
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("directory %s of the refused-PIN mark is not writable (%w): set a latch directory in the state directory", dir, err)
	}
	return nil
}

// readLatch returns nil when there is none. A latch that cannot be understood
// is an error: when in doubt, no secret is tried.
func readLatch(path string) (*latchMark, error) {
	data, err := ReadPrivate(path, 4<<10)
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
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("syncing the mark of a refused PIN: %w", err)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
