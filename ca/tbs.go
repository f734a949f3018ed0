package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/ca/identity"
	"redoubt.internal/ca/lint"
	"redoubt.internal/hsm"
)

// Extensions of the profile (RFC 5280, 4.2.1; RFC 6962, 3.1 and 3.3).
var (
	oidKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidSubjectKey  = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidAuthority   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidSAN         = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidCodeSigning = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}
	oidPoison      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	oidSCTList     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

// template is what one certificate will say, before it is bytes.
type template struct {
	who                 identity.Principal
	subject             []byte // DER Name of the profile notation; nil is the empty subject of the profile of Fulcio
	spki                []byte // DER SubjectPublicKeyInfo
	serial              *big.Int
	notBefore, notAfter time.Time
}

// signable is a to-be-signed certificate that may be signed, once. Only lint
// and embed make one, so what was not linted cannot reach the issuing key.
type signable struct {
	template
	tbs   []byte // DER TBSCertificate
	shell []byte // tbs under the throwaway's signature: what was linted
	spent atomic.Bool
	turn  uint32 // its place among the intents of a second, see record.go
}

// newSerial returns a random positive number of 160 bits: 20 octets with the
// top bit clear and the next one set, so that the length never varies (RFC
// 5280, 4.1.2.2 allows 20 octets).
func newSerial() (*big.Int, error) {
	var b [20]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:]), nil
}

// serialHex is how serial numbers are written everywhere: 40 lower-case digits.
func serialHex(n *big.Int) string { return fmt.Sprintf("%040x", n) }

// precertificate encodes the profile: empty subject, digitalSignature and
// codeSigning, key identifiers, one critical SAN, the identity's extensions, and
// the poison last (Fulcio docs/certificate-specification.md; RFC 5280, 4.1).
//
// crypto/x509 would sign, verify and parse to encode this one shape; a test
// holds every octet to what it encodes.
func (a *Authority) precertificate(t template) ([]byte, error) {
	san, err := sanExtension(t.who.SAN)
	if err != nil {
		return nil, err
	}
	return a.tbs(t, func(b *cryptobyte.Builder) {
		addExtension(b, oidSAN, true, san) // critical, because the subject is empty
		for _, e := range t.who.Extensions {
			addExtension(b, e.Id, e.Critical, e.Value)
		}
		b.AddBytes(poison)
	})
}

// tbs encodes what both profiles share: everything, but for what more adds to the extensions.
func (a *Authority) tbs(t template, more func(*cryptobyte.Builder)) ([]byte, error) {
	ski, err := keyID(t.spki)
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 1024))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) })
		b.AddASN1BigInt(t.serial)
		b.AddBytes(a.algorithm)
		b.AddBytes(a.chain[0].RawSubject)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addTime(b, t.notBefore)
			addTime(b, t.notAfter)
		})
		if t.subject == nil {
			b.AddASN1(cbasn1.SEQUENCE, func(*cryptobyte.Builder) {})
		}
		b.AddBytes(t.subject)
		b.AddBytes(t.spki)
		b.AddASN1(cbasn1.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(a.usages)
				addExtension(b, oidSubjectKey, false, append([]byte{0x04, byte(len(ski))}, ski...))
				b.AddBytes(a.authority)
				more(b)
			})
		})
	})
	return b.Bytes()
}

// fixedExtensions encodes those that are the same in every certificate of the
// issuing certificate: the two usages, and its key identifier.
func fixedExtensions(issuing *x509.Certificate) (usages, authority []byte) {
	usages = der(func(b *cryptobyte.Builder) {
		addExtension(b, oidKeyUsage, true, []byte{0x03, 0x02, 0x07, 0x80}) // bit 0, digitalSignature
		addExtension(b, oidExtKeyUsage, false, der(func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidCodeSigning) })
		}))
	})
	authority = der(func(b *cryptobyte.Builder) {
		addExtension(b, oidAuthority, false, der(func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(issuing.SubjectKeyId) })
			})
		}))
	})
	return usages, authority
}

// poison is the extension that makes a precertificate (RFC 6962, 3.1).
var poison = der(func(b *cryptobyte.Builder) { addExtension(b, oidPoison, true, asn1.NullBytes) })

// addTime adds a Time: UTCTime through 2049, GeneralizedTime from 2050 (RFC
// 5280, 4.1.2.5).
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1UTCTime(t)
		return
	}
	b.AddASN1GeneralizedTime(t)
}

// addExtension adds SEQUENCE { oid, critical DEFAULT FALSE, OCTET STRING }.
func addExtension(b *cryptobyte.Builder, id asn1.ObjectIdentifier, critical bool, value []byte) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(id)
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1OctetString(value)
	})
}

// der encodes one value that cannot fail: its parts are fixed or measured.
func der(f func(*cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	f(&b)
	return b.BytesOrPanic()
}

// sanExtension is GeneralNames of the one name (RFC 5280, 4.2.1.6).
func sanExtension(n identity.SAN) ([]byte, error) {
	value := n.Value
	tag := cbasn1.Tag(1).ContextSpecific() // rfc822Name
	switch n.Type {
	case identity.SANEmail:
	case identity.SANURI:
		if u, err := url.Parse(value); err != nil || u.Scheme == "" {
			return nil, errors.New("identity is not a URI")
		}
		tag = cbasn1.Tag(6).ContextSpecific() // uniformResourceIdentifier
	case identity.SANUserName:
		ext, err := cryptoutils.MarshalOtherNameSAN(value, true)
		if err != nil {
			return nil, fmt.Errorf("encoding user name: %w", err)
		}
		return ext.Value, nil
	default:
		return nil, errors.New("identity has no name a certificate can carry")
	}
	for i := range len(value) {
		if value[i] <= ' ' || value[i] >= 0x7f { // IA5String, and nothing invisible
			return nil, errors.New("identity is not printable ASCII")
		}
	}
	if value == "" {
		return nil, errors.New("identity is empty")
	}
	return der(func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
		})
	}), nil
}

// keyID is the leftmost 160 bits of the SHA-256 of the public key's bits (RFC
// 7093, section 2, method 1), so that no SHA-1 is needed.
func keyID(spki []byte) ([]byte, error) {
	in := cryptobyte.String(spki)
	var body cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !body.SkipASN1(cbasn1.SEQUENCE) || !body.ReadASN1BitStringAsBytes(&bits) {
		return nil, errors.New("public key has no bits")
	}
	sum := sha256.Sum256(bits)
	return sum[:20], nil
}

// lint encodes the template and checks what came out.
func (a *Authority) lint(t template) (*signable, error) {
	encode, profile := a.precertificate, lint.Precertificate
	if t.subject != nil {
		encode, profile = a.namedCertificate, lint.Notation
	}
	tbs, err := encode(t)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLint, err)
	}
	return a.check(t, tbs, profile)
}

// check puts a throwaway key's signature under tbs and applies every rule of the
// profile to the result. That signature has the form of the issuing key's and is
// over something else, so what was linted, and what an intent keeps, is a
// certificate nobody can use.
func (a *Authority) check(t template, tbs []byte, profile lint.Profile) (*signable, error) {
	shell, err := assemble(tbs, a.algorithm, a.throwaway)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLint, err)
	}
	if err := lint.Check(shell, profile); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLint, err)
	}
	return &signable{template: t, tbs: tbs, shell: shell}, nil
}

// sign is the only use of the issuing key. It consumes s.
func (a *Authority) sign(s *signable) ([]byte, error) {
	if s.spent.Swap(true) {
		return nil, fmt.Errorf("%w: these bytes were signed before", ErrSigning)
	}
	sig, err := signBytes(a.signer, a.hash, s.tbs)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigning, err)
	}
	return assemble(s.tbs, a.algorithm, sig)
}

// signBytes signs msg, or its digest when the key signs digests.
func signBytes(s crypto.Signer, hash crypto.Hash, msg []byte) ([]byte, error) {
	return s.Sign(rand.Reader, digestOf(hash, msg), hash)
}

// digestOf is what a key signs for msg: its digest, or msg when hash is 0.
func digestOf(hash crypto.Hash, msg []byte) []byte {
	if hash == 0 {
		return msg
	}
	h := hash.New()
	h.Write(msg)
	return h.Sum(nil)
}

// assemble is Certificate ::= SEQUENCE { tbs, alg, BIT STRING } (RFC 5280, 4.1).
func assemble(tbs, alg, sig []byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(tbs)+len(alg)+len(sig)+16))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(alg)
		b.AddASN1BitString(sig)
	})
	return b.Bytes()
}

// readBack takes a signed certificate apart, holds it to what was to be signed,
// and verifies its signature under the issuing certificate: a faulty signature,
// and a fault in putting the parts together, stop here.
func (a *Authority) readBack(s *signable, leaf []byte) error {
	in := cryptobyte.String(leaf)
	var cert, tbs, algorithm cryptobyte.String
	var sig []byte
	if !in.ReadASN1(&cert, cbasn1.SEQUENCE) || !in.Empty() || !cert.ReadASN1Element(&tbs, cbasn1.SEQUENCE) ||
		!cert.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) || !cert.ReadASN1BitStringAsBytes(&sig) || !cert.Empty() {
		return fmt.Errorf("%w: reading certificate back: it is malformed", ErrSigning)
	}
	if !bytes.Equal(tbs, s.tbs) || !bytes.Equal(algorithm, a.algorithm) {
		return fmt.Errorf("%w: reading certificate back: it is not what was to be signed", ErrSigning)
	}
	if !a.verifier.Verify(digestOf(a.hash, tbs), sig, a.hash) {
		return fmt.Errorf("%w: verifying certificate: %w", ErrSigning, hsm.ErrBadSignature)
	}
	return nil
}
