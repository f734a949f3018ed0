package tsa

import (
	"crypto"
	"encoding/base64"
	"errors"
	"math/big"
	"net/http"
	"testing"

	"github.com/digitorus/timestamp"
)

func appendB64(b []byte) []byte { return base64.StdEncoding.AppendEncode(nil, b) }

// FuzzRequest: whatever the bytes, a parsed request is one we may sign.
func FuzzRequest(f *testing.F) {
	sum := make([]byte, 64)
	for _, r := range []*timestamp.Request{
		{HashAlgorithm: crypto.SHA256, HashedMessage: sum[:32]},
		{HashAlgorithm: crypto.SHA512, HashedMessage: sum, Certificates: true, Nonce: big.NewInt(-7), TSAPolicyOID: DefaultPolicy},
	} {
		der, err := r.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der, false)
	}
	f.Add([]byte(`{"artifactHash":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=","certificates":true,"hashAlgorithm":"sha256","nonce":1123343434,"tsaPolicyOID":"1.2.3.4"}`), true)
	f.Fuzz(func(t *testing.T, data []byte, isJSON bool) {
		parse := ParseDER
		if isJSON {
			parse = ParseJSON
		}
		r, err := parse(data)
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if err := checkHash(r.Hash, len(r.Imprint)); err != nil || r.Nonce != nil && r.Nonce.BitLen() > 8*maxNonce {
			t.Fatalf("accepted %+v", r)
		}
	})
}

// BenchmarkTimestamp is one request over the handler, software P-256 key.
func BenchmarkTimestamp(b *testing.B) {
	a := newAuthority(b, nil)
	h, q := a.Handler(), query(b, nil)
	for b.Loop() {
		if w := post(b, h, "/api/v1/timestamp", "application/timestamp-query", q); w.Code != http.StatusCreated {
			b.Fatal(w.Body)
		}
	}
}
