package verify

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Object identifiers in DER, without tag and length.
var (
	oidData          = []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01")         // 1.2.840.113549.1.7.1
	oidContentType   = []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x03")         // 1.2.840.113549.1.9.3
	oidMessageDigest = []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x04")         // 1.2.840.113549.1.9.4
	oidTimeStamp     = []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x0e") // 1.2.840.113549.1.9.16.2.14, RFC 3161 appendix A
	oidLogEntry      = []byte("\x2b\x06\x01\x04\x01\x83\xbf\x30\x03\x01")     // 1.3.6.1.4.1.57264.3.1, a TransparencyLogEntry in protobuf
	oidSHA256        = []byte("\x60\x86\x48\x01\x65\x03\x04\x02\x01")         // 2.16.840.1.101.3.4.2.1
	oidECDSASHA256   = []byte("\x2a\x86\x48\xce\x3d\x04\x03\x02")             // 1.2.840.10045.4.3.2
)

// cms is a detached signature of one signer (RFC 5652 5). Nothing of it is verified.
type cms struct {
	certificate   []byte // of the signer, DER
	attributes    []byte // what was signed: the signed attributes, as a SET OF (5.4)
	messageDigest []byte // which they name
	signature     []byte
	entry         []byte // the log entry, in protobuf; empty where there is none
	token         []byte // an RFC 3161 response; empty where there is none
}

var errCMS = errors.New("not a detached CMS signature of one signer, by ECDSA and SHA-256")

// parseCMS reads strict DER. It refuses what the signature does not cover and nobody checks: a second signer or certificate, CRLs, unknown unsigned
// attributes.
func parseCMS(der []byte) (s cms, err error) {
	if err := checkDER(der, 0); err != nil {
		return s, err
	}
	in := cryptobyte.String(der)
	var info, oid, wrapped, sd, digests, digest, content, certificates, certificate, signers, signer cryptobyte.String
	var version int
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !in.Empty() || !info.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !bytes.Equal(oid, oidSignedData) ||
		!info.ReadASN1(&wrapped, asn1.Tag(0).Constructed().ContextSpecific()) || !info.Empty() ||
		!wrapped.ReadASN1(&sd, asn1.SEQUENCE) || !wrapped.Empty() ||
		!sd.ReadASN1Integer(&version) || version != 1 ||
		!sd.ReadASN1(&digests, asn1.SET) || !digests.ReadASN1(&digest, asn1.SEQUENCE) || !digests.Empty() || !isAlgorithm(digest, oidSHA256) ||
		!sd.ReadASN1(&content, asn1.SEQUENCE) || !content.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !content.Empty() || !bytes.Equal(oid, oidData) ||
		!sd.ReadASN1(&certificates, asn1.Tag(0).Constructed().ContextSpecific()) ||
		!certificates.ReadASN1Element(&certificate, asn1.SEQUENCE) || !certificates.Empty() ||
		!sd.ReadASN1(&signers, asn1.SET) || !sd.Empty() || !signers.ReadASN1(&signer, asn1.SEQUENCE) || !signers.Empty() {
		return s, errCMS
	}
	s.certificate = certificate
	return s, s.readSigner(signer)
}

// readSigner reads the SignerInfo (5.3): version, issuer and serial, digest algorithm, signed attributes, algorithm, signature, unsigned attributes.
func (s *cms) readSigner(in cryptobyte.String) error {
	var name, digest, signed, attributes, algorithm, unsigned cryptobyte.String
	var version int
	var has bool
	if !in.ReadASN1Integer(&version) || version != 1 || !in.ReadASN1Element(&name, asn1.SEQUENCE) ||
		!in.ReadASN1(&digest, asn1.SEQUENCE) || !isAlgorithm(digest, oidSHA256) ||
		!in.ReadASN1Element(&signed, asn1.Tag(0).Constructed().ContextSpecific()) ||
		!in.ReadASN1(&algorithm, asn1.SEQUENCE) || !isAlgorithm(algorithm, oidECDSASHA256) ||
		!in.ReadASN1((*cryptobyte.String)(&s.signature), asn1.OCTET_STRING) ||
		!in.ReadOptionalASN1(&unsigned, &has, asn1.Tag(1).Constructed().ContextSpecific()) || !in.Empty() {
		return errCMS
	}
	if !s.names(name) {
		return errors.New("the signer's certificate is another")
	}
	s.attributes = bytes.Clone(signed)
	s.attributes[0] = byte(asn1.SET) // what is digested is the SET OF, not its implicit tag (5.4)
	attributes = cryptobyte.String(s.attributes)
	if !attributes.ReadASN1(&attributes, asn1.SET) {
		return errCMS
	}
	kind, err := oneAttribute(attributes, oidContentType, asn1.OBJECT_IDENTIFIER)
	if err != nil || !bytes.Equal(kind, oidData) {
		return fmt.Errorf("content type: %w", errCMS)
	}
	if s.messageDigest, err = oneAttribute(attributes, oidMessageDigest, asn1.OCTET_STRING); err != nil || len(s.messageDigest) == 0 {
		return fmt.Errorf("message digest: %w", errCMS)
	}
	return s.readUnsigned(unsigned)
}

// names tells whether name, issuer and serial number, is that of the certificate (RFC 5280 4.1).
func (s *cms) names(name cryptobyte.String) bool {
	in := cryptobyte.String(s.certificate)
	var cert, tbs, serial, issuer cryptobyte.String
	if !in.ReadASN1(&cert, asn1.SEQUENCE) || !cert.ReadASN1(&tbs, asn1.SEQUENCE) || !tbs.SkipOptionalASN1(asn1.Tag(0).Constructed().ContextSpecific()) ||
		!tbs.ReadASN1Element(&serial, asn1.INTEGER) || !tbs.SkipASN1(asn1.SEQUENCE) || !tbs.ReadASN1Element(&issuer, asn1.SEQUENCE) {
		return false
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(issuer); b.AddBytes(serial) })
	want, err := b.Bytes()
	return err == nil && bytes.Equal(name, want)
}

// readUnsigned takes log entry and timestamp. Each verifies by itself, and nothing else may stand there.
func (s *cms) readUnsigned(in cryptobyte.String) error {
	count := 0
	for rest := in; !rest.Empty(); count++ {
		if !rest.SkipASN1(asn1.SEQUENCE) {
			return errCMS
		}
	}
	entry, err := oneAttribute(in, oidLogEntry, asn1.OCTET_STRING)
	if err != nil {
		return fmt.Errorf("log entry: %w", err)
	}
	token, err := oneAttribute(in, oidTimeStamp, asn1.SEQUENCE)
	if err != nil {
		return fmt.Errorf("timestamp: %w", err)
	}
	if s.entry = entry; entry != nil {
		count--
	}
	if token != nil {
		count--
		s.token, err = wrapToken(func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(token) })
		})
	}
	if count != 0 {
		return errors.New("unsigned attributes beside log entry and timestamp")
	}
	return err
}

// oneAttribute is the only value of the only attribute of that type, nil where there is none.
func oneAttribute(in cryptobyte.String, want []byte, tag asn1.Tag) (value []byte, err error) {
	for !in.Empty() {
		var attribute, oid, values, v cryptobyte.String
		if !in.ReadASN1(&attribute, asn1.SEQUENCE) || !attribute.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !attribute.ReadASN1(&values, asn1.SET) || !attribute.Empty() {
			return nil, errCMS
		}
		if !bytes.Equal(oid, want) {
			continue
		}
		if value != nil || !values.ReadASN1(&v, tag) || !values.Empty() {
			return nil, errors.New("an attribute with more than one value, or of another type")
		}
		value = append([]byte{}, v...)
	}
	return value, nil
}

// isAlgorithm tells whether an AlgorithmIdentifier is the one with that identifier and no parameters.
func isAlgorithm(in cryptobyte.String, want []byte) bool {
	var oid cryptobyte.String
	return in.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) && bytes.Equal(oid, want) && emptyOrNull(in)
}
