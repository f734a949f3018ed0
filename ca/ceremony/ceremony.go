// Package ceremony makes the keys of a deployment and the certificates over
// them, changes them later, and says who may: from one plan and into one signed
// transcript.
//
// It guarantees:
//   - the plan is the only input: what is not in it is not made, and one octet
//     more or less gives it another digest (Plan.Digest, Aloud);
//   - where the plan names operators, no token is touched before as many of them
//     as it asks for have signed that digest (Approve);
//   - nothing is made when any key of the plan exists already, so a second run
//     cannot replace what clients trust;
//   - every certificate is linted (ca/lint) over a throwaway key of the same
//     type before the real key signs, and what is signed is octet by octet what
//     was linted;
//   - the transcript holds the plan, the approvals, the public keys, what the
//     tokens claim and attest of each key, the requests and the certificates,
//     each step linked to the one before by digest; it is signed by the root key
//     (or, where that is elsewhere, another key of the ceremony), and Verify
//     re-checks all of it offline, without the keys, years later;
//   - a rehearsal runs the same steps on stand-in keys and says so in every
//     transcript it leaves; Diff tells what differs from the run.
//
// It does not guarantee that a token is hardware (see hsm.Info.Software), it
// extracts and copies no key (a vendor's backup is declared and recorded), and
// it does not undo: keys made before a failing step stay in their tokens and
// the error names them. Times are those of the machine's clock.
//
// cfssl is used here and nowhere else: for certificate requests, profiles and
// the readable description of certificates (cfssl.go, docs/adr/0004). The
// certificates themselves are made by crypto/x509. Start at Session.Run, then
// Plan and Verifier.Verify; docs/ceremony.md is the operator's script.
package ceremony

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"redoubt.internal/hsm"
)

// ErrKeyExists: a key of the plan is already in its token; nothing was made.
var ErrKeyExists = errors.New("a key of the plan exists already")

// Session is what a ceremony has besides its plan. Only Open is needed for a
// plan without operators.
type Session struct {
	// Open returns the token of a key URI and stays its owner.
	Open func(ctx context.Context, uri string) (hsm.Token, error)
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Progress, if not nil, is told each step before it starts.
	Progress func(step string)
	// Software names the program's version in the transcript.
	Software string
	// Approvals are those of the operators.
	Approvals []Approval
	// Place says which token a key URI names, and whether its keys die with the
	// machine (a TPM's do). A plan of profile production cannot do without.
	Place func(uri string) (token string, machineBound bool)
	// BackupStatement is the operator's account of the declared backup.
	BackupStatement string
	// Requests is the transcript of the online machine, for the part of an
	// offline-root ceremony in which the root signs.
	Requests []byte
	// Certificates is the transcript of the offline machine, for the part in which
	// its certificates are taken in.
	Certificates []byte
	// Register is the register of custodians: required where the plan names an
	// entry of it.
	Register []byte
	// StandIn, when not nil, makes this a rehearsal: it renames each role's key URI
	// to one in a throwaway token.
	StandIn func(role, uri string) string
}

// Run carries out a plan without operators, in one place; see Session.Run.
func Run(ctx context.Context, plan Plan, open func(ctx context.Context, uri string) (hsm.Token, error), now func() time.Time, progress func(step string)) (*Transcript, error) {
	s := Session{Open: open, Now: now, Progress: progress}
	return s.Run(ctx, plan)
}

// Run carries out the plan: it checks the approvals and that no key of the plan
// exists, makes every role's key in its token, issues the certificates and signs
// the transcript. On an error keys made so far remain; the error lists them.
func (s Session) Run(ctx context.Context, plan Plan) (*Transcript, error) {
	r, err := s.begin(plan)
	if err != nil {
		return nil, err
	}
	if err := r.all(ctx); err != nil {
		var made []string
		for _, step := range r.body.Steps {
			if step.Key != nil && !step.Key.Created.Before(r.body.Opening.Started) {
				made = append(made, step.Key.Role+" "+step.Key.Info.URI)
			}
		}
		if len(made) > 0 {
			err = fmt.Errorf("%w; keys made before that remain: %s", err, strings.Join(made, ", "))
		}
		return nil, err
	}
	return r.transcript, nil
}

// begin checks everything that can be checked before a token is touched.
func (s Session) begin(plan Plan) (*run, error) {
	if err := plan.Validate(); err != nil {
		return nil, err
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	base, wall := s.Now(), s.Now
	s.Now = func() time.Time { return base.Add(wall().Sub(base)) } // a step of the wall clock does not turn the record round
	text := plan.source()
	r := &run{
		Session: s, plan: plan,
		keys: map[string]*hsm.Key{}, publics: map[string]crypto.PublicKey{}, throwaway: map[hsm.Algorithm]crypto.Signer{},
		certs: map[string]*x509.Certificate{}, csrs: map[string]string{},
		body: Body{Opening: Opening{
			Format: Format, Software: s.Software, Mode: ModeRun, Kind: plan.Kind, Domain: plan.Domain,
			Plan: string(text), PlanDigest: hexSum(text), Approvals: append([]Approval{}, s.Approvals...), Inputs: []Input{}, Started: stamp(s.Now()),
		}},
	}
	if s.StandIn != nil {
		r.body.Opening.Mode = ModeRehearsal
	}
	for _, check := range []func() error{r.takeInputs, r.checkQuorum, r.checkPlaces, r.checkStatement} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// run is the state of one ceremony.
type run struct {
	Session
	plan Plan

	keys       map[string]*hsm.Key
	publics    map[string]crypto.PublicKey     // of every role, wherever its private half is
	throwaway  map[hsm.Algorithm]crypto.Signer // sign rehearsals only
	certs      map[string]*x509.Certificate
	csrs       map[string]string // by role, PEM
	requests   *Transcript       // carried in, verified
	issued     *Transcript       // carried in, verified
	register   *Register
	product    Step // of the step at work
	body       Body
	transcript *Transcript
}

// checkQuorum demands the approvals. A rehearsal needs none: it is what operators look at before they approve.
func (r *run) checkQuorum() error {
	o := &r.body.Opening
	if o.Mode == ModeRehearsal && len(o.Approvals) == 0 {
		return nil
	}
	among := r.plan.Operators
	if r.plan.Kind == Custodians {
		among = r.register.approvers(r.plan.Custodians)
	}
	return checkApprovals(&r.plan, o.PlanDigest, among, o.Approvals)
}

// checkPlaces refuses a production root that would die with one machine.
func (r *run) checkPlaces() error {
	root, next := r.plan.Keys.Root, r.plan.Keys.Successor
	if r.plan.Profile != Production || root == nil {
		return nil
	}
	if r.Place == nil {
		return fmt.Errorf("%w: profile production, and nothing tells which tokens die with their machine", ErrPlan)
	}
	place, bound := r.Place(root.URI)
	if !bound {
		return nil
	}
	if next == nil {
		return fmt.Errorf("%w: the root's only token dies with one machine; add keys.root-successor in another token, certificates.root-successor and certificates.cross", ErrPlan)
	}
	if other, bound := r.Place(next.URI); bound || other == place {
		return fmt.Errorf("%w: the root's only token dies with one machine, and keys.root-successor is no safer: it wants another token that is not bound to a machine", ErrPlan)
	}
	return nil
}

// checkStatement asks for the operator's account of a declared backup.
func (r *run) checkStatement() error {
	b := r.plan.Backup
	declared := b != nil && b.Profile != BackupNone
	switch {
	case !declared && r.BackupStatement != "":
		return fmt.Errorf("%w: a statement about a backup, and the plan declares none", ErrPlan)
	case declared && r.BackupStatement == "" && r.StandIn != nil:
		r.BackupStatement = "rehearsal: no backup is made"
	case declared && r.BackupStatement == "" && r.body.Opening.Part != PartRequests:
		return fmt.Errorf("%w: the plan declares backup %s; state what was done with it", ErrPlan, b.Profile)
	}
	if len(r.BackupStatement) > maxStatement || strings.ContainsFunc(r.BackupStatement, func(c rune) bool { return c < 0x20 && c != '\n' && c != '\t' || c == '�' }) {
		return fmt.Errorf("%w: the backup statement is longer than %d octets or not plain text", ErrPlan, maxStatement)
	}
	return nil
}

const maxStatement = 8 << 10
