package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"strings"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// A log that is not known here, or whose checkpoint is signed by a key that is not, moves nothing and is not lost either: its files
// are kept as they were carried, and the stream goes on. Once the log is known, Release takes them in through the very code that
// an import goes through, and proves every one of them then.

// Quarantined is a log's part of one parcel that waits for the log, or its key, to be known. Its JSON form is stable.
type Quarantined struct {
	Origin   string        `json:"origin"`
	Sequence uint64        `json:"sequence"`
	Parcel   parcel.Digest `json:"parcel"`
	Exporter string        `json:"exporter,omitempty"`
	Log      parcel.Log    `json:"log"` // the log as the manifest has it
	Reason   string        `json:"reason"`
	Since    time.Time     `json:"since"`
	Bytes    int64         `json:"bytes"`
	Failed   string        `json:"failed,omitempty"` // why it was not taken in when its log had become known; only people release it then
}

const keyQuarantine = "mirror/quarantine/"

func quarantineKey(origin string, sequence uint64) string {
	return fmt.Sprintf("%s%s\x00%020d", keyQuarantine, origin, sequence)
}

func quarantineDir(origin string, sequence uint64) string {
	return path.Join("quarantine", escape(origin), fmt.Sprintf("%020d", sequence))
}

// unexplained says why a log's files go to quarantine, nil when they do not: the log or the key of its checkpoint is not known, or
// earlier files of it wait there.
func (in *importing) unexplained(l parcel.Log, note []byte) error {
	log := in.m.log(l.Origin)
	switch {
	case log == nil:
		return fmt.Errorf("%w: %q", ErrUnknownOrigin, l.Origin)
	case in.s.quarantined[l.Origin] && in.pending.Release == "":
		return fmt.Errorf("%w: %q has earlier files in quarantine; redoubt mirror quarantine list", ErrUnknownOrigin, l.Origin)
	}
	if own := in.s.head(l.Origin); in.pending.Release == "" && log.ended(own, l.To.Size) {
		return fmt.Errorf("%w: %q ended at %s, stood at %d entries after that, and shows %d", ErrUnknownOrigin, l.Origin, log.NotAfter.UTC().Format(time.RFC3339), own.Size, l.To.Size)
	}
	if _, err := log.open(note); errors.Is(err, ErrUnknownOrigin) && in.pending.Release == "" {
		return err
	}
	return nil
}

// quarantine stages the files of a log as they were carried.
func (in *importing) quarantine(i int, l parcel.Log, note []byte, why error) error {
	m, dir := in.m, stagedQuarantine(in.digest, l.Origin)
	if err := m.root.RemoveAll(dir); err != nil {
		return err
	}
	sh, err := openShelf(m.root, dir)
	if err != nil {
		return err
	}
	defer sh.close()
	q := Quarantined{Origin: l.Origin, Sequence: in.sequence, Parcel: in.digest, Exporter: in.exporter, Log: l, Reason: oneLine(why), Since: m.c.Now().UTC()}
	keep := func(n parcel.Name, b []byte) error {
		q.Bytes += int64(len(b))
		return sh.writeFile(bareName(n), b)
	}
	if err := keep(parcel.Name{Log: i, Checkpoint: true}, note); err != nil {
		return err
	}
	if err := in.pass(i, l, keep); err != nil {
		return err
	}
	in.pending.Quarantined = append(in.pending.Quarantined, q)
	in.blocked = append(in.blocked, fmt.Errorf("%w (kept in quarantine)", why))
	return sh.sync()
}

// bareName is the name of a file below its log.
func bareName(n parcel.Name) string {
	_, rest, _ := strings.Cut(strings.TrimPrefix(n.String(), "logs/"), "/")
	return rest
}

// Quarantine lists what waits, in the order it came, by log.
func (m *Mirror) Quarantine() ([]Quarantined, error) {
	out := []Quarantined{}
	err := m.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		return scan(tx, keyQuarantine, func(_ string, q Quarantined) error { out = append(out, q); return nil })
	})
	return out, err
}

// Release takes in what waits of a log, parcel after parcel, as far as it proves. Every file is proven as an import proves it, by
// the log and key that are known now. ErrNotFound when nothing waits; ErrUnknownOrigin when the log or its key is still not known.
func (m *Mirror) Release(ctx context.Context, origin string) ([]TransferStep, error) {
	unlock, err := lockDir(m.root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := m.finishPublish(ctx); err != nil {
		return nil, full(err)
	}
	return m.release(ctx, origin)
}

// releaseKnown takes in what waits of logs that have become known since, through the configuration or an imported trusted root. What
// does not prove stays, marked, and is an error once.
func (m *Mirror) releaseKnown(ctx context.Context) error {
	all, err := m.Quarantine()
	if err != nil {
		return err
	}
	var errs []error
	tried := make(map[string]bool)
	for _, q := range all {
		if tried[q.Origin] || m.log(q.Origin) == nil {
			continue
		}
		tried[q.Origin] = true
		if h, err := m.Head(q.Origin); err == nil && m.log(q.Origin).ended(h, q.Log.To.Size) {
			continue // only people let a log grow that has ended
		}
		if q.Failed != "" {
			continue
		}
		_, err := m.release(ctx, q.Origin)
		if err == nil || errors.Is(err, ErrUnknownOrigin) {
			continue
		}
		if code := ExitCode(err); code != 21 && code != 30 && code != 31 && code != 40 { // our own trouble; the next run tries again
			return errors.Join(append(errs, err)...)
		}
		q.Failed = oneLine(err)
		e := Event{Action: "mirror.release", Object: q.Origin, Outcome: "refused", Detail: map[string]string{"error": q.Failed}}
		errs = append(errs, err, m.record(ctx, e, func(tx store.Tx) error { return put(tx, quarantineKey(q.Origin, q.Sequence), q) }))
	}
	return errors.Join(errs...)
}

func (m *Mirror) release(ctx context.Context, origin string) ([]TransferStep, error) {
	all, err := m.Quarantine()
	if err != nil {
		return nil, err
	}
	var steps []TransferStep
	found := false
	for _, q := range all {
		if q.Origin != origin {
			continue
		}
		found = true
		step, err := m.releaseOne(ctx, q)
		if err != nil {
			return steps, full(fmt.Errorf("releasing parcel %d of %q: %w", q.Sequence, origin, err))
		}
		steps = append(steps, step...)
	}
	if !found {
		return nil, fmt.Errorf("%w: nothing of %q waits in quarantine", ErrNotFound, origin)
	}
	return steps, nil
}

func (m *Mirror) releaseOne(ctx context.Context, q Quarantined) ([]TransferStep, error) {
	s, err := m.snapshot()
	if err != nil {
		return nil, err
	}
	log := m.log(q.Origin)
	if log == nil {
		return nil, fmt.Errorf("%w: %q", ErrUnknownOrigin, q.Origin)
	}
	delete(s.quarantined, q.Origin)
	if err := m.judgeLog(s, q.Log); err != nil {
		return nil, err
	}
	sh, err := openShelf(m.root, quarantineDir(q.Origin, q.Sequence))
	if err != nil {
		return nil, err
	}
	defer sh.close()
	next, stop := iter.Pull(filesOf(0, q.Log))
	defer stop()
	first := true
	in := &importing{m: m, s: s, digest: q.Parcel, sequence: q.Sequence, exporter: q.Exporter, created: q.Log.Observed.Time}
	in.files = func([]byte) (parcel.Name, []byte, error) {
		n, ok := parcel.Name{Checkpoint: true}, true
		if !first {
			n, ok = next()
		}
		if first = false; !ok {
			return n, nil, io.EOF
		}
		b, err := sh.readNamed(bareName(n), n.Limit())
		if errors.Is(err, ErrNotFound) {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return n, b, err
	}
	if err := in.begin(&pendingState{Digest: q.Parcel, Sequence: q.Sequence, Done: make([]uint64, 1), Release: q.Origin}); err != nil {
		return nil, err
	}
	err = in.readLogs(ctx, []parcel.Log{q.Log})
	if err == nil {
		err = in.end()
	}
	if err != nil {
		return nil, errors.Join(err, in.m.c.DB.Update(func(tx store.Tx) error { return tx.Delete([]byte(keyPending)) }), m.root.RemoveAll("staging"))
	}
	if err := in.publish(ctx); err != nil {
		return nil, err
	}
	return in.steps, errors.Join(in.blocked...)
}
