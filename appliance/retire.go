package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
	"redoubt.internal/hsm"
	"redoubt.internal/log"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
)

// A state directory that was restored from before its last head must not sign on: sizes would get second roots. What it has stays true
// and is read for good. Each log that may have signed more than it has is ended where it stands, and the next one, with a name, a key
// and a mark of its own, takes its place. Marks are never lowered, and those of the ended log stay ahead of it.

// lostGap is how many v1 log indexes are jumped over where nobody knows how many entries were signed.
const lostGap = 1 << 20

// trustGap is how many versions of trust metadata are jumped over: more than a directory can have signed since its last backup.
const trustGap = 1000

// lost says what is known of the log called name, if it was retired after a restore.
func (in *instance) lost(name string) *lostEntries {
	if k := in.history.find(name); k != nil {
		return k.Lost
	}
	return nil
}

// taken is how many entries may have been numbered.
func (l *lostEntries) taken() uint64 {
	if l.Sure {
		return max(l.Size, l.Mark)
	}
	return max(l.Size, l.Mark) + lostGap
}

func (l *lostEntries) says() string {
	if l.Sure {
		return fmt.Sprintf("%d of the %d entries that were signed are here; the others were lost with a disk", l.Size, l.Mark)
	}
	return fmt.Sprintf("%d entries are here; how many were signed is not known, for no high-water mark survived", l.Size)
}

// retiredLog is one log of `redoubt log retire`.
type retiredLog struct {
	Log       string `json:"log"`
	Size      uint64 `json:"size"`                // of the head it ends at
	Missing   uint64 `json:"missing"`             // entries that were signed and are not here
	Sure      bool   `json:"sure"`                // a mark says how many; else there may be more
	Successor string `json:"successor,omitempty"` // the log that takes its place; none for one that was frozen before
}

// retireResult is the JSON of `redoubt log retire -o json`.
type retireResult struct {
	Done bool         `json:"done"` // false: this is what would be done
	Logs []retiredLog `json:"logs"`
	Next []string     `json:"next"`
}

// behind lists the logs that are behind a mark, or have none.
func (in *instance) behind(ctx context.Context) (all []retiredLog, err error) {
	if len(in.noMarks) > 0 {
		return nil, cmdline.Hinted(fmt.Errorf("a high-water file is damaged: %w", in.noMarks[0].err), "a damaged mark may be ahead: put the file back from the machine it is of, or move it away, which says that nothing is known")
	}
	for _, l := range in.logs() {
		why := l.log.Err()
		if in.lost(l.role) != nil || !errors.Is(why, log.ErrRolledBack) && !errors.Is(why, log.ErrNoMark) {
			if errors.Is(why, log.ErrHighWater) {
				return nil, cmdline.Hinted(fmt.Errorf("the %s log: %w", l.role, why), "a counter of the machine that is gone is no mark of this one: take it out of log.highwater")
			}
			continue
		}
		r := retiredLog{Log: l.role, Size: l.log.Head().Size, Sure: true}
		for _, m := range in.marks(in.cfg.origin(l.role)) {
			mark, err := m.Read(ctx)
			if errors.Is(err, log.ErrNoMark) {
				r.Sure = false
				continue
			}
			if err != nil {
				return nil, err
			}
			if mark.Size > r.Size {
				r.Missing = max(r.Missing, mark.Size-r.Size)
			}
			if mark.Size > r.Size {
				continue
			}
			root, err := l.log.Root(ctx, mark.Size)
			if err != nil {
				return nil, fmt.Errorf("the %s log: its root at the high-water mark of size %d: %w", l.role, mark.Size, err)
			}
			if mark.Root != root {
				return nil, fmt.Errorf("the %s log: a high-water mark of size %d has another root: this directory is not a copy of the one that was lost", l.role, mark.Size)
			}
		}
		if role := in.roleOf(l.role); in.history.active(role) == l.role && !in.frozen(l.role) {
			r.Successor = "next"
		}
		all = append(all, r)
	}
	return all, nil
}

// roleOf is the role of the key of the log called name.
func (in *instance) roleOf(name string) string {
	if k := in.history.find(name); k != nil {
		return k.Role
	}
	return name
}

// retire ends every log in lost and makes its successor. The audit log comes first: the others are retired by a record in the next one.
// What an interrupted run left is taken up by the next.
func retire(ctx context.Context, in *instance, lost []retiredLog, actor string, reopen func() (*instance, error)) (*instance, []retiredLog, error) {
	first := func(r retiredLog) bool { return in.roleOf(r.Log) == roleAudit }
	for _, turn := range []func(retiredLog) bool{first, func(r retiredLog) bool { return !first(r) }} {
		var now []*retiredLog
		for i := range lost {
			if turn(lost[i]) {
				now = append(now, &lost[i])
			}
		}
		if len(now) == 0 {
			continue
		}
		if err := in.retireThese(ctx, actor, now); err != nil {
			return in, lost, err
		}
		in.close()
		next, err := reopen()
		if err != nil {
			return in, lost, err
		}
		in = next
		atPoint("reopened")
		if first(*now[0]) {
			if err := in.recordRetired(ctx, actor); err != nil {
				return in, lost, err
			}
		}
	}
	if err := in.finish(ctx); err != nil {
		return in, lost, cmdline.Hinted(fmt.Errorf("publishing the trusted root: %w", err), "the logs are retired; the same verb again, or the next start of the server, goes on from here")
	}
	return in, lost, nil
}

// retired records that it is done, and spends what was approved.
func (in *instance) retired(ctx context.Context, actor string, lost []retiredLog, agreed retirement) error {
	detail := map[string]string{"logs": strconv.Itoa(len(lost))}
	if agreed.by != nil {
		detail["by"], detail["act"] = strings.Join(agreed.by, " "), agreed.act.Digest()
	}
	_, err := in.audit.Add(ctx, audit.Event{Actor: actor, Action: "log.retire", Object: in.cfg.Domain, Outcome: audit.Success, Detail: detail}, func(tx store.Tx) error {
		if agreed.by == nil {
			return nil
		}
		return approval.Spend(tx, agreed.act, agreed.by, in.now())
	})
	return err
}

// recordRetired records the retirement of audit logs in the one after them, as the first thing, unless an interrupted run did.
func (in *instance) recordRetired(ctx context.Context, actor string) error {
	const near = 64 // what else is recorded before a server starts is less
	recorded := map[string]bool{}
	err := in.audit.Scan(ctx, 0, min(in.auditLog.Head().Size, near), func(r audit.Record) bool {
		if r.Action == "log.retire" {
			recorded[r.Object] = true
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("reading the audit log: %w", err)
	}
	all := in.onRecord().of(roleAudit)
	for i, k := range all {
		if k.Lost == nil || recorded[k.Name] || i+1 >= len(all) || all[i+1].Name != in.onRecord().active(roleAudit) {
			continue
		}
		r := retiredLog{Log: k.Name, Size: k.Lost.Size, Missing: k.Lost.Mark - k.Lost.Size, Sure: k.Lost.Sure, Successor: all[i+1].Name}
		if err := in.record(ctx, actor, "log.retire", r.Log, r.detail()); err != nil {
			return err
		}
	}
	return nil
}

func (r retiredLog) detail() map[string]string {
	return map[string]string{"size": strconv.FormatUint(r.Size, 10), "missing": strconv.FormatUint(r.Missing, 10), "sure": strconv.FormatBool(r.Sure), "successor": r.Successor}
}

// retireThese makes the successors, records what is done where there is a log to record it in, and replaces the record of keys: one rename
// ends the logs and begins the next ones.
func (in *instance) retireThese(ctx context.Context, actor string, now []*retiredLog) error {
	for _, r := range now {
		if r.Successor == "" {
			continue
		}
		made, err := in.succeed(ctx, in.roleOf(r.Log))
		if err != nil {
			return fmt.Errorf("making the log after %s: %w", r.Log, err)
		}
		r.Successor = made.Name
	}
	end := in.now().Add(defaultOverlap).UTC().Truncate(time.Second)
	h := in.onRecord().clone()
	for _, r := range now {
		role := in.roleOf(r.Log)
		if h.find(r.Log) == nil && in.roleKeys[r.Log] == nil {
			return fmt.Errorf("the key of %s does not open", r.Log)
		}
		if h.find(r.Log) == nil { // frozen by the configuration
			k, err := in.firstKey(role)
			if err != nil {
				return err
			}
			k.State, k.End = stateRetired, end
			h.Instances = append(h.Instances, k)
		}
		old := h.find(r.Log)
		old.Lost = &lostEntries{Size: r.Size, Mark: r.Size + r.Missing, Sure: r.Sure}
		if r.Successor != "" {
			old.State, old.End = stateRetired, end
			next := h.find(r.Successor)
			next.State, h.Unpublished = stateActive, next.Name
		}
		if role != roleAudit {
			if err := in.record(ctx, actor, "log.retire", r.Log, r.detail()); err != nil {
				return err
			}
		}
	}
	// Roots follow each other by one, so that clients walk through them: theirs cannot be jumped.
	for _, s := range in.tuf.Status() {
		h.TrustFloor = max(h.TrustFloor, s.Version+trustGap)
	}
	if _, err := in.cfg.with(h); err != nil {
		return err
	}
	atPoint("recorded")
	if err := in.keep(h); err != nil {
		return err
	}
	atPoint("ended")
	return nil
}

// succeed plans and makes the key and the empty log after that of role. Names whose keys or marks are there are passed over: the
// directory that was lost may have made them since the backup.
func (in *instance) succeed(ctx context.Context, role string) (keyInstance, error) {
	h := in.onRecord().clone()
	next := h.pending(role)
	if next == nil {
		if len(h.of(role)) == 0 {
			k, err := in.firstKey(role)
			if err != nil {
				return k, err
			}
			h.Instances = append(h.Instances, k)
		}
		k, err := in.successor(ctx, role)
		if err != nil {
			return k, err
		}
		h.Instances = append(h.Instances, k)
		if err := in.keep(h); err != nil {
			return k, err
		}
		atPoint("planned")
		next = h.pending(role)
	}
	made := *next
	if made.State == statePlanned {
		var err error
		if made, err = in.make(ctx, made, ""); err != nil {
			return made, err
		}
		atPoint("made")
		made.State, made.Start = stateAnnounced, in.now().Add(-backdate).UTC().Truncate(time.Second)
	}
	h = in.onRecord().clone()
	*h.find(made.Name) = made
	return made, in.keep(h)
}

// successor lays out the key after that of role.
func (in *instance) successor(ctx context.Context, role string) (keyInstance, error) {
	before := in.roleKeys[in.history.active(role)]
	if before == nil {
		return keyInstance{}, fmt.Errorf("the key of %s is not here", in.history.active(role))
	}
	k := keyInstance{Role: role, State: statePlanned, Algorithm: before.Info().Algorithm, Made: in.now().UTC().Truncate(time.Second)}
	number := instanceNumber(in.nextName(role))
	row := role
	if shardNumber(role) > 0 {
		row = roleRekor
	}
	for ; ; number++ {
		if number > maxShard {
			return k, errors.New("no number is free")
		}
		k.Name = fmt.Sprintf("%s-%d", row, number)
		k.URI = keyURI(in.cfg.Keys.Token, k.Name)
		marked, err := in.marked(ctx, in.cfg.origin(k.Name))
		if err != nil {
			return k, err
		}
		_, err = in.keys.signer(ctx, k.URI)
		if !marked && errors.Is(err, hsm.ErrNotFound) {
			break
		}
		if err != nil && !errors.Is(err, hsm.ErrNotFound) {
			return k, fmt.Errorf("looking for a key at %s: %w", redactURI(k.URI), err)
		}
	}
	if shardNumber(role) == 0 {
		return k, nil
	}
	i := slices.IndexFunc(in.cfg.Log.Artifact, func(a ArtifactLog) bool { return a.Name == in.history.active(role) })
	if i < 0 {
		return k, fmt.Errorf("log.artifact lists no %s", in.history.active(role))
	}
	k.Serves = in.cfg.Log.Artifact[i].Serves
	var err error
	k.TreeID, err = newTreeID()
	return k, err
}

// marked says whether any mark is kept for origin.
func (in *instance) marked(ctx context.Context, origin string) (bool, error) {
	for _, m := range in.marks(origin) {
		if _, err := m.Read(ctx); err == nil {
			return true, nil
		} else if !errors.Is(err, log.ErrNoMark) {
			return false, err
		}
	}
	return false, nil
}
