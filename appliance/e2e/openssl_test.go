//go:build e2e

package e2e

import (
	"bytes"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
)

// testOpenSSL asks for timestamps with openssl and verifies them with it.
func testOpenSSL(t *testing.T, l *lab) {
	s := l.session(t)
	chain, err := os.ReadFile(l.in("tsa-chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	root := s.write(t, "root.pem", lastPEM(t, chain))
	blob := s.write(t, "blob", "this existed by then\n")

	for _, hash := range []string{"-sha256", "-sha384", "-sha512"} {
		for _, request := range []struct {
			name string
			args []string
		}{
			{"with certificate and nonce", []string{"-cert"}},
			{"without certificate", nil},
			{"without nonce", []string{"-cert", "-no_nonce"}},
		} {
			t.Run(strings.TrimPrefix(hash, "-")+" "+request.name, func(t *testing.T) {
				s.run(t, "openssl", join([]string{"ts", "-query", "-data", blob, hash, "-out", "request.tsq"}, request.args)...)
				status, reply := timestamp(t, l, s.path("request.tsq"))
				if status != http.StatusOK && status != http.StatusCreated {
					t.Fatalf("the timestamp authority answered %d: %s", status, reply)
				}
				s.write(t, "reply.tsr", string(reply))
				s.run(t, "openssl", "ts", "-verify", "-queryfile", "request.tsq", "-in", "reply.tsr", "-CAfile", root, "-untrusted", l.in("tsa-chain.pem"))
				s.run(t, "openssl", "ts", "-verify", "-data", blob, "-in", "reply.tsr", "-CAfile", root, "-untrusted", l.in("tsa-chain.pem"))
				other := s.write(t, "other", "this did not exist\n")
				s.refuse(t, []string{"message imprint mismatch"}, "openssl", "ts", "-verify", "-data", other, "-in", "reply.tsr", "-CAfile", root, "-untrusted", l.in("tsa-chain.pem"))
			})
		}
	}
	t.Run("sha1 is refused", func(t *testing.T) {
		s.run(t, "openssl", "ts", "-query", "-data", blob, "-sha1", "-out", "request.tsq")
		if status, reply := timestamp(t, l, s.path("request.tsq")); status != http.StatusBadRequest {
			t.Errorf("the timestamp authority answered %d: %s", status, reply)
		}
	})
}

// timestamp posts a query file and returns the answer.
func timestamp(t *testing.T, l *lab, query string) (int, []byte) {
	t.Helper()
	content, err := os.ReadFile(query)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(l.urls.TSA, "application/timestamp-query", bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, reply
}

func lastPEM(t *testing.T, chain []byte) string {
	t.Helper()
	var last *pem.Block
	for {
		block, rest := pem.Decode(chain)
		if block == nil {
			break
		}
		last, chain = block, rest
	}
	if last == nil {
		t.Fatal("the chain holds no certificate")
	}
	return string(pem.EncodeToMemory(last))
}
