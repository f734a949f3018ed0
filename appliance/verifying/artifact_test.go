package verifying

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verify/verifytest"
)

// writer writes files into a folder and gives their paths.
func writer(t *testing.T, dir string) func(name string, content []byte) string {
	return func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
}

// TestSignatureInParts verifies what cosign wrote before the Sigstore bundle: its own bundle, and files for signature, certificate and timestamp.
// One part taken from another signature, or left out, and it is refused with the reason.
func TestSignatureInParts(t *testing.T) {
	dir := t.TempDir()
	write := writer(t, dir)
	d := verifytest.New(t, "corp.internal")
	one, other := d.SignMessage(1, "a release"), d.SignMessage(1, "a release")
	stamp := d.Token(one.Signature, d.Now, false)
	encoded := func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b) + "\n") }
	certificate := []byte(one.Signer.PEM())
	file, changed := write("file", []byte("a release")), write("changed", []byte("A release"))
	write("root.json", d.Root())
	write("sig", encoded(one.Signature))
	write("raw", one.Signature)
	write("cert", certificate)
	write("othercert", []byte(other.Signer.PEM()))
	write("der", one.Signer.Cert.Raw)
	write("tsr", stamp)
	write("othertsr", d.Token(other.Signature, d.Now, false))
	write("tsr.json", fmt.Appendf(nil, `{"SignedRFC3161Timestamp":%q}`, base64.StdEncoding.EncodeToString(stamp)))
	write("legacy", legacyBundle(t, one.Signature, certificate, one.Entries[0]))
	write("otherentry", legacyBundle(t, one.Signature, certificate, other.Entries[0]))
	write("othersig", legacyBundle(t, other.Signature, certificate, one.Entries[0]))
	write("noentry", legacyBundle(t, one.Signature, certificate, nil))
	write("unknown", []byte(`{"base64Signature":"AAAA","more":1}`))
	at := func(name string) string {
		if name == "" {
			return ""
		}
		return filepath.Join(dir, name)
	}
	for _, c := range []struct {
		name     string
		parts    blobParts
		artifact string
		logless  bool
		want     error
	}{
		{name: "cosign's bundle", parts: blobParts{Bundle: "legacy"}},
		{name: "cosign's bundle and a timestamp", parts: blobParts{Bundle: "legacy", Timestamp: "tsr"}},
		{"another file", blobParts{Bundle: "legacy"}, changed, false, verify.ErrSignature},
		{"the entry of another signature", blobParts{Bundle: "otherentry"}, "", false, verify.ErrLogProof},
		{"another signature", blobParts{Bundle: "othersig"}, "", false, verify.ErrSignature},
		{"no entry", blobParts{Bundle: "noentry"}, "", false, verify.ErrLogProof},
		{"no entry and no time", blobParts{Bundle: "noentry"}, "", true, verify.ErrTime},
		{"a timestamp of another signature", blobParts{Bundle: "legacy", Timestamp: "othertsr"}, "", false, verify.ErrTime},
		{"an unknown member", blobParts{Bundle: "unknown"}, "", false, verify.ErrMalformed},
		{"a bundle and a signature", blobParts{Bundle: "legacy", Signature: "sig"}, "", false, verify.ErrUsage},
		{name: "files", parts: blobParts{Signature: "sig", Certificate: "cert", Timestamp: "tsr"}, logless: true},
		{name: "files, raw", parts: blobParts{Signature: "raw", Certificate: "der", Timestamp: "tsr.json"}, logless: true},
		{"files without a log entry", blobParts{Signature: "sig", Certificate: "cert", Timestamp: "tsr"}, "", false, verify.ErrLogProof},
		{"files without a time", blobParts{Signature: "sig", Certificate: "cert"}, "", true, verify.ErrTime},
		{"files, another file", blobParts{Signature: "sig", Certificate: "cert", Timestamp: "tsr"}, changed, true, verify.ErrSignature},
		{"files, another certificate", blobParts{Signature: "sig", Certificate: "othercert", Timestamp: "tsr"}, "", true, verify.ErrSignature},
		{"files, no certificate", blobParts{Signature: "sig", Timestamp: "tsr"}, "", true, verify.ErrNoSignature},
		{"files, a timestamp of another signature", blobParts{Signature: "sig", Certificate: "cert", Timestamp: "othertsr"}, "", true, verify.ErrTime},
		{"a certificate that is none", blobParts{Signature: "sig", Certificate: "file", Timestamp: "tsr"}, "", true, verify.ErrMalformed},
		{"SHA-512", blobParts{Signature: "sig", Certificate: "cert"}, "sha512:00", true, verify.ErrUsage},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := func() error {
				g, err := gatherBlob(cmp.Or(c.artifact, file), blobParts{Bundle: at(c.parts.Bundle), Signature: at(c.parts.Signature), Certificate: at(c.parts.Certificate), Timestamp: at(c.parts.Timestamp)})
				if err != nil {
					return err
				}
				_, err = Verify(context.Background(), Request{Found: &g, Roots: []string{at("root.json")}, Identity: verify.Identity{SAN: d.Identity, Issuer: d.Issuer}, WithoutLog: c.logless})
				return err
			}()
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
		})
	}
}

// legacyBundle is what cosign 2 writes to --bundle, with the entry of a Sigstore bundle.
func legacyBundle(t *testing.T, signature, certificate []byte, entry any) []byte {
	t.Helper()
	b := map[string]any{"base64Signature": base64.StdEncoding.EncodeToString(signature), "cert": string(certificate)}
	if entry != nil {
		var e struct {
			LogIndex       json.Number `json:",string"`
			LogID          struct{ KeyID []byte }
			IntegratedTime json.Number                           `json:",string"`
			Promise        struct{ SignedEntryTimestamp []byte } `json:"inclusionPromise"`
			Body           []byte                                `json:"canonicalizedBody"`
		}
		if err := json.Unmarshal(verifytest.Encode(t, entry), &e); err != nil {
			t.Fatal(err)
		}
		b["rekorBundle"] = map[string]any{"SignedEntryTimestamp": e.Promise.SignedEntryTimestamp,
			"Payload": map[string]any{"body": e.Body, "integratedTime": e.IntegratedTime, "logIndex": e.LogIndex, "logID": fmt.Sprintf("%x", e.LogID.KeyID)}}
	}
	return verifytest.Encode(t, b)
}
