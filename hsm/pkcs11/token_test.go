//go:build cgo

package pkcs11

import (
	"fmt"
	"testing"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

func TestConformance(t *testing.T) {
	s := newStore(t, "conformance")
	hsmtest.Run(t, hsmtest.Kind{
		Open:   func(t testing.TB) hsm.Token { return open(t, s.config("conformance")) },
		URI:    func(name string) string { return "pkcs11:token=conformance;object=" + name },
		Secret: testPIN,
		Ambiguous: func(t testing.TB) string {
			tok := open(t, s.config("conformance"))
			c := intruder(t)
			rw := rwSession(t, c, "conformance")
			for i := range 2 {
				_, _, err := makePair(c, rw, recipe{pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKK_EC, paramsP256, 0, pkcs11.CKM_ECDSA}, fmt.Appendf(nil, "twin%d", i), "twins")
				must(t, err)
			}
			must(t, tok.Close())
			return "pkcs11:object=twins"
		},
	})
}
