// Package approval makes acts wait for the consent of several people, each with a key of their own.
//
// An Act is a canonical text: what is done, on which deployment, proposed by whom. Its digest is what people read to each other;
// an Approval is one operator's signature over it. Check decides whether enough different people approved.
//
// What it guarantees:
//   - Consent is to the text, octet by octet. An approval of another act, of the same act elsewhere, or proposed by somebody
//     else is none of this one.
//   - One person counts once, however often and under however many names their key stands; who proposes an act is not counted
//     among those who approve it.
//   - An approved act is done once: Spend remembers it in the transaction that does it.
//
// What it does not: know who holds a key, or tell the time. The time in an approval is by its signer's clock.
//
// The ceremony of keys (package ceremony) has plans and approvals of its own format, made of the same operators and statements.
//
// Start at Check.
package approval

import (
	"crypto"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrApproval says that an approval is malformed, not by one of the operators, or of another act.
	ErrApproval = errors.New("approval refused")
	// ErrTooFew says that an act lacks approvals; the error is a *TooFew.
	ErrTooFew = errors.New("more people have to approve this")
)

// Format names the format of an approval and begins what its signature covers.
const Format = "redoubt-approval/v1"

// Approval is one operator's signed consent to one act.
type Approval struct {
	Statement Statement `json:"statement"`
	Signature []byte    `json:"signature"`
}

// Statement is what an operator signs.
type Statement struct {
	Format      string    `json:"format"`
	Kind        string    `json:"kind"`
	Domain      string    `json:"domain"`
	ActDigest   string    `json:"actDigest"` // SHA-256 of the act's text, hex
	Operator    string    `json:"operator"`
	Fingerprint string    `json:"fingerprint"` // of the operator's key: SHA-256 of its SubjectPublicKeyInfo, hex
	Time        time.Time `json:"time"`        // by the operator's clock
}

// TooFew says who approved and how many more it takes.
type TooFew struct {
	Have     []string // who approved
	Want     int      // how many have to
	Proposer string   // whose own approval was given and not counted, "" otherwise
	Stale    []string // whose approvals were given too long ago to count
}

func (e *TooFew) Error() string {
	text := fmt.Sprintf("%v: %d of %d approvals %v", ErrTooFew, len(e.Have), e.Want, e.Have)
	if e.Proposer != "" {
		text += "; that of " + e.Proposer + ", who proposes it, does not count"
	}
	if len(e.Stale) > 0 {
		text += fmt.Sprintf("; those of %v are too old, or of a time to come, and do not count", e.Stale)
	}
	return text
}

// Unwrap makes the error match ErrTooFew.
func (e *TooFew) Unwrap() error { return ErrTooFew }

// Sign approves an act as the operator of that name. Whether the key is that operator's is seen by Check.
func Sign(act Act, name string, key crypto.Signer, now time.Time) (*Approval, error) {
	o, err := NewOperator(name, key.Public())
	if err != nil {
		return nil, err
	}
	if err := act.check(); err != nil {
		return nil, err
	}
	_, fingerprint, err := o.Key()
	if err != nil {
		return nil, err
	}
	a := &Approval{Statement: Statement{Format, act.Kind, act.Domain, act.Digest(), name, fingerprint, now.UTC().Truncate(time.Second)}}
	if a.Signature, err = SignStatement(Format, a.Statement, key); err != nil {
		return nil, fmt.Errorf("signing the approval: %w", err)
	}
	return a, nil
}

// Encode writes the approval as indented JSON, the one spelling Parse reads.
func (a *Approval) Encode() ([]byte, error) { return Encode(a) }

// Parse reads an approval file strictly; it does not verify it.
func Parse(data []byte) (Approval, error) {
	var a Approval
	if err := Decode(data, maxFile, &a); err != nil {
		return Approval{}, fmt.Errorf("%w: %w", ErrApproval, err)
	}
	return a, nil
}

// Check demands that every approval is a valid one of this act by one of the operators, and that as many different people as
// the threshold says approved, the proposer aside. It returns who counted, in the order of the members. Approvals that are valid
// but too few are a *TooFew.
func Check(among Operators, act Act, approvals []Approval) ([]string, error) {
	if bad := among.Problems("approvers"); len(bad) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrOperator, bad[0])
	}
	if err := act.check(); err != nil {
		return nil, err
	}
	counted := map[string]bool{} // by name; no two members have one key
	own := ""
	for _, a := range approvals {
		name, err := a.verify(among, act)
		if err != nil {
			return nil, err
		}
		if name == act.Proposer {
			own = name
			continue
		}
		counted[name] = true
	}
	have := []string{}
	for _, m := range among.Members {
		if counted[m.Name] {
			have = append(have, m.Name)
		}
	}
	if len(have) < among.Threshold {
		return have, &TooFew{have, among.Threshold, own, nil}
	}
	return have, nil
}

// verify returns whose approval of act this is.
func (a Approval) verify(among Operators, act Act) (string, error) {
	s := a.Statement
	o, ok := among.Member(s.Operator)
	if !ok {
		return "", fmt.Errorf("%w: %.60q is none of those who may approve", ErrApproval, s.Operator)
	}
	pub, fingerprint, err := o.Key()
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrApproval, o.Name, err)
	}
	if s.Fingerprint != fingerprint {
		return "", fmt.Errorf("%w: that of %s is by key %.64s, theirs is %s", ErrApproval, o.Name, s.Fingerprint, fingerprint)
	}
	if want := (Statement{Format, act.Kind, act.Domain, act.Digest(), o.Name, fingerprint, s.Time}); s != want {
		return "", fmt.Errorf("%w: that of %s is of another act: digest %.64s, this act's is %s", ErrApproval, o.Name, s.ActDigest, act.Digest())
	}
	if err := VerifyStatement(Format, s, pub, a.Signature); err != nil {
		return "", fmt.Errorf("%w: that of %s: %w", ErrApproval, o.Name, err)
	}
	return o.Name, nil
}
