package mirror

import (
	"cmp"
	"fmt"
	"slices"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// plan says which files a step of a log from one size to another needs, at the scopes that carry tiles. It is a function of the
// manifest alone: the exporter packs exactly these files and the importer takes no others.
//
//	checkpoint   the new signed head
//	spine        hash tiles, top level first, each after the one that proves it: what grew at level 1 and above, the right edge,
//	             and the level-0 tile that the old tree filled in part
//	packages     ScopeFull: entry bundles from the one the old tree filled in part to the last, in order; then, where the log has
//	             extras, the bundles of extras beside them
type plan struct {
	from, to     uint64
	spine        []tiles.Tile
	first, after uint64 // entry bundles [first, after)
	extras       bool
}

// maxSpine is the largest number of hash tiles of a step. At scope full they are held in memory, 8 KiB each. It is reached at about
// two billion new entries.
const maxSpine = 1 << 15

// checkStep refuses a step too large to plan, before anything is made of its size.
func checkStep(scope string, from, to uint64) error {
	n := uint64(0)
	if scope != parcel.ScopeSparse {
		n = 2 * (tiles.MaxLevel + 1)
		for level := 1; tiles.Count(level, to) > 0; level++ {
			n += tiles.Count(level, to)/tiles.Width - tiles.Count(level, from)/tiles.Width
		}
	}
	if n > maxSpine {
		return fmt.Errorf("%w: a step from %d to %d leaves is more than one parcel may carry", parcel.ErrManifest, from, to)
	}
	return nil
}

func planStep(scope string, from, to uint64, extras bool) plan {
	p := plan{from: from, to: to, extras: extras}
	if from == to || scope == parcel.ScopeSparse {
		return p
	}
	add := func(level int, index uint64) bool {
		t, ok := tiles.At(level, index, to)
		if ok {
			p.spine = append(p.spine, t)
		}
		return ok && t.Full()
	}
	below := false // a full tile of the level below needs one here to prove it
	for level := 0; tiles.Count(level, to) > 0; level++ {
		if n := tiles.Count(level, to); n%tiles.Width != 0 { // the right edge
			add(level, n/tiles.Width)
		}
		if m := tiles.Count(level, from); from > 0 && (below || m%tiles.Width != 0) {
			below = add(level, m/tiles.Width)
		}
		for i := tiles.Count(level, from) / tiles.Width; level > 0 && i < tiles.Count(level, to)/tiles.Width; i++ {
			add(level, i)
		}
	}
	slices.SortFunc(p.spine, func(a, b tiles.Tile) int { return cmp.Or(cmp.Compare(b.Level, a.Level), cmp.Compare(a.Index, b.Index)) })
	p.spine = slices.Compact(p.spine)
	if scope == parcel.ScopeFull {
		p.first, p.after = from/tiles.Width, (to-1)/tiles.Width+1
	}
	return p
}

// streams tells whether a tile of the spine is one of the many that nothing else of the step is proven by: without bundles, the
// full ones of level 1. They are not held in memory.
func (p plan) streams(t tiles.Tile) bool { return p.after == 0 && t.Level == 1 && t.Full() }

// bundles is the number of entry bundles.
func (p plan) bundles() uint64 { return p.after - p.first }

// packages is the number of bundles, of entries and of extras.
func (p plan) packages() uint64 {
	if p.extras {
		return 2 * p.bundles()
	}
	return p.bundles()
}

// pack names package k of the step, as wide as the new tree has it.
func (p plan) pack(k uint64) tiles.Tile {
	level := tiles.Entries
	if k >= p.bundles() {
		level, k = tiles.Extras, k-p.bundles()
	}
	index := p.first + k
	return tiles.Tile{Level: level, Index: index, Width: int(min(p.to-index*tiles.Width, tiles.Width))}
}
