package ct

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// leafPrefixSize is version, leaf type, timestamp: all of a leaf that is not identity.
const leafPrefixSize = 10

// submission is a precertificate whose chain was verified.
type submission struct {
	leaf     []byte   // TLS MerkleTreeLeaf, its timestamp still zero
	extra    []byte   // TLS PrecertChainEntry, RFC 6962 4.6: what get-entries serves as extra_data
	identity [32]byte // SHA-256 of the leaf without its timestamp
}

// newSubmission encodes a verified precertificate and its issuers, the root last. The encodings are those of RFC 6962, written out: tests
// hold every octet to the reference library's.
func newSubmission(pre *x509.Certificate, issuers []*x509.Certificate) (*submission, error) {
	t, err := readTBS(pre.RawTBSCertificate)
	if err != nil {
		return nil, fmt.Errorf("%w: chain[0]: removing the poison: %v", ErrChain, err)
	}
	return t.submission(pre.Raw, issuers)
}

// submission encodes the precertificate der, whose to-be-signed certificate t is.
func (t *precertTBS) submission(der []byte, issuers []*x509.Certificate) (*submission, error) {
	tbs, err := t.withoutPoison()
	if err != nil {
		return nil, fmt.Errorf("%w: chain[0]: removing the poison: %v", ErrChain, err)
	}
	p := new(submission)
	if p.leaf, err = encodeLeaf(sha256.Sum256(issuers[0].RawSubjectPublicKeyInfo), tbs); err != nil {
		return nil, fmt.Errorf("%w: encoding the entry: %v", ErrChain, err)
	}
	if p.extra, err = encodeChain(der, issuers); err != nil {
		return nil, fmt.Errorf("%w: encoding the chain: %v", ErrChain, err)
	}
	p.identity, _ = identityOf(p.leaf)
	return p, nil
}

// stamped returns the leaf at a time in milliseconds since the Unix epoch.
func (p *submission) stamped(timestamp uint64) []byte {
	leaf := bytes.Clone(p.leaf)
	binary.BigEndian.PutUint64(leaf[2:leafPrefixSize], timestamp)
	return leaf
}

// timestampOf reads the time of a leaf in milliseconds since the Unix epoch.
func timestampOf(leaf []byte) uint64 { return binary.BigEndian.Uint64(leaf[2:leafPrefixSize]) }

// encodeLeaf is MerkleTreeLeaf (RFC 6962 3.4) of a precertificate, at time zero:
//
//	uint8 version 0; uint8 leaf type 0; uint64 timestamp; uint16 entry type 1;
//	32 octets issuer key hash; uint24 length, to-be-signed certificate; uint16 length 0, extensions
//
// The input of a timestamp's signature (RFC 6962 3.2) is version, signature type, timestamp, entry type, entry and extensions. The signature
// type is 0 as well, so the two are the same octets.
func encodeLeaf(issuerKeyHash [32]byte, tbs []byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, leafPrefixSize+2+32+3+len(tbs)+2))
	b.AddBytes(make([]byte, leafPrefixSize))
	b.AddUint16(1)
	b.AddBytes(issuerKeyHash[:])
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(tbs) })
	b.AddUint16(0)
	return b.Bytes()
}

// encodeChain is PrecertChainEntry (RFC 6962 3.1): uint24 length, precertificate; uint24 length, list of { uint24 length, certificate }.
func encodeChain(pre []byte, issuers []*x509.Certificate) ([]byte, error) {
	size := 6 + len(pre)
	for _, c := range issuers {
		size += 3 + len(c.Raw)
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, size))
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(pre) })
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, c := range issuers {
			b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(c.Raw) })
		}
	})
	return b.Bytes()
}

// precertTBS is a to-be-signed precertificate taken apart. The slices point into it.
type precertTBS struct {
	algorithm, issuer []byte   // of the signature that will follow, and the issuer's name: DER elements
	head              []byte   // everything before the extensions, as it stands
	kept              [][]byte // the extensions as they stand, all but the one poison
}

// readTBS takes a to-be-signed precertificate apart. It must be DER (X.690 11), because verifiers encode what remains of it anew: a
// default that is spelt out or a time in another form is refused, not repaired.
func readTBS(tbs []byte) (*precertTBS, error) {
	malformed := errors.New("to-be-signed certificate is malformed")
	in := cryptobyte.String(tbs)
	var body, algorithm, issuer, validity, wrapped, list cryptobyte.String
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, malformed
	}
	whole := body
	if !body.SkipOptionalASN1(explicit(0)) || !body.SkipASN1(cbasn1.INTEGER) || !body.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) || !body.ReadASN1Element(&issuer, cbasn1.SEQUENCE) ||
		!body.ReadASN1(&validity, cbasn1.SEQUENCE) || !body.SkipASN1(cbasn1.SEQUENCE) || !body.SkipASN1(cbasn1.SEQUENCE) ||
		!body.SkipOptionalASN1(cbasn1.Tag(1).ContextSpecific()) || !body.SkipOptionalASN1(cbasn1.Tag(2).ContextSpecific()) {
		return nil, malformed
	}
	notBefore, notAfter := canonicalTime(&validity), canonicalTime(&validity)
	if !notBefore || !notAfter || !validity.Empty() {
		return nil, errors.New("validity is not in the form RFC 5280 4.1.2.5 prescribes")
	}
	t := &precertTBS{algorithm: algorithm, issuer: issuer, head: whole[:len(whole)-len(body)]}
	if !body.ReadASN1(&wrapped, explicit(3)) || !body.Empty() || !wrapped.ReadASN1(&list, cbasn1.SEQUENCE) || !wrapped.Empty() {
		return nil, malformed
	}
	var err error
	t.kept, err = filterPoison(list)
	return t, err
}

func explicit(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }

// withoutPoison encodes the TBSCertificate without its poison extension, every other octet as it stands (RFC 6962 3.2).
func (t *precertTBS) withoutPoison() ([]byte, error) {
	size := len(t.head) + 16
	for _, raw := range t.kept {
		size += len(raw)
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, size))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(t.head)
		if len(t.kept) == 0 {
			return
		}
		b.AddASN1(explicit(3), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, raw := range t.kept {
					b.AddBytes(raw)
				}
			})
		})
	})
	return b.Bytes()
}

// filterPoison returns the extensions of list as they stand, all but the one poison. A precertificate carries no timestamps yet.
func filterPoison(list cryptobyte.String) (kept [][]byte, err error) {
	kept = make([][]byte, 0, 16)
	poisoned := 0
	for !list.Empty() {
		var raw, inner, id, value cryptobyte.String
		critical := false
		if !list.ReadASN1Element(&raw, cbasn1.SEQUENCE) {
			return nil, errors.New("extensions are malformed")
		}
		inner = raw
		if !inner.ReadASN1(&inner, cbasn1.SEQUENCE) || !inner.ReadASN1(&id, cbasn1.OBJECT_IDENTIFIER) || len(id) == 0 {
			return nil, errors.New("an extension is malformed")
		}
		if inner.PeekASN1Tag(cbasn1.BOOLEAN) {
			if !inner.ReadASN1Boolean(&critical) || !critical {
				return nil, fmt.Errorf("extension %x spells out that it is not critical", []byte(id))
			}
		}
		if !inner.ReadASN1(&value, cbasn1.OCTET_STRING) || !inner.Empty() {
			return nil, fmt.Errorf("extension %x is malformed", []byte(id))
		}
		switch {
		case bytes.Equal(id, derPoison):
			if !critical || !bytes.Equal(value, asn1Null) {
				return nil, errors.New("the poison extension is not a critical NULL")
			}
			poisoned++
			continue
		case bytes.Equal(id, derSCTList):
			return nil, errors.New("a precertificate carries no timestamps yet")
		}
		kept = append(kept, raw)
	}
	if poisoned != 1 {
		return nil, fmt.Errorf("there are %d poison extensions", poisoned)
	}
	return kept, nil
}

// oidPoison and oidSCTList as DER contents.
var (
	derPoison  = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0xd6, 0x79, 0x02, 0x04, 0x03}
	derSCTList = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0xd6, 0x79, 0x02, 0x04, 0x02}
)

// canonicalTime reads a Time: YYMMDDhhmmssZ through 2049, YYYYMMDDhhmmssZ from 2050 (RFC 5280 4.1.2.5).
func canonicalTime(in *cryptobyte.String) bool {
	var value cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&value, &tag) {
		return false
	}
	n := len(value)
	switch {
	case n == 0 || value[n-1] != 'Z':
		return false
	case tag == cbasn1.UTCTime:
		return n == len("YYMMDDhhmmssZ")
	case tag == cbasn1.GeneralizedTime:
		return n == len("YYYYMMDDhhmmssZ") && string(value[:4]) >= "2050"
	}
	return false
}
