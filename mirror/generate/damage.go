package generate

import (
	"fmt"
	"os"
	"path/filepath"

	"redoubt.internal/mirror/tiles"
)

// A Mode is one way to spoil a log's directory. Forks come from Config.ForkAt.
type Mode string

// The modes.
const (
	Drop      Mode = "drop"       // an entry is missing from its bundle
	Reorder   Mode = "reorder"    // two entries of a bundle have changed places
	FlipEntry Mode = "flip-entry" // one bit of an entry
	FlipTile  Mode = "flip-tile"  // one bit of a level-0 hash tile that the entries do not give
	Truncate  Mode = "truncate"   // the hash tiles that prove the tree are a byte short
	Rollback  Mode = "rollback"   // the newest checkpoint is the first one
	OtherRoot Mode = "other-root" // the newest checkpoint has the same size and another root, signed
	NewKey    Mode = "new-key"    // the newest checkpoint is signed by another key of the same name
)

// Modes lists all modes.
var Modes = []Mode{Drop, Reorder, FlipEntry, FlipTile, Truncate, Rollback, OtherRoot, NewKey}

// Damage spoils the log that Write made in dir from c. The log needs two entries in its last bundle and two sizes.
func Damage(dir string, c Config, m Mode) error {
	size := c.Sizes[len(c.Sizes)-1]
	last, _ := tiles.At(tiles.Entries, (size-1)/tiles.Width, size)
	bundle := filepath.Join(dir, filepath.FromSlash(last.Path()))
	first := uint64(last.Index) * tiles.Width
	switch m {
	case Drop:
		return os.WriteFile(bundle, c.Bundle(first, size-1), 0o644)
	case Reorder:
		b := append(c.Bundle(first+1, first+2), c.Bundle(first, first+1)...)
		return os.WriteFile(bundle, append(b, c.Bundle(first+2, size)...), 0o644)
	case FlipEntry:
		return rewrite(bundle, func(b []byte) []byte { b[len(b)-7] ^= 0x10; return b })
	case FlipTile, Truncate:
		for level := 0; tiles.Count(level, size) > 0; level++ {
			t, ok := tiles.At(level, tiles.Count(level, size)/tiles.Width, size)
			if !ok {
				continue
			}
			return rewrite(filepath.Join(dir, filepath.FromSlash(t.Path())), func(b []byte) []byte {
				if m == Truncate {
					return b[:len(b)-1]
				}
				b[len(b)/2] ^= 0x10
				return b
			})
		}
		return fmt.Errorf("a log of %d entries has no partial tile", size)
	case Rollback:
		return Rewind(dir, c.Sizes[0])
	case OtherRoot, NewKey:
		root := tiles.LeafHash([]byte("another root"))
		if m == NewKey {
			c.NewKey = true
		}
		note, err := c.checkpoint(size, root)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "checkpoint"), note, 0o644)
	}
	return fmt.Errorf("no mode %q", m)
}

func rewrite(name string, change func([]byte) []byte) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, change(b), 0o644)
}
