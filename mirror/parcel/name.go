package parcel

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"redoubt.internal/mirror/tiles"
)

// Name is the name of a file in a parcel: a file of a TUF repository, a blob, or one file of the log at index Log of the
// manifest: the checkpoint, the nodes, a record or, with none of those set, a tile.
type Name struct {
	TUF        TUFName  // unless its Kind is 0; then nothing else is set
	Blob       BlobName // where it is Set nothing else is
	Log        int
	Checkpoint bool
	Nodes      bool       // hashes of the subtrees that prove the records (ScopeSparse)
	Record     bool       // the leaf at Index and what stands beside it (ScopeSparse)
	Index      uint64     // of a record
	Tile       tiles.Tile // of a tile
}

// String returns the name in the tar: "logs/0/checkpoint", "logs/0/nodes", "logs/0/record/7", "logs/0/tile/1/x001/234".
func (n Name) String() string {
	if n.TUF.Kind != 0 {
		return n.TUF.String()
	}
	switch {
	case n.Blob.Set:
		return n.Blob.String()
	case n.Checkpoint:
		return fmt.Sprintf("logs/%d/checkpoint", n.Log)
	case n.Nodes:
		return fmt.Sprintf("logs/%d/nodes", n.Log)
	case n.Record:
		return fmt.Sprintf("logs/%d/record/%d", n.Log, n.Index)
	}
	return fmt.Sprintf("logs/%d/%s", n.Log, n.Tile.Path())
}

// ParseName reads a name written by String. Nothing else is a name: ErrManifest.
func ParseName(s string) (Name, error) {
	bad := fmt.Errorf("%w: %.100q is not on the list of names", ErrManifest, s)
	if n, ok := parseTUFName(s); ok {
		return Name{TUF: n}, nil
	}
	if n, ok := parseBlobName(s); ok {
		return Name{Blob: n}, nil
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
	n := Name{Log: int(i), Checkpoint: rest == "checkpoint", Nodes: rest == "nodes"}
	if index, ok := strings.CutPrefix(rest, "record/"); ok {
		n.Record = true
		if n.Index, err = strconv.ParseUint(index, 10, 64); err != nil || n.Index >= tiles.MaxSize {
			return Name{}, bad
		}
	} else if !n.Checkpoint && !n.Nodes {
		if n.Tile, err = tiles.Parse(rest); err != nil {
			return Name{}, bad
		}
	}
	if n.String() != s {
		return Name{}, bad
	}
	return n, nil
}

// within tells whether the parcel of a manifest can have the file.
func (n Name) within(m *Manifest) bool {
	if n.TUF.Kind != 0 {
		return n.TUF.in(m)
	}
	if n.Blob.Set {
		return n.Blob.in(m)
	}
	if n.Log < 0 || n.Log >= len(m.Logs) {
		return false
	}
	size := m.Logs[n.Log].To.Size
	switch {
	case n.Checkpoint, n.Nodes:
		return true
	case n.Record:
		return n.Index < size
	}
	return n.Tile.In(size)
}

// Limit is the largest size in bytes of a file of that name.
func (n Name) Limit() int64 {
	switch {
	case n.TUF.Kind != 0:
		return n.TUF.limit()
	case n.Blob.Set:
		return MaxBlob
	case n.Checkpoint:
		return MaxCheckpoint
	case n.Nodes:
		return maxNodes
	case n.Record:
		return 2 * (2 + tiles.MaxEntry)
	case n.Tile.Level < 0:
		return int64(n.Tile.Width) * (2 + tiles.MaxEntry)
	}
	return int64(n.Tile.Width) * tiles.HashSize
}

// MaxCheckpoint is the longest checkpoint in bytes, with all its signature lines.
const MaxCheckpoint = 64 << 10

// maxNodes is the longest nodes file in bytes: every record of a log brings at most as many hashes as its tree is high.
const maxNodes = (MaxRecords + 2) * 45 * tiles.HashSize

// Compare orders names as they stand in a parcel: those of TUF repositories first; by log; its checkpoint, its nodes, its records, its hash tiles from the top level
// down, its bundles of entries and then of extras; blobs last, by digest. Two widths of one tile are the same name: only one may be there.
func Compare(a, b Name) int {
	if a.TUF.Kind != 0 || b.TUF.Kind != 0 {
		return cmp.Or(cmp.Compare(min(b.TUF.Kind, 1), min(a.TUF.Kind, 1)), compareTUF(a.TUF, b.TUF))
	}
	if a.Blob.Set || b.Blob.Set {
		if !b.Blob.Set {
			return 1
		}
		if !a.Blob.Set {
			return -1
		}
		return bytes.Compare(a.Blob.Digest[:], b.Blob.Digest[:])
	}
	rank := func(n Name) int {
		switch {
		case n.Checkpoint:
			return -3
		case n.Nodes:
			return -2
		case n.Record:
			return -1
		}
		return tiles.MaxLevel - n.Tile.Level
	}
	return cmp.Or(cmp.Compare(a.Log, b.Log), cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Index, b.Index), cmp.Compare(a.Tile.Index, b.Tile.Index))
}
