package lint

import (
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"redoubt.internal/ca/subject"
	"time"
)

// MaxNotationValidity is the longest life of a certificate of the profile notation.
const MaxNotationValidity = 397 * 24 * time.Hour

// notation holds for signers that have a subject and no identity of a token: what
// is in them keeps every client of Sigstore from taking one for a keyless leaf.
func (r *report) notation() {
	c := r.cert
	var rdns pkix.RDNSequence
	rest, err := asn1.Unmarshal(c.RawSubject, &rdns)
	why := "it is malformed"
	if err == nil && len(rest) == 0 {
		why = subject.Check(rdns)
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
