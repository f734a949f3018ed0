//go:build cgo

package pkcs11

import (
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"

	"redoubt.internal/hsm"
)

// The encoding of r || s is DER's, and what is no such pair is refused.
func FuzzSignature(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Add([]byte{0x80, 0x00, 0x00, 0x7f})
	f.Add(append(make([]byte, 95), 0xff))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, sig []byte) {
		got, err := encodeSignature(hsm.ECDSAP384, sig)
		if err != nil {
			if !errors.Is(err, hsm.ErrBadSignature) || len(sig) > 0 && len(sig)%2 == 0 && len(sig) <= 96 {
				t.Fatal(err)
			}
			return
		}
		want, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:len(sig)/2]), new(big.Int).SetBytes(sig[len(sig)/2:])})
		if err != nil || string(got) != string(want) {
			t.Fatalf("%x became %x, want %x, %v", sig, got, want, err)
		}
	})
}
