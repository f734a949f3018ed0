package verify

import (
	"context"
	"crypto/x509/pkix"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

// FuzzNotation: whatever the envelope, a verdict is reached without a panic, and a yes says who signed what, and when.
func FuzzNotation(f *testing.F) {
	d := verifytest.New(f, "corp.internal")
	subject, err := ParseSubject(releaseDN)
	if err != nil {
		f.Fatal(err)
	}
	v, err := New(Config{Roots: []Root{{Name: "root", JSON: d.Root()}}, Now: func() time.Time { return d.Now }})
	if err != nil {
		f.Fatal(err)
	}
	for _, media := range []string{MediaTypeJWS, MediaTypeCOSE} {
		n := notationBy(d, named(d, nil))
		n.media = media
		f.Add(n.make(d), media == MediaTypeCOSE)
	}
	f.Add([]byte(`{"payload":"e30","protected":"e30","header":{"x5c":["AA=="]},"signature":"AA"}`), false)
	f.Add([]byte("\xd2\x84\x40\xa0\x40\x40"), true)
	f.Fuzz(func(t *testing.T, envelope []byte, binary bool) {
		media := MediaTypeJWS
		if binary {
			media = MediaTypeCOSE
		}
		res, err := v.Verify(context.Background(), Request{Artifact: Artifact{Digest: manifest}, Notation: &Envelope{media, envelope}, Policy: Policy{Subjects: []Subject{subject}}})
		if err == nil {
			if san, _ := res.Signer(); san != "CN=release,O=Corp,ST=Berlin,C=DE" || res.Artifact() != manifest || !res.Times()[0].Time.Equal(d.Now) {
				t.Fatalf("accepted %q as %s", envelope, san)
			}
			return
		}
		if code := ExitCode(err); res != nil || code < 10 || code == 70 {
			t.Fatalf("exit %d: %v", code, err)
		}
	})
}

// FuzzSubject: what is read as a subject demands C, ST and O, and a certificate that has what it names matches.
func FuzzSubject(f *testing.F) {
	f.Add(releaseDN)
	f.Add(`CN=a\2c b\ ,S=x,O=\#y,C=DE`)
	f.Add(`C=DE , ST=\c3\A9 ,O=a\`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSubject(text)
		if err == nil && (s.wanted["C"] == "" || s.wanted["ST"] == "" || s.wanted["O"] == "") || err != nil && ExitCode(err) != 2 {
			t.Fatalf("%q: %v %v", text, s.wanted, err)
		}
		name := pkix.Name{Country: []string{s.wanted["C"]}, Province: []string{s.wanted["ST"]}, Organization: []string{s.wanted["O"]}, OrganizationalUnit: []string{s.wanted["OU"]}, CommonName: s.wanted["CN"]}
		if err == nil && !s.matches(name.ToRDNSequence()) {
			t.Fatalf("%q does not match %s", text, name)
		}
	})
}
