package ceremony

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/cloudflare/cfssl/certinfo"
	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"redoubt.internal/hsm"
)

// Format names the transcript format, and begins what its signature covers.
const Format = "redoubt-ceremony-transcript/v1"

// Transcript is the signed record of a ceremony. Only Verify makes one that
// can be relied on; Run returns one that went through Verify.
//
// Its signature is made by the root key over Format, a newline and the JCS form
// (RFC 8785) of the body, with SHA-384 for P-384, SHA-256 for P-256 and RSA
// (PKCS #1 v1.5), and over those octets themselves for Ed25519.
type Transcript struct {
	Body      Body   `json:"body"`
	Signature []byte `json:"signature"`

	certs map[string]*x509.Certificate
}

// Body is what a transcript states.
type Body struct {
	Format       string              `json:"format"`
	Domain       string              `json:"domain"`
	Plan         string              `json:"plan"`       // the YAML text
	PlanDigest   string              `json:"planDigest"` // SHA-256 of it, hex
	Started      time.Time           `json:"started"`
	Finished     time.Time           `json:"finished"`
	Keys         []KeyRecord         `json:"keys"`
	Certificates []CertificateRecord `json:"certificates"`
	Steps        []Step              `json:"steps"`
}

// KeyRecord is one generated key with what its token says of it.
type KeyRecord struct {
	Role      string    `json:"role"`
	Info      hsm.Info  `json:"info"`
	PublicKey string    `json:"publicKey"` // PEM, SubjectPublicKeyInfo
	Created   time.Time `json:"created"`
}

// CertificateRecord is one issued certificate and how it came to be.
type CertificateRecord struct {
	Role        string                `json:"role"`
	Issuer      string                `json:"issuer"`      // role whose key signed it
	Request     string                `json:"request"`     // PEM, certificate request by cfssl
	PEM         string                `json:"pem"`         // the certificate
	Fingerprint string                `json:"fingerprint"` // SHA-256 of its DER, hex
	Description *certinfo.Certificate `json:"description"` // for people, by cfssl certinfo
	Lint        LintRecord            `json:"lint"`
}

// LintRecord is the result of linting before the signature.
type LintRecord struct {
	Profile  string            `json:"profile"`
	Applied  int               `json:"applied"` // number of zlint lints, besides the profile's own rules
	Excluded map[string]string `json:"excluded"`
	Result   string            `json:"result"`
}

// Step is one step with its start and length.
type Step struct {
	Name         string    `json:"name"`
	Started      time.Time `json:"started"`
	Milliseconds int64     `json:"milliseconds"`
}

// Encode writes the transcript as indented JSON, as Verify reads it.
func (t *Transcript) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding transcript: %w", err)
	}
	return append(b, '\n'), nil
}

// Key returns what is recorded of a role's key.
func (t *Transcript) Key(role string) (KeyRecord, bool) {
	for _, k := range t.Body.Keys {
		if k.Role == role {
			return k, true
		}
	}
	return KeyRecord{}, false
}

// Certificate returns a role's certificate, nil when the role has none.
func (t *Transcript) Certificate(role string) *x509.Certificate { return t.certs[role] }

// IssuingChain is the code-signing chain: issuing CA, root.
func (t *Transcript) IssuingChain() []*x509.Certificate {
	return []*x509.Certificate{t.certs[RoleIssuing], t.certs[RoleRoot]}
}

// TSAChain is the time-stamping chain, leaf first: tsa, the intermediate if
// there is one, root.
func (t *Transcript) TSAChain() []*x509.Certificate {
	chain := []*x509.Certificate{t.certs[RoleTSA]}
	if c := t.certs[RoleTSAIntermediate]; c != nil {
		chain = append(chain, c)
	}
	return append(chain, t.certs[RoleRoot])
}

// sealTranscript signs a body with the root key.
func sealTranscript(body Body, root *hsm.Key) (*Transcript, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encoding transcript: %w", err)
	}
	digest, opts, err := signedDigest(raw, root.Public())
	if err != nil {
		return nil, err
	}
	sig, err := root.Sign(rand.Reader, digest, opts)
	if err != nil {
		return nil, fmt.Errorf("signing transcript: %w", err)
	}
	return &Transcript{Body: body, Signature: sig}, nil
}

// signedDigest returns what the signature of a transcript covers.
func signedDigest(raw []byte, pub crypto.PublicKey) ([]byte, crypto.SignerOpts, error) {
	canonical, err := jsoncanonicalizer.Transform(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("canonicalizing transcript: %w", err)
	}
	message := append([]byte(Format+"\n"), canonical...)
	alg, err := hsm.AlgorithmOf(pub)
	if err != nil {
		return nil, nil, err
	}
	hash := crypto.SHA256
	switch alg {
	case hsm.Ed25519:
		return message, crypto.Hash(0), nil
	case hsm.ECDSAP384:
		hash = crypto.SHA384
	}
	h := hash.New()
	h.Write(message)
	return h.Sum(nil), hash, nil
}

// hexSum is the SHA-256 of data in lower-case hex.
func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// onePEM decodes text that is exactly one PEM block as pem.EncodeToMemory
// writes it.
func onePEM(text, typ string) ([]byte, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != typ || len(block.Headers) > 0 || len(rest) > 0 || !bytes.Equal(pem.EncodeToMemory(block), []byte(text)) {
		return nil, errors.New("not exactly one PEM block of type " + typ)
	}
	return block.Bytes, nil
}
