package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
	"redoubt.internal/log/store"
)

// Acts that wait for approval lie in DIR/approvals: <kind>-<digest>.act is the text people approve, octet by octet, and
// <kind>-<digest>.<operator>.json an approval that was handed in. Nothing in them is secret, and nothing is believed because it
// lies there: whoever does the act makes its text anew and verifies every approval again.

// exitUnapproved is the exit code of an act that lacks approvals.
const exitUnapproved = 77

// maxProposals bounds the acts that wait.
const maxProposals = 200

// approvalArgs are what every act that needs approval is asked with.
type approvalArgs struct {
	Given [][]byte `json:"given,omitempty"` // approval files
	As    string   `json:"as,omitempty"`    // the approver who proposes
}

// consent is an act that enough people approved.
type consent struct {
	act approval.Act
	by  []string
	in  *instance
}

// consent asks whether enough of the configured approvers agree to what lines say is done, and who proposes it. If not, the act
// is kept as a proposal and the error says who has to do what next. If so, the caller does it in a transaction with spend.
func (in *instance) consent(ctx context.Context, actor, kind string, lines []string, a approvalArgs) (consent, error) {
	people := in.law().approvers
	if people == nil {
		return consent{}, cmdline.Hinted(errNoApprovers, "set approvers in the configuration; `redoubt docs config` explains them, `redoubt ceremony operator new NAME --key KEY` makes a key")
	}
	proposer, err := people.proposer(actor, a.As)
	if err != nil {
		return consent{}, err
	}
	act := approval.Act{Kind: kind, Domain: in.cfg.Domain, Proposer: proposer, Lines: lines}
	if act, err = approval.ParseAct([]byte(act.Text())); err != nil {
		return consent{}, err
	}
	if err := approval.Spent(in.authorityDB, act); err != nil {
		return consent{}, err
	}
	given, err := in.collect(ctx, actor, act, a.Given)
	if err != nil {
		return consent{}, err
	}
	given, stale := approval.Fresh(given, in.now(), people.life())
	by, err := approval.Check(people.group(), act, given)
	var few *approval.TooFew
	if errors.As(err, &few) {
		few.Stale = stale
		return consent{}, in.asksFor(act, few)
	}
	if err != nil {
		return consent{}, cmdline.Hinted(err, "`redoubt approve show %s` prints what has to be approved", in.dir.proposal(act))
	}
	err = in.record(ctx, actor, "approval.consent", act.Digest(), map[string]string{"kind": kind, "by": strings.Join(by, " ")})
	return consent{act, by, in}, err
}

// agree is consent for acts that the dev profile without people does alone, and that may be done again.
func (in *instance) agree(ctx context.Context, actor, kind string, lines []string, a approvalArgs) (consent, error) {
	if in.law().everything {
		return consent{}, nil
	}
	if in.authorityDB == nil {
		return consent{}, fmt.Errorf("%w: approvals are counted by the role ca", errOtherProcess)
	}
	act, err := approval.Round(in.authorityDB, approval.Act{Kind: kind, Domain: in.cfg.Domain, Lines: lines})
	if err != nil {
		return consent{}, err
	}
	return in.consent(ctx, actor, kind, act.Lines, a)
}

// finish remembers, after an act that is no transaction of its own, that it was done.
func (c consent) finish() error {
	if c.in == nil {
		return nil
	}
	if err := c.in.authorityDB.Update(c.spend); err != nil {
		return fmt.Errorf("noting that the act was done: %w", err)
	}
	return c.done()
}

// asksFor says what an act that lacks approvals waits for.
func (in *instance) asksFor(act approval.Act, few *approval.TooFew) error {
	file := in.dir.proposal(act)
	hint := fmt.Sprintf("`redoubt approve show %s` prints what is asked; %d more people run `redoubt approve sign %s --key KEY --as NAME --out FILE`; then run this command again with --approval FILE for each",
		file, few.Want-len(few.Have), file)
	return cmdline.Hinted(cmdline.WithCode(exitUnapproved, few), "%s", hint)
}

// spend remembers, in the transaction that does the act, that it was done.
func (c consent) spend(tx store.Tx) error { return approval.Spend(tx, c.act, c.by, c.in.now()) }

// done forgets the proposal of an act that was done.
func (c consent) done() error { return c.in.dir.dropProposal(c.act) }

func proposalName(act approval.Act) string { return act.Kind + "-" + act.Digest()[:32] }

func (l layout) approvals() string { return l.path("approvals") }

// proposal is the file of an act's text.
func (l layout) proposal(act approval.Act) string {
	return filepath.Join(l.approvals(), proposalName(act)+".act")
}

// collect keeps the act and the approvals that were handed in, and returns all there are of it. Only a valid approval of one of
// the approvers is kept.
func (in *instance) collect(ctx context.Context, actor string, act approval.Act, given [][]byte) ([]approval.Approval, error) {
	people := in.law().approvers.group()
	if err := in.propose(ctx, actor, act); err != nil {
		return nil, err
	}
	var all []approval.Approval
	for _, data := range given {
		a, err := approval.Parse(data)
		if err != nil {
			return nil, err
		}
		if _, err := approval.Check(people, act, []approval.Approval{a}); err != nil && !errors.Is(err, approval.ErrTooFew) {
			return nil, cmdline.Hinted(err, "`redoubt approve show %s` prints what has to be approved", in.dir.proposal(act))
		}
		if err := writeFileAtomic(filepath.Join(in.dir.approvals(), proposalName(act)+"."+a.Statement.Operator+".json"), data, 0o644); err != nil {
			return nil, fmt.Errorf("keeping an approval: %w", err)
		}
		all = append(all, a)
	}
	kept, err := in.dir.keptApprovals(act)
	if err != nil {
		return nil, err
	}
	for _, a := range kept { // those of people who left, or whose key was replaced, are passed over
		if _, err := approval.Check(people, act, []approval.Approval{a}); err == nil || errors.Is(err, approval.ErrTooFew) {
			all = append(all, a)
		}
	}
	return all, nil
}

// propose writes the act's text where approvers find it.
func (in *instance) propose(ctx context.Context, actor string, act approval.Act) error {
	file := in.dir.proposal(act)
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	if err := os.MkdirAll(in.dir.approvals(), 0o755); err != nil {
		return err
	}
	waiting, err := in.dir.proposals()
	if err != nil {
		return err
	}
	if len(waiting) >= maxProposals {
		return cmdline.Hinted(fmt.Errorf("%d acts wait for approval already", len(waiting)), "`redoubt approve list` shows them, `redoubt approve drop DIGEST` withdraws one")
	}
	if err := in.record(ctx, actor, "approval.propose", act.Digest(), map[string]string{"kind": act.Kind, "proposer": act.Proposer}); err != nil {
		return err
	}
	if err := writeFileAtomic(file, []byte(act.Text()), 0o644); err != nil {
		return fmt.Errorf("keeping the proposal: %w", err)
	}
	return nil
}

// keptApprovals reads the approvals of an act that were handed in earlier.
func (l layout) keptApprovals(act approval.Act) (all []approval.Approval, err error) {
	files, err := filepath.Glob(filepath.Join(globEscape(l.approvals()), proposalName(act)+".*.json"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		data, err := readRecord(file)
		if err != nil {
			return nil, err
		}
		if a, err := approval.Parse(data); err == nil {
			all = append(all, a)
		}
	}
	return all, nil
}

// waitingAct is one act that waits for approval.
type waitingAct struct {
	Kind     string    `json:"kind"`
	SHA256   string    `json:"sha256"` // of the text
	Proposer string    `json:"proposer,omitempty"`
	Proposed time.Time `json:"proposed"`
	Approved []string  `json:"approved"` // whose approval counts so far
	Wanted   int       `json:"wanted"`   // how many have to approve
	File     string    `json:"file"`     // the text, on the machine that does the act
	Text     string    `json:"text"`
}

// proposals lists the acts that wait, the oldest first.
func (l layout) proposals() (all []waitingAct, err error) {
	files, err := filepath.Glob(filepath.Join(globEscape(l.approvals()), "*.act"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return nil, err
		}
		text, err := readRecord(file)
		if err != nil {
			return nil, err
		}
		act, err := approval.ParseAct(text)
		if err != nil {
			continue // nothing this appliance wrote
		}
		all = append(all, waitingAct{Kind: act.Kind, SHA256: fmt.Sprintf("%x", sha256.Sum256(text)), Proposer: act.Proposer, Proposed: info.ModTime().UTC(), Approved: []string{}, File: file, Text: string(text)})
	}
	slices.SortFunc(all, func(a, b waitingAct) int { return a.Proposed.Compare(b.Proposed) })
	return all, nil
}

// dropProposal removes an act and its approvals.
func (l layout) dropProposal(act approval.Act) error {
	files, err := filepath.Glob(filepath.Join(globEscape(l.approvals()), proposalName(act)+".*"))
	for _, file := range files {
		if rerr := os.Remove(file); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

var approveList = verb[struct{}, []waitingAct]{"approve.list", func(_ context.Context, in *instance, _ string, _ struct{}) ([]waitingAct, error) {
	all, err := in.dir.proposals()
	if err != nil {
		return nil, err
	}
	people := in.law().approvers.group()
	for i := range all {
		act, err := approval.ParseAct([]byte(all[i].Text))
		if err != nil {
			return nil, err
		}
		kept, err := in.dir.keptApprovals(act)
		if err != nil {
			return nil, err
		}
		all[i].Wanted = people.Threshold
		kept, _ = approval.Fresh(kept, in.now(), in.law().approvers.life())
		for _, a := range kept {
			if by, err := approval.Check(people, act, []approval.Approval{a}); err == nil || errors.Is(err, approval.ErrTooFew) {
				all[i].Approved = append(all[i].Approved, by...)
			}
		}
	}
	return append([]waitingAct{}, all...), nil
}}

var errNoProposal = errors.New("no act with that digest waits for approval")

var approveDrop = verb[string, waitingAct]{"approve.drop", func(ctx context.Context, in *instance, actor, digest string) (waitingAct, error) {
	all, err := in.dir.proposals()
	if err != nil {
		return waitingAct{}, err
	}
	i := slices.IndexFunc(all, func(w waitingAct) bool { return w.SHA256 == digest })
	if i < 0 {
		return waitingAct{}, cmdline.Hinted(errNoProposal, "`redoubt approve list` prints those that wait")
	}
	if err := in.record(ctx, actor, "approval.drop", digest, map[string]string{"kind": all[i].Kind}); err != nil {
		return waitingAct{}, err
	}
	act, err := approval.ParseAct([]byte(all[i].Text))
	if err != nil {
		return waitingAct{}, err
	}
	return all[i], in.dir.dropProposal(act)
}}
