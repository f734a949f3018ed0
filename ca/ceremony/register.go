package ceremony

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"redoubt.internal/ca/approval"
)

// ErrRegister: the register of custodians is malformed, altered, or the change
// does not follow from it.
var ErrRegister = errors.New("register of custodians refused")

// RegisterFormat names the format of a register's entries.
const RegisterFormat = "redoubt-custodians/v1"

const (
	maxRegister = 2 << 20
	maxEntries  = 1000
)

// Register is the history of who may approve ceremonies: a list of changes,
// each naming the digest of the one before and each approved by the quorum of
// the set before it. ParseRegister follows it from the first entry; whoever has
// the digest of the last one has all of it.
type Register struct {
	Entries []Entry `json:"entries"`

	state custody
}

// Entry is one change as it was approved.
type Entry struct {
	Format    string     `json:"format"`
	Number    int        `json:"number"`   // from 1
	Previous  string     `json:"previous"` // digest of the entry before, SHA-256 of its JCS form, hex; "" for the first
	Plan      string     `json:"plan"`     // the YAML text of the ceremony that made it
	Approvals []Approval `json:"approvals"`
	Time      time.Time  `json:"time"` // when it was made, by that machine's clock
}

// custody is what a register comes to.
type custody struct {
	domain    string
	operators *Operators
	successor *Operators // the emergency set, nil when none is named
	waitDays  int
	claimed   time.Time // when the emergency set declared the quorum lost; zero when it did not
	last      time.Time
	head      string
}

// ParseRegister reads a register and follows every change in it.
func ParseRegister(data []byte) (*Register, error) {
	var file Register
	if err := approval.Decode(data, maxRegister, &file); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRegister, err)
	}
	if len(file.Entries) == 0 || len(file.Entries) > maxEntries {
		return nil, fmt.Errorf("%w: %d entries, allowed are 1 to %d", ErrRegister, len(file.Entries), maxEntries)
	}
	r := &Register{}
	for _, e := range file.Entries {
		next, err := r.next(e)
		if err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", ErrRegister, e.Number, err)
		}
		r = next
	}
	return r, nil
}

// Encode writes the register as indented JSON, the one spelling ParseRegister reads.
func (r *Register) Encode() ([]byte, error) { return approval.Encode(r) }

// Operators are the custodians as of the last entry, with Register naming it:
// what a plan copies.
func (r *Register) Operators() *Operators {
	o := *r.state.operators
	o.Register = r.state.head
	o.Members = slices.Clone(o.Members)
	return &o
}

// Head is the digest of the last entry.
func (r *Register) Head() string { return r.state.head }

// Successor returns the emergency set with its waiting period, nil when none is
// named, and when it claimed, zero when it did not.
func (r *Register) Successor() (set *Operators, waitDays int, claimed time.Time) {
	return r.state.successor, r.state.waitDays, r.state.claimed
}

// Due is when a claimed takeover may happen; zero when there is no claim.
func (r *Register) Due() time.Time {
	if r == nil || r.state.claimed.IsZero() {
		return time.Time{}
	}
	return r.state.claimed.AddDate(0, 0, r.state.waitDays)
}

// approvers is the set whose quorum a change needs: itself for the first, the
// emergency set for its claim and its takeover, else the set before the change.
func (r *Register) approvers(c *Change) *Operators {
	none := &Operators{Threshold: 1}
	switch {
	case c.Action == ActionFound:
		return c.Operators
	case r == nil:
		return none
	case c.Action == ActionClaim || c.Action == ActionTakeover:
		if r.state.successor == nil {
			return none
		}
		return r.state.successor
	}
	return r.state.operators
}

// fits asks whether the plan is one of this register, which may be nil.
func (r *Register) fits(p *Plan) error {
	var named string
	switch {
	case p.Kind == Custodians:
		named = p.Custodians.Previous
	case p.Operators != nil:
		named = p.Operators.Register
	}
	if (named == "") != (r == nil) {
		return fmt.Errorf("%w: the plan and the documents given do not agree whether there is one", ErrRegister)
	}
	if r == nil {
		return nil
	}
	if named != r.state.head {
		return fmt.Errorf("%w: the plan is for entry %s, the register ends with %s", ErrRegister, named, r.state.head)
	}
	if p.Domain != r.state.domain {
		return fmt.Errorf("%w: it is that of %q", ErrRegister, r.state.domain)
	}
	if p.Kind != Custodians && !reflect.DeepEqual(p.Operators, r.Operators()) {
		return fmt.Errorf("%w: the plan's operators are not the register's", ErrRegister)
	}
	return nil
}

// next adds one entry after checking it against everything before; r is nil or
// empty before the first. It changes nothing in r.
func (r *Register) next(e Entry) (*Register, error) {
	if r == nil {
		r = &Register{}
	}
	s := r.state
	if e.Format != RegisterFormat || e.Number != len(r.Entries)+1 || e.Previous != s.head {
		return nil, errors.New("it does not follow the entry before")
	}
	plan, err := ParsePlan([]byte(e.Plan))
	if err != nil {
		return nil, err
	}
	c := plan.Custodians
	if c == nil || c.Previous != s.head || s.domain != "" && plan.Domain != s.domain {
		return nil, errors.New("its plan is not one for this register")
	}
	if e.Time.Before(s.last) {
		return nil, errors.New("it is older than the entry before")
	}
	if err := checkApprovals(&plan, hexSum([]byte(e.Plan)), r.approvers(c), e.Approvals); err != nil {
		return nil, err
	}
	at := e.Time
	if c.Action == ActionClaim { // the waiting period begins when the last of them signed, whatever the entry says
		for _, a := range e.Approvals {
			if a.Statement.Time.After(at) {
				at = a.Statement.Time
			}
		}
	}
	if err := s.apply(c, at); err != nil {
		return nil, err
	}
	s.domain, s.last = plan.Domain, e.Time
	if s.head, err = link(e); err != nil {
		return nil, err
	}
	return &Register{Entries: append(slices.Clone(r.Entries), e), state: s}, nil
}

// apply changes the state as one approved change says, or says why it does not follow.
func (s *custody) apply(c *Change, at time.Time) error {
	switch c.Action {
	case ActionFound:
		if s.operators != nil {
			return errors.New("the register is founded already")
		}
		s.operators = c.Operators
		return nil
	case ActionClaim:
		if s.successor == nil {
			return errors.New("no emergency set is named")
		}
		if !s.claimed.IsZero() {
			return errors.New("the emergency set has claimed already")
		}
		s.claimed = at
		return nil
	case ActionTakeover:
		if s.claimed.IsZero() {
			return errors.New("there is no claim; the waiting period has not begun")
		}
		if due := s.claimed.AddDate(0, 0, s.waitDays); at.Before(due) {
			return fmt.Errorf("the waiting period of %d days ends at %s", s.waitDays, due.UTC().Format(time.RFC3339))
		}
		s.operators, s.successor, s.waitDays, s.claimed = s.successor, nil, 0, time.Time{}
		return nil
	case ActionSuccessor:
		s.successor, s.waitDays = c.Operators, c.WaitDays
	default:
		if err := sameButOne(s.operators, c); err != nil {
			return err
		}
		s.operators = c.Operators
	}
	s.claimed = time.Time{} // the quorum spoke, so it is not lost
	return nil
}

// sameButOne asks that the set after a change differs from the one before by the
// declared member alone; the threshold may differ, it is in the approved plan.
func sameButOne(before *Operators, c *Change) error {
	old, had := before.member(c.Member)
	now, has := c.Operators.member(c.Member)
	switch c.Action {
	case ActionEnrol:
		if had || !has {
			return fmt.Errorf("enrol: %s must be new", c.Member)
		}
	case ActionReplace:
		if !had || !has || old.PublicKey == now.PublicKey {
			return fmt.Errorf("replace: %s must have had another key", c.Member)
		}
	case ActionLose, ActionRemove:
		if !had || has {
			return fmt.Errorf("%s: %s must be in the set before and not after", c.Action, c.Member)
		}
	}
	others := func(o *Operators) []Operator {
		return slices.DeleteFunc(slices.Clone(o.Members), func(m Operator) bool { return m.Name == c.Member })
	}
	if !slices.Equal(others(before), others(c.Operators)) {
		return fmt.Errorf("%s: the other custodians must stay as they are, in their order", c.Action)
	}
	return nil
}

// changeRegister makes the next entry.
func (r *run) changeRegister() error {
	e := Entry{Format: RegisterFormat, Number: 1, Plan: r.body.Opening.Plan, Approvals: r.body.Opening.Approvals, Time: stamp(r.Now())}
	if r.register != nil {
		e.Number, e.Previous = len(r.register.Entries)+1, r.register.state.head
	}
	if r.StandIn == nil {
		if _, err := r.register.next(e); err != nil {
			return fmt.Errorf("%w: %w", ErrRegister, err)
		}
	} else if err := r.register.tryChange(r.plan.Custodians, e.Time); err != nil {
		return fmt.Errorf("%w: %w", ErrRegister, err)
	}
	r.product.Entry = &e
	return nil
}

// tryChange is what a rehearsal, which nobody has approved yet, can know.
func (r *Register) tryChange(c *Change, at time.Time) error {
	var s custody
	if r != nil {
		s = r.state
	}
	return s.apply(c, at)
}

// entry re-checks the entry a ceremony made.
func (c *checking) entry(e *Entry) error {
	o := &c.t.Body.Opening
	if e.Plan != o.Plan || !sameRecord(e.Approvals, o.Approvals) || e.Time.Before(o.Started) || e.Time.After(c.t.Body.Finished) {
		return errors.New("the entry is not this ceremony's")
	}
	if c.t.Rehearsal() {
		return c.t.register.tryChange(c.t.plan.Custodians, e.Time)
	}
	after, err := c.t.register.next(*e)
	if err != nil {
		return err
	}
	c.t.after = after
	return nil
}
