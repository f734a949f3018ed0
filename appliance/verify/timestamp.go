package verify

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/sigstore/sigstore-go/pkg/root"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// readTimestamps splits the bundle's RFC 3161 tokens into those that name an
// authority of the root as their signer and the others. The first must all
// verify; the others bear no weight and are counted.
func readTimestamps(r *trustedRoot, b *decoded) (known [][]byte, ignored int, err error) {
	for i, t := range b.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps() {
		token, err := parseToken(t.GetSignedTimestamp())
		if token.signer != (signerID{}) && !r.knowsTSA(token) {
			ignored++ // whatever its form
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("%w: timestamp %d: %w", ErrMalformed, i, err)
		}
		// A certificate beside the signature is not covered by it.
		for _, c := range token.certs {
			if !containsRaw(r.tsaCerts, c) {
				return nil, 0, fmt.Errorf("%w: timestamp %d: embedded certificate is not in the trusted root", ErrUntrusted, i)
			}
		}
		known = append(known, t.GetSignedTimestamp())
	}
	return known, ignored, nil
}

// bindTimestamps verifies each of several tokens; sigstore-go is content with one.
func bindTimestamps(r *trustedRoot, b *decoded, known [][]byte) error {
	if len(known) < 2 {
		return nil
	}
	content, err := b.SignatureContent()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for i, t := range known {
		if !slices.ContainsFunc(r.TimestampingAuthorities(), func(tsa root.TimestampingAuthority) bool {
			_, err := tsa.Verify(t, content.Signature())
			return err == nil
		}) {
			return fmt.Errorf("%w: timestamp %d of a known authority does not verify", ErrTime, i)
		}
	}
	return nil
}

// signerID is the issuer and serial number by which a token names its signer.
type signerID struct{ issuer, serial string }

// knowsTSA tells whether the root holds the certificate the token names, or, for
// an authority listed without its leaf, the issuer of it.
func (r *trustedRoot) knowsTSA(t token) bool {
	return r.tsaLeaves[t.signer] || r.tsaIssuers[t.signer.issuer]
}

// token is what parseToken found; nothing of it is verified.
type token struct {
	signer signerID
	certs  [][]byte
}

var (
	oidSignedData = []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02")         // 1.2.840.113549.1.7.2
	oidTSTInfo    = []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x04") // 1.2.840.113549.1.9.16.1.4
)

var errToken = errors.New("not a timestamp response of the plain form")

// parseToken reads a TimeStampResp (RFC 3161 2.4.2) around a SignedData (RFC
// 5652 5.1) with one signer, as strict DER. It refuses whatever the signature
// does not cover and no check below binds: CRLs, unsigned attributes, failure
// codes, other encodings of the same thing.
func parseToken(der []byte) (token, error) {
	if err := checkDER(der, 0); err != nil {
		return token{}, err
	}
	in := cryptobyte.String(der)
	var resp, status, info, oid, wrapped, sd cryptobyte.String
	var code int
	if !in.ReadASN1(&resp, asn1.SEQUENCE) || !in.Empty() ||
		!resp.ReadASN1(&status, asn1.SEQUENCE) || !status.ReadASN1Integer(&code) || code < 0 || code > 1 {
		return token{}, errToken
	}
	// A granted response may carry a sentence for people, nothing else.
	if !status.Empty() && (!status.SkipASN1(asn1.SEQUENCE) || !status.Empty()) {
		return token{}, errToken
	}
	if !resp.ReadASN1(&info, asn1.SEQUENCE) || !resp.Empty() ||
		!info.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !bytes.Equal(oid, oidSignedData) ||
		!info.ReadASN1(&wrapped, asn1.Tag(0).Constructed().ContextSpecific()) || !info.Empty() ||
		!wrapped.ReadASN1(&sd, asn1.SEQUENCE) || !wrapped.Empty() {
		return token{}, errToken
	}
	return parseSignedData(sd)
}

func parseSignedData(sd cryptobyte.String) (t token, err error) {
	var algs, alg, content, oid, certs, signers, signer cryptobyte.String
	var version int
	var has bool
	if !sd.ReadASN1Integer(&version) || version != 3 ||
		!sd.ReadASN1(&algs, asn1.SET) || !algs.ReadASN1(&alg, asn1.SEQUENCE) || !algs.Empty() ||
		!sd.ReadASN1(&content, asn1.SEQUENCE) || !content.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !bytes.Equal(oid, oidTSTInfo) || !octets(content) ||
		!sd.ReadOptionalASN1(&certs, &has, asn1.Tag(0).Constructed().ContextSpecific()) {
		return t, errToken
	}
	for !certs.Empty() {
		var cert cryptobyte.String
		if !certs.ReadASN1Element(&cert, asn1.SEQUENCE) {
			return t, errToken
		}
		t.certs = append(t.certs, cert)
	}
	if !sd.ReadASN1(&signers, asn1.SET) || !sd.Empty() || !signers.ReadASN1(&signer, asn1.SEQUENCE) || !signers.Empty() {
		return t, errToken
	}
	// SignerInfo: version, issuer and serial, digest algorithm, signed attributes, algorithm, signature.
	var sid, issuer, serial, digestAlg cryptobyte.String
	if !signer.ReadASN1Integer(&version) || version != 1 || !signer.ReadASN1(&sid, asn1.SEQUENCE) ||
		!sid.ReadASN1Element(&issuer, asn1.SEQUENCE) || !sid.ReadASN1(&serial, asn1.INTEGER) || !sid.Empty() {
		return t, errToken
	}
	t.signer = signerID{string(issuer), string(serial)}
	if !signer.ReadASN1(&digestAlg, asn1.SEQUENCE) || !sameAlgorithm(alg, digestAlg) ||
		!signer.SkipASN1(asn1.Tag(0).Constructed().ContextSpecific()) ||
		!signer.SkipASN1(asn1.SEQUENCE) || !signer.SkipASN1(asn1.OCTET_STRING) || !signer.Empty() {
		return t, errToken
	}
	return t, nil
}

// octets accepts the eContent: one OCTET STRING, or one inside a constructed
// one, as some authorities write it.
func octets(s cryptobyte.String) bool {
	var wrapped, value cryptobyte.String
	if !s.ReadASN1(&wrapped, asn1.Tag(0).Constructed().ContextSpecific()) || !s.Empty() {
		return false
	}
	if wrapped.PeekASN1Tag(asn1.OCTET_STRING.Constructed()) {
		var inner cryptobyte.String
		if !wrapped.ReadASN1(&inner, asn1.OCTET_STRING.Constructed()) || !wrapped.Empty() {
			return false
		}
		wrapped = inner
	}
	return wrapped.ReadASN1(&value, asn1.OCTET_STRING) && wrapped.Empty()
}

// sameAlgorithm compares two AlgorithmIdentifiers, absent parameters and NULL alike.
func sameAlgorithm(a, b cryptobyte.String) bool {
	var x, y cryptobyte.String
	return a.ReadASN1(&x, asn1.OBJECT_IDENTIFIER) && b.ReadASN1(&y, asn1.OBJECT_IDENTIFIER) && bytes.Equal(x, y) && emptyOrNull(a) && emptyOrNull(b)
}

func emptyOrNull(s cryptobyte.String) bool {
	var null cryptobyte.String
	return s.Empty() || s.ReadASN1(&null, asn1.NULL) && null.Empty() && s.Empty()
}

// checkDER walks every constructed element: definite, shortest lengths, no
// element running over its parent (X.690 10.1), at most 32 deep.
func checkDER(der []byte, depth int) error {
	if depth > 32 {
		return errors.New("DER nested too deep")
	}
	s := cryptobyte.String(der)
	for !s.Empty() {
		var elem cryptobyte.String
		var tag asn1.Tag
		if !s.ReadAnyASN1(&elem, &tag) {
			return errors.New("not DER")
		}
		if tag&0x20 != 0 {
			if err := checkDER(elem, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
