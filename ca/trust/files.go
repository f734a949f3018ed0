package trust

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sigstore/sigstore/pkg/signature"
)

// read returns a file of the repository, bounded.
func (r *Repository) read(name string) ([]byte, error) {
	f, err := os.Open(r.path(name))
	if err != nil {
		return nil, fmt.Errorf("reading TUF file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTarget+1))
	if err == nil && len(data) > maxTarget {
		err = errors.New("file too large")
	}
	if err != nil {
		return nil, fmt.Errorf("reading TUF file %s: %w", name, err)
	}
	return data, nil
}

func (r *Repository) write(name string, data []byte) error {
	if err := writeFile(r.path(name), data, 0o644); err != nil {
		return fmt.Errorf("writing TUF file: %w", err)
	}
	return nil
}

// writeFile replaces path in one step: temporary file, fsync, rename, fsync of
// the folder. A reader sees the old bytes or the new, also after a power cut.
func writeFile(path string, data []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// tufSigner shows a crypto.Signer to go-tuf, which signs through sigstore's
// interface. TUF scheme ecdsa-sha2-nistp256: SHA-256, ASN.1 DER.
type tufSigner struct {
	ctx context.Context
	key crypto.Signer
	err error // of the last SignMessage; go-tuf does not pass it on
}

func (s *tufSigner) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return s.key.Public(), nil
}

func (s *tufSigner) SignMessage(message io.Reader, _ ...signature.SignOption) (sig []byte, err error) {
	defer func() { s.err = err }()
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, message); err != nil {
		return nil, err
	}
	return s.key.Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
}
