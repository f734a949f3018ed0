package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/audit"
)

// Who may do what stands in two tables: verbTable has every verb of the command line with the operations it asks a server for,
// routeTable every route of every service. What stands in neither is not done: an operation without a row is refused, a route
// without one is 404. TestPermissions holds both to the command tree and to the muxes.

// duty is a role of a person. (Roles of keys are another thing.)
type duty string

const (
	viewer    duty = "viewer"
	auditor   duty = "auditor"
	operator  duty = "operator"
	approver  duty = "approver"
	custodian duty = "custodian"
)

var duties = []duty{viewer, auditor, operator, approver, custodian}

// consents say who has to agree to an act besides the one who asks for it.
type consents string

const (
	alone       consents = ""                                            // nobody
	byApprovers consents = "approvers.threshold approvers"               // over the act's digest, the proposer's own never among them
	byOutbound  consents = "as mirror.outbound-approvals says"           // what leaves an enclave
	byChange    consents = "approvers.threshold, where it changes rules" // a reload of issuers, people, approvers, log.read or the profile
)

// access says who may do a thing. Without roles it is anybody's who can start it.
type access struct {
	roles []duty // any of them
	after consents
}

var (
	anyone     = access{}
	everybody  = access{roles: duties} // everybody who is known
	auditors   = access{roles: []duty{auditor, operator}}
	operators  = access{roles: []duty{operator}}
	keepers    = access{roles: []duty{operator, custodian}}
	ofSeveral  = access{[]duty{operator}, byApprovers}
	leaving    = access{[]duty{operator}, byOutbound}
	ofReloads  = access{[]duty{operator}, byChange}
	ofRecovery = access{[]duty{operator, custodian}, byApprovers}
)

var errNotAllowed = errors.New("this is not yours to do")

// person is who asks for something.
type person struct {
	name  string // of the member of people; "" for somebody who is none
	how   string // how that is known: uid:1000(alice), key:<SHA-256 of a certificate's key>, token:<issuer> <subject>
	roles []duty
}

// actor names the person for the audit log. A member's name comes first and has no blank in it, how it is known comes after.
func (p person) actor() string {
	if p.name == "" {
		return p.how
	}
	return p.name + " " + p.how
}

// memberName is the name in what actor returned, "" when it was nobody's.
func memberName(actor string) string {
	name, _, ok := strings.Cut(actor, " ")
	if !ok || !personName.MatchString(name) {
		return ""
	}
	return name
}

// may reports whether the person has one of the roles that a demands.
func (p person) may(a access) bool {
	return a.roles == nil || slices.ContainsFunc(p.roles, func(d duty) bool { return slices.Contains(a.roles, d) })
}

// permit refuses who asks for an operation without having a role for it. It comes before the act, and the refusal is recorded; one
// that cannot be recorded is a refusal all the same.
func (in *instance) permit(ctx context.Context, who person, operation string) error {
	a, ok := operationAccess(operation)
	return in.refuseUnless(ctx, ok && who.may(a), who, operation, a)
}

// refuseUnless records and returns the refusal of what is not allowed.
func (in *instance) refuseUnless(ctx context.Context, allowed bool, who person, operation string, a access) error {
	if allowed {
		return nil
	}
	err := fmt.Errorf("%w: %s by %s", errNotAllowed, operation, who.actor())
	detail := map[string]string{"roles": joinDuties(who.roles), "wanted": joinDuties(a.roles)}
	if (in.audit != nil || in.parts != nil) && (who.name != "" || in.strangers.worth(in.now(), detail)) {
		if aerr := in.put(ctx, audit.Event{Actor: who.actor(), Action: strings.ReplaceAll(operation, " ", "."), Object: in.cfg.Domain, Outcome: audit.Refused, Detail: detail}); aerr != nil {
			err = fmt.Errorf("%w; recording that: %w", err, aerr)
		}
	}
	if who.name == "" {
		return cmdline.Hinted(err, "people in the configuration says who is known here and how; `redoubt docs permissions` has the table")
	}
	return cmdline.Hinted(err, "it takes a person with one of the roles %s; `redoubt docs permissions` has the table", joinDuties(a.roles))
}

// strangerEvery is how often a refusal of somebody who is not known is recorded: what anybody can ask for must not fill the disk.
const strangerEvery = time.Minute

// strangers counts refusals of people who are not known.
type strangers struct {
	mu     sync.Mutex // guards the others
	last   time.Time
	passed int // since the last record
}

// worth says whether a refusal is recorded, and adds to detail how many were not since the last one.
func (s *strangers) worth(now time.Time, detail map[string]string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := now.Sub(s.last); age >= 0 && age < strangerEvery {
		s.passed++
		return false
	}
	if s.passed > 0 {
		detail["unrecorded before"] = strconv.Itoa(s.passed)
	}
	s.last, s.passed = now, 0
	return true
}

// permitHere is permit for a verb that works on the state directory in this process, for its user.
func (in *instance) permitHere(ctx context.Context, verb string) (person, error) {
	who := in.law().user(os.Getuid())
	a, ok := verbAccess(verb)
	return who, in.refuseUnless(ctx, ok && who.may(a), who, verb, a)
}

func joinDuties(all []duty) string {
	var names []string
	for _, d := range all {
		names = append(names, string(d))
	}
	return strings.Join(names, " ")
}

// operationAccess looks an operation up; rows that share one agree.
func operationAccess(name string) (access, bool) {
	for _, row := range verbTable {
		if slices.Contains(strings.Fields(row.operations), name) {
			return row.access, true
		}
	}
	return access{}, false
}

// verbAccess looks a verb of the command line up.
func verbAccess(name string) (access, bool) {
	for _, row := range verbTable {
		if slices.Contains(strings.Split(row.verbs, ", "), name) {
			return row.access, true
		}
	}
	return access{}, false
}

// permissionsPage is `redoubt docs permissions`.
func permissionsPage(w io.Writer) error {
	line := func(name string, a access) {
		who, after := "anyone", ""
		if a.roles != nil {
			who = joinDuties(a.roles)
		}
		if a.after != alone {
			after = "; " + string(a.after)
		}
		fmt.Fprintf(w, "%-44s %s%s\n", name, who, after)
	}
	fmt.Fprint(w, "Who may do what: people in the configuration names persons and their roles. In the dev profile without people,\nwhoever reaches the control socket may do everything.\n\nVerbs\n")
	for _, row := range verbTable {
		for verb := range strings.SplitSeq(row.verbs, ", ") {
			line(verb, row.access)
		}
	}
	fmt.Fprint(w, "\nRoutes, by service. read: anyone, or with log.read: authenticated everybody who is known\n")
	for _, row := range routeTable {
		switch row.face {
		case readFace:
			fmt.Fprintf(w, "%-44s read\n", row.service+" "+row.pattern)
		case actFace:
			fmt.Fprintf(w, "%-44s as the operation's verb\n", row.service+" "+row.pattern)
		default:
			line(row.service+" "+row.pattern, anyone)
		}
	}
	return nil
}
