package parcel

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"redoubt.internal/mirror/tiles"
)

// Name is the name of a file in a parcel: the checkpoint or one tile of the log at index Log of the manifest, or a file of a TUF
// repository.
type Name struct {
	TUF        TUFName // unless its Kind is 0; then nothing else is set
	Log        int
	Checkpoint bool
	Tile       tiles.Tile // unless Checkpoint
}

// String returns the name in the tar: "logs/0/checkpoint", "logs/0/tile/1/x001/234".
func (n Name) String() string {
	if n.TUF.Kind != 0 {
		return n.TUF.String()
	}
	if n.Checkpoint {
		return fmt.Sprintf("logs/%d/checkpoint", n.Log)
	}
	return fmt.Sprintf("logs/%d/%s", n.Log, n.Tile.Path())
}

// ParseName reads a name written by String. Nothing else is a name: ErrManifest.
func ParseName(s string) (Name, error) {
	bad := fmt.Errorf("%w: %.100q is not on the list of names", ErrManifest, s)
	if n, ok := parseTUFName(s); ok {
		return Name{TUF: n}, nil
	}
	rest, ok := strings.CutPrefix(s, "logs/")
	if !ok {
		return Name{}, bad
	}
	number, rest, _ := strings.Cut(rest, "/")
	i, err := strconv.ParseUint(number, 10, 16)
	if err != nil || i >= MaxLogs {
		return Name{}, bad
	}
	n := Name{Log: int(i), Checkpoint: rest == "checkpoint"}
	if !n.Checkpoint {
		if n.Tile, err = tiles.Parse(rest); err != nil {
			return Name{}, bad
		}
	}
	if n.String() != s {
		return Name{}, bad
	}
	return n, nil
}

// Limit is the largest size in bytes of a file of that name.
func (n Name) Limit() int64 {
	switch {
	case n.TUF.Kind != 0:
		return n.TUF.limit()
	case n.Checkpoint:
		return MaxCheckpoint
	case n.Tile.Level == tiles.Entries:
		return int64(n.Tile.Width) * (2 + tiles.MaxEntry)
	}
	return int64(n.Tile.Width) * tiles.HashSize
}

// MaxCheckpoint is the longest checkpoint in bytes, with all its signature lines.
const MaxCheckpoint = 64 << 10

// Compare orders names as they stand in a parcel: the TUF repositories' first; then by log; its checkpoint, its hash tiles from the top level down, its entry
// bundles. Two widths of one tile are the same name: only one may be there.
func Compare(a, b Name) int {
	if a.TUF.Kind != 0 || b.TUF.Kind != 0 {
		return cmp.Or(cmp.Compare(min(b.TUF.Kind, 1), min(a.TUF.Kind, 1)), compareTUF(a.TUF, b.TUF))
	}
	rank := func(n Name) int {
		if n.Checkpoint {
			return -1
		}
		return tiles.MaxLevel - n.Tile.Level
	}
	return cmp.Or(cmp.Compare(a.Log, b.Log), cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Tile.Index, b.Tile.Index))
}
