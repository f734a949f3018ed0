package tpm

import (
	"testing"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

// What a signature costs over the bare command, on one swtpm: raw is TPM2_Sign with
// a persistent key and one session, the others are whole keys without the check of
// the signature.
func BenchmarkSign(b *testing.B) {
	e := startTPM(b)
	tok := open(b, e.config())
	handle := generate(b, tok, "tpm:handle=0x81010042", hsm.ECDSAP256).Unverified()
	file := generate(b, tok, "tpm:file=a.pem", hsm.ECDSAP256).Unverified()
	b.Run("raw", func(b *testing.B) {
		d := e.direct()
		r, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x81010042)}.Execute(d.w)
		must(b, err)
		session, end, err := tpm2.HMACSession(d.w, tpm2.TPMAlgSHA256, nonceSize)
		must(b, err)
		defer end()
		for b.Loop() {
			_, err := tpm2.Sign{KeyHandle: tpm2.AuthHandle{Handle: 0x81010042, Name: r.Name, Auth: session}, Digest: tpm2.TPM2BDigest{Buffer: digest[:]},
				InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
				Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck}}.Execute(d.w)
			must(b, err)
		}
	})
	for name, key := range map[string]*hsm.Key{"handle": handle, "file": file} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				must(b, sign(key))
			}
		})
	}
}
