package lint

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxLeafValidity is the longest life of a code-signing leaf (Fulcio's
// docs/certificate-specification.md).
const MaxLeafValidity = 10 * time.Minute

var (
	oidSAN             = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage        = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidEKU             = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidBasic           = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidPoison          = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	oidSCTList         = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	oidIssuerV1        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
	oidUserName        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 7}
	oidIssuerV2        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
	oidSKI             = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidAKI             = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidTokenSub        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 24}
	sigAlgs            = []x509.SignatureAlgorithm{x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS, x509.PureEd25519}
	asn1NullDER        = []byte{5, 0}
	minSerialLen       = 8 // octets; 64 bits are the least that random serials should carry
)

// Extensions each class of certificate may carry; anything else was not meant.
var (
	endEntityExtensions = []asn1.ObjectIdentifier{oidKeyUsage, oidEKU, oidSKI, oidAKI, oidBasic, oidSAN, oidPoison, oidSCTList}
	authorityExtensions = []asn1.ObjectIdentifier{
		oidKeyUsage, oidEKU, oidSKI, oidAKI, oidBasic,
		oidNameConstraints,
		{2, 5, 29, 31},              // cRLDistributionPoints
		{2, 5, 29, 32},              // certificatePolicies
		{1, 3, 6, 1, 5, 5, 7, 1, 1}, // authorityInfoAccess
	}
	oidSigstore = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1} // arc of the Sigstore extensions
)

// report collects the findings of one certificate.
type report struct {
	cert     *x509.Certificate
	findings []Finding
}

// want adds a finding named rule when ok is false.
func (r *report) want(ok bool, rule, format string, args ...any) {
	if !ok {
		r.findings = append(r.findings, Finding{"redoubt_" + rule, fmt.Sprintf(format, args...)})
	}
}

// ext returns the one extension of that OID, nil when absent.
func (r *report) ext(oid asn1.ObjectIdentifier) (value []byte, critical, present bool) {
	for _, e := range r.cert.Extensions {
		if e.Id.Equal(oid) {
			return e.Value, e.Critical, true
		}
	}
	return nil, false, false
}

// checkProfile applies the own rules of profile p.
func checkProfile(cert *x509.Certificate, p Profile) ([]Finding, error) {
	r := &report{cert: cert}
	r.common()
	switch p {
	case Root:
		r.authority(nil)
		r.want(bytes.Equal(cert.RawSubject, cert.RawIssuer), "root_self_issued", "subject and issuer differ")
	case Cross:
		r.authority(nil)
		r.want(cert.MaxPathLen == 1, "pathlen", "pathLenConstraint is not 1")
		r.want(!bytes.Equal(cert.RawSubject, cert.RawIssuer), "intermediate_subject", "subject equals issuer")
		r.want(len(cert.AuthorityKeyId) > 0, "aki", "no authority key identifier")
	case Issuing:
		r.authority([]x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning})
		r.intermediate()
	case TSAIntermediate:
		r.authority([]x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping})
		r.intermediate()
	case TSALeaf:
		r.endEntity(x509.ExtKeyUsageTimeStamping)
		_, critical, _ := r.ext(oidEKU)
		r.want(critical, "tsa_eku_critical", "extendedKeyUsage is not critical (RFC 3161, 2.3)")
		r.want(len(cert.Subject.ToRDNSequence()) > 0, "tsa_subject", "subject is empty")
		r.want(len(cert.AuthorityKeyId) > 0, "aki", "no authority key identifier")
	case Precertificate, Leaf:
		r.endEntity(x509.ExtKeyUsageCodeSigning)
		r.leaf()
		r.transparency(p)
	case Notation:
		r.endEntity(x509.ExtKeyUsageCodeSigning)
		r.notation()
	default:
		return nil, fmt.Errorf("lint profile %s is unknown", p)
	}
	return r.findings, nil
}

// common holds for every certificate of every profile.
func (r *report) common() {
	c := r.cert
	r.want(c.Version == 3, "version", "version %d", c.Version)
	r.want(c.SerialNumber.Sign() > 0 && len(c.SerialNumber.Bytes()) >= minSerialLen, "serial", "serial is not a positive number of at least %d octets", minSerialLen)
	r.want(c.NotAfter.After(c.NotBefore), "validity", "notAfter is not after notBefore")
	r.want(len(c.SubjectKeyId) > 0, "ski", "no subject key identifier")
	r.want(slices.Contains(sigAlgs, c.SignatureAlgorithm), "signature_algorithm", "signature algorithm %s", c.SignatureAlgorithm)
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		r.want(k.Curve.Params().BitSize >= 256, "key", "curve %s", k.Curve.Params().Name)
	case *rsa.PublicKey:
		r.want(k.N.BitLen() >= 2048 && k.E >= 65537 && k.E%2 == 1, "key", "RSA key of %d bits, exponent %d", k.N.BitLen(), k.E)
	case ed25519.PublicKey:
	default:
		r.want(false, "key", "public key of type %T", k)
	}
	for _, e := range c.Extensions {
		if e.Critical {
			known := e.Id.Equal(oidSAN) || e.Id.Equal(oidKeyUsage) || e.Id.Equal(oidEKU) || e.Id.Equal(oidBasic) || e.Id.Equal(oidPoison) || e.Id.Equal(oidNameConstraints)
			r.want(known, "critical_extension", "extension %s must not be critical", e.Id)
		}
	}
}

// only refuses extensions outside the list and, for leaves, the Sigstore arc.
func (r *report) only(allowed []asn1.ObjectIdentifier, sigstore bool) {
	for _, e := range r.cert.Extensions {
		inArc := sigstore && len(e.Id) == len(oidSigstore)+1 && e.Id[:len(oidSigstore)].Equal(oidSigstore)
		r.want(inArc || slices.ContainsFunc(allowed, e.Id.Equal), "unexpected_extension", "extension %s does not belong to this profile", e.Id)
	}
}

// authority holds for root and intermediates; eku nil means no extension.
func (r *report) authority(eku []x509.ExtKeyUsage) {
	c := r.cert
	_, critical, present := r.ext(oidBasic)
	r.want(present && critical && c.IsCA && c.BasicConstraintsValid, "basic_constraints", "basicConstraints is not critical with cA TRUE")
	r.want(c.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign, "key_usage", "keyUsage is not exactly keyCertSign and cRLSign")
	_, critical, _ = r.ext(oidKeyUsage)
	r.want(critical, "key_usage_critical", "keyUsage is not critical")
	r.want(slices.Equal(c.ExtKeyUsage, eku) && len(c.UnknownExtKeyUsage) == 0, "eku", "extendedKeyUsage is not what the profile says")
	r.want(c.Subject.CommonName != "" && len(c.Subject.Organization) > 0, "ca_subject", "subject has no commonName or no organization")
	_, _, san := r.ext(oidSAN)
	r.want(!san, "ca_san", "an authority carries no subjectAltName")
	r.noTransparency()
	r.only(authorityExtensions, false)
}

// intermediate holds for authorities below the root.
func (r *report) intermediate() {
	c := r.cert
	r.want(c.MaxPathLen == 0 && c.MaxPathLenZero, "pathlen", "pathLenConstraint is not 0")
	r.want(!bytes.Equal(c.RawSubject, c.RawIssuer), "intermediate_subject", "subject equals issuer")
	r.want(len(c.AuthorityKeyId) > 0, "aki", "no authority key identifier")
}

// endEntity holds for every certificate that is no authority.
func (r *report) endEntity(eku x509.ExtKeyUsage) {
	c := r.cert
	r.want(!c.IsCA, "not_ca", "an end-entity certificate says it is an authority")
	_, critical, _ := r.ext(oidKeyUsage)
	r.want(critical && c.KeyUsage == x509.KeyUsageDigitalSignature, "key_usage", "keyUsage is not critical with exactly digitalSignature")
	r.want(len(c.ExtKeyUsage) == 1 && c.ExtKeyUsage[0] == eku && len(c.UnknownExtKeyUsage) == 0, "eku", "extendedKeyUsage is not exactly one, as the profile says")
	r.only(endEntityExtensions, eku == x509.ExtKeyUsageCodeSigning)
	if eku == x509.ExtKeyUsageTimeStamping {
		r.noTransparency()
	}
}

// noTransparency refuses CT extensions where they have no meaning.
func (r *report) noTransparency() {
	_, _, poison := r.ext(oidPoison)
	_, _, scts := r.ext(oidSCTList)
	r.want(!poison && !scts, "ct_extension", "carries a certificate transparency extension")
}

// leaf holds for code-signing certificates (Sigstore certificate profile).
func (r *report) leaf() {
	c := r.cert
	r.want(c.NotAfter.Sub(c.NotBefore) <= MaxLeafValidity, "leaf_validity", "valid for %s, limit %s", c.NotAfter.Sub(c.NotBefore), MaxLeafValidity)
	r.want(len(c.Subject.ToRDNSequence()) == 0, "leaf_subject", "subject is not empty")
	r.want(len(c.AuthorityKeyId) > 0, "aki", "no authority key identifier")
	value, critical, present := r.ext(oidSAN)
	r.want(present && critical, "san_critical", "subjectAltName is absent or not critical while the subject is empty")
	if present {
		reason := oneName(value)
		r.want(reason == "", "san", "%s", reason)
	}
	v1, crit1, has1 := r.ext(oidIssuerV1)
	v2, crit2, has2 := r.ext(oidIssuerV2)
	_, crit24, has24 := r.ext(oidTokenSub)
	r.want(has1 && has2, "issuer", "issuer extensions %s and %s are not both present", oidIssuerV1, oidIssuerV2)
	r.want(has24, "token_subject", "token subject extension %s is absent", oidTokenSub)
	r.want(!crit1 && !crit2 && !crit24, "issuer_critical", "a Sigstore extension is critical")
	if has1 && has2 {
		s, ok := utf8String(v2)
		r.want(ok && s != "" && s == string(v1), "issuer_value", "the issuer extensions do not name the same issuer")
	}
}

// transparency holds the two forms of a leaf apart (RFC 6962, 3.1 and 3.3).
func (r *report) transparency(p Profile) {
	poison, critical, poisoned := r.ext(oidPoison)
	list, _, scts := r.ext(oidSCTList)
	if p == Precertificate {
		r.want(poisoned && critical && bytes.Equal(poison, asn1NullDER), "poison", "the poison extension is absent, not critical or not NULL")
		r.want(!scts, "precertificate_sct", "a precertificate carries SCTs")
		return
	}
	r.want(!poisoned, "poison", "a final certificate carries the poison extension")
	r.want(scts && sctList(list), "sct", "no embedded SCT list, or an empty or malformed one")
	n := len(r.cert.Extensions)
	r.want(!scts || r.cert.Extensions[n-1].Id.Equal(oidSCTList), "sct_last", "the SCT list is not the last extension")
}

// oneName says why a subjectAltName is not exactly one mail address, URI or
// Sigstore user name; "" when it is.
func oneName(value []byte) string {
	in := cryptobyte.String(value)
	var names, name cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadASN1(&names, cbasn1.SEQUENCE) || !in.Empty() || !names.ReadAnyASN1(&name, &tag) {
		return "subjectAltName is empty or malformed"
	}
	if !names.Empty() {
		return "subjectAltName holds more than one name"
	}
	switch tag {
	case cbasn1.Tag(1).ContextSpecific(), cbasn1.Tag(6).ContextSpecific(): // rfc822Name, uniformResourceIdentifier
		if len(name) == 0 {
			return "subjectAltName holds an empty name"
		}
		return ""
	case cbasn1.Tag(0).ContextSpecific().Constructed(): // otherName { type-id, [0] EXPLICIT value }
		var oid asn1.ObjectIdentifier
		var inner cryptobyte.String
		if !name.ReadASN1ObjectIdentifier(&oid) || !name.ReadASN1(&inner, cbasn1.Tag(0).ContextSpecific().Constructed()) || !name.Empty() {
			return "otherName is malformed"
		}
		if s, ok := utf8String(inner); !oid.Equal(oidUserName) || !ok || s == "" {
			return "otherName is not a Sigstore user name"
		}
		return ""
	}
	return fmt.Sprintf("subjectAltName holds a name of kind %d", tag&0x1f)
}

// utf8String reads a DER UTF8String that fills value.
func utf8String(value []byte) (string, bool) {
	in := cryptobyte.String(value)
	var s cryptobyte.String
	ok := in.ReadASN1(&s, cbasn1.UTF8String) && in.Empty()
	return string(s), ok
}

// sctList reports whether value is an OCTET STRING of a TLS
// SignedCertificateTimestampList with at least one non-empty entry (RFC 6962, 3.3).
func sctList(value []byte) bool {
	in := cryptobyte.String(value)
	var octets, list cryptobyte.String
	if !in.ReadASN1(&octets, cbasn1.OCTET_STRING) || !in.Empty() || !octets.ReadUint16LengthPrefixed(&list) || !octets.Empty() || list.Empty() {
		return false
	}
	for !list.Empty() {
		var sct cryptobyte.String
		if !list.ReadUint16LengthPrefixed(&sct) || len(sct) == 0 {
			return false
		}
	}
	return true
}
