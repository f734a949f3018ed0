package vault

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
	"redoubt.internal/hsm/vault/fake"
)

func TestConformance(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		token, file := p.token(t, nil)
		c := p.config(t)
		c.TokenFile = file
		hsmtest.Run(t, hsmtest.Kind{
			Open:   func(t testing.TB) hsm.Token { return must(Open(c))(t) },
			URI:    func(name string) string { return Scheme + name + "?version=1" },
			Secret: token,
		})
	})
}

func must(tok *Token, err error) func(t testing.TB) *Token {
	return func(t testing.TB) *Token {
		t.Helper()
		check(t, err)
		return tok
	}
}

// The policy of the operator's manual for a site that only serves.
func TestLeastPolicy(t *testing.T) {
	eachPeer(t, func(t *testing.T, p *peer) {
		maker := p.open(t, p.config(t))
		generate(t, maker, "k", hsm.ECDSAP256)
		p.write(t, "sys/policies/acl/"+p.mount, map[string]any{"policy": `path "` + p.mount + `/keys/*" { capabilities = ["read"] }
path "` + p.mount + `/sign/*" { capabilities = ["update"] }`})
		tok := p.open(t, p.config(t))
		key, err := tok.Signer(t.Context(), keyAt("k"))
		check(t, err)
		check(t, sign(key))
		if p.real { // the fake's policies know paths only
			_, err = tok.Generate(t.Context(), keyAt("other"), hsm.ECDSAP256)
			failsWith(t, err, hsm.ErrUnavailable, "403")
		}
	})
}

// BenchmarkSign is our signature beside the bare request of the library's client,
// on the real server where its binary is.
func BenchmarkSign(b *testing.B) {
	p := &peer{}
	if dir, err := findVault(); err == nil {
		real, stop, err := startVault(filepath.Join(dir, vaultBinary))
		check(b, err)
		defer stop()
		p = real
	} else {
		s := fake.Start(b)
		p = &peer{url: s.URL, caFile: s.CAFile, root: s.RootToken, unsealKey: s.UnsealKey}
	}
	newPeer(b, p)
	c := p.config(b)
	c.Address, c.CAFile = p.url, p.caFile // without the front
	tok := p.open(b, c)
	key := generate(b, tok, "k", hsm.ECDSAP256)
	sum := sha256.Sum256([]byte("m"))
	request := map[string]any{"input": base64.StdEncoding.EncodeToString(sum[:]), "prehashed": true, "hash_algorithm": "sha2-256", "key_version": 1, "marshaling_algorithm": "asn1"}
	for _, bench := range []struct {
		name string
		sign func() error
	}{
		{"ours", func() error { _, err := key.Sign(nil, sum[:], crypto.SHA256); return err }},
		{"ours without the verification", func() error { _, err := key.Unverified().Sign(nil, sum[:], crypto.SHA256); return err }},
		{"bare", func() error { _, err := p.admin.Logical().Write(p.mount+"/sign/k", request); return err }},
	} {
		for _, n := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d", bench.name, n), func(b *testing.B) {
				b.SetParallelism(max(1, n/runtime.GOMAXPROCS(0)))
				if n == 1 {
					for b.Loop() {
						check(b, bench.sign())
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := bench.sign(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}
