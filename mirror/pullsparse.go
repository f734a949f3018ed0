package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/tiles"
)

// Keys of the exporter at scope sparse, beside those in exporter.go:
//
//	exporter/record/<origin>\x00<index>  recordState  each record picked, and the parcel it left with
//	exporter/node/<origin>\x00...        (see nodes.go) each subtree hash that was proven
const keyPicked = "exporter/record/"

// pullSparse brings a log at scope sparse up to date: the step to its new head, and the records that are picked and not collected
// yet, all proven by one cover of the new tree.
func (e *Exporter) pullSparse(ctx context.Context, log *knownLog, from Head, note []byte, src Source, sh *shelf, out *PullStep) error {
	to, err := log.open(note)
	if err != nil {
		return err
	}
	if err := log.contradicts(from, to, note); err != nil {
		return err
	}
	tree := tiles.NewTree(to.Size, to.Root, fetchFrom(src))
	records, err := e.pick(ctx, log, src, tree)
	if err != nil {
		return err
	}
	err = e.collect(ctx, log, from, note, records, sh, out, func(ctx context.Context, n tiles.Node) (tiles.Hash, error) {
		h, err := tree.Node(ctx, n)
		if errors.Is(err, tiles.ErrProof) {
			err = fmt.Errorf("log %q: %w: %w", log.Origin, ErrProof, err)
		}
		return h, err
	})
	if err != nil {
		return err
	}
	return e.scannedTo(log, to.Size)
}

// collect proves a sparse step from the subtree hashes that node gives, which need not be trusted, and keeps records, hashes and
// the new head.
func (e *Exporter) collect(ctx context.Context, log *knownLog, from Head, note []byte, records []Record, sh *shelf, out *PullStep, node func(context.Context, tiles.Node) (tiles.Hash, error)) error {
	slices.SortFunc(records, func(a, b Record) int { return int(min(max(int64(a.Index)-int64(b.Index), -1), 1)) })
	var indexes []uint64
	for _, r := range records {
		indexes = append(indexes, r.Index)
	}
	step, err := openSparse(log, from, note, indexes)
	if err == nil {
		err = floors(e.c.Floors).admit(log.Origin, from, step.to.Size)
	}
	if err != nil {
		return err
	}
	var leaves, carried []tiles.Hash
	for _, r := range records {
		h, err := step.checkRecord(r)
		if err != nil {
			return err
		}
		leaves = append(leaves, h)
	}
	for _, n := range step.cover.Carried() {
		h, err := node(ctx, n)
		if err != nil {
			return err
		}
		carried = append(carried, h)
	}
	nodes, err := step.prove(ctx, leaves, carried)
	if err != nil {
		return err
	}
	if err := step.cosigned.inTime(e.c.Now()); err != nil {
		return fmt.Errorf("log %q: %w", log.Origin, err)
	}
	for _, r := range records {
		b, err := r.encode()
		if err != nil {
			return err
		}
		if err := sh.writeFile(recordName(r.Index), b); err != nil {
			return err
		}
	}
	if err := sh.sync(); err != nil {
		return err
	}
	err = e.c.DB.Update(func(tx store.Tx) error {
		if err := putNodes(tx, keyCollectNode, log.Origin, nodes, 0); err != nil {
			return err
		}
		for _, i := range indexes {
			if err := put(tx, recordKey(keyPicked, log.Origin, i), recordState{Index: i}); err != nil {
				return err
			}
		}
		return put(tx, keyCollected+log.Origin, e.newHead(log, step.to, note, step.cosigned))
	})
	if err != nil {
		return err
	}
	out.To, out.Root, out.Entries = step.to.Size, step.to.Root.String(), uint64(len(records))
	return nil
}

// picked are the indexes of the collected records of a log that left with parcel sequence, ascending; 0 stands for none yet.
func (e *Exporter) picked(origin string, sequence uint64) (out []uint64, err error) {
	err = e.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		return scan(tx, keyPicked+origin+"\x00", func(_ string, r recordState) error {
			if r.Sequence == sequence {
				out = append(out, r.Index)
			}
			return nil
		})
	})
	return out, err
}

// collectedRecords are the records of a log that were picked before.
func (e *Exporter) collectedRecords(origin string) (map[uint64]bool, error) {
	have := make(map[uint64]bool)
	err := e.c.DB.View(func(tx store.Tx) error {
		return scan(tx, keyPicked+origin+"\x00", func(_ string, r recordState) error { have[r.Index] = true; return nil })
	})
	return have, err
}

// pick reads the records that are wanted and not collected yet.
func (e *Exporter) pick(ctx context.Context, log *knownLog, src Source, tree *tiles.Tree) ([]Record, error) {
	size := tree.Size()
	want, err := e.wanted(ctx, log, size, e.scan(log, src, tree))
	if err != nil {
		return nil, err
	}
	have, err := e.collectedRecords(log.Origin)
	if err != nil {
		return nil, err
	}
	var out []Record
	var bundle []byte
	var at tiles.Tile
	for _, i := range want {
		t, _ := tiles.At(tiles.Entries, i/tiles.Width, size)
		if t != at {
			if bundle, err = src.Tile(ctx, t, nil); err != nil {
				return nil, remoteErr("reading "+t.Path(), err)
			}
			at = t
		}
		err := tiles.SplitBundle(bundle, t.Width, func(k int, leaf []byte) error {
			if uint64(k) == i%tiles.Width {
				out = append(out, Record{Index: i, Leaf: leaf})
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("log %q: %w: %s: %w", log.Origin, ErrProof, t.Path(), err)
		}
	}
	for _, module := range slices.Concat(log.Lookups, log.selected.Modules) {
		db, ok := src.(sumDB)
		if !ok {
			return nil, fmt.Errorf("%w: log %q: look-ups need the layout %q", ErrConfig, log.Origin, "sumdb")
		}
		r, err := db.lookup(ctx, module)
		if err != nil {
			return nil, remoteErr("looking up "+module, err)
		}
		if r.Index < size && !have[r.Index] {
			have[r.Index] = true
			out = append(out, r)
		}
	}
	return out, nil
}
