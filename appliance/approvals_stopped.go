package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
)

// agreed asks, of a directory whose audit log takes no records, whether enough people agree to an act. It keeps the act as a proposal and
// the approvals that were handed in; whoever does the act records and spends it where that can be done again.
func (l layout) agreed(people *Approvers, act approval.Act, given [][]byte) ([]string, error) {
	if err := os.MkdirAll(l.approvals(), 0o755); err != nil {
		return nil, err
	}
	file := l.proposal(act)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := writeFileAtomic(file, []byte(act.Text()), 0o644); err != nil {
			return nil, fmt.Errorf("keeping the proposal: %w", err)
		}
	}
	for _, data := range given {
		a, err := approval.Parse(data)
		if err != nil {
			return nil, err
		}
		if _, err := approval.Check(people.group(), act, []approval.Approval{a}); err != nil && !errors.Is(err, approval.ErrTooFew) {
			return nil, cmdline.Hinted(err, "`redoubt approve show %s` prints what has to be approved", file)
		}
		if err := writeFileAtomic(filepath.Join(l.approvals(), proposalName(act)+"."+a.Statement.Operator+".json"), data, 0o644); err != nil {
			return nil, fmt.Errorf("keeping an approval: %w", err)
		}
	}
	kept, err := l.keptApprovals(act)
	if err != nil {
		return nil, err
	}
	var all []approval.Approval
	for _, a := range kept {
		if _, err := approval.Check(people.group(), act, []approval.Approval{a}); err == nil || errors.Is(err, approval.ErrTooFew) {
			all = append(all, a)
		}
	}
	all, stale := approval.Fresh(all, clock(), people.life())
	by, err := approval.Check(people.group(), act, all)
	var few *approval.TooFew
	if errors.As(err, &few) {
		few.Stale = stale
		return nil, cmdline.Hinted(cmdline.WithCode(exitUnapproved, few), "`redoubt approve show %s` prints what is asked; %d more people run `redoubt approve sign %s --key KEY --as NAME --out FILE`; then run this command again with --approval FILE for each",
			file, few.Want-len(few.Have), file)
	}
	return by, err
}
