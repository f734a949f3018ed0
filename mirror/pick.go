package mirror

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"strings"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// Keys of what is picked:
//
//	exporter/scanned/<origin>  scanned   how far a tiled log was looked through, and for what
//	exporter/pad/<origin>      padding   what the other entries that are asked for are drawn from
const (
	keyScanned = "exporter/scanned/"
	keyPad     = "exporter/pad/"
)

type scanned struct {
	Size   uint64        `json:"size"`
	Select parcel.Digest `json:"select"` // of the selectors
}

type padding struct {
	Seed [32]byte `json:"seed"` // random; whoever knows it can tell which entries were wanted
}

// finder returns the numbers of entries below size that a selection by content names.
type finder func(ctx context.Context, s *selection) ([]uint64, error)

// wanted are the entries below size that are picked and not collected yet, ascending: those configured, those the selectors name,
// and the other ones that hide them.
func (e *Exporter) wanted(ctx context.Context, log *knownLog, size uint64, find finder) ([]uint64, error) {
	have, err := e.collectedRecords(log.Origin)
	if err != nil {
		return nil, err
	}
	list := slices.Concat(log.Records, log.selected.Indexes, e.namedIndexes(log.Origin))
	if sel := e.asked(log); sel.byContent() {
		found, err := find(ctx, sel)
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	list = slices.Compact(slices.Sorted(slices.Values(slices.DeleteFunc(list, func(i uint64) bool { return i >= size || have[i] }))))
	if log.selected.Pad == 0 || len(list) == 0 {
		return list, nil
	}
	seed, err := e.padding(log.Origin)
	if err != nil {
		return nil, err
	}
	return pad(list, size, log.selected.Pad, seed), nil
}

// pad adds n entries for each of list, drawn by the seed, so that the same list is hidden among the same others.
func pad(list []uint64, size uint64, n int, seed [32]byte) []uint64 {
	out := slices.Clone(list)
	for _, i := range list {
		r := mrand.New(mrand.NewChaCha8(sha256.Sum256(fmt.Appendf(seed[:], " %d", i))))
		for range n {
			out = append(out, r.Uint64N(size))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (e *Exporter) padding(origin string) (seed [32]byte, err error) {
	var fresh padding
	if _, err := rand.Read(fresh.Seed[:]); err != nil {
		return seed, err
	}
	err = e.c.DB.Update(func(tx store.Tx) error {
		var p padding
		if ok, err := get(tx, keyPad+origin, &p); err != nil || ok {
			seed = p.Seed
			return err
		}
		seed = fresh.Seed
		return put(tx, keyPad+origin, fresh)
	})
	return seed, err
}

// scan looks through the entries of a tiled log that were not looked through for the same before, each proven to be in the tree: a
// source that shows other entries than the log has cannot hide one. The log's operator learns nothing of what is looked for.
func (e *Exporter) scan(log *knownLog, src Source, tree *tiles.Tree) finder {
	return func(ctx context.Context, s *selection) (found []uint64, err error) {
		var before scanned
		if err := e.readScanned(log.Origin, &before); err != nil {
			return nil, err
		}
		if !before.Select.Equal(s.digest()) {
			before.Size = 0
		}
		size := tree.Size()
		for k := before.Size / tiles.Width; k*tiles.Width < size; k++ {
			t, _ := tiles.At(tiles.Entries, k, size)
			bundle, err := src.Tile(ctx, t, nil)
			if err != nil {
				return nil, remoteErr("reading "+t.Path(), err)
			}
			hashes, err := tiles.AppendLeafHashes(nil, bundle, t.Width)
			if err == nil {
				err = provenBundle(ctx, tree, t, hashes)
			}
			if err != nil {
				return nil, fmt.Errorf("log %q: %w: %s: %w", log.Origin, ErrProof, t.Path(), err)
			}
			if err := tiles.SplitBundle(bundle, t.Width, func(i int, leaf []byte) error {
				if s.match(leaf) {
					found = append(found, k*tiles.Width+uint64(i))
				}
				return nil
			}); err != nil {
				return nil, err
			}
			if (k+1)%syncEvery == 0 {
				e.progress(Progress{Stage: "scan", Origin: log.Origin, Done: k + 1, Total: size/tiles.Width + 1})
			}
		}
		return found, nil
	}
}

func (e *Exporter) readScanned(origin string, s *scanned) error {
	return e.c.DB.View(func(tx store.Tx) error { _, err := get(tx, keyScanned+origin, s); return err })
}

// provenBundle compares the leaf hashes of a bundle with the tree.
func provenBundle(ctx context.Context, tree *tiles.Tree, t tiles.Tile, hashes []byte) error {
	if t.Full() {
		above, err := tree.Node(ctx, tiles.Node{Level: 8, Index: t.Index})
		if err == nil && tiles.Subtree(hashes) != above {
			err = tiles.ErrProof
		}
		return err
	}
	edge, err := tree.Tile(ctx, 0, t.Index)
	if err == nil && !bytes.Equal(hashes, edge) {
		err = tiles.ErrProof
	}
	return err
}

// scannedTo remembers that everything below size was looked through.
func (e *Exporter) scannedTo(log *knownLog, size uint64) error {
	if !log.selected.byContent() {
		return nil
	}
	return e.c.DB.Update(func(tx store.Tx) error {
		return put(tx, keyScanned+log.Origin, scanned{Size: size, Select: log.selected.digest()})
	})
}

// digest names what is looked for.
func (s *selection) digest() parcel.Digest {
	return parcel.Sum([]byte(strings.Join(s.Digests, "\n") + "\x00" + strings.Join(s.Identities, "\n") + "\x00" + strings.Join(s.Issuers, "\n")))
}

// find asks the search index of a Rekor v1 site. That tells its operator each digest that is asked for; names can be asked for only
// as they are written in full.
func (s *rekor1) find(ctx context.Context, sel *selection) ([]uint64, error) {
	if len(sel.Issuers) > 0 {
		return nil, fmt.Errorf("%w: log %q: the index of Rekor v1 does not know issuers", ErrConfig, s.log.Origin)
	}
	var out []uint64
	ask := func(query map[string]any) error {
		found, err := s.search(ctx, query, sel.match)
		out = append(out, found...)
		return remoteErr("searching", err)
	}
	for _, d := range sel.Digests {
		if err := ask(map[string]any{"hash": d}); err != nil {
			return nil, err
		}
	}
	for _, p := range sel.Identities {
		name := literal(p)
		if name == "" {
			return nil, fmt.Errorf("%w: log %q: the index of Rekor v1 knows e-mail addresses as they are written, not %.100q", ErrConfig, s.log.Origin, p)
		}
		if err := ask(map[string]any{"email": name}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// literal is what an expression matches if that is one e-mail address alone, else empty.
func literal(pattern string) string {
	plain := strings.ReplaceAll(pattern, `\.`, ".")
	if strings.ContainsAny(strings.ReplaceAll(pattern, `\.`, ""), `\.*?|()[]{}^$`) || !strings.Contains(plain, "@") {
		return ""
	}
	return plain
}
