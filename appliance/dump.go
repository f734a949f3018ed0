package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// dump is the folder of one exported log:
//
//	checkpoint   the signed head; replaced last, so that what it promises is there
//	tile/...     C2SP tlog-tiles: hash tiles and entry bundles
//	.unfinished  the verifier line of the log, until the first checkpoint stands
//	.part        the file being written; renamed into its place
type dump struct {
	root *os.Root
	lock *os.File
	held mirror.Checkpoint // of the export that is there; size 0 when there is none
}

const (
	dumpPart       = ".part"
	dumpUnfinished = ".unfinished"
)

var (
	errNotOurs = errors.New("the folder is not empty and holds no earlier export of this log")
	errTwoFace = errors.New("the log does not extend the export that is in the folder")
)

// openDump opens, and if need be makes, the folder for an export of the log of origin and vkey. Nothing in a folder that is
// another's is touched.
func openDump(dir, origin, vkey string) (d *dump, err error) {
	key, err := parcel.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	d = &dump{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.root, err = os.OpenRoot(dir); err != nil {
		return d, err
	}
	if d.lock, err = d.root.Open("."); err != nil {
		return d, err
	}
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return d, fmt.Errorf("%s: another export writes into this folder", dir)
	}
	foreign := cmdline.Hinted(fmt.Errorf("%s: %w", dir, errNotOurs), "name a new folder, or the one the same log was exported to")
	switch note, err := d.read("checkpoint"); {
	case err == nil:
		text, _, err := parcel.OpenNote(note, []*parcel.Verifier{key})
		if err != nil {
			return d, foreign
		}
		if d.held, err = mirror.ParseCheckpoint(text); err != nil || d.held.Origin != origin {
			return d, foreign
		}
		return d, nil
	case !errors.Is(err, fs.ErrNotExist):
		return d, err
	}
	switch line, err := d.read(dumpUnfinished); {
	case err == nil && string(line) == vkey+"\n":
		return d, nil
	case err == nil:
		return d, foreign
	case !errors.Is(err, fs.ErrNotExist):
		return d, err
	}
	names, err := d.lock.Readdirnames(2)
	if err != nil && err != io.EOF {
		return d, err
	}
	if len(names) > 1 || len(names) == 1 && names[0] != dumpPart {
		return d, foreign
	}
	return d, d.write(dumpUnfinished, []byte(vkey+"\n"))
}

func (d *dump) close() {
	if d.lock != nil {
		d.lock.Close()
	}
	if d.root != nil {
		d.root.Close()
	}
}

// read returns a small file of the folder.
func (d *dump) read(name string) ([]byte, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, parcel.MaxCheckpoint+1))
}

// extendedBy refuses a log whose tree does not begin with the tree that was exported before: it lost entries, or has two histories.
func (d *dump) extendedBy(head copyAnswer, rootAt func(size uint64) (copyAnswer, error)) error {
	if d.held.Size == 0 {
		return nil
	}
	a, err := rootAt(d.held.Size)
	if err != nil {
		return err
	}
	if a.RootAt != hex.EncodeToString(d.held.Root[:]) || head.Size < d.held.Size {
		return cmdline.WithCode(exitBadProof, fmt.Errorf("%w: it was exported with %d entries and root %s, the log now has %d entries and root %s there; keep that folder, its checkpoint is evidence",
			errTwoFace, d.held.Size, d.held.Root, head.Size, a.RootAt))
	}
	return nil
}

// has returns the length of the file of t, 0 when it has to be written. That it is the right one is proven at the end.
func (d *dump) has(t tiles.Tile) int64 {
	info, err := d.root.Lstat(t.Path())
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	if n := info.Size(); n == int64(t.Width)*tiles.HashSize || t.Level == tiles.Entries && n >= int64(t.Width)*2 {
		return n
	}
	return 0
}

// write puts a file in its place, whole. It is durable after finish.
func (d *dump) write(name string, data []byte) error {
	if dir := path.Dir(name); dir != "." {
		if err := d.root.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	if err := d.root.WriteFile(dumpPart, data, 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return d.root.Rename(dumpPart, name)
}

// finish makes all files durable, then the checkpoint that promises them.
func (d *dump) finish(note []byte) error {
	if old, err := d.read("checkpoint"); err != nil || !bytes.Equal(old, note) {
		if err := d.sync(); err != nil {
			return err
		}
		if err := d.write("checkpoint", note); err != nil {
			return err
		}
	}
	if err := d.root.Remove(dumpUnfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.sync()
}

func (d *dump) sync() error {
	if err := unix.Syncfs(int(d.lock.Fd())); err != nil {
		return fmt.Errorf("flushing the folder: %w", err)
	}
	return nil
}

// sweep removes partial tiles of earlier heads. No other file is touched.
func (d *dump) sweep(size uint64) error {
	return fs.WalkDir(d.root.FS(), "tile", func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name == "tile" {
			return nil // an empty log
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		t, err := tiles.Parse(name)
		if err != nil || t.Full() {
			return nil
		}
		if now, ok := tiles.At(t.Level, t.Index, size); ok && now == t {
			return nil
		}
		if err := d.root.Remove(name); err != nil {
			return err
		}
		if err := d.root.Remove(path.Dir(name)); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		return nil
	})
}

// allTiles are the files of a tree of size leaves: entry bundles, then hash tiles from the leaves up.
func allTiles(size uint64) iter.Seq[tiles.Tile] {
	return func(yield func(tiles.Tile) bool) {
		for level := tiles.Entries; tiles.Count(level, size) > 0; level++ {
			for index := uint64(0); ; index++ {
				t, ok := tiles.At(level, index, size)
				if !ok {
					break
				}
				if !yield(t) {
					return
				}
			}
		}
	}
}

// countTiles is the number of files of an export of size leaves, checkpoint among them.
func countTiles(size uint64) (n uint64) {
	for level := tiles.Entries; tiles.Count(level, size) > 0; level++ {
		n += (tiles.Count(level, size)-1)/tiles.Width + 1
	}
	return n + 1
}
