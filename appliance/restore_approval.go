package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
	"redoubt.internal/log/audit"
)

// A restored directory holds everything a deployment is. Where restoring one is an act of several people, it is held until they approved:
// DIR/restored.act is the act, and while it lies there no server and no verb opens the directory's logs. Whoever may write to the
// directory can take it away; what is kept from doing so is somebody who only runs the verb.

const (
	heldRestore     = "restored.act"
	approvedRestore = "restored.json" // until the audit log has it
)

var errHeldRestore = errors.New("this directory was restored, and not enough people have approved that")

// restoreApproved is what the first server after a restore records.
type restoreApproved struct {
	Actor string    `json:"actor"`
	Act   string    `json:"act"` // digest
	By    []string  `json:"by"`
	Time  time.Time `json:"time"`
}

// unheld refuses a directory whose restoring waits for approval.
func (l layout) unheld() error {
	if _, err := os.Stat(l.path(heldRestore)); !errors.Is(err, fs.ErrNotExist) {
		return cmdline.Hinted(errors.Join(errHeldRestore, err), "`redoubt approve show %s` prints what is asked; `redoubt backup restore --dir %s --approval FILE...` takes the approvals", l.path(heldRestore), l.root)
	}
	return nil
}

// holdRestore holds a directory that was just restored, where that is an act of several people, and asks for their approval.
func holdRestore(c *cli.Context, r restoreResult) error {
	cfg, dir, err := configAt(r.Dir)
	if err != nil {
		return err
	}
	law := localLaw(cfg, dir)
	if law.everything {
		return nil
	}
	proposer := ""
	if law.approvers != nil {
		if proposer, err = law.approvers.proposer(law.user(os.Getuid()).actor(), c.String("as")); err != nil {
			return err
		}
	}
	act := approval.Act{Kind: "backup.restore", Domain: cfg.Domain, Proposer: proposer, Lines: []string{"appliance " + approval.Value(r.Appliance), fmt.Sprintf("run %d", r.Run),
		"repository " + approval.Value(r.Repository), "into " + approval.Value(r.Dir), "at " + clock().UTC().Format(time.RFC3339)}}
	for _, l := range r.Logs {
		act.Lines = append(act.Lines, fmt.Sprintf("log %s has %d entries, root %x", l.Name, l.Size, []byte(l.Root)))
	}
	if act, err = approval.ParseAct([]byte(act.Text())); err != nil {
		return err
	}
	if err := writeFileAtomic(dir.path(heldRestore), []byte(act.Text()), 0o644); err != nil {
		return fmt.Errorf("holding what was restored: %w", err)
	}
	return releaseRestore(c, dir)
}

// releaseRestore takes approvals of a restore and, when there are enough, lets the directory be opened.
func releaseRestore(c *cli.Context, dir layout) error {
	cfg, dir, err := configAt(dir.root)
	if err != nil {
		return err
	}
	text, err := readRecord(dir.path(heldRestore))
	if err != nil {
		return err
	}
	act, err := approval.ParseAct(text)
	if err != nil {
		return err
	}
	given, err := givenApprovals(c)
	if err != nil {
		return err
	}
	law := localLaw(cfg, dir)
	who := law.user(os.Getuid())
	if a, ok := verbAccess("backup restore"); !ok || !who.may(a) {
		return fmt.Errorf("%w: backup restore by %s", errNotAllowed, who.actor())
	}
	if law.approvers == nil {
		return cmdline.Hinted(errNoApprovers, "set approvers in %s; `redoubt docs config` explains them. The directory is held until then", dir.config())
	}
	by, err := dir.agreed(law.approvers, act, given.Given)
	if err != nil {
		return err
	}
	record, err := json.Marshal(restoreApproved{who.actor(), act.Digest(), by, clock().UTC()})
	if err != nil {
		return err
	}
	if err := writeFileAtomic(dir.path(approvedRestore), record, 0o644); err != nil {
		return fmt.Errorf("keeping who approved: %w", err)
	}
	if err := os.Remove(dir.path(heldRestore)); err != nil {
		return fmt.Errorf("letting the directory go: %w", err)
	}
	if err := errors.Join(syncDir(dir.root), dir.dropProposal(act)); err != nil {
		return err
	}
	fmt.Fprintf(cmdline.Progress(c), "approved by %s: the directory may be opened\n", strings.Join(by, ", "))
	return nil
}

// recordRestore takes a restore that was approved into the audit log, and forgets it once it is there.
func (in *instance) recordRestore(ctx context.Context) error {
	if in.audit == nil {
		return nil
	}
	data, err := readRecord(in.dir.path(approvedRestore))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var r restoreApproved
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("reading %s: %w", approvedRestore, err)
	}
	e := audit.Event{Actor: r.Actor, Action: "backup.restore", Object: r.Act, Outcome: audit.Success, Detail: map[string]string{"by": strings.Join(r.By, " "), "time": r.Time.Format(time.RFC3339)}}
	if err := in.put(ctx, e); err != nil {
		return err
	}
	return os.Remove(in.dir.path(approvedRestore))
}
