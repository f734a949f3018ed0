package verify

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"redoubt.internal/appliance/verify/verifytest"
)

// signedText is a tag in parts: what was signed, and the signature in DER.
type signedText struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

// looseInCMS says why two signatures that differ may mean the same, nothing where they may not: certificate, signed attributes, signature and log
// entry are the same in both.
func looseInCMS(was, is []byte) string {
	a, errA := parseCMS(was)
	b, errB := parseCMS(is)
	if errA != nil || errB != nil || !bytes.Equal(a.certificate, b.certificate) || !bytes.Equal(a.attributes, b.attributes) || !bytes.Equal(a.signature, b.signature) || !bytes.Equal(a.entry, b.entry) {
		return ""
	}
	if bytes.Equal(a.token, b.token) {
		return "an algorithm without parameters or with NULL for them"
	}
	return "a token left out, of an authority unknown, or without the certificate that the root holds"
}

// TestTortureGitMutants: no change to a tag or to the signature in it is accepted that changes what the verdict says. REDOUBT_TORTURE tries
// every mutant, else one of forty-seven.
func TestTortureGitMutants(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	v, err := New(Config{Roots: []Root{{Name: "own", JSON: d.Root()}}})
	if err != nil {
		t.Fatal(err)
	}
	stride := 47
	if os.Getenv("REDOUBT_TORTURE") != "" {
		stride = 1
	}
	const other = "object 045f683042529876c1fe28f97f416c1501ffa434\ntype commit\ntag v2\ntagger Eve <eve@corp.internal> 1685981478 +0000\n\nAnother\n"
	stamped := func(payload string) signedText {
		s := signGit(t, d, []byte(payload))
		s.unsigned = append(s.unsigned, s.timestampAttribute(t, d, d.Now))
		return signedText{[]byte(payload), s.der(t)}
	}
	logged := func(payload string) signedText {
		return signedText{[]byte(payload), signGit(t, d, []byte(payload)).der(t)}
	}
	for name, make := range map[string]func(payload string) signedText{"logged": logged, "logged and stamped": stamped} {
		verdict := func(s signedText) (string, error) {
			r, err := v.Verify(t.Context(), gitRequest("tag", signedTag(string(s.Payload), s.Signature), Identity{SAN: d.Identity, Issuer: d.Issuer}))
			if err != nil {
				return "", err
			}
			said := *r
			said.report.Artifact = artifactReport{} // the object's name is a digest of its signature too
			return meaning(t, &said), nil
		}
		original := make(tagText)
		want, err := verdict(original)
		if err != nil {
			t.Fatal(err)
		}
		mutants, refused, loose := 0, 0, map[string]int{}
		others := [][]byte{verifytest.Encode(t, make(other))}
		verifytest.Mutate(t, verifytest.Encode(t, original), others, false, stride, func(m verifytest.Mutant) bool {
			var s signedText
			if json.Unmarshal(m.Bundle, &s) != nil || bytes.Equal(s.Payload, original.Payload) && bytes.Equal(s.Signature, original.Signature) {
				return true
			}
			mutants++
			got, err := verdict(s)
			switch {
			case err != nil && (ExitCode(err) < 10 || ExitCode(err) == 70):
				t.Errorf("%s, %s: exit %d: %v", name, m.Path, ExitCode(err), err)
			case err != nil:
				refused++
			case !sameMeaning(want, got) || !bytes.Equal(s.Payload, original.Payload) || looseInCMS(original.Signature, s.Signature) == "":
				t.Errorf("%s, %s: accepted as\n%s\nof\n%s", name, m.Path, got, want)
			default:
				loose[looseInCMS(original.Signature, s.Signature)]++
			}
			return true
		})
		t.Logf("%s: %d mutants, %d refused, accepted with the same meaning: %v", name, mutants, refused, loose)
		if mutants < 1000/stride || refused < 9*mutants/10 {
			t.Errorf("%s: only %d mutants, %d of them refused", name, mutants, refused)
		}
	}
}
