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
	"redoubt.internal/appliance/cmdline"
)

// TestSignKeepsTheReason: what a service says with 503 and 429 is in the error.
func TestSignKeepsTheReason(t *testing.T) {
	t.Parallel()
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

// TestSignNeedsAPlaceForTheBundle: no certificate is asked for when the bundle could not be kept.
func TestSignNeedsAPlaceForTheBundle(t *testing.T) {
	s := serveState(t, nil)
	dir := t.TempDir()
	redoubt := func(args ...string) (int, string, string) {
		var stdout, stderr bytes.Buffer
		code := cmdline.Execute(t.Context(), newApp(&stdout, &stderr), append([]string{"redoubt"}, args...))
		return code, stdout.String(), stderr.String()
	}
	setup, token := filepath.Join(dir, "setup"), filepath.Join(dir, "token")
	if code, _, stderr := redoubt("client", "setup", "--dir", s.cfg.Dir, "--out", setup); code != cmdline.ExitOK {
		t.Fatal(stderr)
	}
	_, jwt, _ := redoubt("identity", "token", "--dir", s.cfg.Dir)
	if err := os.WriteFile(token, []byte(jwt), 0o600); err != nil {
		t.Fatal(err)
	}
	before := s.in.ctLog.Head().Size
	for _, bundle := range []string{filepath.Join(dir, "nosuch", "x.json"), dir} {
		if code, _, stderr := redoubt("sign", token, "--setup", setup, "--identity-token", token, "--bundle", bundle); code != cmdline.ExitLocal || !strings.Contains(stderr, "writing the bundle") {
			t.Errorf("%s: exit code %d: %s", bundle, code, stderr)
		}
	}
	if after := s.in.ctLog.Head().Size; after != before {
		t.Errorf("%d certificates were issued for nothing", after-before)
	}
}
