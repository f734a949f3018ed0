package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	cttls "github.com/google/certificate-transparency-go/tls"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/ca/identity"
	"redoubt.internal/ca/lint"
	"redoubt.internal/log/ct"
)

var (
	oidPoison  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3} // RFC 6962, 3.1
	oidSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2} // RFC 6962, 3.3
)

// signable is a to-be-signed certificate that may be signed, once. Only lint
// and embed make one, so what was not linted cannot reach the issuing key.
type signable struct {
	tbs   []byte // DER TBSCertificate
	alg   []byte // DER AlgorithmIdentifier of the signature, the same as inside tbs
	cert  *x509.Certificate
	spent atomic.Bool
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

// precertTemplate is the certificate profile: empty subject, one critical SAN,
// digitalSignature, codeSigning, the identity's extensions, and the poison last
// (Fulcio docs/certificate-specification.md).
func precertTemplate(p identity.Principal, pub crypto.PublicKey, serial *big.Int, notBefore, notAfter time.Time) (*x509.Certificate, error) {
	ski, err := keyID(pub)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		SubjectKeyId: ski,
	}
	switch p.SAN.Type {
	case identity.SANEmail:
		t.EmailAddresses = []string{p.SAN.Value}
	case identity.SANURI:
		u, err := url.Parse(p.SAN.Value)
		if err != nil {
			return nil, fmt.Errorf("identity is not a URI: %w", err)
		}
		t.URIs = []*url.URL{u}
	case identity.SANUserName:
		ext, err := cryptoutils.MarshalOtherNameSAN(p.SAN.Value, true)
		if err != nil {
			return nil, fmt.Errorf("encoding user name: %w", err)
		}
		t.ExtraExtensions = append(t.ExtraExtensions, *ext)
	default:
		return nil, fmt.Errorf("identity has no name a certificate can carry")
	}
	t.ExtraExtensions = append(t.ExtraExtensions, p.Extensions...)
	t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oidPoison, Critical: true, Value: asn1.NullBytes})
	return t, nil
}

// keyID is the leftmost 160 bits of the SHA-256 of the public key's bits (RFC
// 7093, section 2, method 1), so that no SHA-1 is needed.
func keyID(pub crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	in := cryptobyte.String(spki)
	var body cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !body.SkipASN1(cbasn1.SEQUENCE) || !body.ReadASN1BitStringAsBytes(&bits) {
		return nil, errors.New("public key has no bits")
	}
	sum := sha256.Sum256(bits)
	return sum[:20], nil
}

// lint signs the template with the throwaway key, applies every rule of the
// profile to the result, and returns its to-be-signed bytes. The throwaway is
// of the issuing key's type and stands under the issuing certificate's name, so
// these are the bytes the issuing key signs, to the last one.
func (a *Authority) lint(template *x509.Certificate, pub crypto.PublicKey) (*signable, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.lintParent, pub, a.throwaway)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLint, err)
	}
	if err := lint.Check(der, lint.Precertificate); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLint, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLint, err)
	}
	in, alg := cryptobyte.String(der), cryptobyte.String(nil)
	if !in.ReadASN1(&in, cbasn1.SEQUENCE) || !in.SkipASN1(cbasn1.SEQUENCE) || !in.ReadASN1Element(&alg, cbasn1.SEQUENCE) {
		return nil, fmt.Errorf("%w: certificate without a signature algorithm", ErrLint)
	}
	return &signable{tbs: cert.RawTBSCertificate, alg: alg, cert: cert}, nil
}

// sign is the only use of the issuing key. It consumes s.
func (a *Authority) sign(s *signable) ([]byte, error) {
	if s.spent.Swap(true) {
		return nil, fmt.Errorf("%w: these bytes were signed before", ErrSigning)
	}
	input := s.tbs
	if a.hash != 0 {
		h := a.hash.New()
		h.Write(s.tbs)
		input = h.Sum(nil)
	}
	sig, err := a.signer.Sign(rand.Reader, input, a.hash)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigning, err)
	}
	return assemble(s.tbs, s.alg, sig)
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

// embed makes the final certificate's bytes out of the precertificate's: the
// poison goes, the SCT list comes last, and nothing else changes, which it
// checks by reading both with another parser.
func embed(pre *signable, sct ct.SCT) (*signable, error) {
	if !pre.spent.Load() {
		return nil, errors.New("precertificate was not signed")
	}
	list, err := sctExtension(sct)
	if err != nil {
		return nil, err
	}
	var body, extensions, wrapped cryptobyte.String
	in := cryptobyte.String(pre.tbs)
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, errors.New("precertificate is malformed")
	}
	var head []byte // everything before the extensions, as it stands
	explicit3 := cbasn1.Tag(3).ContextSpecific().Constructed()
	for !body.PeekASN1Tag(explicit3) {
		var element cryptobyte.String
		var tag cbasn1.Tag
		if !body.ReadAnyASN1Element(&element, &tag) {
			return nil, errors.New("precertificate has no extensions")
		}
		head = append(head, element...)
	}
	if !body.ReadASN1(&wrapped, explicit3) || !body.Empty() || !wrapped.ReadASN1(&extensions, cbasn1.SEQUENCE) || !wrapped.Empty() {
		return nil, errors.New("precertificate is malformed")
	}
	var kept []byte
	poison := 0
	for !extensions.Empty() {
		var element, inner cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !extensions.ReadASN1Element(&element, cbasn1.SEQUENCE) {
			return nil, errors.New("precertificate is malformed")
		}
		inner = element
		if !inner.ReadASN1(&inner, cbasn1.SEQUENCE) || !inner.ReadASN1ObjectIdentifier(&oid) {
			return nil, errors.New("precertificate is malformed")
		}
		if oid.Equal(oidPoison) {
			poison++
			continue
		}
		kept = append(kept, element...)
	}
	if poison != 1 {
		return nil, fmt.Errorf("precertificate has %d poison extensions", poison)
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(pre.tbs)+len(list)+16))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(head)
		b.AddASN1(explicit3, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(kept)
				b.AddBytes(list)
			})
		})
	})
	tbs, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding certificate: %w", err)
	}
	shell, err := assemble(tbs, pre.alg, []byte{0})
	if err != nil {
		return nil, fmt.Errorf("encoding certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(shell)
	if err != nil {
		return nil, fmt.Errorf("reading certificate back: %w", err)
	}
	if err := correspond(pre.cert, cert); err != nil {
		return nil, err
	}
	return &signable{tbs: tbs, alg: pre.alg, cert: cert}, nil
}

// sctExtension is the DER Extension that holds one SCT (RFC 6962, 3.3).
func sctExtension(sct ct.SCT) ([]byte, error) {
	one, err := cttls.Marshal(sct)
	if err != nil {
		return nil, fmt.Errorf("encoding SCT: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(one) })
		})
	})
	value, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding SCT list: %w", err)
	}
	return asn1.Marshal(pkix.Extension{Id: oidSCTList, Value: value})
}

// correspond demands that final is pre without the poison and with the SCT list
// last: everything else equal byte for byte and in the same order (RFC 6962,
// 3.1 and 3.2).
func correspond(pre, final *x509.Certificate) error {
	same := pre.Version == final.Version &&
		pre.SerialNumber.Cmp(final.SerialNumber) == 0 &&
		pre.SignatureAlgorithm == final.SignatureAlgorithm &&
		pre.NotBefore.Equal(final.NotBefore) && pre.NotAfter.Equal(final.NotAfter) &&
		bytes.Equal(pre.RawIssuer, final.RawIssuer) &&
		bytes.Equal(pre.RawSubject, final.RawSubject) &&
		bytes.Equal(pre.RawSubjectPublicKeyInfo, final.RawSubjectPublicKeyInfo)
	if !same {
		return errors.New("certificate does not correspond to its precertificate")
	}
	want := slices.DeleteFunc(slices.Clone(pre.Extensions), func(e pkix.Extension) bool { return e.Id.Equal(oidPoison) })
	n := len(final.Extensions)
	if n == 0 || n != len(want)+1 || len(want) != len(pre.Extensions)-1 || !final.Extensions[n-1].Id.Equal(oidSCTList) || final.Extensions[n-1].Critical {
		return errors.New("certificate's extensions are not those of its precertificate and the SCT list")
	}
	for i, w := range want {
		f := final.Extensions[i]
		if !f.Id.Equal(w.Id) || f.Critical != w.Critical || !bytes.Equal(f.Value, w.Value) {
			return fmt.Errorf("extension %s differs from its precertificate", w.Id)
		}
	}
	return nil
}
