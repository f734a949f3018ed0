package ca

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/log/ct"
)

// embed makes the final certificate's bytes out of a signed precertificate's:
// the poison goes, the SCT list comes last, and nothing else changes.
func embed(pre *signable, sct ct.SCT) (*signable, error) {
	if !pre.spent.Load() {
		return nil, errors.New("precertificate was not signed")
	}
	list, err := sctList(sct)
	if err != nil {
		return nil, err
	}
	head, extensions, err := split(pre.tbs)
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(pre.tbs)+len(list)+32))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(head)
		b.AddASN1(cbasn1.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, e := range extensions {
					if !bytes.Equal(e.id, derPoison) {
						b.AddBytes(e.raw)
					}
				}
				addExtension(b, oidSCTList, false, list)
			})
		})
	})
	tbs, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding certificate: %w", err)
	}
	if err := correspond(pre.tbs, tbs); err != nil {
		return nil, err
	}
	return &signable{template: pre.template, tbs: tbs}, nil
}

// correspond demands that final is pre without the poison and with the SCT list
// last, everything else byte for byte and in the same order: serial number,
// names, validity, key and every other extension (RFC 6962, 3.1 and 3.2).
func correspond(pre, final []byte) error {
	preHead, preExt, err := split(pre)
	if err != nil {
		return fmt.Errorf("precertificate: %w", err)
	}
	head, ext, err := split(final)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if !bytes.Equal(preHead, head) {
		return errors.New("certificate differs from its precertificate before the extensions")
	}
	n := len(preExt) - 1
	if n < 0 || !bytes.Equal(preExt[n].id, derPoison) {
		return errors.New("the precertificate's last extension is not the poison")
	}
	if len(ext) != n+1 || !bytes.Equal(ext[n].id, derSCTList) {
		return errors.New("the certificate's extensions are not those of its precertificate and then the SCT list")
	}
	for i := range n {
		if !bytes.Equal(preExt[i].raw, ext[i].raw) {
			return fmt.Errorf("extension %x differs from its precertificate", preExt[i].id)
		}
		if bytes.Equal(preExt[i].id, derPoison) || bytes.Equal(ext[i].id, derSCTList) {
			return fmt.Errorf("extension %x is there twice", preExt[i].id)
		}
	}
	return nil
}

// extension is one DER Extension as it stands, and the contents octets of its
// OBJECT IDENTIFIER.
type extension struct{ id, raw []byte }

// derPoison and derSCTList are oidPoison and oidSCTList as they stand in one.
var derPoison, derSCTList = contents(oidPoison), contents(oidSCTList)

func contents(oid asn1.ObjectIdentifier) []byte {
	whole := cryptobyte.String(der(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oid) }))
	whole.ReadASN1(&whole, cbasn1.OBJECT_IDENTIFIER)
	return whole
}

// split takes a TBSCertificate apart: everything before the extensions as it
// stands, and the extensions.
func split(tbs []byte) (head []byte, extensions []extension, err error) {
	malformed := errors.New("to-be-signed certificate is malformed")
	in := cryptobyte.String(tbs)
	var body, wrapped, list cryptobyte.String
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, nil, malformed
	}
	whole := body
	explicit3 := cbasn1.Tag(3).ContextSpecific().Constructed()
	for !body.PeekASN1Tag(explicit3) {
		var tag cbasn1.Tag
		var element cryptobyte.String
		if !body.ReadAnyASN1Element(&element, &tag) {
			return nil, nil, malformed
		}
	}
	head = whole[:len(whole)-len(body)]
	if !body.ReadASN1(&wrapped, explicit3) || !body.Empty() || !wrapped.ReadASN1(&list, cbasn1.SEQUENCE) || !wrapped.Empty() {
		return nil, nil, malformed
	}
	extensions = make([]extension, 0, 16)
	for !list.Empty() {
		var raw, inner, id cryptobyte.String
		if !list.ReadASN1Element(&raw, cbasn1.SEQUENCE) {
			return nil, nil, malformed
		}
		inner = raw
		if !inner.ReadASN1(&inner, cbasn1.SEQUENCE) || !inner.ReadASN1(&id, cbasn1.OBJECT_IDENTIFIER) {
			return nil, nil, malformed
		}
		extensions = append(extensions, extension{id, raw})
	}
	return head, extensions, nil
}

// sctList is the value of the SCT list extension: an OCTET STRING that holds a
// TLS SignedCertificateTimestampList of one entry,
//
//	uint16 length of list { uint16 length of SCT { uint8 version; 32 octets log id;
//	uint64 milliseconds; uint16 length, extensions; uint8 hash; uint8 signature
//	algorithm; uint16 length, signature } }      (RFC 6962, 3.2 and 3.3)
func sctList(sct ct.SCT) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddUint8(uint8(sct.SCTVersion))
				b.AddBytes(sct.LogID.KeyID[:])
				b.AddUint64(sct.Timestamp)
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(sct.Extensions) })
				b.AddUint8(uint8(sct.Signature.Algorithm.Hash))
				b.AddUint8(uint8(sct.Signature.Algorithm.Signature))
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(sct.Signature.Signature) })
			})
		})
	})
	value, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding SCT list: %w", err)
	}
	return value, nil
}
