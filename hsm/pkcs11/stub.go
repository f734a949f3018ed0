//go:build !cgo

package pkcs11

import (
	"context"
	"fmt"

	"redoubt.internal/hsm"
)

// Token cannot be opened in a build without cgo.
type Token struct{}

// Open fails with hsm.ErrUnsupported: this binary was built without cgo and
// cannot load a PKCS#11 module.
func Open(Config) (*Token, error) { return nil, errNoCgo() }

// Signer fails with hsm.ErrUnsupported.
func (*Token) Signer(context.Context, string) (*hsm.Key, error) { return nil, errNoCgo() }

// Generate fails with hsm.ErrUnsupported.
func (*Token) Generate(context.Context, string, hsm.Algorithm) (*hsm.Key, error) {
	return nil, errNoCgo()
}

// Algorithms fails with hsm.ErrUnsupported.
func (*Token) Algorithms(context.Context) ([]hsm.Algorithm, error) { return nil, errNoCgo() }

// Close does nothing.
func (*Token) Close() error { return nil }

func errNoCgo() error {
	return fmt.Errorf("PKCS#11 modules need the cgo build of redoubt (built with CGO_ENABLED=1); this binary was built without cgo: %w", hsm.ErrUnsupported)
}

// Survey fails with hsm.ErrUnsupported.
func Survey(string) (Seen, error) { return Seen{}, errNoCgo() }
