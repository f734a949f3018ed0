package ceremony

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"redoubt.internal/hsm"
)

// ErrApproval: an approval is malformed, not by an operator of the plan, of
// another plan, or there are too few.
var ErrApproval = errors.New("approval refused")

// ApprovalFormat names the format of an approval and begins what its signature
// covers, so that no other signature of the operator can be taken for one.
const ApprovalFormat = "redoubt-ceremony-approval/v1"

const (
	maxOperators = 32
	maxApproval  = 16 << 10
)

// Operators are the people whose approval a ceremony needs.
type Operators struct {
	// Register is the digest of the register's entry these are taken from; left
	// out when there is no register.
	Register string `yaml:"register,omitempty" json:"register,omitempty"`
	// Threshold is how many different operators must approve.
	Threshold int `yaml:"threshold" json:"threshold"`
	// Members are the operators.
	Members []Operator `yaml:"members" json:"members"`
}

// Operator is one person with one key.
type Operator struct {
	// Name as the others call them; lower-case letters, digits, dot and hyphen.
	Name string `yaml:"name" json:"name"`
	// PublicKey is the DER SubjectPublicKeyInfo in base64: ECDSA P-256 or Ed25519.
	PublicKey string `yaml:"publicKey" json:"publicKey"`
}

var operatorName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,38}[a-z0-9])?$`)

// NewOperator names the holder of a public key.
func NewOperator(name string, pub crypto.PublicKey) (Operator, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Operator{}, fmt.Errorf("encoding public key: %w", err)
	}
	o := Operator{name, base64.StdEncoding.EncodeToString(der)}
	want, bad := collect()
	o.check("operator", want)
	if len(*bad) > 0 {
		return Operator{}, fmt.Errorf("%w: %s", ErrPlan, (*bad)[0])
	}
	return o, nil
}

// YAML writes the operator as ParseOperator and the members of a plan read it.
func (o Operator) YAML() string {
	_, fingerprint, _ := o.Key()
	return fmt.Sprintf("# SHA-256 of the key: %s\nname: %s\npublicKey: %s\n", fingerprint, quote(o.Name), quote(o.PublicKey))
}

// ParseOperator reads one operator strictly.
func ParseOperator(data []byte) (o Operator, err error) {
	if len(data) > maxApproval {
		return o, fmt.Errorf("%w: an operator of %d octets, limit %d", ErrPlan, len(data), maxApproval)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&o); err != nil {
		return Operator{}, fmt.Errorf("%w: reading an operator: %s", ErrPlan, explain(err))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Operator{}, fmt.Errorf("%w: more than one operator", ErrPlan)
	}
	want, bad := collect()
	if o.check("operator", want); len(*bad) > 0 {
		return Operator{}, fmt.Errorf("%w: %s", ErrPlan, (*bad)[0])
	}
	return o, nil
}

// Key parses the public key, Fingerprint its SHA-256 in hex.
func (o Operator) Key() (pub crypto.PublicKey, fingerprint string, err error) {
	der, err := base64.StdEncoding.Strict().DecodeString(o.PublicKey)
	if err != nil || base64.StdEncoding.EncodeToString(der) != o.PublicKey {
		return nil, "", errors.New("its publicKey is not base64")
	}
	if pub, err = x509.ParsePKIXPublicKey(der); err != nil {
		return nil, "", fmt.Errorf("parsing its publicKey: %w", err)
	}
	if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || string(again) != string(der) {
		return nil, "", errors.New("its publicKey is not spelt as DER")
	}
	if alg, err := hsm.AlgorithmOf(pub); err != nil || alg != hsm.ECDSAP256 && alg != hsm.Ed25519 {
		return nil, "", fmt.Errorf("its key is %T, expected ecdsa-p256 or ed25519", pub)
	}
	return pub, hexSum(der), nil
}

// check says what is wrong with one operator.
func (o Operator) check(field string, want wanting) {
	want(operatorName.MatchString(o.Name), "%s: name %q; expected up to 40 of a-z, 0-9, dot and hyphen", field, o.Name)
	_, _, err := o.Key()
	want(err == nil, "%s: %s: %v", field, o.Name, err)
}

// check says what is wrong with a group of operators: a name or a key that is
// there twice would let one person count as two.
func (o *Operators) check(field string, want wanting) {
	want(len(o.Members) >= 1 && len(o.Members) <= maxOperators, "%s has %d members, allowed are 1 to %d", field, len(o.Members), maxOperators)
	want(o.Register == "" || digestText.MatchString(o.Register), "%s.register is not a SHA-256 in lower-case hex", field)
	want(o.Threshold >= 1, "%s.threshold is %d, expected at least 1", field, o.Threshold)
	want(o.Threshold <= len(o.Members), "%s.threshold is %d and there are only %d members", field, o.Threshold, len(o.Members))
	names, keys := map[string]bool{}, map[string]string{}
	for _, m := range o.Members {
		m.check(field, want)
		want(!names[m.Name], "%s: %s is there twice", field, m.Name)
		names[m.Name] = true
		if _, fingerprint, err := m.Key(); err == nil {
			other, dup := keys[fingerprint]
			want(!dup, "%s: %s and %s have one key", field, other, m.Name)
			keys[fingerprint] = m.Name
		}
	}
}

// member finds an operator by name.
func (o *Operators) member(name string) (Operator, bool) {
	if o != nil {
		for _, m := range o.Members {
			if m.Name == name {
				return m, true
			}
		}
	}
	return Operator{}, false
}

// holder finds the operator who has a key.
func (o *Operators) holder(pub crypto.PublicKey) (Operator, bool) {
	if o != nil {
		for _, m := range o.Members {
			if key, _, err := m.Key(); err == nil && samePublic(key, pub) {
				return m, true
			}
		}
	}
	return Operator{}, false
}

// Approval is one operator's signed consent to one plan, octet by octet. The
// signature covers ApprovalFormat, a newline and the JCS form (RFC 8785) of the
// statement: with SHA-256 for ECDSA, the octets themselves for Ed25519.
type Approval struct {
	Statement ApprovalStatement `json:"statement"`
	Signature []byte            `json:"signature"`
}

// ApprovalStatement is what an operator signs.
type ApprovalStatement struct {
	Format      string    `json:"format"`
	Kind        Kind      `json:"kind"`
	Domain      string    `json:"domain"`
	PlanDigest  string    `json:"planDigest"` // SHA-256 of the plan file, hex
	Operator    string    `json:"operator"`
	Fingerprint string    `json:"fingerprint"` // of the operator's key: SHA-256 of its SubjectPublicKeyInfo, hex
	Time        time.Time `json:"time"`        // by the operator's clock
}

// Approve signs a plan as the operator who has the key. among is the plan's
// operators, or the custodians whose register a plan of kind custodians changes.
func Approve(plan Plan, among *Operators, key crypto.Signer, now time.Time) (*Approval, error) {
	if err := plan.Validate(); err != nil {
		return nil, err
	}
	o, ok := among.holder(key.Public())
	if !ok {
		return nil, fmt.Errorf("%w: the plan does not name this key among its operators", ErrApproval)
	}
	_, fingerprint, err := o.Key()
	if err != nil {
		return nil, err
	}
	a := &Approval{Statement: ApprovalStatement{ApprovalFormat, plan.Kind, plan.Domain, plan.Digest(), o.Name, fingerprint, stamp(now)}}
	if a.Signature, err = signStatement(ApprovalFormat, a.Statement, key); err != nil {
		return nil, fmt.Errorf("signing the approval: %w", err)
	}
	return a, nil
}

// Approvers are the people whose approval the plan needs, nil when it names
// none. register, which may be nil, is the one whose entry the plan names.
func (p *Plan) Approvers(register *Register) (*Operators, error) {
	if err := register.fits(p); err != nil {
		return nil, err
	}
	if p.Kind == Custodians {
		return register.approvers(p.Custodians), nil
	}
	return p.Operators, nil
}

// Encode writes the approval as indented JSON, the one spelling ParseApproval reads.
func (a *Approval) Encode() ([]byte, error) { return encode(a) }

// ParseApproval reads an approval file strictly; it does not verify it.
func ParseApproval(data []byte) (Approval, error) {
	var a Approval
	if err := decodeExactly(data, maxApproval, &a); err != nil {
		return Approval{}, fmt.Errorf("%w: %w", ErrApproval, err)
	}
	return a, nil
}

// checkApprovals demands that every approval is a valid one of this plan by
// another operator, and that there are at least the threshold's number. among
// nil asks for none and allows none.
func checkApprovals(plan *Plan, digest string, among *Operators, approvals []Approval) error {
	if among == nil {
		if len(approvals) > 0 {
			return fmt.Errorf("%w: the plan names no operators", ErrApproval)
		}
		return nil
	}
	var names []string
	for _, a := range approvals {
		s := a.Statement
		o, ok := among.member(s.Operator)
		if !ok {
			return fmt.Errorf("%w: %q is no operator of the plan", ErrApproval, s.Operator)
		}
		if slices.Contains(names, s.Operator) {
			return fmt.Errorf("%w: %s approved twice; one operator counts once", ErrApproval, s.Operator)
		}
		names = append(names, s.Operator)
		pub, fingerprint, err := o.Key()
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrApproval, o.Name, err)
		}
		if want := (ApprovalStatement{ApprovalFormat, plan.Kind, plan.Domain, digest, o.Name, fingerprint, s.Time}); s != want {
			return fmt.Errorf("%w: that of %s is of another plan: digest %s, this plan's is %s", ErrApproval, s.Operator, s.PlanDigest, digest)
		}
		if err := verifyStatement(ApprovalFormat, s, pub, a.Signature); err != nil {
			return fmt.Errorf("%w: that of %s: %w", ErrApproval, s.Operator, err)
		}
	}
	if len(names) < among.Threshold {
		return fmt.Errorf("%w: %d of the %d operators approved %v, the plan asks for %d", ErrApproval, len(names), len(among.Members), names, among.Threshold)
	}
	return nil
}
