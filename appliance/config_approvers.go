package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
)

// Approvers are the people who approve acts that nobody may do alone.
type Approvers struct {
	// Threshold is how many different members must approve an act. Who proposes it is not counted: have more members than that.
	Threshold int `yaml:"threshold"`
	// Life is how long an approval counts after it was signed, by its signer's clock (default 168h).
	Life Duration `yaml:"life,omitempty"`
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
	if a.Life < 0 {
		problems = append(problems, errors.New("approvers.life must not be negative"))
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

// readApprovers makes approvers of files as `redoubt ceremony operator new` prints them.
func readApprovers(files []string, threshold int) (*Approvers, error) {
	if len(files) == 0 {
		return nil, nil
	}
	a := &Approvers{Threshold: threshold}
	for _, file := range files {
		text, err := readRecord(file)
		if err != nil {
			return nil, fmt.Errorf("--approver: %w", err)
		}
		o, err := approval.ParseOperator(text)
		if err != nil {
			return nil, fmt.Errorf("--approver %s: %w", file, err)
		}
		a.Members = append(a.Members, Approver{Name: o.Name, PublicKey: o.PublicKey})
	}
	return a, nil
}

const defaultApprovalLife = Duration(7 * 24 * time.Hour)

// life is how long an approval counts.
func (a *Approvers) life() time.Duration {
	if a == nil {
		return 0
	}
	return a.Life.or(time.Duration(defaultApprovalLife))
}

// proposer names the approver who asks for an act: the one who has the name of the member of people that actor is, or whose account
// actor is, else the one --as names, else nobody.
func (a *Approvers) proposer(actor, as string) (string, error) {
	who := memberName(actor)
	_, account, _ := strings.Cut(strings.TrimSuffix(actor, ")"), "(")
	for _, m := range a.Members {
		switch {
		case m.Name != who && (m.Account == "" || m.Account != account):
		case as != "" && as != m.Name:
			return "", cmdline.Usage("--as %s: who asks is %s", as, m.Name)
		default:
			return m.Name, nil
		}
	}
	if _, ok := a.group().Member(as); as != "" && !ok {
		return "", cmdline.Usage("--as %s: none of the approvers has that name", as)
	}
	return as, nil
}
