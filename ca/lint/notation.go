package lint

import (
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// MaxNotationValidity is the longest life of a certificate of the profile notation.
const MaxNotationValidity = 397 * 24 * time.Hour

// notationAttributes are what a subject of the profile notation is made of.
// Notation's trust policies demand the first three of every identity.
var notationAttributes = []struct {
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

// NotationSubject says why a name is none of the profile notation: one C, ST, O
// and CN, at most one OU, each alone and printable; "" when it is one.
func NotationSubject(rdns pkix.RDNSequence) string {
	found := map[string]bool{}
	for _, set := range rdns {
		if len(set) != 1 {
			return "an RDN of several attributes"
		}
		why := notationAttribute(set[0], found)
		if why != "" {
			return why
		}
	}
	for _, a := range notationAttributes {
		if a.required && !found[a.name] {
			return a.name + " is missing"
		}
	}
	return ""
}

// notationAttribute judges one attribute and notes it in found.
func notationAttribute(in pkix.AttributeTypeAndValue, found map[string]bool) string {
	for _, a := range notationAttributes {
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

// notation holds for signers that have a subject and no identity of a token: what
// is in them keeps every client of Sigstore from taking one for a keyless leaf.
func (r *report) notation() {
	c := r.cert
	var rdns pkix.RDNSequence
	rest, err := asn1.Unmarshal(c.RawSubject, &rdns)
	why := "it is malformed"
	if err == nil && len(rest) == 0 {
		why = NotationSubject(rdns)
	}
	r.want(why == "", "notation_subject", "subject: %s", why)
	r.want(c.NotAfter.Sub(c.NotBefore) <= MaxNotationValidity, "notation_validity", "valid for %s, limit %s", c.NotAfter.Sub(c.NotBefore), MaxNotationValidity)
	r.want(len(c.AuthorityKeyId) > 0, "aki", "no authority key identifier")
	_, _, san := r.ext(oidSAN)
	r.want(!san, "notation_san", "carries a subjectAltName")
	r.noTransparency()
	for _, e := range c.Extensions {
		inArc := len(e.Id) > len(oidSigstore) && e.Id[:len(oidSigstore)].Equal(oidSigstore)
		r.want(!inArc, "notation_sigstore", "carries %s, an extension of keyless certificates", e.Id)
	}
	switch k := c.PublicKey.(type) {
	case ed25519.PublicKey:
		r.want(false, "notation_key", "Notation has no signature algorithm for Ed25519")
	case *rsa.PublicKey:
		n := k.N.BitLen()
		r.want(n == 2048 || n == 3072 || n == 4096, "notation_key", "Notation has no signature algorithm for RSA of %d bits", n)
	}
}
