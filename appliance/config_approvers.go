package main

import (
	"errors"
	"fmt"
	"strings"

	"redoubt.internal/ca/approval"
)

// Approvers are the people who approve acts that nobody may do alone.
type Approvers struct {
	// Threshold is how many different members must approve an act. Who proposes it is not counted: have more members than that.
	Threshold int `yaml:"threshold"`
	// Members are the people, each with a key of their own.
	Members []Approver `yaml:"members"`
}

// Approver is one person with one key.
type Approver struct {
	// Name as the others call them: lower-case letters, digits, dot and hyphen.
	Name string `yaml:"name"`
	// PublicKey is the key as `redoubt ceremony operator new|show NAME` prints it: base64 of a SubjectPublicKeyInfo, ECDSA P-256 or Ed25519.
	PublicKey string `yaml:"publicKey"`
	// Account is the person's user name on this machine. An act it asks for is this person's proposal, whatever --as says.
	Account string `yaml:"account,omitempty"`
}

var errNoApprovers = errors.New("nobody is configured who could approve this")

// group are the approvers as the room of approvals takes them.
func (a *Approvers) group() approval.Operators {
	var o approval.Operators
	if a != nil {
		o.Threshold = a.Threshold
		for _, m := range a.Members {
			o.Members = append(o.Members, approval.Operator{Name: m.Name, PublicKey: m.PublicKey})
		}
	}
	return o
}

func (a *Approvers) check() (problems []error) {
	if a == nil {
		return nil
	}
	for _, p := range a.group().Problems("approvers") {
		problems = append(problems, errors.New(p))
	}
	accounts := map[string]string{}
	for _, m := range a.Members {
		if other, taken := accounts[m.Account]; taken && m.Account != "" {
			problems = append(problems, fmt.Errorf("approvers: %s and %s have one account", other, m.Name))
		}
		accounts[m.Account] = m.Name
	}
	return problems
}

// proposer names the approver who asks for an act: the one whose account actor is, else the one --as names, else nobody.
func (a *Approvers) proposer(actor, as string) (string, error) {
	_, account, _ := strings.Cut(strings.TrimSuffix(actor, ")"), "(")
	for _, m := range a.Members {
		switch {
		case m.Account == "" || m.Account != account:
		case as != "" && as != m.Name:
			return "", usage("--as %s: %s is the account of %s", as, account, m.Name)
		default:
			return m.Name, nil
		}
	}
	if _, ok := a.group().Member(as); as != "" && !ok {
		return "", usage("--as %s: none of the approvers has that name", as)
	}
	return as, nil
}
