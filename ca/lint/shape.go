package lint

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"slices"
	"strings"
	"sync/atomic"

	zasn1 "github.com/zmap/zcrypto/encoding/asn1"
	zx509 "github.com/zmap/zcrypto/x509"
	zpkix "github.com/zmap/zcrypto/x509/pkix"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// One shape of certificate is linted for each issuance: a precertificate whose
// name is one mail address or URI. zcrypto parses it by reflection, encodes it
// anew for fingerprints no lint reads, and costs more than half of all linting.
// What is here makes of such a certificate, which crypto/x509 parsed and no own
// rule faulted, what zcrypto's parser makes of it, fingerprints aside. Any other
// certificate, and any finding, goes the long way, so that this decides nothing
// but that a certificate is faultless; tests hold that verdict, and every field,
// to the long way.

// implied names lints that cannot find anything in such a certificate, and why.
// They are not run on it.
var implied = reasons(map[string]string{
	"crypto/x509 refuses duplicates":                             `e_ext_duplicate_extension`,
	"takeExtensions reads every critical flag and wants it TRUE": `e_cert_ext_invalid_der`,
	"own rule critical_extension":                                `e_ext_authority_key_identifier_critical e_ext_subject_key_identifier_critical`,
	"own rule precertificate_sct":                                `e_empty_sct_list e_precert_with_sct_list`,
	"own rules key_usage and eku: exactly digitalSignature and codeSigning": `e_ecdsa_allowed_ku e_ext_key_usage_cert_sign_without_ca e_ext_key_usage_without_bits
		e_key_usage_and_extended_key_usage_inconsistent n_ecdsa_ee_invalid_ku w_eku_critical_improperly
		w_ext_key_usage_not_critical`,
	"takeExtensions wants the one DER encoding of digitalSignature": `e_incorrect_ku_encoding e_key_usage_incorrect_length e_superfluous_ku_encoding`,
	"own rule san_critical": `e_ext_san_not_critical_without_subject`,
	"takeName wants one name, a mail address or a URI": `e_ext_san_dns_name_too_long e_ext_san_dns_not_ia5_string e_ext_san_no_entries e_ext_san_space_dns_name
		e_international_dns_name_not_nfc e_international_dns_name_not_unicode e_subject_empty_without_san`,
	"own rule san: the name is not empty": `e_ext_san_empty_name`,
	"takeBody wants an empty subject":     `e_subject_dn_not_printable_characters e_subject_printable_string_badalpha`,
	"takeBody wants both times as YYMMDDhhmmssZ": `e_generalized_time_does_not_include_seconds e_generalized_time_includes_fraction_seconds e_generalized_time_not_in_zulu
		e_utc_time_does_not_include_seconds e_utc_time_not_in_zulu e_wrong_time_format_pre2050`,
	"takeBody wants one of four algorithms, RSA's with NULL": `e_tbs_signature_rsa_encryption_parameter_not_null`,
	"takeExtensions takes no such extension": `e_distribution_point_incomplete e_ext_aia_marked_critical e_ext_cert_policy_disallowed_any_policy_qualifier
		e_ext_cert_policy_duplicate e_ext_freshest_crl_marked_critical e_ext_ian_dns_not_ia5_string e_ext_ian_empty_name
		e_ext_ian_no_entries e_ext_ian_rfc822_format_invalid e_ext_ian_space_dns_name e_ext_ian_uri_format_invalid
		e_ext_ian_uri_host_not_fqdn_or_ip e_ext_ian_uri_not_ia5 e_ext_ian_uri_relative e_ext_name_constraints_not_critical
		e_ext_name_constraints_not_in_ca e_ext_policy_constraints_empty e_ext_policy_constraints_not_critical
		e_ext_policy_map_any_policy e_ext_subject_directory_attr_critical e_inhibit_any_policy_not_critical
		e_name_constraint_empty e_name_constraint_maximum_not_absent e_name_constraint_minimum_non_zero
		e_name_constraint_not_fqdn e_path_len_constraint_improperly_included e_subject_info_access_marked_critical
		w_distribution_point_missing_ldap_or_uri w_ext_aia_access_location_missing w_ext_cert_policy_contains_noticeref
		w_ext_crl_distribution_marked_critical w_ext_ian_critical w_ext_policy_map_not_critical
		w_ext_policy_map_not_in_cert_policy w_name_constraint_on_edi_party_name w_name_constraint_on_registered_id
		w_name_constraint_on_x400`,
	"own rule ski": `w_ext_subject_key_identifier_missing_sub_cert`,
})

// reasons turns lints by reason into reasons by lint.
func reasons(lints map[string]string) map[string]string {
	all := map[string]string{}
	for reason, names := range lints {
		for _, name := range strings.Fields(names) {
			all[name] = reason
		}
	}
	return all
}

// signatureAlgorithm is one as zcrypto names it, by its DER AlgorithmIdentifier.
type signatureAlgorithm struct {
	der       string
	algorithm zx509.SignatureAlgorithm
	oid       zasn1.ObjectIdentifier
}

var signatureAlgorithms = []signatureAlgorithm{
	{"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02", zx509.ECDSAWithSHA256, zasn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
	{"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03", zx509.ECDSAWithSHA384, zasn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}},
	{"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00", zx509.SHA256WithRSA, zasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}},
	{"\x30\x05\x06\x03\x2b\x65\x70", zx509.Ed25519Sig, zasn1.ObjectIdentifier{1, 3, 101, 112}},
}

// shaped makes a zcrypto certificate of c, which is what crypto/x509 parsed and
// breaks no rule of Precertificate; nil when it is not of the one shape.
func shaped(c *x509.Certificate) *zx509.Certificate {
	out := &zx509.Certificate{
		Raw: c.Raw, RawTBSCertificate: c.RawTBSCertificate, RawSubjectPublicKeyInfo: c.RawSubjectPublicKeyInfo, RawSubject: c.RawSubject, RawIssuer: c.RawIssuer,
		Signature: c.Signature, Version: c.Version, SerialNumber: c.SerialNumber, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		ValidityPeriod: int(c.NotAfter.Sub(c.NotBefore).Seconds()), KeyUsage: zx509.KeyUsage(c.KeyUsage),
		ExtKeyUsage: []zx509.ExtKeyUsage{zx509.ExtKeyUsageCodeSigning}, SubjectKeyId: c.SubjectKeyId, AuthorityKeyId: c.AuthorityKeyId, IsPrecert: true,
	}
	name, ok := issuerName(c.RawIssuer)
	if !ok || c.BasicConstraintsValid || !takeKey(out, c) || !takeBody(out, c.RawTBSCertificate) {
		return nil
	}
	out.Issuer, out.Subject.OriginalRDNS = *name, zpkix.RDNSequence{}
	return out
}

// takeBody reads what crypto/x509 does not keep: the spelling of signature
// algorithm, times, name and critical flags.
func takeBody(out *zx509.Certificate, tbs cryptobyte.String) bool {
	var algorithm, validity, notBefore, notAfter, subject, list cryptobyte.String
	explicit := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
	if !tbs.ReadASN1(&tbs, cbasn1.SEQUENCE) || !tbs.SkipASN1(explicit(0)) || !tbs.SkipASN1(cbasn1.INTEGER) ||
		!tbs.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) || !tbs.SkipASN1(cbasn1.SEQUENCE) ||
		!tbs.ReadASN1(&validity, cbasn1.SEQUENCE) || !tbs.ReadASN1(&subject, cbasn1.SEQUENCE) || !tbs.SkipASN1(cbasn1.SEQUENCE) ||
		!tbs.ReadASN1(&list, explicit(3)) || !tbs.Empty() || !list.ReadASN1(&list, cbasn1.SEQUENCE) || !subject.Empty() {
		return false
	}
	for _, t := range []*cryptobyte.String{&notBefore, &notAfter} {
		if !validity.ReadASN1(t, cbasn1.UTCTime) || len(*t) != len("YYMMDDhhmmssZ") || (*t)[len(*t)-1] != 'Z' {
			return false
		}
	}
	for _, a := range signatureAlgorithms {
		if a.der == string(algorithm) {
			out.SignatureAlgorithm, out.SignatureAlgorithmOID = a.algorithm, a.oid
		}
	}
	return out.SignatureAlgorithmOID != nil && takeExtensions(out, list)
}

func takeExtensions(out *zx509.Certificate, list cryptobyte.String) bool {
	out.Extensions = make([]zpkix.Extension, 0, 16)
	out.ExtensionsMap = make(map[string]zpkix.Extension, 16)
	for !list.Empty() {
		var ext, id, value cryptobyte.String
		critical := false
		if !list.ReadASN1(&ext, cbasn1.SEQUENCE) || !ext.ReadASN1(&id, cbasn1.OBJECT_IDENTIFIER) ||
			ext.PeekASN1Tag(cbasn1.BOOLEAN) && (!ext.ReadASN1Boolean(&critical) || !critical) ||
			!ext.ReadASN1(&value, cbasn1.OCTET_STRING) || !ext.Empty() {
			return false
		}
		known, ok := shapeExtensions[string(id)]
		if !ok || known.name == sanName && !takeName(out, value) || known.name == keyUsageName && string(value) != digitalSignature {
			return false
		}
		e := zpkix.Extension{Id: known.oid, Critical: critical, Value: value}
		out.Extensions = append(out.Extensions, e)
		out.ExtensionsMap[known.name] = e
	}
	return len(out.EmailAddresses)+len(out.URIs) == 1
}

// takeName reads GeneralNames of one mail address or one URI.
func takeName(out *zx509.Certificate, value cryptobyte.String) bool {
	var name cryptobyte.String
	var tag cbasn1.Tag
	if !value.ReadASN1(&value, cbasn1.SEQUENCE) || !value.ReadAnyASN1(&name, &tag) || !value.Empty() {
		return false
	}
	switch tag {
	case cbasn1.Tag(1).ContextSpecific():
		out.EmailAddresses = append(out.EmailAddresses, string(name))
	case cbasn1.Tag(6).ContextSpecific():
		out.URIs = append(out.URIs, string(name))
	}
	return true
}

func takeKey(out *zx509.Certificate, c *x509.Certificate) bool {
	spki := cryptobyte.String(c.RawSubjectPublicKeyInfo)
	var bits []byte
	if !spki.ReadASN1(&spki, cbasn1.SEQUENCE) || !spki.SkipASN1(cbasn1.SEQUENCE) || !spki.ReadASN1BitStringAsBytes(&bits) || !spki.Empty() {
		return false
	}
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		out.PublicKeyAlgorithm, out.PublicKeyAlgorithmOID = zx509.ECDSA, zasn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
		out.PublicKey = &zx509.AugmentedECDSA{Pub: k, Raw: zasn1.BitString{Bytes: bits, BitLength: 8 * len(bits)}}
	case *rsa.PublicKey:
		out.PublicKeyAlgorithm, out.PublicKeyAlgorithmOID = zx509.RSA, zasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
		out.PublicKey = k
	case ed25519.PublicKey:
		out.PublicKeyAlgorithm, out.PublicKeyAlgorithmOID = zx509.Ed25519, zasn1.ObjectIdentifier{1, 3, 101, 112}
		out.PublicKey = k
	default:
		return false
	}
	return true
}

// shapeExtension is an extension of the shape as zcrypto names it.
type shapeExtension struct {
	name string // the key of ExtensionsMap
	oid  zasn1.ObjectIdentifier
}

const (
	sanName          = "2.5.29.17"
	keyUsageName     = "2.5.29.15"
	digitalSignature = "\x03\x02\x07\x80"
)

// shapeExtensions are the extensions of the shape by the contents octets of
// their object identifiers: key usages and identifiers, name, poison, and the
// Sigstore arc 1.3.6.1.4.1.57264.1.N for N below 128.
var shapeExtensions = func() map[string]shapeExtension {
	all := map[string]shapeExtension{}
	add := func(oid ...int) {
		var b cryptobyte.Builder
		b.AddASN1ObjectIdentifier(oid)
		der := cryptobyte.String(b.BytesOrPanic())
		der.ReadASN1(&der, cbasn1.OBJECT_IDENTIFIER)
		all[string(der)] = shapeExtension{zasn1.ObjectIdentifier(oid).String(), oid}
	}
	for _, n := range []int{14, 15, 17, 35, 37} {
		add(2, 5, 29, n)
	}
	add(oidPoison...)
	for n := range 128 {
		add(append(slices.Clone(oidSigstore), n)...)
	}
	return all
}()

// parsedName is an issuer's name as it stands and as zcrypto parsed it.
type parsedName struct {
	raw  []byte
	name zpkix.Name
}

// lastIssuer is the name parsed last: an authority has one.
var lastIssuer atomic.Pointer[parsedName]

func issuerName(raw []byte) (*zpkix.Name, bool) {
	if p := lastIssuer.Load(); p != nil && bytes.Equal(p.raw, raw) {
		return &p.name, true
	}
	var rdn zpkix.RDNSequence
	if rest, err := zasn1.Unmarshal(raw, &rdn); err != nil || len(rest) > 0 || len(rdn) == 0 {
		return nil, false
	}
	p := &parsedName{raw: bytes.Clone(raw)}
	p.name.FillFromRDNSequence(&rdn)
	lastIssuer.Store(p)
	return &p.name, true
}
