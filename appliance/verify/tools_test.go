package verify

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"testing"

	"redoubt.internal/appliance/verify/verifytest"
)

var at, set, find, parseTree, stray = verifytest.At, verifytest.Set, verifytest.Find, verifytest.ParseTree, verifytest.Stray

func decodeB64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func publicPEM(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// addCert puts cert behind the last embedded certificate of a token, all
// lengths made right: the signature stays good.
func addCert(t testing.TB, token, cert []byte) []byte {
	t.Helper()
	return rewrite(t, token, func(path string, content []byte) []byte {
		if path == "/1/1/0/3" { // response, token, [0], SignedData, certificates
			return append(bytes.Clone(content), cert...)
		}
		return content
	})
}

// rewrite rebuilds a DER value bottom up; edit sees the content of each
// constructed element by its path of child indices.
func rewrite(t testing.TB, der []byte, edit func(path string, content []byte) []byte) []byte {
	t.Helper()
	var walk func(der []byte, path string) []byte
	walk = func(der []byte, path string) []byte {
		var v asn1.RawValue
		if _, err := asn1.Unmarshal(der, &v); err != nil {
			t.Fatal(err)
		}
		if !v.IsCompound {
			return v.FullBytes
		}
		var out []byte
		for i, rest := 0, v.Bytes; len(rest) > 0; i++ {
			var child asn1.RawValue
			next, err := asn1.Unmarshal(rest, &child)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, walk(child.FullBytes, path+"/"+string(rune('0'+i)))...)
			rest = next
		}
		full, err := asn1.Marshal(asn1.RawValue{Class: v.Class, Tag: v.Tag, IsCompound: true, Bytes: edit(path, out)})
		if err != nil {
			t.Fatal(err)
		}
		return full
	}
	return walk(der, "")
}
