// Package tpm keeps private keys in a TPM 2.0: a discrete chip, a firmware TPM,
// swtpm on a unix socket. It is pure Go.
//
// It guarantees:
//   - keys are made inside the TPM under its storage root key, fixed to it, and
//     their attributes are read back: a key that is less is refused;
//   - a key stays the key it was: its public area is pinned when it is opened
//     and compared again whenever the TPM was reset or came back;
//   - a dead or hung TPM is an error within two seconds (hsm.ErrUnavailable), and
//     the token heals by itself when the TPM answers again;
//   - every transient object and session it makes is flushed, also after errors:
//     a TPM has three places for each;
//   - before a secret is tried against the TPM's dictionary-attack protection its
//     state is read, and nothing is tried in lockout or when one try is left; a
//     refused secret is tried once, over restarts too (hsm.Latch);
//   - authorisations travel in salted HMAC sessions with encrypted parameters, so
//     that a probe on the bus sees neither secrets nor can change commands.
//
// It does not guarantee that a TPM is hardware: Info.Software says what its
// manufacturer property claims, and Attest (attest.go) is as good as the
// endorsement certificate behind it.
//
// Start reading at Open, then link.go (the one way to the TPM) and key.go.
// docs/adr/0030 says why it is built this way, docs/adr/0031 what the NV counter
// can prove.
package tpm

import (
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

// DefaultDevice is the kernel's resource manager: it gives each opener handles of
// its own and flushes them when it goes.
const DefaultDevice = "/dev/tpmrm0"

// Config says which TPM to open and how.
type Config struct {
	// URI is "tpm:" with any of the attributes of a key URI; only device counts.
	URI string
	// Device is a TPM character device or the unix socket of swtpm, used when URI
	// names none; empty means DefaultDevice.
	Device string
	// Dir is where relative key files start; empty means they are refused.
	Dir string
	// AuthFile holds the authorisation value of the keys, one line of at most 32
	// octets, subject to hsm.ReadPrivate; empty means keys without one.
	AuthFile string
	// ReadAuth reads the value from AuthFile, for files that hold it in another
	// form (sealed to the TPM); nil means hsm.ReadSecret.
	ReadAuth func(path string) ([]byte, error)
	// OwnerAuthFile holds the authorisation of the owner hierarchy, needed to make
	// persistent keys and NV indices where the owner has set one.
	OwnerAuthFile string
	// LatchDir is where a refused authorisation is remembered when the directory
	// of AuthFile is not writable; see hsm.NewLatch.
	LatchDir string
	// PlainSessions gives up the encryption of parameters in sessions (AES-CFB),
	// which FIPS-only mode has not; HMACs stay. Open refuses there without it.
	PlainSessions bool
	// Logger receives loss, recovery and refusals; nil discards them.
	Logger *slog.Logger
}

// Token is an open TPM. It implements hsm.Token and is safe for concurrent use;
// commands of all its keys go to the TPM one after the other.
type Token struct {
	c     Config
	link  *link
	latch *hsm.Latch // of AuthFile

	making sync.Mutex // one Generate at a time

	// The link's holder owns what follows; it is void when the link's epoch moves.
	state state
}

// state is what the TPM remembers for this process.
type state struct {
	epoch    uint64
	props    *properties
	sessions [2]*session                 // without and with the authorisation value
	contexts map[string]tpm2.TPMSContext // saved contexts of keys, by name
	checked  map[uint32]bool             // persistent keys compared with their pin
	clock    *tpm2.TPMSClockInfo         // when epoch began

	// For recover: what is ours in a TPM that outlived a lost command.
	held           map[tpm2.TPMHandle]bool // handles not flushed yet
	names          map[string]bool         // of every object ever loaded here
	lostLoad       bool                    // a handle never came back
	sessionsBefore map[tpm2.TPMHandle]bool // not nil: a session's handle never came back
}

// Open looks at the device and reads the TPM's properties. It fails with
// hsm.ErrUnsupported (URI, FIPS-only mode, no TPM 2.0) or hsm.ErrUnavailable.
func Open(c Config) (*Token, error) {
	if c.URI != "" {
		u, err := parseURI(c.URI)
		if err != nil {
			return nil, err
		}
		if u.device != "" {
			c.Device = u.device
		}
	}
	if c.Device == "" {
		c.Device = DefaultDevice
	}
	if fips140.Enforced() && !c.PlainSessions {
		return nil, fmt.Errorf("opening TPM: FIPS-only mode has no AES-CFB, with which TPM sessions encrypt their parameters; set tpm-plain-sessions to go on with HMACs alone: %w", hsm.ErrUnsupported)
	}
	if c.ReadAuth == nil {
		c.ReadAuth = func(path string) ([]byte, error) { return hsm.ReadSecret(path, maxAuth+2) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Token{c: c, link: newLink(c.Device, c.Logger), latch: hsm.LatchAt(""), state: state{names: map[string]bool{}}}
	if c.AuthFile != "" {
		latch, err := hsm.NewLatch(c.AuthFile, c.LatchDir)
		if err != nil {
			return nil, fmt.Errorf("opening TPM: %w", err)
		}
		t.latch = latch
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	if err := t.with(ctx, func(*commands) error { return nil }); err != nil {
		return nil, fmt.Errorf("opening TPM %s: %w", c.Device, err)
	}
	return t, nil
}

const openTimeout = 10 * time.Second

// Close flushes the sessions. Keys handed out fail with hsm.ErrUnavailable.
func (t *Token) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	t.link.close(ctx, func(w *wire) { t.endSessions(&commands{t: t, w: w}) })
	return nil
}

// Signer returns the key a URI names: "tpm:handle=0x81010042" or
// "tpm:file=NAME.pem".
func (t *Token) Signer(ctx context.Context, uri string) (*hsm.Key, error) {
	u, err := t.keyURI(uri)
	if err != nil {
		return nil, err
	}
	ref, err := t.find(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("opening key %s: %w", u, err)
	}
	return t.key(ref)
}

// Generate makes a key under the storage root key and keeps it where the URI
// says: in a file only this TPM can load, or at a persistent handle.
func (t *Token) Generate(ctx context.Context, uri string, alg hsm.Algorithm) (*hsm.Key, error) {
	u, err := t.keyURI(uri)
	if err != nil {
		return nil, err
	}
	t.making.Lock()
	defer t.making.Unlock()
	ref, err := t.generate(ctx, u, alg)
	if err != nil {
		return nil, fmt.Errorf("generating key %s: %w", u, err)
	}
	return t.key(ref)
}

// keyURI parses a URI that must name a key of this device.
func (t *Token) keyURI(uri string) (*uri, error) {
	u, err := parseURI(uri)
	switch {
	case err != nil:
		return nil, err
	case u.file == "" && u.handle == 0:
		return nil, fmt.Errorf("TPM URI names no key, expected tpm:file=NAME.pem or tpm:handle=0x81......: %w", hsm.ErrUnsupported)
	case u.device != "" && filepath.Clean(u.device) != filepath.Clean(t.c.Device):
		return nil, fmt.Errorf("TPM URI names the device %s, the token is %s: %w", u.device, t.c.Device, hsm.ErrUnsupported)
	}
	if u.file != "" && !filepath.IsAbs(u.file) {
		if t.c.Dir == "" {
			return nil, fmt.Errorf("key file %s is relative and no directory is set: %w", u.file, hsm.ErrUnsupported)
		}
		u.path = filepath.Join(t.c.Dir, u.file)
	} else {
		u.path = u.file
	}
	return u, nil
}

// maxAuth is the longest authorisation value: the digest length of the keys' name
// algorithm, SHA-256 (TPM 2.0 Library part 1, 19.6.4.2).
const maxAuth = 32

// auth reads the authorisation value and asks the latch whether it may be tried.
func (t *Token) auth() ([]byte, error) {
	if t.c.AuthFile == "" {
		return nil, t.latch.Allow(nil, "keys.pin-file")
	}
	value, err := t.c.ReadAuth(t.c.AuthFile)
	if err != nil {
		return nil, fmt.Errorf("reading the authorisation value: %w", err)
	}
	if err := checkAuth(value); err != nil {
		return nil, fmt.Errorf("%s: %w", t.c.AuthFile, err)
	}
	return value, t.latch.Allow(value, t.c.AuthFile)
}

// checkAuth refuses values that TPMs cut short.
func checkAuth(value []byte) error {
	if len(value) == 0 || len(value) > maxAuth {
		return fmt.Errorf("an authorisation value has 1 to %d octets, this one %d", maxAuth, len(value))
	}
	for _, b := range value {
		if b == 0 {
			return errors.New("an authorisation value holds no zero octet")
		}
	}
	return nil
}

// ownerAuth reads the authorisation of the owner hierarchy, empty by default.
func (t *Token) ownerAuth() ([]byte, error) {
	if t.c.OwnerAuthFile == "" {
		return nil, nil
	}
	value, err := hsm.ReadSecret(t.c.OwnerAuthFile, maxAuth+2)
	if err == nil {
		err = checkAuth(value)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the owner's authorisation from %s: %w", t.c.OwnerAuthFile, err)
	}
	return value, nil
}

// exists reports whether path is taken.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
