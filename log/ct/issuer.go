package ct

import (
	"bytes"
	"context"
	"crypto"
	_ "crypto/sha256" // the hashes of algorithms
	_ "crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/hsm"
)

// Issuer is an authority whose chain this log accepts, for the precertificates it makes in this process. Nothing is trusted but what was
// verified: the chain by Log.Issuer, once; each precertificate by Add. It is safe for concurrent use.
type Issuer struct {
	log      *Log
	above    []*x509.Certificate // issuing certificate first, the accepted root last
	verifier *hsm.Verifier       // of the issuing certificate's key
}

// algorithms are those an issuing key signs with, by DER AlgorithmIdentifier (RFC 5758, 3.2; RFC 4055, 5; RFC 8410, 3).
var algorithms = map[string]struct {
	key  x509.PublicKeyAlgorithm
	hash crypto.Hash // 0: the key signs messages
}{
	"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02":             {x509.ECDSA, crypto.SHA256},
	"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03":             {x509.ECDSA, crypto.SHA384},
	"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00": {x509.RSA, crypto.SHA256},
	"\x30\x05\x06\x03\x2b\x65\x70":                                 {x509.Ed25519, 0},
}

// Issuer verifies a chain, DER, issuing certificate first, for Issuer.Add. The accepted root itself may be left out. Errors: ErrChain.
func (l *Log) Issuer(chain [][]byte) (*Issuer, error) {
	if len(chain) == 0 || len(chain) >= maxChain {
		return nil, fmt.Errorf("%w: an authority of %d certificates", ErrChain, len(chain))
	}
	above, err := l.issuers(nil, append([][]byte{nil}, chain...)) // chain[0] is the place of the precertificate
	if err != nil {
		return nil, err
	}
	if err := mayIssue(above[0], 0); err != nil {
		return nil, err
	}
	return &Issuer{log: l, above: above, verifier: hsm.NewVerifier(above[0].PublicKey)}, nil
}

// Verifier verifies the signatures of the issuing certificate's key. Add does with it; the authority may for its certificates.
func (i *Issuer) Verifier() *hsm.Verifier { return i.verifier }

// Add logs the precertificate der and returns its timestamp: AddPreChain without reading the chain, and the whole certificate, again. The
// signature is verified here, before anything is kept; what the certificate says is the authority's to check, which lints it.
func (i *Issuer) Add(ctx context.Context, der []byte) (SCT, error) {
	p, err := i.submission(der)
	if err != nil {
		return SCT{}, err
	}
	return i.log.add(ctx, p)
}

func (i *Issuer) submission(der []byte) (*submission, error) {
	bad := func(err error) error { return fmt.Errorf("%w: chain[0]: %v", ErrChain, err) }
	if len(der) > maxCert {
		return nil, bad(fmt.Errorf("%d bytes, at most %d", len(der), maxCert))
	}
	in := cryptobyte.String(der)
	var cert, tbs, algorithm cryptobyte.String
	var sig []byte
	if !in.ReadASN1(&cert, cbasn1.SEQUENCE) || !in.Empty() || !cert.ReadASN1Element(&tbs, cbasn1.SEQUENCE) ||
		!cert.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) || !cert.ReadASN1BitStringAsBytes(&sig) || !cert.Empty() {
		return nil, bad(errors.New("it is no certificate"))
	}
	t, err := readTBS(tbs)
	switch {
	case err != nil:
		return nil, bad(err)
	case !bytes.Equal(t.issuer, i.above[0].RawSubject):
		return nil, bad(errors.New("it was issued by another authority"))
	case !bytes.Equal(t.algorithm, algorithm):
		return nil, bad(errors.New("it names two signature algorithms"))
	}
	a, ok := algorithms[string(algorithm)]
	if !ok || a.key != i.above[0].PublicKeyAlgorithm {
		return nil, bad(errors.New("it is signed with an algorithm that is not the issuing key's"))
	}
	signed := []byte(tbs)
	if a.hash != 0 {
		h := a.hash.New()
		h.Write(tbs)
		signed = h.Sum(nil)
	}
	if !i.verifier.Verify(signed, sig, a.hash) {
		return nil, bad(errors.New("its signature is not the authority's"))
	}
	return t.submission(der, i.above)
}
