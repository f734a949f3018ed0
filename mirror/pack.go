package mirror

import (
	"context"
	"errors"
	"fmt"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// packLog adds a log's files to a parcel, in the order of the parcel, each verified on its way from the collection.
func (e *Exporter) packLog(ctx context.Context, w *parcel.Writer, i int, l parcel.Log, log *knownLog, from, to Head) (TransferStep, error) {
	done := TransferStep{Origin: l.Origin, Scope: l.Scope, From: from.Size, To: to.Size, Root: to.Root.String()}
	sh, err := e.shelf(l.Origin)
	if err != nil {
		return done, err
	}
	defer sh.close()
	if carriesRecords(l.Scope) {
		done.Entries = uint64(len(l.Records))
		return done, e.packRecords(ctx, w, i, l, log, from, to, sh)
	}
	if err := w.Add(parcel.Name{Log: i, Checkpoint: true}, to.Note); err != nil {
		return done, err
	}
	step, err := prove(ctx, log, from, to.Note, l.Scope, sh.fetch, func(t tiles.Tile, b []byte) error {
		return w.Add(parcel.Name{Log: i, Tile: t}, b)
	})
	if err != nil {
		return done, err
	}
	hashes, b := make([]byte, 0, tiles.Width*tiles.HashSize), []byte(nil)
	total := step.plan.packages()
	for k := range total {
		t := step.plan.pack(k)
		if b, err = sh.need(t, b); err != nil {
			return done, err
		}
		if err := step.take(ctx, t, b, hashes, sh.need, func(tiles.Tile, []byte) error { return nil }); err != nil {
			return done, err
		}
		if err := w.Add(parcel.Name{Log: i, Tile: t}, b); err != nil {
			return done, err
		}
		if (k+1)%syncEvery == 0 || k+1 == total {
			e.progress(Progress{Stage: "export", Origin: l.Origin, Done: k + 1, Total: total})
		}
	}
	if l.Scope == parcel.ScopeFull {
		done.Entries = to.Size - from.Size
	}
	return done, nil
}

// packRecords adds the files of a log at scope sparse.
func (e *Exporter) packRecords(ctx context.Context, w *parcel.Writer, i int, l parcel.Log, log *knownLog, from, to Head, sh *shelf) error {
	step, err := openSparse(log, from, to.Note, l.Records)
	if err != nil {
		return err
	}
	var leaves, carried []tiles.Hash
	var nodes []byte
	err = e.c.DB.View(func(tx store.Tx) error {
		carried, nodes = carried[:0], nodes[:0]
		for _, n := range step.cover.Carried() {
			held, ok, err := getNode(tx, keyCollectNode, l.Origin, n)
			if err == nil && !ok {
				err = fmt.Errorf("%w: %s of %q was not collected", ErrDamaged, n, l.Origin)
			}
			if err != nil {
				return err
			}
			carried, nodes = append(carried, held.Hash), append(nodes, held.Hash[:]...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, index := range l.Records {
		r, _, err := sh.record(index)
		if err != nil {
			return err
		}
		h, err := step.checkRecord(r)
		if err != nil {
			return err
		}
		leaves = append(leaves, h)
	}
	if _, err := step.prove(ctx, leaves, carried); err != nil {
		return err
	}
	if err := w.Add(parcel.Name{Log: i, Checkpoint: true}, to.Note); err != nil {
		return err
	}
	if err := w.Add(parcel.Name{Log: i, Nodes: true}, nodes); err != nil {
		return err
	}
	for k, index := range l.Records {
		r, b, err := sh.record(index)
		if err != nil {
			return err
		}
		if tiles.LeafHash(r.Leaf) != leaves[k] {
			return fmt.Errorf("%w: record %d changed while it was packed", ErrDamaged, index)
		}
		if err := w.Add(parcel.Name{Log: i, Record: true, Index: index}, b); err != nil {
			return err
		}
	}
	e.progress(Progress{Stage: "export", Origin: l.Origin, Done: uint64(len(l.Records)), Total: uint64(len(l.Records))})
	return nil
}

// record reads a record from a shelf, and the bytes it lies there as.
func (s *shelf) record(index uint64) (Record, []byte, error) {
	b, err := s.readNamed(recordName(index), parcel.Name{Record: true}.Limit())
	if err != nil {
		return Record{}, nil, err
	}
	r, err := decodeRecord(index, b)
	if errors.Is(err, tiles.ErrBundle) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return r, b, err
}
