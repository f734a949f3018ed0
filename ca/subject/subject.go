// Package subject holds the rule for the subject of a certificate of the profile notation: the authority certifies no other, and a verifier takes
// no other.
package subject

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
	"unicode"
)

// attributes are what a subject of the profile notation is made of.
// Notation's trust policies demand the first three of every identity.
var attributes = []struct {
	oid      asn1.ObjectIdentifier
	name     string
	required bool
	longest  int // characters, RFC 5280 A.1
}{
	{asn1.ObjectIdentifier{2, 5, 4, 6}, "C", true, 2},
	{asn1.ObjectIdentifier{2, 5, 4, 8}, "ST", true, 128},
	{asn1.ObjectIdentifier{2, 5, 4, 10}, "O", true, 64},
	{asn1.ObjectIdentifier{2, 5, 4, 3}, "CN", true, 64},
	{asn1.ObjectIdentifier{2, 5, 4, 11}, "OU", false, 64},
}

// Check says why a name is none of the profile notation: one C, ST, O
// and CN, at most one OU, each alone and printable; "" when it is one.
func Check(rdns pkix.RDNSequence) string {
	found := map[string]bool{}
	for _, set := range rdns {
		if len(set) != 1 {
			return "an RDN of several attributes"
		}
		why := attribute(set[0], found)
		if why != "" {
			return why
		}
	}
	for _, a := range attributes {
		if a.required && !found[a.name] {
			return a.name + " is missing"
		}
	}
	return ""
}

// attribute judges one attribute and notes it in found.
func attribute(in pkix.AttributeTypeAndValue, found map[string]bool) string {
	for _, a := range attributes {
		if !a.oid.Equal(in.Type) {
			continue
		}
		text, ok := in.Value.(string)
		switch {
		case found[a.name]:
			return a.name + " is there twice"
		case !ok || text == "" || len([]rune(text)) > a.longest:
			return fmt.Sprintf("%s is not a text of 1 to %d characters", a.name, a.longest)
		case strings.TrimSpace(text) != text || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }):
			return a.name + " has blanks around it, or what cannot be seen"
		case a.name == "C" && strings.ContainsFunc(text, func(r rune) bool { return r < 'A' || r > 'Z' }) || a.name == "C" && len(text) != 2:
			return "C is not a country's two capital letters"
		}
		found[a.name] = true
		return ""
	}
	return fmt.Sprintf("the attribute %s does not belong there", in.Type)
}
