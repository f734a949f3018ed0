package worker

import (
	"context"
	"time"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/pkcs11"
)

var shimDir string // where the faulty module was built, "" before

// pkcs11Config is the part of pkcs11.Config the children of the tests need.
type pkcs11Config struct {
	URI, PINFile, Module string
	Sessions             int
}

func (c *pkcs11Config) open(ctx context.Context) (hsm.Token, error) {
	deadline, _ := ctx.Deadline()
	return pkcs11.Open(pkcs11.Config{URI: c.URI, PINFile: c.PINFile, AllowedModules: []string{c.Module}, Sessions: c.Sessions, ConnectTimeout: time.Until(deadline)})
}
