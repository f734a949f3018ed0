package ceremony

import (
	"regexp"
	"slices"
)

// The actions of a change of the register.
const (
	ActionFound     = "found"     // the first set, approved by itself
	ActionEnrol     = "enrol"     // one more custodian
	ActionReplace   = "replace"   // another key for one custodian
	ActionLose      = "lose"      // a custodian whose key is lost or out of hand
	ActionRemove    = "remove"    // a custodian who leaves
	ActionSuccessor = "successor" // an emergency set, named in advance
	ActionClaim     = "claim"     // the emergency set declares that the quorum is lost; the waiting period begins
	ActionTakeover  = "takeover"  // the emergency set becomes the set, after the waiting period
)

var actions = []string{ActionFound, ActionEnrol, ActionReplace, ActionLose, ActionRemove, ActionSuccessor, ActionClaim, ActionTakeover}

// Change is one change of the register of custodians.
type Change struct {
	// Action is found, enrol, replace, lose, remove, successor, claim or takeover.
	Action string `yaml:"action"`
	// Previous is the digest of the register's last entry; left out for found.
	Previous string `yaml:"previous,omitempty"`
	// Member is whom enrol, replace, lose and remove are about.
	Member string `yaml:"member,omitempty"`
	// Reason in a line, for those who read the register later.
	Reason string `yaml:"reason"`
	// WaitDays is how long a claim of the emergency set waits for an objection; successor only.
	WaitDays int `yaml:"waitDays,omitempty"`
	// Operators is the whole set after the change; for successor the emergency
	// set; left out for claim and takeover.
	Operators *Operators `yaml:"operators,omitempty"`
}

var digestText = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check says what is wrong with the change by itself; Register.next compares it
// with the register.
func (c *Change) check(want wanting) {
	want(slices.Contains(actions, c.Action), "custodians.action is %q, known are %v", c.Action, actions)
	want((c.Action == ActionFound) == (c.Previous == ""), "custodians.previous is the digest of the register's last entry, and left out for found")
	want(c.Previous == "" || digestText.MatchString(c.Previous), "custodians.previous is not a SHA-256 in lower-case hex")
	about := slices.Contains([]string{ActionEnrol, ActionReplace, ActionLose, ActionRemove}, c.Action)
	want(about == (c.Member != ""), "custodians.member names whom enrol, replace, lose and remove are about, and belongs nowhere else")
	want(plainText(c.Reason), "custodians.reason %q is empty, longer than 64 octets or not plain text", c.Reason)
	want((c.Action == ActionSuccessor) == (c.WaitDays != 0), "custodians.waitDays belongs to successor, and only there")
	want(c.WaitDays >= 0 && c.WaitDays <= 3653, "custodians.waitDays is %d, allowed are 1 to 3653", c.WaitDays)
	whole := c.Action != ActionClaim && c.Action != ActionTakeover
	want(whole == (c.Operators != nil), "custodians.operators is the whole set after the change, and left out for claim and takeover")
	if c.Operators != nil {
		c.Operators.check("custodians.operators", want)
		want(c.Operators.Register == "", "custodians.operators.register has no place here; previous names the entry")
	}
}

func (c *Change) write(w *writer) {
	w.line("# One change of the register of custodians, approved by threshold of the set before it.")
	w.line("custodians:")
	w.line("  # found, enrol, replace, lose, remove; successor names an emergency set in advance; claim and takeover are")
	w.line("  # that set's own, when the quorum is lost.")
	w.line("  action: %s", quote(c.Action))
	if c.Previous != "" {
		w.line("  # SHA-256 of the register's last entry, as `redoubt ceremony register` prints it.")
		w.line("  previous: %s", quote(c.Previous))
	}
	if c.Member != "" {
		w.line("  # Whom it is about.")
		w.line("  member: %s", quote(c.Member))
	}
	w.line("  # Why, in a line.")
	w.line("  reason: %s", quote(c.Reason))
	if c.WaitDays != 0 {
		w.line("  # Days between the emergency set's claim and its takeover, in which the set can object.")
		w.line("  waitDays: %d", c.WaitDays)
	}
	if c.Operators != nil {
		w.line("  # The whole set after the change (successor: the emergency set).")
		w.line("  operators:")
		c.Operators.write(w, "    ")
	}
}
