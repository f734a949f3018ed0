package ceremony

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/cloudflare/cfssl/certinfo"

	"redoubt.internal/ca/approval"
	"redoubt.internal/hsm"
)

// Format names the transcript format, and begins what its signatures cover.
const Format = "redoubt-ceremony-transcript/v2"

// The modes of a ceremony.
const (
	ModeRun       = "run"
	ModeRehearsal = "rehearsal" // stand-in keys in a throwaway token; nothing of it may be trusted
)

// The parts of a ceremony held in two places; "" is a whole one.
const (
	PartWhole        = ""
	PartRequests     = "requests"     // online: keys and certificate requests
	PartCertificates = "certificates" // offline: the root signs them
	PartAcceptance   = "acceptance"   // online: the certificates come back
)

// Transcript is the signed record of a ceremony. Only Verify makes one that
// can be relied on; Run returns one that went through Verify.
//
// Each step names the digest of the one before it, the first that of the
// opening: SHA-256 of its JCS form (RFC 8785). The signatures cover Format, a
// newline and the JCS form of the body, with SHA-384 for P-384, SHA-256 for
// P-256 and RSA (PKCS #1 v1.5), and those octets themselves for Ed25519. The
// first is the ceremony's own (the root's where the root is at hand), the
// others are those of operators who were there.
//
// The file has one spelling: Verify refuses any other, white space included.
type Transcript struct {
	Body       Body        `json:"body"`
	Signatures []Signature `json:"signatures"`

	plan      Plan
	certs     map[string]*x509.Certificate
	requests  *Transcript // of the part that made the requests, when this part used them
	issued    *Transcript // of the part that made the certificates, when this part took them in
	authority []*x509.Certificate
	register  *Register // before the change, of kind custodians; else as the plan names it
	after     *Register // after the change
	checked   []string
}

// Signature is one signature under the body.
type Signature struct {
	By          string `json:"by"`          // a role, or "operator:" and a name
	Fingerprint string `json:"fingerprint"` // of the key: SHA-256 of its SubjectPublicKeyInfo, hex
	Signature   []byte `json:"signature"`
}

// Body is what a transcript states.
type Body struct {
	Opening  Opening   `json:"opening"`
	Steps    []Step    `json:"steps"`
	Finished time.Time `json:"finished"`
}

// Opening is what was settled before the first step.
type Opening struct {
	Format     string     `json:"format"`
	Software   string     `json:"software"` // version of the program
	Mode       string     `json:"mode"`
	Part       string     `json:"part,omitempty"`
	Kind       Kind       `json:"kind"`
	Domain     string     `json:"domain"`
	Plan       string     `json:"plan"`       // the YAML text
	PlanDigest string     `json:"planDigest"` // SHA-256 of it, hex
	Approvals  []Approval `json:"approvals"`
	Inputs     []Input    `json:"inputs"`
	Started    time.Time  `json:"started"`
}

// Input is a document the ceremony took in besides its plan.
type Input struct {
	Name   string `json:"name"`   // "requests", "certificates" or "register"
	Digest string `json:"digest"` // SHA-256 of the text, hex
	Text   []byte `json:"text"`
}

// The names of inputs.
const (
	InputRequests     = "requests"
	InputCertificates = "certificates"
	InputRegister     = "register"
)

// Step is one step: its start, its length and what it produced.
type Step struct {
	Number       int       `json:"number"`   // from 1
	Previous     string    `json:"previous"` // digest of the step before, of the opening for the first
	Name         string    `json:"name"`
	Started      time.Time `json:"started"`
	Milliseconds int64     `json:"milliseconds"`

	Key         *KeyRecord         `json:"key,omitempty"`
	Request     *RequestRecord     `json:"request,omitempty"`
	Certificate *CertificateRecord `json:"certificate,omitempty"`
	Authority   *AuthorityRecord   `json:"authority,omitempty"`
	Backup      *BackupRecord      `json:"backup,omitempty"`
	Trust       []TrustChange      `json:"trust,omitempty"`
	Entry       *Entry             `json:"entry,omitempty"`
}

// KeyRecord is one key with what its token says of it.
type KeyRecord struct {
	Role      string    `json:"role"`
	Info      hsm.Info  `json:"info"`
	PublicKey string    `json:"publicKey"` // PEM, SubjectPublicKeyInfo
	Created   time.Time `json:"created"`
	// Attestation is the token's own signed statement over AttestationNonce; absent when its kind makes none.
	Attestation *hsm.Attestation `json:"attestation,omitempty"`
}

// RequestRecord is one certificate request, signed by the key it is for.
type RequestRecord struct {
	Role string `json:"role"`
	PEM  string `json:"pem"`
}

// CertificateRecord is one issued certificate and how it came to be.
type CertificateRecord struct {
	Role        string                `json:"role"`
	Issuer      string                `json:"issuer"`      // role whose key signed it
	Request     string                `json:"request"`     // PEM, the request; for cross certificates the certificate that was there before
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

// AuthorityRecord is the existing key that signs, as its token shows it now. In
// a rehearsal it is a stand-in of the same algorithm and subject.
type AuthorityRecord struct {
	Info  hsm.Info `json:"info"`
	Chain string   `json:"chain"` // PEM: the plan's, or the stand-in's own certificate
}

// BackupRecord is the declared copy and what the operator states about it.
type BackupRecord struct {
	Profile   string   `json:"profile"`
	Holders   []string `json:"holders,omitempty"`
	Place     string   `json:"place,omitempty"`
	Statement string   `json:"statement,omitempty"`
}

// TrustChange is what a certificate of this ceremony means for the trusted root
// that clients have.
type TrustChange struct {
	Change string    `json:"change"` // "add": a new instance with this chain, from From; "bridge": old clients reach the new root through it; "hold": do not publish
	Role   string    `json:"role"`
	Chain  []string  `json:"chain"` // fingerprints, the instance's own first
	From   time.Time `json:"from"`
	Until  time.Time `json:"until"`
}

// Encode writes the transcript as indented JSON, the one spelling Verify reads.
func (t *Transcript) Encode() ([]byte, error) { return approval.Encode(t) }

// Register returns the register of custodians as this ceremony leaves it; nil
// when it changes none.
func (t *Transcript) Register() *Register { return t.after }

// Digest is the SHA-256 of the transcript's file in hex: how the other side's
// transcript and the operators name it.
func (t *Transcript) Digest() (string, error) {
	data, err := t.Encode()
	return hexSum(data), err
}

// Plan returns the plan that was carried out.
func (t *Transcript) Plan() Plan { return t.plan }

// Keys lists the keys in the order of their steps.
func (t *Transcript) Keys() (out []KeyRecord) {
	for _, s := range t.Body.Steps {
		if s.Key != nil {
			out = append(out, *s.Key)
		}
	}
	return out
}

// Certificates lists the certificates in the order of their steps, parents first.
func (t *Transcript) Certificates() (out []CertificateRecord) {
	for _, s := range t.Body.Steps {
		if s.Certificate != nil {
			out = append(out, *s.Certificate)
		}
	}
	return out
}

// Trust lists what the ceremony means for the clients' trusted root.
func (t *Transcript) Trust() (out []TrustChange) {
	for _, s := range t.Body.Steps {
		out = append(out, s.Trust...)
	}
	return out
}

// Key returns what is recorded of a role's key.
func (t *Transcript) Key(role string) (KeyRecord, bool) {
	for _, k := range t.Keys() {
		if k.Role == role {
			return k, true
		}
	}
	return KeyRecord{}, false
}

// Certificate returns the certificate called role, nil when there is none.
func (t *Transcript) Certificate(role string) *x509.Certificate { return t.certs[role] }

// Chain is the chain of a role's certificate, its own first, the root last: of
// issuing and tsa as they are served; nil when the ceremony made no such certificate.
func (t *Transcript) Chain(role string) []*x509.Certificate {
	return chainOf(&t.plan, t.certs, t.authority, role)
}

// IssuingChain is the code-signing chain: issuing CA, root.
func (t *Transcript) IssuingChain() []*x509.Certificate { return t.Chain(RoleIssuing) }

// TSAChain is the time-stamping chain, leaf first: tsa, the intermediate if
// there is one, root.
func (t *Transcript) TSAChain() []*x509.Certificate { return t.Chain(RoleTSA) }

// PublicKey parses the recorded key.
func (k *KeyRecord) parse() (crypto.PublicKey, []byte, error) {
	der, err := onePEM(k.PublicKey, "PUBLIC KEY")
	if err != nil {
		return nil, nil, err
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	return pub, der, err
}

// AttestationNonce is the qualifying data of a key's attestation: it ties the
// token's statement to this plan and this role.
func AttestationNonce(planDigest, role string) []byte {
	sum := sha256.Sum256([]byte("redoubt-ceremony-attestation/v1\n" + planDigest + "\n" + role))
	return sum[:]
}

// Sign adds an operator's signature. The key must be one of the plan's
// operators (of the custodians, for a change of the register), and no operator
// signs twice.
func (t *Transcript) Sign(key crypto.Signer) error {
	o, ok := t.operators().holder(key.Public())
	if !ok {
		return fmt.Errorf("%w: the plan does not name this key among its operators", ErrApproval)
	}
	_, fingerprint, err := o.Key()
	if err != nil {
		return err
	}
	by := operatorPrefix + o.Name
	for _, s := range t.Signatures {
		if s.By == by {
			return fmt.Errorf("%w: %s has signed the transcript already", ErrApproval, o.Name)
		}
	}
	sig, err := approval.SignStatement(Format, t.Body, key)
	if err != nil {
		return fmt.Errorf("signing the transcript: %w", err)
	}
	t.Signatures = append(t.Signatures, Signature{by, fingerprint, sig})
	return nil
}

const operatorPrefix = "operator:"

// operators are those who approved: the plan's, or the custodians before the change.
func (t *Transcript) operators() *Operators {
	if t.plan.Kind == Custodians {
		return t.register.approvers(t.plan.Custodians)
	}
	return t.plan.Operators
}

// Signed tells how many operators signed the transcript, and how many the plan asks for.
func (t *Transcript) Signed() (have, want int) {
	for _, s := range t.Signatures {
		if _, ok := cutOperator(s.By); ok {
			have++
		}
	}
	if o := t.operators(); o != nil {
		want = o.Threshold
	}
	return have, want
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
