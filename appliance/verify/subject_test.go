package verify

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
)

// TestSubject reads names as people and Notation write them.
func TestSubject(t *testing.T) {
	cert := pkix.Name{Country: []string{"DE"}, Province: []string{"Berlin"}, Organization: []string{`Corp, "Inc" `}, CommonName: "release"}.ToRDNSequence()
	for text, want := range map[string]bool{
		`C=DE,ST=Berlin,O=Corp\, \"Inc\"\ ,CN=release`:      true,
		`CN=release, O=Corp\2c \22Inc\22\20, S=Berlin,C=DE`: true,
		`c=DE , st=Berlin  , o=\43\6f\72p\2C \"Inc\"\ `:     true,
		`C=DE,ST=Berlin,O=Corp\, \"Inc\",CN=release`:        false,
		`C=DE,ST=Berlin,O=Corp\, \"Inc\"\ ,CN=Release`:      false,
		`C=DE,ST=Berlin,O=Corp\, \"Inc\"\ ,OU=x`:            false,
	} {
		s, err := ParseSubject(text)
		if err != nil || s.matches(cert) != want {
			t.Errorf("%s: %v, %v", text, s.matches(cert), err)
		}
	}
	if (Subject{}).matches(cert) {
		t.Error("the zero subject accepts somebody")
	}
}

// TestSubjectRefused: what is no name of the form is a mistake of the caller's, and is called what it is.
func TestSubjectRefused(t *testing.T) {
	long := "C=DE,ST=x,O=" + strings.Repeat("y", maxSubject-12)
	if _, err := ParseSubject(long); err != nil {
		t.Errorf("as long as may be: %v", err)
	}
	for text, want := range map[string]string{
		long + "y":                    "more than 1000 bytes",
		"":                            "is no NAME=VALUE",
		"C":                           "is no NAME=VALUE",
		"C=DE,ST=Berlin,O=Corp,":      "is no NAME=VALUE",
		"C=DE":                        "ST is missing",
		"C=DE,ST=Berlin":              "O is missing",
		"C=DE,ST=Berlin,O=":           "O is empty, or there twice",
		"C=DE,C=FR,ST=x,O=y":          "C is empty, or there twice",
		"C=DE,ST=x,O=y,L=z":           `"L" is none of`,
		"x509.subject: C=DE,ST=x,O=y": "is none of",
		"C=DE+ST=x,O=y":               `'+' has to be escaped`,
		`C=DE,ST=x,O=y\`:              `'\\' has to be escaped`,
		`C=DE,ST=x,O=y\a`:             `'\\' has to be escaped`,
		`C=DE,ST=x,O=y\a,OU=z`:        `'\\' has to be escaped`,
		`C=DE,ST=x,O=y\4g`:            `'\\' has to be escaped`,
		`C=DE,ST=x,O="y"`:             `'"' has to be escaped`,
		"C=DE,ST=x,O=#04":             `'#' has to be escaped`,
		"C=DE,ST=x,O=y\x1f":           "has to be escaped",
		`C=DE,ST=x,O=\ff`:             "not UTF-8",
		"C=DE,ST=x,O=\xff":            "not UTF-8",
	} {
		if _, err := ParseSubject(text); ExitCode(err) != 2 || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestSubjectOfNoProfile: a certificate's subject with an attribute that is unknown, no text or there twice matches nothing, whatever else it has.
func TestSubjectOfNoProfile(t *testing.T) {
	s, err := ParseSubject(releaseDN)
	if err != nil {
		t.Fatal(err)
	}
	good := pkix.Name{Country: []string{"DE"}, Province: []string{"Berlin"}, Organization: []string{"Corp"}, CommonName: "release"}.ToRDNSequence()
	unit := asn1.ObjectIdentifier{2, 5, 4, 11}
	for name, more := range map[string][]pkix.AttributeTypeAndValue{
		"":                 nil,
		"a locality":       {{Type: asn1.ObjectIdentifier{2, 5, 4, 7}, Value: "Berlin"}},
		"no text":          {{Type: unit, Value: 1}},
		"unit there twice": {{Type: unit, Value: "a"}, {Type: unit, Value: "b"}},
	} {
		if got := s.matches(append(good[:len(good):len(good)], more)); got != (name == "") {
			t.Errorf("with %q: %v", name, got)
		}
	}
}
