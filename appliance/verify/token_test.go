package verify

import (
	"bytes"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"redoubt.internal/appliance/verify/verifytest"
)

// der puts contents into an element of a tag.
func der(tag byte, contents ...[]byte) []byte {
	content := bytes.Join(contents, nil)
	if len(content) > 127 {
		panic("a long element")
	}
	return append([]byte{tag, byte(len(content))}, content...)
}

var (
	derNull = []byte{5, 0}
	derOne  = der(2, []byte{1})
)

// TestCheckDER: elements within elements, to the depth allowed and to the end of each.
func TestCheckDER(t *testing.T) {
	nested := func(n int) []byte {
		b := []byte{}
		for range n {
			b = der(0x30, b)
		}
		return b
	}
	for name, c := range map[string]struct {
		der []byte
		ok  bool
	}{
		"nothing": {nil, true}, "one": {derOne, true}, "two": {append(bytes.Clone(derOne), derNull...), true}, "32 deep": {nested(32), true}, "33 deep": {nested(33), false},
		"bytes that are no DER in a string": {der(4, []byte{0xff}), true}, "and in a sequence": {der(0x30, []byte{0xff}), false},
		"cut": {derOne[:2], false}, "a long length": {[]byte{4, 0x81, 1, 0}, false}, "no length": {[]byte{0x30, 0x80, 0, 0}, false},
		"a second that is cut": {append(bytes.Clone(derNull), 2, 9), false}, "a second that is cut, inside": {der(0x30, derNull, []byte{2, 9}), false},
	} {
		if err := checkDER(c.der, 0); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOctets: the content of a token is one string of bytes, in one of the two ways it is written.
func TestOctets(t *testing.T) {
	text := der(4, []byte("x"))
	for name, c := range map[string]struct {
		der []byte
		ok  bool
	}{
		"plain": {der(0xa0, text), true}, "wrapped": {der(0xa0, der(0x24, text)), true}, "none": {der(0xa0), false}, "another tag": {der(0xa1, text), false}, "nothing": {nil, false},
		"two": {der(0xa0, text, text), false}, "two wrapped": {der(0xa0, der(0x24, text, text)), false}, "wrapped none": {der(0xa0, der(0x24)), false},
		"more behind": {append(der(0xa0, text), derNull...), false}, "more behind the wrapped": {der(0xa0, der(0x24, text), derNull), false}, "no string": {der(0xa0, derOne), false},
		"wrapped no string": {der(0xa0, der(0x24, derOne)), false}, "cut": {der(0xa0, []byte{0x24, 9}), false},
	} {
		if octets(cryptobyte.String(c.der)) != c.ok {
			t.Errorf("%s", name)
		}
	}
}

// TestSameAlgorithm: parameters are absent or NULL.
func TestSameAlgorithm(t *testing.T) {
	sha256, sha512 := []byte{6, 2, 0x2a, 1}, []byte{6, 2, 0x2a, 2}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct {
		a, b []byte
		ok   bool
	}{
		"absent": {sha256, sha256, true}, "NULL": {join(sha256, derNull), join(sha256, derNull), true}, "absent and NULL": {sha256, join(sha256, derNull), true},
		"another": {sha256, sha512, false}, "nothing": {nil, nil, false}, "one nothing": {sha256, nil, false}, "no name": {derNull, derNull, false},
		"other parameters": {join(sha256, derOne), sha256, false}, "other parameters of the second": {sha256, join(sha256, derOne), false},
		"NULL twice": {join(sha256, derNull, derNull), sha256, false}, "NULL that holds something": {sha256, join(sha256, []byte{5, 1, 0}), false},
	} {
		if sameAlgorithm(cryptobyte.String(c.a), cryptobyte.String(c.b)) != c.ok {
			t.Errorf("%s", name)
		}
	}
}

// TestTokenForm: what may stand around the signed part of a response, element by element. Paths are those of rewrite.
func TestTokenForm(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	good := d.Token([]byte("signature"), d.Now, true)
	if tok, err := parseToken(good); err != nil || len(tok.certs) != 1 || tok.signer == (signerID{}) {
		t.Fatalf("%+v, %v", tok, err)
	}
	if tok, err := parseToken(d.Token([]byte("signature"), d.Now, false)); err != nil || len(tok.certs) != 0 {
		t.Fatalf("without a certificate: %+v, %v", tok, err)
	}
	more := func(e []byte) []byte { return append(bytes.Clone(e), derNull...) }
	with := func(e []byte) func([]byte) []byte { return func([]byte) []byte { return e } }
	version := func(e []byte) []byte { e = bytes.Clone(e); e[2] ^= 2; return e } // it stands first
	for name, c := range map[string]struct {
		path string
		edit func([]byte) []byte
		ok   bool
	}{
		"granted": {"/0", with(der(2, []byte{0})), true}, "granted with changes": {"/0", with(derOne), true}, "rejected": {"/0", with(der(2, []byte{2})), false}, "no such status": {"/0", with(der(2, []byte{0xff})), false},
		"a sentence": {"/0", with(append(der(2, []byte{0}), der(0x30, der(12, []byte("ok")))...)), true}, "a sentence and more": {"/0", with(append(der(2, []byte{0}), der(0x30)...)), true},
		"a sentence and a failure": {"/0", with(append(der(2, []byte{0}), append(der(0x30), 3, 1, 0)...)), false}, "a failure": {"/0", with(append(der(2, []byte{0}), 3, 1, 0)), false},
		"another version": {"/1/1/0", version, false}, "another version of the signer": {"/1/1/0/4/0", version, false},
		"another digest algorithm": {"/1/1/0/4/0/2", with([]byte{6, 2, 0x2a, 1}), false},
	} {
		_, err := parseToken(rewrite(t, good, func(path string, content []byte) []byte {
			if path == c.path {
				return c.edit(content)
			}
			return content
		}))
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parseToken(more(good)); err == nil {
		t.Error("more behind the response")
	}
}

// TestTokenElements: every element of a token has its place. The certificates may be left out, and each is held to the root; NULL says of an algorithm
// what nothing says.
func TestTokenElements(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	const sd, signer = "/1/1/0", "/1/1/0/4/0"
	loose := map[string]bool{
		sd + "/1/0/0 before NULL": true, signer + "/2/0 before NULL": true,
		sd + "/3 left out": true, sd + "/3/0 left out": true, sd + "/3/0 doubled": true,
	}
	forms := misshapen(t, d.Token([]byte("signature"), d.Now, true), sd+"/3/0", signer+"/1/0", signer+"/3", signer+"/4")
	for what, der := range forms {
		if _, err := parseToken(der); (err == nil) != loose[what] {
			t.Errorf("%s: %v", what, err)
		}
	}
	t.Logf("%d forms", len(forms))
}
