//go:build cgo

package pkcs11

import (
	"context"
	"crypto/rand"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

// TestModule is the conformance test for a module of somebody's own; the
// variables are explained in package hsmtest.
func TestModule(t *testing.T) {
	const variable = "REDOUBT_TEST_PKCS11_"
	c := Config{PINFile: os.Getenv(variable + "PIN_FILE"), LibraryParameters: os.Getenv(variable + "PARAMETERS"), AllowImported: os.Getenv(variable+"ALLOW_IMPORTED") != ""}
	module, label, serial := os.Getenv(variable+"MODULE"), os.Getenv(variable+"TOKEN"), os.Getenv(variable+"SERIAL")
	if module == "" {
		t.Logf("%sMODULE is not set: testing SoftHSM", variable)
		s := newStore(t, "module")
		module, label, c.PINFile = softhsm, "module", s.pin
	}
	c.AllowedModules = []string{module}
	c.URI = canonicalURI(label, serial, "", nil, module)
	pin, err := hsm.ReadSecret(c.PINFile, maxPIN)
	must(t, err)
	tok := open(t, c)
	algorithms, err := tok.Algorithms(t.Context())
	must(t, err)
	t.Logf("%s, algorithms %v", tok.conn.Load().identity, algorithms)
	if os.Getenv(variable+"MODULE") == "" {
		algorithms = slices.DeleteFunc(algorithms, func(a hsm.Algorithm) bool { return strings.HasPrefix(string(a), "rsa") }) // slow, and TestConformance has them
	}
	if len(algorithms) == 0 {
		t.Fatal("the token has no mechanism for any algorithm of ours")
	}
	prefix := "redoubt-conformance-" + strings.ToLower(rand.Text()[:8]) + "-"
	t.Cleanup(func() { remove(t, tok, prefix) })
	hsmtest.Run(t, hsmtest.Kind{
		Open:       func(t testing.TB) hsm.Token { return open(t, c) },
		URI:        func(name string) string { return "pkcs11:object=" + prefix + name },
		Secret:     string(pin),
		Algorithms: algorithms,
	})
}

// remove destroys the key objects whose label begins with prefix.
func remove(t *testing.T, tok *Token, prefix string) {
	err := tok.with(context.Background(), false, func(c *pkcs11.Ctx, conn *connection, _ pkcs11.SessionHandle) error {
		rw, err := c.OpenSession(conn.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return err
		}
		defer func() { _ = c.CloseSession(rw) }()
		for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
			handles, err := find(c, rw, 10000, selector(class, nil, ""))
			if err != nil {
				return err
			}
			for _, h := range handles {
				v, err := c.GetAttributeValue(rw, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
				if err == nil && len(v) == 1 && strings.HasPrefix(string(v[0].Value), prefix) {
					if err := c.DestroyObject(rw, h); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("removing the keys %s*: %v", prefix, err)
	}
}

// The conformance test leaves a token as it found it.
func TestModuleTestCleansUp(t *testing.T) {
	s := newStore(t, "clean")
	tok := open(t, s.config("clean"))
	generate(t, tok, "mine", hsm.ECDSAP256)
	generate(t, tok, "redoubt-conformance-x-a", hsm.ECDSAP256)
	remove(t, tok, "redoubt-conformance-x-")
	_, err := tok.Signer(t.Context(), "pkcs11:object=redoubt-conformance-x-a")
	failsWith(t, err, hsm.ErrNotFound)
	if _, err := tok.Signer(t.Context(), "pkcs11:object=mine"); err != nil {
		t.Error(err)
	}
	if got, err := tok.Algorithms(t.Context()); err != nil || !slices.Equal(got, hsm.Algorithms()) {
		t.Errorf("algorithms %v, %v", got, err)
	}
}
