package installer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	"redoubt.internal/mirror/parcel"
)

// The stream of parcels that install the product, and the name under which its key signs.
const (
	stream  = "redoubt"
	keyName = "redoubt.bundle"
)

var (
	// ErrFingerprint says that a bundle is another one than was asked for.
	ErrFingerprint = errors.New("the fingerprint is another one")
	// ErrSigner says that a bundle cannot be signed with this key.
	ErrSigner = errors.New("a bundle is signed with an ECDSA P-256 key, which stock tools verify")
)

// Trust says whose bundle is accepted. Without both a bundle is held against its own manifest alone: that shows damage, not who made it.
type Trust struct {
	// Fingerprint is that of the manifest, 32 hex digits or more, in groups or not.
	Fingerprint string
	// Keys are the verifier keys that may have signed.
	Keys []*parcel.Verifier
}

// fingerprintDigits is how much of the manifest's SHA-256 is read out to a person: 128 bits, which nobody finds a second bundle for.
const fingerprintDigits = 32

// fingerprint writes the first digits of a manifest's digest in groups of four.
func fingerprint(d parcel.Digest) string {
	var groups []string
	for at := 0; at < fingerprintDigits; at += 4 {
		groups = append(groups, d.String()[at:at+4])
	}
	return strings.Join(groups, "-")
}

// holds compares a manifest with what is accepted. An empty want is no comparison.
func (t Trust) holds(signed, text []byte) error {
	if t.Fingerprint != "" {
		have, want := parcel.Sum(text).String(), strings.ToLower(strings.NewReplacer("-", "", " ", "", ":", "").Replace(t.Fingerprint))
		if len(want) < fingerprintDigits || len(want) > len(have) {
			return fmt.Errorf("%w: %q has %d hex digits; %d to %d are needed", ErrFingerprint, t.Fingerprint, len(want), fingerprintDigits, len(have))
		}
		if !strings.HasPrefix(have, want) {
			return fmt.Errorf("%w: this bundle has %s, %s was asked for: it is another bundle, or its manifest was changed", ErrFingerprint, fingerprint(parcel.Sum(text)), t.Fingerprint)
		}
	}
	if len(t.Keys) == 0 {
		return nil
	}
	if _, _, err := parcel.OpenNote(signed, t.Keys); err != nil {
		return fmt.Errorf("manifest.note: %w", err)
	}
	return nil
}

// readManifest reads the head of a bundle, holds it against trust and returns the manifest, its digest and how long the head is.
func readManifest(r io.Reader, trust Trust) (m *parcel.Manifest, digest parcel.Digest, signed []byte, length int64, err error) {
	signed, length, err = parcel.Head(r)
	if err != nil {
		return nil, nil, nil, 0, fmt.Errorf("manifest.note: %w", err)
	}
	text, err := parcel.Unsigned(signed)
	if err != nil {
		return nil, nil, nil, 0, fmt.Errorf("manifest.note: %w", err)
	}
	if err := trust.holds(signed, text); err != nil {
		return nil, nil, nil, 0, err
	}
	if m, err = parcel.ParseManifest(text); err != nil {
		return nil, nil, nil, 0, fmt.Errorf("manifest.note: %w", err)
	}
	if m.Software == nil {
		return nil, nil, nil, 0, errors.New("manifest.note: it is a parcel of data; see redoubt mirror inspect")
	}
	key, err := parcel.NewVerifier(m.Software.Key)
	if err != nil {
		return nil, nil, nil, 0, fmt.Errorf("manifest.note: %w", err)
	}
	if _, _, err := parcel.OpenNote(signed, []*parcel.Verifier{key}); err != nil {
		return nil, nil, nil, 0, fmt.Errorf("manifest.note: %w", err)
	}
	return m, parcel.Sum(text), signed, length, nil
}

// seal signs the manifest of a payload and writes head and payload to Out, completely or not at all.
func (c Config) seal(folder string, list []byte, payload *os.File, volume parcel.Volume) error {
	key, err := c.verifier()
	if err != nil {
		return err
	}
	m := parcel.Manifest{
		Stream: stream, Sequence: 1, Created: parcel.Time{Time: c.Time}, Exporter: key.ID(), Logs: []parcel.Log{}, MinImporter: parcel.Format,
		Software: &parcel.Software{Folder: folder, Key: key.VKey(), Sums: parcel.Sum(list)}, Volumes: []parcel.Volume{volume},
	}
	if c.Previous != "" {
		before, err := Verify(c.Previous, Trust{})
		if err != nil {
			return fmt.Errorf("reading the bundle before: %w", err)
		}
		m.Sequence, m.Previous = before.Sequence+1, before.digest
	}
	text, err := m.Text()
	if err != nil {
		return err
	}
	signed, err := parcel.SignNote(text, keyName, c.Signer)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(c.Out), "."+filepath.Base(c.Out)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := payload.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("packing: %w", err)
	}
	out := newCounter(f)
	if _, err := io.Copy(out, io.MultiReader(bytes.NewReader(parcel.HeadFrame(signed)), payload)); err != nil {
		return fmt.Errorf("packing: %w", err)
	}
	for _, end := range []func() error{func() error { return f.Chmod(0o644) }, f.Sync} {
		if err := end(); err != nil {
			return fmt.Errorf("packing: %w", err)
		}
	}
	if err := c.signWhole(out.sum.Sum(nil)); err != nil {
		return err
	}
	return os.Rename(f.Name(), c.Out)
}

// verifier is the key that signs, as those who verify name it.
func (c Config) verifier() (*parcel.Verifier, error) {
	if c.Signer == nil {
		return nil, ErrSigner
	}
	if k, ok := c.Signer.Public().(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: this is a %T", ErrSigner, c.Signer.Public())
	}
	line, err := parcel.VerifierKey(keyName, c.Signer.Public())
	if err != nil {
		return nil, err
	}
	return parcel.NewVerifier(line)
}

// counter counts and digests what is written through it.
type counter struct {
	to    io.Writer
	bytes int64
	sum   hash.Hash
}

func newCounter(to io.Writer) *counter { return &counter{to: to, sum: sha256.New()} }

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.to.Write(b)
	c.bytes += int64(n)
	c.sum.Write(b[:n])
	return n, err
}
