package verify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"

	"redoubt.internal/appliance/verify/verifytest"
)

// TestCommitHeaders: a commit verifies whatever headers stand before its signature or after, of several lines as that of a merged tag.
func TestCommitHeaders(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	v, err := New(Config{Roots: []Root{{Name: "own", JSON: d.Root()}}})
	if err != nil {
		t.Fatal(err)
	}
	const merge = "tree 045f683042529876c1fe28f97f416c1501ffa433\nmergetag object 529ee14c05ac4640c599d6b34298b940d8a977f3\n type commit\n  \n A release\nencoding UTF-8\n\nA merge\n"
	commit := signedCommit([]byte(merge), signGit(t, d, []byte(merge)).der(t))
	const last = "encoding UTF-8\n"
	moved := bytes.Replace(bytes.Replace(commit, []byte(last), nil, 1), []byte("\n\nA merge"), []byte("\n"+last+"\nA merge"), 1)
	for name, body := range map[string][]byte{"signature last": commit, "a header after it": moved} {
		r, err := v.Verify(t.Context(), gitRequest("commit", body, Identity{SAN: d.Identity, Issuer: d.Issuer}))
		if err != nil || r.Artifact() != (GitObject{Kind: "commit", Body: body}).Digest() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if bytes.Equal(commit, moved) {
		t.Error("nothing was moved")
	}
}

// TestBodyOfV2: the body of an entry of Rekor v2 names the key's kind, so it is made again for the one kind that signs with SHA-256 there.
func TestBodyOfV2(t *testing.T) {
	wide, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	short, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := verifytest.ECKey(t)
	for name, c := range map[string]struct {
		key  any
		want string
	}{"P-256": {issuer.Public(), ""}, "P-384": {wide.Public(), "not by a key on P-256"}, "Ed25519": {short, "not by a key on P-256"}} {
		tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: verifytest.Epoch, NotAfter: verifytest.Epoch.AddDate(1, 0, 0)}
		signed := cms{certificate: verifytest.MakeCert(t, tmpl, tmpl, c.key, issuer).Raw}
		body, err := signed.bodyV2(make([]byte, 32))
		if c.want == "" && (err != nil || !bytes.Contains(body, []byte("PKIX_ECDSA_P256_SHA_256"))) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %s, %v", name, body, err)
		}
	}
}
