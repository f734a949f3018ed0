package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
	"redoubt.internal/installer/backup"
	"redoubt.internal/log"
)

// A promotion makes the state directory of the primary out of what was followed, in this order; each step may be cut off, and the same
// command goes on:
//
//	1 the primary's marks are taken hold of: while it runs, it has them
//	2 the state directory is made in DIR/ready, everything computed anew, and compared with the marks and with what the primary showed
//	3 two people approve exactly that
//	4 the new marks are made, on another file beside the fence
//	5 the primary's marks are fenced: from here on it signs nothing, whenever it comes back
//	6 DIR/ready becomes the state directory
//	7 the act is recorded in it and spent; logs that are behind are retired

var (
	errPrimaryRuns = errors.New("the primary holds its high-water marks: it runs")
	errNotFenced   = errors.New("nothing shows that the primary would stop")
	errBehind      = errors.New("the primary signed more than is here")
	errPromoted    = errors.New("this standby was promoted")
)

// promotion is DIR/promotion.json: what was begun.
type promotion struct {
	Act   string    `json:"act"`   // digest
	Marks string    `json:"marks"` // the new file of marks
	Time  time.Time `json:"time"`
}

func (s *Standby) promotionFile() string { return s.dir.path("promotion.json") }
func (s *Standby) promotedFile() string  { return s.dir.path("promoted.json") }

// promoteArgs are those of `redoubt standby promote`.
type promoteArgs struct {
	approvalArgs
	Second bool // take the primary's second disk instead of the newest run
	Retire bool // end the logs that are behind, and open the next ones
}

// promoteResult is the JSON of `redoubt standby promote -o json`.
type promoteResult struct {
	Dir     string       `json:"dir"` // the state directory
	Act     string       `json:"act"` // digest of what was approved
	By      []string     `json:"approved_by"`
	Logs    []promoted   `json:"logs"`
	Retired []retiredLog `json:"retired"`
	Marks   string       `json:"marks"`   // where the new marks are
	Missing []string     `json:"missing"` // files that unlock keys and lie in no secrets folder
	Seconds float64      `json:"seconds"`
	Next    []string     `json:"next"`
}

type promoted struct {
	Log    string `json:"log"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"`
	Mark   uint64 `json:"mark"`   // what the primary may have signed
	Behind uint64 `json:"behind"` // of it, what is not here
}

// promote does all of it.
func (s *Standby) promote(ctx context.Context, a promoteArgs, said io.Writer, logger *slog.Logger) (r promoteResult, err error) {
	started := time.Now()
	r = promoteResult{Dir: s.target(), Logs: []promoted{}, Retired: []retiredLog{}, Missing: []string{}, By: []string{}}
	if _, err := os.Stat(s.promotedFile()); err == nil {
		return r, cmdline.Hinted(errPromoted, "its state directory is %s; begin a new folder for the next standby", s.target())
	}
	fence, err := s.takeFence()
	if err != nil {
		return r, err
	}
	defer fence.Close()
	if act, by, err := s.settled(); err != nil || by != nil {
		if err == nil {
			err = s.end(ctx, act, by, &r, started, logger)
		}
		return r, err
	}
	cfg, err := s.stage(ctx, a.Second, said)
	if err != nil {
		return r, err
	}
	if r.Logs, err = s.weigh(ctx, cfg, fence, said); err != nil {
		return r, err
	}
	for _, l := range r.Logs {
		if l.Behind > 0 && !a.Retire {
			return r, cmdline.Hinted(fmt.Errorf("%w: the %s log lacks %d entries", errBehind, l.Log, l.Behind),
				"`redoubt standby follow --once` looks for a newer run; --second takes the primary's second disk; where neither has more, --retire ends such logs where they stand and opens the next ones")
		}
	}
	act, by, err := s.agreed(ctx, a, r.Logs)
	if err != nil {
		return r, err
	}
	if r.Marks, err = s.takeOver(ctx, act, cfg, fence, r.Logs); err != nil {
		return r, err
	}
	if err := s.settle(cfg, r.Marks); err != nil {
		return r, err
	}
	return r, s.end(ctx, act, by, &r, started, logger)
}

// end does the last step and says what comes next.
func (s *Standby) end(ctx context.Context, act approval.Act, by []string, r *promoteResult, started time.Time, logger *slog.Logger) (err error) {
	r.Act, r.By = act.Digest(), by
	cfg, err := loadConfig(layout{r.Dir}.config())
	if err != nil {
		return err
	}
	r.Marks, r.Missing = cfg.Log.HighWater[0], missingSecrets(cfg, layout{r.Dir})
	if len(r.Missing) > 0 {
		return cmdline.Hinted(fmt.Errorf("%s is made and the primary is fenced; what unlocks the keys is not here: %s", r.Dir, strings.Join(r.Missing, ", ")), "put it there, then run this command again")
	}
	if r.Retired, err = s.begin(ctx, cfg, act, by, logger); err != nil {
		return err
	}
	r.Seconds = time.Since(started).Seconds()
	r.Next = append([]string{}, fmt.Sprintf("move the service addresses to this machine, then `redoubt serve --dir %s`", r.Dir))
	if len(r.Retired) > 0 {
		r.Next = append(r.Next, "clients of the trust repository fetch the new trusted root, others need `redoubt client setup`", "`redoubt log resubmit BUNDLE...` for signatures the logs lost")
	}
	r.Next = append(r.Next, "wipe the old primary's disks before that machine is used again; it signs nothing as it is", "set up the next standby, with "+r.Marks+" as its fence")
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return replaceFile(s.promotedFile(), append(data, '\n'), 0o640)
}

// settled is the act of a promotion whose state directory is in its place, and who approved it; nobody when there is none.
func (s *Standby) settled() (act approval.Act, by []string, err error) {
	begun, err := s.begun()
	if _, serr := os.Stat(layout{s.target()}.config()); err != nil || serr != nil {
		return act, nil, err
	}
	waiting, err := s.dir.proposals()
	if err != nil {
		return act, nil, err
	}
	for _, w := range waiting {
		if w.SHA256 != begun.Act {
			continue
		}
		if act, err = approval.ParseAct([]byte(w.Text)); err != nil {
			return act, nil, err
		}
		by, err = s.dir.agreed(s.Approvers, act, nil)
		return act, by, err
	}
	return act, nil, cmdline.Hinted(fmt.Errorf("%s: %w", s.target(), backup.ErrNotEmpty), "name another target in %s", standbyFile)
}

// begun is what was begun, empty when nothing was.
func (s *Standby) begun() (p promotion, err error) {
	data, err := os.ReadFile(s.promotionFile())
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return p, fmt.Errorf("reading what was begun: %w", err)
	}
	return p, nil
}

// takeFence opens the primary's marks, which a primary that runs has for itself.
func (s *Standby) takeFence() (*log.File, error) {
	path := s.dir.resolve(s.Fence)
	if _, err := os.Stat(path); err != nil { // opening it would make an empty one
		return nil, cmdline.Hinted(fmt.Errorf("%w: its high-water file: %w", errNotFenced, err), "mount the place of the fence; a promotion without it would fork every log")
	}
	if held(path) {
		return nil, cmdline.Hinted(errPrimaryRuns, "stop the primary, or cut it off from power and from %s", path)
	}
	f, err := log.OpenHighWaterFile(path)
	if err != nil {
		return nil, fmt.Errorf("taking hold of the primary's marks: %w", err)
	}
	return f, nil
}

// stage makes the state directory in DIR/ready, unless it is there from the same run.
func (s *Standby) stage(ctx context.Context, second bool, said io.Writer) (*Config, error) {
	want := "second"
	if !second {
		m, err := backup.Newest(s.reading())
		if err != nil {
			return nil, backupHint(err, s.copies())
		}
		want = fmt.Sprintf("run %d", m.Run)
	}
	marker := s.dir.path("ready.of")
	if have, err := os.ReadFile(marker); err != nil || string(have) != want {
		if err := errors.Join(os.RemoveAll(marker), os.RemoveAll(s.ready())); err != nil {
			return nil, err
		}
		fmt.Fprintf(said, "making %s of %s\n", s.ready(), want)
		var err error
		if second {
			_, err = backup.RestoreSecond(ctx, s.dir.resolve(s.Second), s.ready(), secondSections())
			err = secondHint(err, s.Second)
		} else {
			_, err = backup.Restore(ctx, s.reading(), s.ready())
			err = backupHint(err, s.copies())
		}
		if err != nil {
			return nil, err
		}
		if err := replaceFile(marker, []byte(want), 0o640); err != nil {
			return nil, err
		}
	}
	return loadConfig(layout{s.ready()}.config())
}

// weigh compares what is here with the primary's marks, and with what it showed. Every log is computed anew.
func (s *Standby) weigh(ctx context.Context, cfg *Config, fence *log.File, said io.Writer) (all []promoted, err error) {
	st, err := s.state()
	if err != nil {
		return nil, err
	}
	cfg.Dir = s.ready()
	known, _, err := cfg.inForce()
	if err != nil {
		return nil, err
	}
	if known.Domain != s.Domain {
		return nil, fmt.Errorf("%w: the state is of %s, and %s is followed", backup.ErrForeign, known.Domain, s.Domain)
	}
	if err := s.raised(known); err != nil {
		return nil, err
	}
	opened, err := openStoppedAt(ctx, known, layout{s.ready()}, said)
	if err != nil {
		return nil, err
	}
	defer opened.in.close()
	for _, role := range known.logRoles() {
		l := opened.config(role)
		l.HighWater = nil
		checked, err := opened.check(ctx, role, l)
		if err == nil && len(checked.Problems) > 0 {
			err = fmt.Errorf("%w: the %s log: %s", backup.ErrDamaged, role, checked.Problems[0])
		}
		if err != nil {
			return nil, err
		}
		origin := known.origin(role)
		mark, err := fence.For(origin).Read(ctx)
		if err != nil {
			return nil, cmdline.Hinted(fmt.Errorf("%w: the %s log: %w", errNotFenced, role, err), "is %s the file of the primary's log.highwater?", s.Fence)
		}
		if shown := shownOf(st.Shown, origin); shown.Size > mark.Size {
			return nil, fmt.Errorf("%w: %s showed size %d and its mark stands at %d: that is not the file it raises", errNotFenced, origin, shown.Size, mark.Size)
		}
		if err := compareShown(ctx, opened, st.Shown, origin, role, checked.Size); err != nil {
			return nil, err
		}
		if err := compareMark(ctx, opened, mark, role, checked.Size); err != nil {
			return nil, err
		}
		all = append(all, promoted{Log: role, Size: checked.Size, Root: checked.RootHash, Mark: mark.Size, Behind: max(mark.Size, checked.Size) - checked.Size})
	}
	return all, nil
}

// raised demands that the primary's configuration names the file of marks that is taken away from it.
func (s *Standby) raised(primary *Config) error {
	for _, place := range primary.Log.HighWater {
		if !isTPM(place) && (filepath.Base(place) == filepath.Base(s.Fence) || strings.HasPrefix(filepath.Base(place), filepath.Base(s.Fence)+".")) {
			return nil
		}
	}
	return cmdline.Hinted(fmt.Errorf("%w: its log.highwater names no %s", errNotFenced, filepath.Base(s.Fence)), "list the file of the fence under log.highwater of the primary")
}

// compareMark demands that what was signed at the mark is what is here.
func compareMark(ctx context.Context, in *stopped, mark log.Mark, role string, size uint64) error {
	return compareShown(ctx, in, []shownHead{{mark.Origin, mark.Size, hex.EncodeToString(mark.Root[:])}}, mark.Origin, role, size)
}

// agreed asks whether enough people approve exactly this.
func (s *Standby) agreed(ctx context.Context, a promoteArgs, logs []promoted) (act approval.Act, by []string, err error) {
	proposer, err := s.Approvers.proposer(localActor(), a.As)
	if err != nil {
		return act, nil, err
	}
	lines := []string{"appliance " + s.Appliance, "fence " + approval.Value(s.Fence)}
	for _, l := range logs {
		line := fmt.Sprintf("log %s size %d root %s mark %d", l.Log, l.Size, l.Root, l.Mark)
		if l.Behind > 0 {
			line += fmt.Sprintf(" retired, %d entries are lost", l.Behind)
		}
		lines = append(lines, line)
	}
	act = approval.Act{Kind: "standby.promote", Domain: s.Domain, Proposer: proposer, Lines: lines}
	if act, err = approval.ParseAct([]byte(act.Text())); err != nil {
		return act, nil, err
	}
	by, err = s.dir.agreed(s.Approvers, act, a.Given)
	return act, by, err
}
