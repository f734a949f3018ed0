// Package soft keeps private keys in encrypted files. It exists for
// development, for rehearsals and for sites that accept the risk in writing:
// whoever copies the files and the passphrase has the keys, and while the
// process runs the keys are in its memory. Open says so in the log, loudly,
// and every Info has Software set.
//
// It guarantees:
//   - a key never touches the disk in the clear: it is sealed under a key derived
//     from the passphrase (scrypt and XChaCha20-Poly1305; in FIPS 140-3 mode
//     PBKDF2 and AES-256-GCM);
//   - Generate never replaces a file, and a key it returned is durable (file and
//     directory are fsynced before it returns);
//   - key files and passphrase files that others may read are refused;
//   - every field of a key file is authenticated.
//
// It does not protect against a process of the same user, nor does it lock the
// keys in memory. The file format is in file.go; docs/adr/0002 says why.
//
// Key URIs are "soft:PATH", PATH absolute or relative to Config.Dir.
package soft

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"redoubt.internal/hsm"
)

// Scheme begins every key URI of this package.
const Scheme = "soft:"

// DefaultCredential is the systemd credential looked up when the Config names
// neither a file nor a credential.
const DefaultCredential = "redoubt.passphrase"

// DefaultWorkFactor is log2 of scrypt's N: 128 MiB and about a third of a
// second, once per token.
const DefaultWorkFactor = 17

// Config says where the passphrase is and where relative key paths start. The
// passphrase is at least 8 octets; one trailing newline is not part of it.
type Config struct {
	// PassphraseFile holds the passphrase. It must belong to the user or root
	// and be closed to group and others.
	PassphraseFile string
	// ReadPassphrase reads the passphrase from PassphraseFile, for files that hold
	// it in another form (sealed to a TPM); nil means hsm.ReadSecret.
	ReadPassphrase func(path string) ([]byte, error)
	// Credential is the name of a systemd credential that holds the passphrase,
	// read from $CREDENTIALS_DIRECTORY; used when PassphraseFile is empty.
	// Empty means DefaultCredential.
	Credential string
	// Dir is where relative paths of key URIs start; empty means they are refused.
	Dir string
	// WorkFactor is log2 of scrypt's N for keys made from now on (10 to 20; in
	// FIPS 140-3 mode log2 of PBKDF2's iterations is two more);
	// 0 means DefaultWorkFactor. Only tests lower it.
	WorkFactor int
	// Logger receives the warning that keys are in software; nil discards it.
	Logger *slog.Logger
}

// Token is an open set of key files under one passphrase. It implements
// hsm.Token and is safe for concurrent use.
type Token struct {
	dir        string
	workFactor int

	closed     atomic.Bool
	mu         sync.Mutex // guards what follows; held while the derivation runs, so that it runs once
	passphrase []byte
	masters    map[derivation][]byte // results, so that many keys open fast
	latest     *kdf                  // parameters new keys reuse, nil before the first
}

// Open reads the passphrase and returns the token. It opens no key: a wrong
// passphrase shows at the first Signer as hsm.ErrBadPIN.
func Open(c Config) (*Token, error) {
	pass, source, err := readPassphrase(c)
	if err != nil {
		return nil, err
	}
	if c.WorkFactor == 0 {
		c.WorkFactor = DefaultWorkFactor
	}
	if c.WorkFactor < minWorkFactor || c.WorkFactor > maxWorkFactor {
		return nil, fmt.Errorf("scrypt work factor %d, allowed are %d to %d", c.WorkFactor, minWorkFactor, maxWorkFactor)
	}
	if c.Logger != nil {
		c.Logger.Warn("SOFTWARE KEYS IN USE: private keys are files on this machine; whoever copies them and the passphrase can sign as this authority. Use an HSM or TPM in production.",
			"kind", "soft", "dir", c.Dir, "passphrase", source)
	}
	return &Token{dir: c.Dir, workFactor: c.WorkFactor, passphrase: pass, masters: map[derivation][]byte{}}, nil
}

// Signer opens the key file the URI names.
func (t *Token) Signer(ctx context.Context, uri string) (*hsm.Key, error) {
	path, err := t.path(uri)
	if err != nil {
		return nil, err
	}
	if err := t.alive(ctx); err != nil {
		return nil, err
	}
	file, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("opening key %s: %w", uri, err)
	}
	master, err := t.master(file.suite, file.header.KDF)
	if err != nil {
		return nil, fmt.Errorf("opening key %s: %w", uri, err)
	}
	signer, err := file.open(master)
	if err != nil {
		return nil, fmt.Errorf("opening key %s: %w", uri, err)
	}
	return t.key(uri, path, file, signer)
}

// Generate makes a key and writes it to the file the URI names, creating the
// last directory of the path if needed (0700). RSA takes seconds and does not
// stop when ctx ends; the key is then discarded.
func (t *Token) Generate(ctx context.Context, uri string, alg hsm.Algorithm) (*hsm.Key, error) {
	path, err := t.path(uri)
	if err != nil {
		return nil, err
	}
	if err := t.alive(ctx); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("generating key %s: %w", uri, hsm.ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("generating key %s: %w", uri, err)
	}
	signer, err := generate(alg)
	if err != nil {
		return nil, fmt.Errorf("generating key %s: %w", uri, err)
	}
	suite, params, err := t.newKDF()
	if err != nil {
		return nil, fmt.Errorf("generating key %s: %w", uri, err)
	}
	master, err := t.master(suite, params)
	if err != nil {
		return nil, fmt.Errorf("generating key %s: %w", uri, err)
	}
	file, err := suite.seal(signer, alg, params, master)
	if err != nil {
		return nil, fmt.Errorf("generating key %s: %w", uri, err)
	}
	if err := t.alive(ctx); err != nil {
		return nil, err
	}
	if err := writeFile(path, file); err != nil {
		return nil, fmt.Errorf("generating key %s: %w", uri, err)
	}
	return t.Signer(ctx, uri) // what is returned is what the disk holds
}

// Close forgets the passphrase. Keys handed out stop signing.
func (t *Token) Close() error {
	t.closed.Store(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.passphrase)
	for _, m := range t.masters {
		clear(m)
	}
	t.passphrase, t.masters = nil, nil
	return nil
}

// key wraps an opened private key.
func (t *Token) key(uri, path string, f *keyFile, signer crypto.Signer) (*hsm.Key, error) {
	info := hsm.Info{
		URI:       uri,
		Kind:      "soft",
		Token:     filepath.Dir(path),
		Label:     strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)),
		Algorithm: f.header.Algorithm,
		Software:  true,
		Module:    "redoubt.internal/hsm/soft " + f.suite.format,
		Attributes: map[string]string{
			"cipher": f.header.Cipher,
			"kdf":    fmt.Sprintf(f.suite.derivation, f.header.KDF.LogN),
		},
		Evidence: []string{"The private key is an encrypted file of this machine: software, copyable, no protection by hardware."},
	}
	return hsm.NewKey(info, signer.Public(), func(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		if err := t.alive(ctx); err != nil {
			return nil, err
		}
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: pss.Hash}
		}
		return signer.Sign(rand.Reader, digest, opts)
	})
}

// alive says whether the token may still be used.
func (t *Token) alive(ctx context.Context) error {
	if t.closed.Load() {
		return fmt.Errorf("%w: token is closed", hsm.ErrUnavailable)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	return nil
}

// path turns a key URI into an absolute, clean path.
func (t *Token) path(uri string) (string, error) {
	p, ok := strings.CutPrefix(uri, Scheme)
	if !ok {
		return "", fmt.Errorf("key URI %q does not begin with %q: %w", uri, Scheme, hsm.ErrUnsupported)
	}
	if p == "" || strings.ContainsAny(p, "\x00\n\r") || strings.HasSuffix(p, "/") {
		return "", fmt.Errorf("key URI %q names no file: %w", uri, hsm.ErrUnsupported)
	}
	if filepath.IsAbs(p) {
		return filepath.Clean(p), nil
	}
	if t.dir == "" {
		return "", fmt.Errorf("key URI %q is relative and no key directory is set: %w", uri, hsm.ErrUnsupported)
	}
	if !filepath.IsLocal(p) {
		return "", fmt.Errorf("key URI %q leaves the key directory: %w", uri, hsm.ErrUnsupported)
	}
	return filepath.Abs(filepath.Join(t.dir, p))
}

// generate makes a private key in memory.
func generate(alg hsm.Algorithm) (crypto.Signer, error) {
	switch alg {
	case hsm.ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case hsm.ECDSAP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case hsm.RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case hsm.RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case hsm.Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("algorithm %q: %w", alg, hsm.ErrUnsupported)
}

// parseSigner reads the PKCS#8 plaintext of a key file.
func parseSigner(der []byte) (crypto.Signer, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("parsing private key: %w", err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key of type %T: %w", k, hsm.ErrUnsupported)
	}
	return s, nil
}
