package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// Report says what an import did. Its JSON form is stable.
type Report struct {
	Stream    string     `json:"stream"`
	Transfers []Transfer `json:"transfers"`
}

// Import imports the parcels whose volumes, or folders of volumes, are named. Several parcels are taken in the order of their
// numbers; those imported before are passed over if a newer one is among them. The report holds what was committed, also
// beside an error. ExitCode tells errors apart.
//
// The steps are those of docs/cycle.md, "One parcel". A crash between any two of them, and a second run, end in the same
// state: until step 8 everything new lies in a staging folder nobody reads; step 8 only renames and is repeated at the next
// start; step 9 is one transaction.
func (m *Mirror) Import(ctx context.Context, paths []string) (Report, error) {
	report := Report{Stream: m.c.Stream, Transfers: []Transfer{}}
	// 1. One import at a time, and what the last one had proven is finished first.
	unlock, err := lockDir(m.root)
	if err != nil {
		return report, err
	}
	defer unlock()
	if err := m.finishPublish(ctx); err != nil {
		return report, full(err)
	}
	waited := m.releaseKnown(ctx)
	// 2. RECEIVED: every manifest is signed by a known exporter. Nothing else of a volume was read.
	parcels, err := m.scan(paths)
	if err != nil {
		return report, m.refuse(ctx, nil, err)
	}
	defer func() {
		for _, p := range parcels {
			p.Close()
		}
	}()
	if len(parcels) == 0 {
		return report, errors.Join(waited, fmt.Errorf("%w: no volumes (*.rdp) there", ErrNothing))
	}
	m.progress(Progress{Stage: "received"})
	blocked := []error{waited}
	for i, p := range parcels {
		t, err := m.importParcel(ctx, p, paths, i < len(parcels)-1)
		if t != nil {
			report.Transfers = append(report.Transfers, *t)
		}
		if t != nil && err != nil { // committed for the other logs
			blocked = append(blocked, err)
			continue
		}
		if err != nil {
			return report, m.refuse(ctx, p, full(err))
		}
	}
	blocked = append(blocked, m.releaseKnown(ctx))
	// What was seen beside the parcels may be proven by them now, or prove a fork.
	return report, errors.Join(append(blocked, m.settle(ctx))...)
}

// admit judges a parcel by its manifest and its volumes' digests (steps 3 and 4) and opens it. It returns a Transfer instead when the
// parcel was imported before.
func (m *Mirror) admit(ctx context.Context, p *parcel.Parcel, s *snapshot, newerFollows bool) (*importing, *Transfer, error) {
	// 3. The manifest continues the stream and names known logs at our own heads.
	done, err := m.judge(p, s, newerFollows)
	if done != nil || err != nil {
		return nil, done, err
	}
	if err := m.room(p, s.pending); err != nil {
		return nil, nil, err
	}
	// 4. QUARANTINED: every volume is there and has the digest that was signed.
	if err := p.Check(ctx); err != nil {
		return nil, nil, err
	}
	m.progress(Progress{Stage: "quarantined"})
	r, err := p.Files(ctx)
	if err != nil {
		return nil, nil, err
	}
	return &importing{
		m: m, s: s, digest: p.Digest, sequence: p.Manifest.Sequence, exporter: p.By.ID(), created: p.Manifest.Created.Time, files: r.Next, close: r.Close,
		announced: p.Manifest.Announce, retired: p.Manifest.Retire,
	}, nil, nil
}

func (m *Mirror) importParcel(ctx context.Context, p *parcel.Parcel, paths []string, newerFollows bool) (*Transfer, error) {
	s, err := m.snapshot()
	if err != nil {
		return nil, err
	}
	in, done, err := m.admit(ctx, p, s, newerFollows)
	if done != nil || err != nil {
		return done, err
	}
	defer in.close()
	if err := in.resume(ctx, len(p.Manifest.Logs)); err != nil {
		return nil, err
	}
	in.pending.Paths = paths
	// 5 to 7: TUF repositories; per log checkpoint and consistency; PENDING; packages.
	if err := in.readAll(ctx, p.Manifest); err != nil {
		return nil, in.unlearn(in.abandon(err))
	}
	// 8 and 9: publish and COMMIT. Where every log is frozen no head moves, but the parcel is one the stream has seen: the next
	// must not look like a gap.
	if err := in.publish(ctx); err != nil {
		return nil, err
	}
	return in.pending.Transfer, errors.Join(in.blocked...)
}

// full marks errors of a full disk.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, store.ErrFull) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// transfer is the record of the parcel once it is committed.
func (in *importing) transfer() *Transfer {
	return &Transfer{
		Sequence: in.sequence, Digest: in.digest, Exporter: in.exporter, Created: in.created,
		Imported: in.m.c.Now().UTC(), Outcome: "committed", Logs: in.steps, TUF: in.tufSteps, Images: in.vouched, Blobs: len(in.blobs),
		Announced: in.announced, Retired: in.retired,
	}
}

// publish moves what is staged and proven onto the shelves and commits it.
func (in *importing) publish(ctx context.Context) error {
	m, p := in.m, in.pending
	p.Publish, p.Heads, p.TUF, p.Trust, p.Transfer = true, in.heads, in.tuf, in.trust, in.transfer()
	p.Blobs, p.Images = in.blobs, in.images
	if err := in.savePending(); err != nil {
		return err
	}
	m.progress(Progress{Stage: "publish"})
	return m.commit(ctx, p)
}

// finishPublish repeats steps 8 and 9 of an import that had proven everything when it was cut short.
func (m *Mirror) finishPublish(ctx context.Context) error {
	s, err := m.snapshot()
	if err != nil || s.pending == nil || !s.pending.Publish {
		return err
	}
	m.c.Logger.InfoContext(ctx, "finishing an import that was cut short", "sequence", s.pending.Sequence)
	return m.commit(ctx, s.pending)
}

// refuse remembers why a parcel was refused, for status and reconcile, and returns err. The mirrored state does not move.
func (m *Mirror) refuse(ctx context.Context, p *parcel.Parcel, err error) error {
	kind := kindOf(err)
	if kind == "" {
		return err
	}
	i := Incident{Kind: kind, Detail: oneLine(err), Seen: m.c.Now().UTC()}
	name := parcel.Sum([]byte(i.Detail)).String()[:16]
	if p != nil {
		i.Digest, i.Sequence = p.Digest, p.Manifest.Sequence
		name = p.Digest.String()[:16]
	}
	var gap *GapError
	if errors.As(err, &gap) {
		i.First, i.Last = gap.First, gap.Last
		if p != nil {
			i.Heads = claimedBy(p)
		}
	}
	key := keyIncident + kind + "/" + name
	e := Event{Action: "mirror.refuse", Object: i.Digest.String(), Outcome: "refused", Detail: map[string]string{"reason": kind, "error": i.Detail}}
	rerr := m.record(ctx, e, func(tx store.Tx) error {
		var old Incident
		if _, err := get(tx, key, &old); err != nil {
			return err
		}
		now := i
		now.Times = old.Times + 1
		if old.Times == 0 {
			if err := dropOldest(tx); err != nil {
				return err
			}
		}
		return put(tx, key, now)
	})
	if rerr != nil {
		return errors.Join(err, fmt.Errorf("recording the refusal: %w", rerr))
	}
	return err
}

// dropOldest makes room for one more incident.
func dropOldest(tx store.Tx) error {
	var oldest string
	var when time.Time
	n := 0
	err := scan(tx, keyIncident, func(key string, i Incident) error {
		if n++; oldest == "" || i.Seen.Before(when) {
			oldest, when = key, i.Seen
		}
		return nil
	})
	if err != nil || n < maxIncidents {
		return err
	}
	return tx.Delete([]byte(oldest))
}

// savePending writes the pending record.
func (in *importing) savePending() error {
	if in.rehearsal {
		return nil
	}
	b, err := json.Marshal(in.pending)
	if err != nil {
		return err
	}
	return in.m.c.DB.Update(func(tx store.Tx) error { return tx.Put([]byte(keyPending), b) })
}

// abandon clears what was staged of a parcel that can never be imported, and returns why it cannot. After any other failure
// the staged files stay, and the next run goes on from them.
func (in *importing) abandon(err error) error {
	switch ExitCode(err) {
	case 30, 31, 40, 60:
	default:
		return err
	}
	derr := in.m.c.DB.Update(func(tx store.Tx) error { return tx.Delete([]byte(keyPending)) })
	return errors.Join(err, derr, in.m.root.RemoveAll("staging"))
}

// resume finds out how far an earlier run came with this very parcel, or starts anew.
func (in *importing) resume(ctx context.Context, logs int) error {
	m, dir := in.m, stagingDir(in.digest)
	_, err := m.root.Stat(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if p := in.s.pending; p != nil && p.Release == "" && p.Digest.Equal(in.digest) && err == nil && len(p.Done) == logs {
		in.pending = p
		in.pending.Quarantined = nil // what goes there is staged anew
		m.c.Logger.InfoContext(ctx, "resuming an import", "sequence", in.pending.Sequence, "packages", in.pending.Done)
		return nil
	}
	return in.begin(&pendingState{Digest: in.digest, Sequence: in.sequence, Done: make([]uint64, logs)})
}

// begin clears the staging folder: whatever lies there belongs to something that was never committed.
func (in *importing) begin(p *pendingState) error {
	if err := in.m.root.RemoveAll("staging"); err != nil {
		return fmt.Errorf("clearing staging: %w", err)
	}
	in.pending = p
	return in.m.root.MkdirAll(stagingDir(in.digest), 0o755)
}
