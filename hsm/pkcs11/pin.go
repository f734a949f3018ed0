package pkcs11

import (
	"errors"
	"fmt"

	"redoubt.internal/hsm"
)

// maxPIN bounds a PIN file.
const maxPIN = 1 << 10

// pinSource reads the PIN and remembers, durably (hsm.Latch), the one PIN the
// token refused.
type pinSource struct {
	file  string                            // PIN file, or ""
	open  func(path string) ([]byte, error) // reads file
	value []byte                            // pin-value, development only
	latch *hsm.Latch
}

// newPINSource decides where the PIN comes from; it does not read it.
func newPINSource(c Config, u *uri) (p *pinSource, err error) {
	p = &pinSource{file: c.PINFile, open: c.ReadPIN, latch: hsm.LatchAt("")}
	if p.open == nil {
		p.open = func(path string) ([]byte, error) { return hsm.ReadSecret(path, maxPIN) }
	}
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
		if p.file, err = u.pinPath(); err != nil {
			return nil, err
		}
	}
	if p.file == "" {
		return nil, errors.New("no PIN: set a PIN file, or pin-source in the PKCS#11 URI")
	}
	p.latch, err = hsm.NewLatch(p.file, c.LatchDir)
	return p, err
}

// RefusedPIN returns the file that remembers a PIN the token of c refused, ""
// when there is none. It opens no token and reads no PIN.
func RefusedPIN(c Config) (path string, err error) {
	u, err := parseURI(c.URI)
	if err != nil {
		return "", err
	}
	p, err := newPINSource(c, u)
	if err != nil {
		return "", err
	}
	latched, err := p.latch.Latched()
	if err != nil || !latched {
		return "", err
	}
	return p.latch.Path(), nil
}

// read returns the PIN if it may be tried; hsm.ErrBadPIN when it is the one
// that was refused.
func (p *pinSource) read() (pin []byte, err error) {
	if pin = p.value; p.file != "" {
		if pin, err = p.open(p.file); err != nil {
			return nil, fmt.Errorf("reading PIN: %w", err)
		}
	}
	if len(pin) == 0 {
		return nil, fmt.Errorf("PIN file %s is empty", p.file)
	}
	if err := p.latch.Allow(pin, p.name()); err != nil {
		return nil, err
	}
	return pin, nil
}

// name says where the PIN is, for errors.
func (p *pinSource) name() string {
	if p.file != "" {
		return p.file
	}
	return "the URI's pin-value"
}

// refuse remembers that the token refused pin.
func (p *pinSource) refuse(pin []byte) error { return p.latch.Refuse(pin) }

// accept forgets a refused PIN after a good login.
func (p *pinSource) accept() error { return p.latch.Accept() }
