package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"redoubt.internal/log/rekor"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/inventory"
)

// TestMentionedTooOften: entries that mention a digest and sign something else may stand before the one that signs it. Where not all of
// them are read, the image is not said to be unsigned.
func TestMentionedTooOften(t *testing.T) {
	in, err := openState(t, newStateDir(t))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	verifier := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	mention := func(image string, n int) {
		beside := slices.Concat([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 1}, rekor.SearchKey(image), []byte{0}) // format, time, one search key, no attestation
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				leaf := fmt.Sprintf(`{"apiVersion":"0.0.1","kind":"dsse","spec":{"envelopeHash":{"algorithm":"sha256","value":"%x"},"payloadHash":{"algorithm":"sha256","value":"%s"},"signatures":[{"signature":"MA==","verifier":"%s"}]}}`,
					sha256.Sum256(fmt.Append(nil, image, i)), strings.TrimPrefix(image, "sha256:"), verifier)
				if _, err := in.artifacts[0].log.Add(t.Context(), []byte(leaf), beside, nil); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	seldom, often := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	mention(seldom, coverEntries)
	mention(often, coverEntries+1)
	a, err := mirrorCoverage.run(t.Context(), in, "test", coverQuestion{Images: []inventory.Image{{Digest: seldom}, {Digest: often}}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{mirror.CoverUnsigned, mirror.CoverNotCarried} {
		if a.Images[i].State != want {
			t.Errorf("%s: %s, want %s", a.Images[i].Digest, a.Images[i].State, want)
		}
	}
	for image, want := range map[string]bool{seldom: true, often: false} {
		if found, all, err := localEntries(t.Context(), in.artifacts[0].log, image); err != nil || len(found) != coverEntries || all != want {
			t.Errorf("%s: %d entries, all: %v, %v", image, len(found), all, err)
		}
	}
}
