package generate

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"

	"redoubt.internal/mirror/tiles"
)

// Builder writes the tiles of a growing log into a directory.
type Builder struct {
	root   *os.Root
	size   uint64
	bundle []byte   // entries of the last, partial bundle
	edge   [][]byte // hashes of the last, partial tile of each level
	made   map[string]bool
}

// NewBuilder starts an empty log in dir, which it creates.
func NewBuilder(dir string) (*Builder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Builder{root: root, made: make(map[string]bool)}, nil
}

// Close closes the directory.
func (b *Builder) Close() error { return b.root.Close() }

// Size returns the number of leaves.
func (b *Builder) Size() uint64 { return b.size }

// Add appends one leaf of at most 65,535 bytes.
func (b *Builder) Add(leaf []byte) error {
	if len(leaf) > tiles.MaxEntry {
		return fmt.Errorf("a leaf of %d bytes", len(leaf))
	}
	h := tiles.LeafHash(leaf)
	return b.addHashed(append(binary.BigEndian.AppendUint16(nil, uint16(len(leaf))), leaf...), h[:])
}

// addHashed appends entries in bundle framing with their leaf hashes. They do not reach beyond the bundle being filled.
func (b *Builder) addHashed(framed, hashes []byte) error {
	n := uint64(len(hashes) / tiles.HashSize)
	if b.size%tiles.Width+n > tiles.Width {
		return errors.New("entries across the end of a bundle")
	}
	b.bundle = append(b.bundle, framed...)
	b.size += n
	if b.size%tiles.Width == 0 {
		if err := b.write(tiles.Tile{Level: tiles.Entries, Index: b.size/tiles.Width - 1, Width: tiles.Width}, b.bundle); err != nil {
			return err
		}
		b.bundle = b.bundle[:0]
	}
	for level := 0; ; level++ {
		if level == len(b.edge) {
			b.edge = append(b.edge, nil)
		}
		b.edge[level] = append(b.edge[level], hashes...)
		if len(b.edge[level]) < tiles.Width*tiles.HashSize {
			return nil
		}
		t := tiles.Tile{Level: level, Index: tiles.Count(level, b.size)/tiles.Width - 1, Width: tiles.Width}
		if err := b.write(t, b.edge[level]); err != nil {
			return err
		}
		up := tiles.Subtree(b.edge[level])
		hashes, b.edge[level] = up[:], b.edge[level][:0]
	}
}

// Root returns the root of the leaves so far.
func (b *Builder) Root() tiles.Hash {
	root, some := tiles.Hash{}, false
	for _, hashes := range b.edge { // from the right: the lowest level first, within it the smallest subtree
		for n := len(hashes) / tiles.HashSize; n > 0; n &= n - 1 {
			at := n & (n - 1)
			h := tiles.Subtree(hashes[at*tiles.HashSize : n*tiles.HashSize])
			if some {
				h = tiles.HashChildren(h, root)
			}
			root, some = h, true
		}
	}
	if !some {
		return tiles.EmptyRoot()
	}
	return root
}

// Publish writes the partial tiles and the given signed checkpoint of the present size.
func (b *Builder) Publish(note []byte) error {
	if w := int(b.size % tiles.Width); w != 0 {
		if err := b.write(tiles.Tile{Level: tiles.Entries, Index: b.size / tiles.Width, Width: w}, b.bundle); err != nil {
			return err
		}
	}
	for level, hashes := range b.edge {
		if len(hashes) > 0 {
			t := tiles.Tile{Level: level, Index: tiles.Count(level, b.size) / tiles.Width, Width: len(hashes) / tiles.HashSize}
			if err := b.write(t, hashes); err != nil {
				return err
			}
		}
	}
	if err := b.writeFile(fmt.Sprintf("checkpoints/%d", b.size), note); err != nil {
		return err
	}
	return b.writeFile("checkpoint", note)
}

func (b *Builder) write(t tiles.Tile, data []byte) error { return b.writeFile(t.Path(), data) }

func (b *Builder) writeFile(name string, data []byte) error {
	if dir := path.Dir(name); !b.made[dir] {
		if err := b.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		b.made[dir] = true
	}
	return b.root.WriteFile(name, data, 0o644)
}

// CheckpointText returns the text of a checkpoint, ready to be signed.
func CheckpointText(origin string, size uint64, root tiles.Hash) []byte {
	return fmt.Appendf(nil, "%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root[:]))
}

// Rewind makes the checkpoint of an earlier size the newest of a directory: the log as it was then.
func Rewind(dir string, size uint64) error {
	note, err := os.ReadFile(fmt.Sprintf("%s/checkpoints/%d", dir, size))
	if err != nil {
		return err
	}
	return os.WriteFile(dir+"/checkpoint", note, 0o644)
}
