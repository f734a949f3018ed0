package verifying

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verify/verifytest"
)

// TestKeyInABundle: a public key that cosign's bundle brings stands for nobody: not for an identity, and not for the key that was asked for
// (GHSA-fx35-mq7g-6g98).
func TestKeyInABundle(t *testing.T) {
	write := writer(t, t.TempDir())
	d := verifytest.New(t, "corp.internal")
	public := func(s verifytest.Signer) []byte {
		der, err := x509.MarshalPKIXPublicKey(&s.Key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	forger, trusted := d.SignMessage(1, "a release"), d.Issue(d.Now, nil)
	file, root, key, forgersKey := write("file", []byte("a release")), write("root.json", d.Root()), write("trusted.pub", public(trusted)), write("forger.pub", public(forger.Signer))
	for name, c := range map[string]struct {
		request Request
		want    error
	}{
		"an identity":       {Request{Identity: verify.Identity{SAN: d.Identity, Issuer: d.Issuer}}, verify.ErrNoSignature},
		"another's key":     {Request{Key: key}, verify.ErrSignature},
		"the signer's key":  {Request{Key: forgersKey}, nil},
		"an accepted group": {Request{Accepted: []verify.Identity{{Root: root, SANRegexp: ".*", IssuerRegexp: ".*"}}}, verify.ErrNoSignature},
	} {
		body := keyBody(forger.Signature, forger.Artifact, public(forger.Signer))
		bundle := write("bundle", legacyBundle(t, forger.Signature, []byte(base64.StdEncoding.EncodeToString(public(forger.Signer))), d.Entry(body, d.Now.Add(time.Minute), true)))
		found, err := gatherBlob(file, blobParts{Bundle: bundle})
		if err != nil {
			t.Fatal(err)
		}
		c.request.Found, c.request.Roots = &found, []string{root}
		if _, err := Verify(t.Context(), c.request); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// keyBody is a hashedrekord of a signature by a key.
func keyBody(signature, artifact, key []byte) []byte {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":"%s","publicKey":{"content":"%s"}}}}`, sha256.Sum256(artifact), encode(signature), encode(key))
}

// FuzzAccept: whatever stands in a file of --accept, it is read or a mistake of the caller's, and whoever is accepted is accepted under one root.
func FuzzAccept(f *testing.F) {
	f.Add([]byte("accept:\n  - {root: own.json, identity-regexp: '.*@corp\\.internal$', issuer: https://sso.corp.internal}\n"))
	f.Add([]byte("accept: [{root: gh.json, identity: a, issuer-regexp: '', without-log: true}]\n"))
	f.Add([]byte("accept: [{identity: a, issuer: b}]\n"))                             // under every root
	f.Add([]byte("accept: [{root: '', identity: a, issuer: b}]\n"))                   // the same in so many words
	f.Add([]byte("accept: [{root: a, identity: x, identity: y, issuer: b}]\n"))       // a name twice
	f.Add([]byte("accept: [{root: a, identity-regexp: '(', issuer: b}]\n"))           // no expression
	f.Add([]byte("accept: [{root: a, identity-regexp: '((a*)*)*$', issuer: b}]\n"))   // one that other engines never finish
	f.Add([]byte("accept: []\n"))                                                     // nobody
	f.Add([]byte("accept: [{rot: a, identity: x, issuer: b}]\n"))                     // an unknown key
	f.Add([]byte("accept: &a [*a]\n"))                                                // in itself
	f.Add([]byte("x: &x [y, y, y, y]\naccept: [{root: a, identity: *x, issuer: b}]")) // another type
	f.Add([]byte("accept: [{root: a, identity: x, issuer: b}]\n---\naccept: []\n"))   // two documents
	f.Add([]byte("accept: [" + strings.Repeat("{root: a, identity: x, issuer: b}, ", 2000) + "]\n"))
	d := verifytest.New(f, "corp.internal")
	v, err := verify.New(verify.Config{Roots: []verify.Root{{Name: "own.json", JSON: d.Root()}}})
	if err != nil {
		f.Fatal(err)
	}
	bundle := d.SignMessage(2, "artifact").Bundle(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		accepted, err := parseAccept("accept.yaml", data)
		if err != nil {
			if accepted != nil || !errors.Is(err, verify.ErrUsage) {
				t.Fatalf("%v, %v", accepted, err)
			}
			return
		}
		for _, a := range accepted {
			if a.Root == "" {
				t.Fatalf("accepted under every root: %+v", a)
			}
		}
		r, err := v.Verify(t.Context(), verify.Request{Bundle: bundle, Artifact: verify.Artifact{Reader: strings.NewReader("artifact")}, Policy: verify.Policy{Identities: accepted}})
		if err == nil && r.Root() != "own.json" || errors.Is(err, verify.ErrInternal) || len(accepted) == 0 && err == nil {
			t.Fatalf("%v", err)
		}
	})
}
