package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
)

func logRetireCommand() *cli.Command {
	return &cli.Command{
		Name: "retire", Usage: "after a restore: end every log that may have signed more than it has and open the next one; without --confirm only say which; where approvers are configured they approve it; the server is stopped",
		Flags: append(append(cmdline.StateFlags(), approvalFlags()...), cmdline.OutputFlag(),
			&cli.BoolFlag{Name: "confirm", Usage: "no newer copy of this directory exists anywhere: do it", EnvVars: []string{"REDOUBT_CONFIRM"}}),
		Action: logRetireAction,
	}
}

func logRetireAction(c *cli.Context) error {
	cfg, dir, err := configured(c)
	if err != nil {
		return err
	}
	if dir.answers(c.Context, nil) {
		return cmdline.Hinted(errors.New("a server holds this directory; logs are retired while none does"), "stop the server, run this again, start it")
	}
	logger := slog.New(slog.DiscardHandler) // that logs are behind is what this verb is about
	if c.IsSet("log-level") {
		if logger, err = cmdline.NewLogger(c); err != nil {
			return err
		}
	}
	open := func() (*instance, error) { return openInstance(c.Context, cfg.patiently(), logger) }
	in, err := open()
	if err != nil {
		return err
	}
	defer func() { in.close() }()
	who, err := in.permitHere(c.Context, "log retire")
	if err != nil {
		return err
	}
	r := retireResult{Logs: []retiredLog{}, Next: []string{}}
	lost, err := in.behind(c.Context)
	if err != nil {
		return err
	}
	r.Logs = append(r.Logs, lost...)
	switch {
	case len(lost) == 0:
		if err := in.finish(c.Context); err != nil { // of a run that was interrupted
			return err
		}
		r.Next = append(r.Next, "nothing is to be retired: no log is behind its high-water mark")
	case !c.Bool("confirm"):
		r.Next = append(r.Next, "a newer copy of the directory, if there is one, is better: look for it first",
			"the same command with --confirm ends these logs where they stand; entries that are not here stay provable by the bundles that were handed out")
	default:
		agreed, err := in.mayRetire(c, who, lost)
		if err != nil {
			return err
		}
		if in, r.Logs, err = retire(c.Context, in, lost, who.actor(), open); err != nil {
			return err
		}
		if err := in.retired(c.Context, who.actor(), r.Logs, agreed); err != nil {
			return err
		}
		if agreed.by != nil {
			if err := in.dir.dropProposal(agreed.act); err != nil {
				return err
			}
		}
		r.Done = true
		r.Next = append(r.Next, "`redoubt serve`", "give clients the new trusted root: those of the trust repository fetch it, others need `redoubt client setup`",
			"`redoubt log resubmit BUNDLE...` for signatures made after the backup: their bundles prove them, and they enter the new log", "`redoubt backup create`")
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) { r.print(w) })
}

func (r retireResult) print(w io.Writer) {
	for _, l := range r.Logs {
		missing := fmt.Sprintf("%d more were signed", l.Missing)
		if !l.Sure {
			missing = "how many more were signed is not known"
		}
		verb := "to be retired"
		if r.Done {
			verb = "retired"
		}
		fmt.Fprintf(w, "%-7s  %s at %d entries; %s", l.Log, verb, l.Size, missing)
		if r.Done && l.Successor != "" {
			fmt.Fprintf(w, "; %s takes its place", l.Successor)
		}
		fmt.Fprintln(w)
	}
	for i, step := range r.Next {
		fmt.Fprintf(w, "%d. %s\n", i+1, step)
	}
}

// retirement is the act that people approved; nobody where no approvers are configured.
type retirement struct {
	act approval.Act
	by  []string
}

// mayRetire asks whether enough people agree that these logs end where they stand. The audit log takes no record then: the approvals wait
// as files, and are recorded and spent in the log after it. A run that was cut off goes on under what was approved for all of it.
func (in *instance) mayRetire(c *cli.Context, who person, lost []retiredLog) (retirement, error) {
	people := in.law().approvers
	switch {
	case people == nil && in.law().everything:
		return retirement{}, nil
	case people == nil:
		return retirement{}, cmdline.Hinted(errNoApprovers, "set approvers in the configuration; `redoubt docs config` explains them")
	}
	a, err := givenApprovals(c)
	if err != nil {
		return retirement{}, err
	}
	proposer, err := people.proposer(who.actor(), a.As)
	if err != nil {
		return retirement{}, err
	}
	act := approval.Act{Kind: "log.retire", Domain: in.cfg.Domain, Proposer: proposer}
	for _, l := range lost {
		act.Lines = append(act.Lines, fmt.Sprintf("log %s ends at size %d missing %d sure %t", l.Log, l.Size, l.Missing, l.Sure))
	}
	waiting, err := in.dir.proposals()
	if err != nil {
		return retirement{}, err
	}
	for _, w := range waiting {
		begun, err := approval.ParseAct([]byte(w.Text))
		if err != nil || begun.Kind != act.Kind || begun.Domain != act.Domain || !contains(begun.Lines, act.Lines) {
			continue
		}
		if by, err := in.dir.agreed(people, begun, nil); err == nil && approval.Spent(in.authorityDB, begun) == nil {
			return retirement{begun, by}, nil
		}
	}
	if act, err = approval.ParseAct([]byte(act.Text())); err != nil {
		return retirement{}, err
	}
	by, err := in.dir.agreed(people, act, a.Given)
	return retirement{act, by}, err
}

// contains says whether all of the lines are among those.
func contains(those, lines []string) bool {
	for _, l := range lines {
		if !slices.Contains(those, l) {
			return false
		}
	}
	return true
}
