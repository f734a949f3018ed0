//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/rand"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// BenchmarkSign compares a bare C_SignInit and C_Sign loop with hsm.Key, per
// algorithm: "raw" is the module alone, "unverified" adds pool, recovery and
// deadline, "key" adds the verification of each signature.
func BenchmarkSign(b *testing.B) {
	for _, alg := range []hsm.Algorithm{hsm.ECDSAP256, hsm.ECDSAP384, hsm.RSA3072} {
		s := newStore(b, "bench")
		tok := open(b, s.config("bench"))
		key := generate(b, tok, "k", alg)
		c := intruder(b)
		mech, input, err := mechanismFor(alg, digest[:], crypto.SHA256)
		must(b, err)
		session := func() (pkcs11.SessionHandle, pkcs11.ObjectHandle) {
			sh, err := c.OpenSession(slotOf(b, c, "bench"), pkcs11.CKF_SERIAL_SESSION)
			must(b, err)
			h, err := findPrivate(c, sh, nil, "k")
			must(b, err)
			return sh, h
		}
		for _, parallel := range []int{1, 4} { // goroutines per CPU
			b.Run(fmt.Sprintf("%s/raw-%d", alg, parallel), func(b *testing.B) {
				b.SetParallelism(parallel)
				b.RunParallel(func(pb *testing.PB) {
					sh, h := session()
					for pb.Next() {
						if err := c.SignInit(sh, []*pkcs11.Mechanism{mech}, h); err != nil {
							b.Error(err)
							return
						}
						if _, err := c.Sign(sh, input); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
			for _, v := range []struct {
				name   string
				signer crypto.Signer
			}{{"unverified", key.Unverified()}, {"key", key}} {
				b.Run(fmt.Sprintf("%s/%s-%d", alg, v.name, parallel), func(b *testing.B) {
					var failed atomic.Bool
					b.SetParallelism(parallel)
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							if _, err := v.signer.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil && !failed.Swap(true) {
								b.Error(err)
							}
						}
					})
				})
			}
		}
		must(b, tok.Close())
	}
}
