package ceremony

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"

	"redoubt.internal/ca/approval"
)

// ErrApproval: an approval is malformed, not by an operator of the plan, of
// another plan, or there are too few.
var ErrApproval = errors.New("approval refused")

// ApprovalFormat names the format of an approval and begins what its signature
// covers, so that no other signature of the operator can be taken for one.
const ApprovalFormat = "redoubt-ceremony-approval/v1"

const maxApproval = 16 << 10

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
type Operator = approval.Operator

// NewOperator names the holder of a public key.
func NewOperator(name string, pub crypto.PublicKey) (Operator, error) {
	o, err := approval.NewOperator(name, pub)
	return o, asPlan(err)
}

// ParseOperator reads one operator strictly.
func ParseOperator(data []byte) (Operator, error) {
	o, err := approval.ParseOperator(data)
	return o, asPlan(err)
}

// asPlan makes an operator that is refused a mistake in the plan that names it.
func asPlan(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrPlan, err)
}

// check says what is wrong with a group of operators.
func (o *Operators) check(field string, want wanting) {
	want(o.Register == "" || digestText.MatchString(o.Register), "%s.register is not a SHA-256 in lower-case hex", field)
	for _, problem := range o.group().Problems(field) {
		want(false, "%s", problem)
	}
}

// group are the operators without the register they come from.
func (o *Operators) group() approval.Operators {
	if o == nil {
		return approval.Operators{}
	}
	return approval.Operators{Threshold: o.Threshold, Members: o.Members}
}

// member finds an operator by name.
func (o *Operators) member(name string) (Operator, bool) { return o.group().Member(name) }

// holder finds the operator who has a key.
func (o *Operators) holder(pub crypto.PublicKey) (Operator, bool) { return o.group().Holder(pub) }

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
	if a.Signature, err = approval.SignStatement(ApprovalFormat, a.Statement, key); err != nil {
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
func (a *Approval) Encode() ([]byte, error) { return approval.Encode(a) }

// ParseApproval reads an approval file strictly; it does not verify it.
func ParseApproval(data []byte) (Approval, error) {
	var a Approval
	if err := approval.Decode(data, maxApproval, &a); err != nil {
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
		if err := approval.VerifyStatement(ApprovalFormat, s, pub, a.Signature); err != nil {
			return fmt.Errorf("%w: that of %s: %w", ErrApproval, s.Operator, err)
		}
	}
	if len(names) < among.Threshold {
		return fmt.Errorf("%w: %d of the %d operators approved %v, the plan asks for %d", ErrApproval, len(names), len(among.Members), names, among.Threshold)
	}
	return nil
}
