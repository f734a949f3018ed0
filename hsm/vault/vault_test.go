package vault

import (
	"testing"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
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
