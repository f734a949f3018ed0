// Package tiles names and hashes the tiles of a tiled transparency log, and reads them without trusting whoever serves
// them.
//
// Contract:
//   - A Tile names one hash tile or one entry bundle. Path and Parse are inverse to each other, and no second spelling of a
//     name is accepted (C2SP tlog-tiles, "Merkle Tree").
//   - Leaves and nodes are hashed as in RFC 6962, section 2.1: SHA-256 over 0x00 and the leaf, over 0x01 and two nodes.
//   - A Tree hands out nothing it has not hashed up to a root that the caller trusts: every byte of every tile it fetched,
//     not only the hashes on the path to what was asked. (Checking only the path is what CVE-2026-56865 was about.)
//
// It opens no file and no connection; the caller supplies the bytes. Start at Tree.
package tiles

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	// Width is the number of hashes in a full hash tile and of entries in a full bundle.
	Width = 1 << height
	// HashSize is the length of a hash in bytes.
	HashSize = 32
	// Entries is the Level of an entry bundle.
	Entries = -1
	// Extras is the Level of a bundle of what stands beside entries and is not hashed, framed as an entry bundle. No log serves
	// it; it exists in collections, in parcels and in mirrors.
	Extras = -2
	// MaxLevel is the highest level of a hash tile. 256^(MaxLevel+1) leaves are more than MaxSize.
	MaxLevel = 5
	// MaxSize is the largest tree this package deals with, in leaves.
	MaxSize = 1 << 44
	// MaxEntry is the longest entry in bytes: a bundle has a 16-bit length before each.
	MaxEntry = 65535
	// MaxBundle is the longest entry bundle in bytes.
	MaxBundle = Width * (2 + MaxEntry)

	height = 8
)

// ErrName says that a text is not the one spelling of a tile's name.
var ErrName = errors.New("this is not the name of a tile")

// Tile names a hash tile (Level 0 and up) or an entry bundle (Level Entries). Width counts its hashes or entries, 1 to 256.
type Tile struct {
	Level int
	Index uint64
	Width int
}

// Path returns the name as served: "tile/0/x001/234", "tile/1/000.p/7", "tile/entries/x001/234".
func (t Tile) Path() string {
	level := strconv.Itoa(t.Level)
	switch t.Level {
	case Entries:
		level = "entries"
	case Extras:
		level = "extras"
	}
	p := "tile/" + level + "/" + indexPath(t.Index)
	if t.Width != Width {
		p += ".p/" + strconv.Itoa(t.Width)
	}
	return p
}

// Full tells whether the tile has all its hashes or entries.
func (t Tile) Full() bool { return t.Width == Width }

// End is one more than the last hash of the tile, counted in hashes of its level.
func (t Tile) End() uint64 { return t.Index<<height + uint64(t.Width) }

// Numbered is the name of a numbered file that lies beside tiles, in the spelling of tiles: "record/x001/234".
func Numbered(folder string, n uint64) string { return folder + "/" + indexPath(n) }

// indexPath writes n in groups of three digits, all but the last with an x before it.
func indexPath(n uint64) string {
	p := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		p = fmt.Sprintf("x%03d/%s", n%1000, p)
	}
	return p
}

// Parse reads a name written by Path. Anything else is ErrName.
func Parse(path string) (Tile, error) {
	bad := fmt.Errorf("%w: %.80q", ErrName, path)
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(path) > 64 {
		return Tile{}, bad
	}
	level, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return Tile{}, bad
	}
	t := Tile{Level: Entries, Width: Width}
	switch level {
	case "entries":
	case "extras":
		t.Level = Extras
	default:
		n, err := strconv.ParseUint(level, 10, 8)
		if err != nil || n > MaxLevel {
			return Tile{}, bad
		}
		t.Level = int(n)
	}
	if index, width, ok := strings.Cut(rest, ".p/"); ok {
		n, err := strconv.ParseUint(width, 10, 8)
		if err != nil || n == 0 {
			return Tile{}, bad
		}
		rest, t.Width = index, int(n)
	}
	for group := range strings.SplitSeq(rest, "/") {
		n, err := strconv.ParseUint(strings.TrimPrefix(group, "x"), 10, 16)
		if err != nil || n > 999 || t.Index > MaxSize {
			return Tile{}, bad
		}
		t.Index = t.Index*1000 + n
	}
	if t.Index > MaxSize>>height || t.Path() != path {
		return Tile{}, bad
	}
	return t, nil
}

// Count is the number of hashes at a level of a tree of size leaves (Entries and Extras count as level 0).
func Count(level int, size uint64) uint64 {
	if level < 0 {
		return size
	}
	return size >> (height * level)
}

// At returns the tile at a level and index of a tree of size leaves; ok is false when the tree has none there.
func At(level int, index, size uint64) (t Tile, ok bool) {
	n := Count(level, size)
	if index > n>>height || index<<height >= n {
		return Tile{}, false
	}
	return Tile{Level: level, Index: index, Width: int(min(n-index<<height, Width))}, true
}

// In tells whether a tree of size leaves has all hashes or entries of t.
func (t Tile) In(size uint64) bool {
	return t.Width >= 1 && t.Width <= Width && t.Level >= Extras && t.Level <= MaxLevel && t.Index <= MaxSize>>height && t.End() <= Count(t.Level, size)
}
