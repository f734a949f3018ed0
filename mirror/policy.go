package mirror

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"redoubt.internal/mirror/parcel"
)

// ErrPolicy says that a text is no witness policy (C2SP tlog-policy).
var ErrPolicy = errors.New("this is no witness policy")

// A policy is bounded: bytes of text, and witnesses, groups and logs in it.
const (
	maxPolicy = 256 << 10
	maxNamed  = 256
)

// Policy says which witnesses have to cosign a checkpoint before it is believed (C2SP tlog-policy). Whoever signs under several
// names is one witness: a key stands in a policy once.
type Policy struct {
	Logs      []*parcel.Verifier // the logs it is for; empty where that is known from elsewhere
	Witnesses []Witness
	quorum    *group // nil: none is required
}

// Witness is a key that may cosign.
type Witness struct {
	Name     string // in the policy alone
	Cosigner *parcel.Cosigner
}

// group is a rule: at least need of the witnesses and groups in it. A single witness is a group of itself.
type group struct {
	need      int
	witnesses []int
	groups    []*group
}

// ParsePolicy reads a policy. Errors are ErrPolicy and name the line.
//
//	log <vkey> [<url>]
//	witness <name> <vkey> [<url>]
//	group <name> all|any|<k> <name>...
//	quorum <name>|none
//
// A log's key may be ECDSA P-256 or Ed25519. A witness's key is of type 0x04 (cosignature/v1); one of type 0x01 stands for the
// same Ed25519 key, whose plain signatures count as well, without a time.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > maxPolicy {
		return nil, fmt.Errorf("%w: %d bytes", ErrPolicy, len(text))
	}
	p := &policyParser{named: make(map[string]*group), member: make(map[string]bool), policy: new(Policy)}
	number := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		number++
		if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
			return nil, fmt.Errorf("%w: line %d: control character %#02x", ErrPolicy, number, line[i])
		}
		items := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
		if len(items) == 0 || items[0][0] == '#' {
			continue
		}
		if err := p.line(items[0], items[1:]); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrPolicy, number, err)
		}
	}
	if !p.done {
		return nil, fmt.Errorf("%w: it has no line \"quorum NAME\" or \"quorum none\"", ErrPolicy)
	}
	return p.policy, nil
}

type policyParser struct {
	policy *Policy
	named  map[string]*group
	member map[string]bool // names that are in a group
	done   bool            // a quorum line was seen
}

func (p *policyParser) line(kind string, items []string) error {
	if len(p.named) >= maxNamed || len(p.policy.Logs) >= maxNamed {
		return fmt.Errorf("more than %d logs, or witnesses and groups", maxNamed)
	}
	switch {
	case kind == "log" && (len(items) == 1 || len(items) == 2):
		return p.log(items[0])
	case kind == "witness" && (len(items) == 2 || len(items) == 3):
		return p.witness(items[0], items[1])
	case kind == "group" && len(items) >= 3:
		return p.group(items[0], items[1], items[2:])
	case kind == "quorum" && len(items) == 1:
		return p.quorum(items[0])
	}
	return fmt.Errorf("%.40q with %d items is no line of a policy", kind, len(items))
}

func (p *policyParser) log(vkey string) error {
	v, err := parcel.NewVerifier(vkey)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(p.policy.Logs, func(o *parcel.Verifier) bool { return o.SameKey(v) }) {
		return fmt.Errorf("a second log has the key of %.80q", v.Name())
	}
	p.policy.Logs = append(p.policy.Logs, v)
	return nil
}

func (p *policyParser) witness(name, vkey string) error {
	c, err := parcel.NewCosigner(vkey)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(p.policy.Witnesses, func(o Witness) bool { return o.Cosigner.Key().Equal(c.Key()) }) {
		return fmt.Errorf("a second witness has the key of %.80q; one key is one witness", name)
	}
	p.policy.Witnesses = append(p.policy.Witnesses, Witness{name, c})
	return p.define(name, &group{need: 1, witnesses: []int{len(p.policy.Witnesses) - 1}})
}

func (p *policyParser) define(name string, g *group) error {
	if name == "none" || p.named[name] != nil {
		return fmt.Errorf("%.80q is defined already", name)
	}
	p.named[name] = g
	return nil
}

func (p *policyParser) group(name, need string, members []string) error {
	g := new(group)
	for _, m := range members {
		of := p.named[m]
		switch {
		case of == nil:
			return fmt.Errorf("%.80q is not defined before group %.80q", m, name)
		case p.member[m]:
			return fmt.Errorf("%.80q is a member of a group already", m)
		}
		p.member[m] = true
		g.groups = append(g.groups, of)
	}
	switch need {
	case "all":
		g.need = len(members)
	case "any":
		g.need = 1
	default:
		n, err := strconv.ParseUint(need, 10, 16)
		if err != nil || n < 1 || n > uint64(len(members)) || strconv.FormatUint(n, 10) != need {
			return fmt.Errorf("%.40q of %d members; all, any or a number is needed", need, len(members))
		}
		g.need = int(n)
	}
	return p.define(name, g)
}

func (p *policyParser) quorum(name string) error {
	if p.done {
		return errors.New("a second quorum line")
	}
	if p.done = true; name == "none" {
		return nil
	}
	if p.policy.quorum = p.named[name]; p.policy.quorum == nil {
		return fmt.Errorf("%.80q is not defined before it is the quorum", name)
	}
	return nil
}

// satisfied tells whether enough of the witnesses of a group have cosigned, by their place in Policy.Witnesses.
func (g *group) satisfied(cosigned map[int]bool) bool {
	n := 0
	for _, w := range g.witnesses {
		if cosigned[w] {
			n++
		}
	}
	for _, o := range g.groups {
		if o.satisfied(cosigned) {
			n++
		}
	}
	return n >= g.need
}
