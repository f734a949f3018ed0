package verify

import (
	"bytes"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"testing"

	"redoubt.internal/appliance/verify/verifytest"
)

// misshapen are the forms of der in which one element is left out, doubled or of another type, or NULL stands behind it, by the element's path as
// rewrite counts and what was done. What is below one of opaque is left alone.
func misshapen(t testing.TB, der []byte, opaque ...string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	rewrite(t, der, func(path string, content []byte) []byte {
		if slices.ContainsFunc(opaque, func(o string) bool { return strings.HasPrefix(path, o) }) {
			return content
		}
		before := []byte{}
		for i, rest := 0, content; len(rest) > 0; i++ {
			var v asn1.RawValue
			next, err := asn1.Unmarshal(rest, &v)
			if err != nil {
				t.Fatal(err)
			}
			other := bytes.Clone(v.FullBytes)
			other[0] ^= 1
			for what, element := range map[string][]byte{"left out": nil, "doubled": bytes.Repeat(v.FullBytes, 2), "of another type": other, "before NULL": append(bytes.Clone(v.FullBytes), derNull...)} {
				changed := slices.Concat(before, element, next)
				all[fmt.Sprintf("%s/%d %s", path, i, what)] = rewrite(t, der, func(at string, content []byte) []byte {
					if at == path {
						return changed
					}
					return content
				})
			}
			before, rest = append(before, v.FullBytes...), next
		}
		return content
	})
	return all
}

// TestCMSForm: every element of a signature has its place. The log entry or the timestamp may be left out, for want of which it is judged later; NULL
// says of an algorithm what nothing says.
func TestCMSForm(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	s := signGit(t, d, []byte(tagText))
	s.unsigned = append(s.unsigned, s.timestampAttribute(t, d, d.Now))
	good := s.der(t)
	const sd, signer, token = "/1/0", "/1/0/4/0", "/1/0/4/0/6/1/1/0"
	loose := map[string]bool{
		sd + "/1/0/0 before NULL": true, signer + "/2/0 before NULL": true, signer + "/4/0 before NULL": true,
		signer + "/6 left out": true, signer + "/6/0 left out": true, signer + "/6/1 left out": true,
	}
	forms := misshapen(t, good, sd+"/3/0", signer+"/1/0", token)
	for what, der := range forms {
		if _, err := parseCMS(der); (err == nil) != loose[what] {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, at := range []string{sd, signer} { // of another version, which stands first
		other := rewrite(t, good, func(path string, content []byte) []byte {
			if path == at {
				content = bytes.Clone(content)
				content[2] ^= 2
			}
			return content
		})
		if _, err := parseCMS(other); err == nil {
			t.Errorf("%s: another version", at)
		}
	}
	for what, der := range map[string][]byte{"more behind it": append(bytes.Clone(good), derNull...), "of another type": append([]byte{0x31}, good[1:]...), "nothing": nil} {
		if _, err := parseCMS(der); err == nil {
			t.Error(what)
		}
	}
	t.Logf("%d forms", len(forms))
}
