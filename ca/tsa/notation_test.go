package tsa

import (
	"crypto"
	"crypto/x509"
	"net/http/httptest"
	"testing"

	nx509 "github.com/notaryproject/notation-core-go/x509"
	"github.com/notaryproject/tspclient-go"
)

// TestNotationClient: the client of the Notary Project takes our answer, at the one address that it takes for an answer, with each of its hashes, and
// knowing the root alone of a chain of three.
func TestNotationClient(t *testing.T) {
	a := newAuthority(t, nil)
	server := httptest.NewServer(a.Handler())
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(a.chain[len(a.chain)-1])
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		request, err := tspclient.NewRequest(tspclient.RequestOptions{Content: []byte("signature"), HashAlgorithm: hash})
		if err != nil {
			t.Fatal(err)
		}
		client, err := tspclient.NewHTTPTimestamper(server.Client(), server.URL+"/tsr")
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Timestamp(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		token, err := response.SignedToken()
		if err != nil {
			t.Fatal(err)
		}
		chain, err := token.Verify(t.Context(), x509.VerifyOptions{Roots: roots})
		if err != nil {
			t.Fatal(err)
		}
		if err := nx509.ValidateTimestampingCertChain(chain); err != nil || len(chain) != 3 {
			t.Errorf("%d certificates: %v", len(chain), err)
		}
		info, err := token.Info()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := info.Validate([]byte("signature")); err != nil {
			t.Error(err)
		}
		if _, err := info.Validate([]byte("another")); err == nil {
			t.Error("it is over anything")
		}
	}
	if w := post(t, a.Handler(), "/tsr", "application/json", []byte(`{}`)); w.Code != 415 {
		t.Errorf("JSON: %d", w.Code)
	}
	if w := post(t, a.Handler(), "/tsr", "application/timestamp-query", query(t, nil)); w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
}
