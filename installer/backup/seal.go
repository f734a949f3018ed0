package backup

import (
	"bytes"
	"crypto/fips140"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
)

// What is sealed, is an age file for every custodian: any one of their keys opens it. Who must not be able to alone, holds a share of
// such a key and not the key.

// ParseRecipients reads age recipients (X25519), one a line; empty lines and lines that begin with # do not count.
func ParseRecipients(text string) ([]string, error) {
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if _, err := age.ParseX25519Recipient(line); err != nil {
			return nil, fmt.Errorf("%w: %.80q: %v", ErrRecipients, line, err)
		}
		out = append(out, line)
	}
	return out, nil
}

// sealer seals for the recipients; for none it leaves bytes as they are.
type sealer struct{ recipients []age.Recipient }

func newSealer(recipients []string) (*sealer, error) {
	s := &sealer{}
	if len(recipients) > 0 && fips140.Enforced() {
		return nil, ErrFIPS
	}
	for _, line := range recipients {
		r, err := age.ParseX25519Recipient(line)
		if err != nil {
			return nil, fmt.Errorf("%w: %.80q: %v", ErrRecipients, line, err)
		}
		s.recipients = append(s.recipients, r)
	}
	return s, nil
}

func (s *sealer) seal(plain []byte) ([]byte, error) {
	if len(s.recipients) == 0 {
		return plain, nil
	}
	var out bytes.Buffer
	out.Grow(len(plain) + len(plain)>>12 + 4<<10)
	w, err := age.Encrypt(&out, s.recipients...)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return out.Bytes(), nil
}

// opener opens what one of its keys was a recipient of.
type opener struct{ keys []age.Identity }

// newOpener reads the age identities in files; secrets come by file alone.
func newOpener(files []string) (*opener, error) {
	o := &opener{}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading a custodian's key: %w", err)
		}
		keys, err := age.ParseIdentities(io.LimitReader(f, 1<<20))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading the custodian's key in %s: it is no age identity", path) // never what stands in it
		}
		o.keys = append(o.keys, keys...)
	}
	if len(o.keys) > 0 && fips140.Enforced() {
		return nil, ErrFIPS
	}
	return o, nil
}

// maxPlain bounds an object, opened.
const maxPlain = 320 << 20

func (o *opener) open(sealed []byte) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), o.keys...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, ErrKey
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	var out bytes.Buffer
	out.Grow(len(sealed))
	if _, err := io.Copy(&out, io.LimitReader(r, maxPlain+1)); err != nil || out.Len() > maxPlain {
		return nil, fmt.Errorf("%w: what is sealed does not open whole: %v", ErrDamaged, err)
	}
	return out.Bytes(), nil
}

// NewKey makes a custodian's key: the file to keep, and the recipient to seal for.
func NewKey() (file []byte, recipient string, err error) {
	if fips140.Enforced() {
		return nil, "", ErrFIPS
	}
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, "", err
	}
	recipient = key.Recipient().String()
	return fmt.Appendf(nil, "# recipient: %s\n%s\n", recipient, key), recipient, nil
}
