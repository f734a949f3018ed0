package mirror

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// ReceiptReport says what a receipt told. Its JSON form is stable.
type ReceiptReport struct {
	Stream         string        `json:"stream"`
	Receiver       string        `json:"receiver"` // name and key id of the enclave that signed it
	Sequence       uint64        `json:"sequence"` // the last parcel it imported
	Digest         parcel.Digest `json:"digest"`
	Time           time.Time     `json:"time"`           // by its clock
	Acknowledged   uint64        `json:"acknowledged"`   // the newest parcel it ever acknowledged
	Unacknowledged uint64        `json:"unacknowledged"` // parcels sent that not every receiver acknowledged
	LeftOut        int           `json:"left_out"`       // heads that only the whole list names
	Heads          []HeadStand   `json:"heads"`
}

// HeadStand is how a head that somebody else names stands to what is held here.
type HeadStand struct {
	Origin   string    `json:"origin"`
	Size     uint64    `json:"size"`
	Root     string    `json:"root"`
	Stands   string    `json:"stands"`               // same, behind, ahead, unproven, unknown or conflict
	Forked   bool      `json:"forked"`               // the log showed two histories there
	Cosigned time.Time `json:"cosigned_at,omitzero"` // by a verified cosignature of a whole copy
	Evidence string    `json:"evidence,omitempty"`   // file that proves the conflict
}

// acked is the newest receipt of one receiver.
type acked struct {
	Receiver string          `json:"receiver"`
	Sequence uint64          `json:"sequence"`
	Digest   parcel.Digest   `json:"digest"`
	Time     time.Time       `json:"time"`
	Read     time.Time       `json:"read"`
	Heads    []StatementHead `json:"heads"`
	Note     []byte          `json:"note"`
}

// keyAcked holds an acked per receiver, by name and key id.
const keyAcked = "exporter/acked/"

// ReadReceipt takes in what an inside says it holds: signed by one of the configured receivers, about this stream. It remembers
// the newest acknowledged parcel and compares every head with what was collected and exported here. whole is the list a short
// receipt names, nil when it was not carried.
//
// A parcel that was never made here is ErrForkedStream: somebody else exports under this key, or an old copy of this state came
// back. Another root at a size held here freezes the log, with evidence, and is a *ForkError; so is a log that stands still inside,
// though its evidence lies there. The receipt counts as read all the same.
func (e *Exporter) ReadReceipt(ctx context.Context, signed, whole []byte) (ReceiptReport, error) {
	var report ReceiptReport
	unlock, err := lockDir(e.root)
	if err != nil {
		return report, err
	}
	defer unlock()
	if len(e.receivers) == 0 {
		return report, fmt.Errorf("%w: no receivers are configured, so no receipt can be believed", ErrConfig)
	}
	said, by, err := OpenStatement(signed, e.receivers)
	if err != nil {
		return report, err
	}
	evidence := trimmed(signed)
	if said.Kind != KindReceipt {
		return report, fmt.Errorf("%w: it is a list of heads; the receipt that names it is needed", ErrStatement)
	}
	if said.Stream != e.c.Stream {
		return report, fmt.Errorf("%w: %q instead of %q", ErrWrongStream, said.Stream, e.c.Stream)
	}
	if err := e.made(said); err != nil {
		return report, err
	}
	all := said
	if whole != nil {
		if all, err = wholeList(said, whole, by); err != nil {
			return report, err
		}
		evidence = trimmed(whole)
	}
	report = ReceiptReport{Stream: said.Stream, Receiver: by.ID(), Sequence: said.Sequence, Digest: said.Digest, Time: said.Time, Heads: []HeadStand{}}
	report.LeftOut = max(0, all.Total-len(all.Heads))
	forks, err := e.compare(ctx, all, by, evidence, &report)
	if err != nil {
		return report, err
	}
	if report.Acknowledged, err = e.acknowledge(said, all, by, evidence); err != nil {
		return report, full(err)
	}
	if report.Unacknowledged, err = e.unacknowledged(); err != nil {
		return report, err
	}
	return report, errors.Join(forks...)
}

// wholeList opens the list that a receipt names.
func wholeList(said *Statement, signed []byte, by *parcel.Verifier) (*Statement, error) {
	all, _, err := OpenStatement(signed, []*parcel.Verifier{by})
	if err != nil {
		return nil, fmt.Errorf("reading the whole list: %w", err)
	}
	if len(said.List) == 0 || !parcel.Sum(all.Text()).Equal(said.List) {
		return nil, fmt.Errorf("%w: the list has digest %s, the receipt names %q", ErrProof, parcel.Sum(all.Text()), said.List)
	}
	return all, nil
}

// made tells whether the parcel a receipt acknowledges is one that was made here.
func (e *Exporter) made(said *Statement) error {
	var p packedState
	var found bool
	err := e.c.DB.View(func(tx store.Tx) (err error) { found, err = get(tx, packedKey(said.Sequence), &p); return err })
	switch {
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("%w: it acknowledges parcel %d, which was not made here; another exporter has this key, or this state is an old copy", ErrForkedStream, said.Sequence)
	case !p.Digest.Equal(said.Digest):
		return fmt.Errorf("%w: it acknowledges parcel %d with digest %s, the one made here has %s; another exporter has this key", ErrForkedStream, said.Sequence, said.Digest, p.Digest)
	}
	return nil
}

// compare weighs every head of a receipt. The errors in forks are alarms, err is a failure to compare.
func (e *Exporter) compare(ctx context.Context, all *Statement, by *parcel.Verifier, evidence []byte, report *ReceiptReport) (forks []error, err error) {
	s, err := e.state()
	if err != nil {
		return nil, err
	}
	held, err := e.exported(s)
	if err != nil {
		return nil, err
	}
	for _, h := range all.Heads {
		stand, against, err := e.weigh(ctx, h, held[h.Origin], claim{size: h.Size, root: h.Root, statement: evidence, vkey: by.VKey()})
		if err != nil {
			return nil, err
		}
		if stand.Cosigned, err = cosignedAt(h, held[h.Origin], by); err != nil {
			return nil, err
		}
		if against != nil {
			f, err := e.stop(ctx, s, h.Origin, *against)
			if err != nil {
				return nil, err
			}
			stand.Evidence = e.path(f.Evidence)
			forks = append(forks, &ForkError{Origin: h.Origin, Evidence: stand.Evidence})
		} else if h.Forked {
			forks = append(forks, fmt.Errorf("%w: %s says that %q did, and left it at %d leaves; ask there for the evidence: redoubt mirror status", ErrFork, by.Name(), h.Origin, h.Size))
		}
		report.Heads = append(report.Heads, stand)
	}
	return forks, nil
}

// exported lists the signed heads of each log that were ever exported, and the one collected last, ascending by size.
func (e *Exporter) exported(s *exporterState) (map[string][]Head, error) {
	held := make(map[string][]Head)
	err := e.c.DB.View(func(tx store.Tx) error {
		clear(held)
		return scan(tx, keyPacked, func(_ string, p packedState) error {
			for _, h := range p.Heads {
				held[h.Origin] = append(held[h.Origin], h)
			}
			return nil
		})
	})
	for origin, h := range s.collected {
		held[origin] = append(held[origin], h)
	}
	for _, list := range held {
		slices.SortStableFunc(list, func(a, b Head) int { return cmp.Compare(a.Size, b.Size) })
	}
	return held, err
}

func (e *Exporter) weigh(ctx context.Context, h StatementHead, held []Head, c claim) (HeadStand, *Evidence, error) {
	stand := HeadStand{Origin: h.Origin, Size: h.Size, Root: h.Root.String(), Forked: h.Forked, Stands: StandsUnknown}
	log := e.logs[h.Origin]
	if log == nil || len(held) == 0 {
		return stand, nil, nil
	}
	sh, err := e.shelf(h.Origin)
	if err != nil {
		return stand, nil, err
	}
	defer sh.close()
	var against *Evidence
	stand.Stands, against, err = weigh(ctx, log, held, prefixOf(e.c.DB, keyCollectNode, held[len(held)-1], sh), c)
	return stand, against, err
}

// cosignedAt verifies the cosignature of a head where the checkpoint it is of is held here: a line alone does not say whether the
// log's text has more lines than three. A wrong one is ErrProof.
func cosignedAt(h StatementHead, held []Head, by *parcel.Verifier) (time.Time, error) {
	i := slices.IndexFunc(held, func(o Head) bool { return o.Size == h.Size && o.Root == h.Root })
	if h.Cosignature == nil || i < 0 {
		return time.Time{}, nil
	}
	c, ok := by.Cosigner()
	if !ok {
		return time.Time{}, fmt.Errorf("log %q: %w: cosigned by %s, which cannot", h.Origin, ErrProof, by.ID())
	}
	t, ok := c.CheckCosignature(noteText(held[i].Note), h.Cosignature)
	if !ok {
		return time.Time{}, fmt.Errorf("log %q: %w: the cosignature of %s is not of the checkpoint held here", h.Origin, ErrProof, c.ID())
	}
	return t, nil
}

// stop freezes a log outside. One that is frozen stays so for its first reason; the new evidence is kept beside the old.
func (e *Exporter) stop(ctx context.Context, s *exporterState, origin string, against Evidence) (Freeze, error) {
	if _, frozen := s.frozen[origin]; frozen {
		file, err := writeEvidence(e.root, against)
		return Freeze{Evidence: file}, err
	}
	record := func(_ Event, with func(store.Tx) error) error { return e.c.DB.Update(with) }
	f, err := freezeLog(ctx, e.root, e.logs[origin], against, e.c.Now().UTC(), record, keyStopped)
	if err == nil {
		s.frozen[origin] = f
		e.c.Logger.ErrorContext(ctx, "log frozen: a receiver holds another tree of it", "origin", origin, "evidence", f.Evidence)
	}
	return f, err
}

// acknowledge remembers a receipt unless a newer one of the same receiver was read.
func (e *Exporter) acknowledge(said, all *Statement, by *parcel.Verifier, note []byte) (newest uint64, err error) {
	now := acked{Receiver: by.ID(), Sequence: said.Sequence, Digest: said.Digest, Time: said.Time, Read: e.c.Now().UTC(), Heads: all.Heads, Note: bytes.Clone(note)}
	err = e.c.DB.Update(func(tx store.Tx) error {
		var old acked
		if _, err := get(tx, keyAcked+now.Receiver, &old); err != nil {
			return err
		}
		if newest = max(old.Sequence, now.Sequence); old.Sequence > now.Sequence || old.Sequence == now.Sequence && old.Time.After(now.Time) {
			return nil
		}
		return put(tx, keyAcked+now.Receiver, now)
	})
	return newest, err
}
