package mirror

import (
	"cmp"
	"fmt"
	"slices"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// plan says which files a step of a log from one size to another needs. It is a function of the manifest alone: the exporter
// packs exactly these files and the importer takes no others.
//
//	checkpoint   the new signed head
//	spine        hash tiles, top level first, each after the one that proves it. For ScopeFull: what grew at level 1 and
//	             above, the right edge, and the level-0 tile that the old tree filled in part. For ScopeHeads: the right
//	             edge, the tiles that hold the old tree's right edge, and those above the records
//	packages     ScopeFull: entry bundles from the one the old tree filled in part to the last, in order
type plan struct {
	from, to     uint64
	spine        []tiles.Tile
	first, after uint64 // entry bundles [first, after)
}

// maxSpine is the largest number of hash tiles of a step: they are held in memory, 8 KiB each. At scope full it is reached
// at about two billion new entries.
const maxSpine = 1 << 15

// checkStep refuses a step too large to plan, before anything is made of its size.
func checkStep(scope string, from, to uint64, records []uint64) error {
	n := uint64(len(records)+2) * (tiles.MaxLevel + 1)
	if scope == parcel.ScopeFull {
		for level := 1; tiles.Count(level, to) > 0; level++ {
			n += tiles.Count(level, to)/tiles.Width - tiles.Count(level, from)/tiles.Width
		}
	}
	if n > maxSpine {
		return fmt.Errorf("%w: a step from %d to %d leaves is more than one parcel may carry", parcel.ErrManifest, from, to)
	}
	return nil
}

func planStep(scope string, from, to uint64, records []uint64) plan {
	p := plan{from: from, to: to}
	var want []tiles.Tile
	add := func(level int, index uint64) bool {
		t, ok := tiles.At(level, index, to)
		if ok {
			want = append(want, t)
		}
		return ok && t.Full()
	}
	if from != to || len(records) > 0 {
		for level := 0; tiles.Count(level, to) > 0; level++ { // the right edge
			if n := tiles.Count(level, to); n%tiles.Width != 0 {
				add(level, n/tiles.Width)
			}
		}
		below := false // a full tile of the level below needs one here to prove it
		for level := 0; from > 0 && from != to && tiles.Count(level, to) > 0; level++ {
			m := tiles.Count(level, from)
			if below || m%tiles.Width != 0 {
				below = add(level, m/tiles.Width)
			}
		}
	}
	if scope == parcel.ScopeFull && from != to {
		for level := 1; tiles.Count(level, to) > 0; level++ {
			for i := tiles.Count(level, from) / tiles.Width; i < tiles.Count(level, to)/tiles.Width; i++ {
				add(level, i)
			}
		}
		p.first, p.after = from/tiles.Width, (to-1)/tiles.Width+1
	}
	for _, r := range records {
		for level, index := 0, r/tiles.Width; add(level, index); level, index = level+1, index/tiles.Width {
		}
	}
	slices.SortFunc(want, func(a, b tiles.Tile) int { return cmp.Or(cmp.Compare(b.Level, a.Level), cmp.Compare(a.Index, b.Index)) })
	p.spine = slices.Compact(want)
	return p
}

// bundle names the entry bundle at index, as wide as the new tree has it.
func (p plan) bundle(index uint64) tiles.Tile {
	return tiles.Tile{Level: tiles.Entries, Index: index, Width: int(min(p.to-index*tiles.Width, tiles.Width))}
}

// packages is the number of entry bundles.
func (p plan) packages() uint64 { return p.after - p.first }
