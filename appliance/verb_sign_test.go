package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/sign"
)

// TestSignKeepsTheReason: what a service says with 503 and 429 is in the error.
func TestSignKeepsTheReason(t *testing.T) {
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusBadRequest} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			w.Write([]byte(`{"code":14,"message":"the issuing key's token is not available"}`))
		}))
		keypair, err := sign.NewEphemeralKeypair(nil)
		if err != nil {
			t.Fatal(err)
		}
		f := sign.NewFulcio(&sign.FulcioOptions{BaseURL: server.URL, Transport: keepReason{http.DefaultTransport}})
		_, err = f.GetCertificate(t.Context(), keypair, &sign.CertificateProviderOptions{IDToken: "e30.eyJzdWIiOiJ4In0.x"})
		if err == nil || !strings.Contains(err.Error(), "token is not available") {
			t.Errorf("certificate, %d: %v", status, err)
		}
		_, err = sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: server.URL, Transport: keepReason{http.DefaultTransport}}).GetTimestamp(t.Context(), []byte("x"))
		if err == nil || !strings.Contains(err.Error(), "token is not available") {
			t.Errorf("timestamp, %d: %v", status, err)
		}
		server.Close()
	}
}

