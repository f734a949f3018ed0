package parcel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	maxFolderDepth = 8       // folders below a folder that is named
	maxFolderFiles = 1 << 16 // files looked at in it
)

// Find lists the volumes below a folder, in the order of their names: every file that is called *.rdp, in whatever case, and every
// other file that begins as a volume does. How a gate renamed, sorted or unpacked them does not matter. Hidden files and folders
// are passed over and links are not followed. Errors are ErrMedium and ErrManifest.
func Find(dir string) (out []string, err error) {
	seen := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path != dir && errors.Is(err, fs.ErrNotExist) {
				return nil // it went away
			}
			return &VolumeError{number(path), path, fmt.Errorf("%w: %v", ErrMedium, err)}
		}
		hidden := path != dir && strings.HasPrefix(d.Name(), ".")
		switch {
		case d.IsDir() && (hidden || strings.Count(strings.TrimPrefix(path, dir), string(filepath.Separator)) > maxFolderDepth):
			return fs.SkipDir
		case d.IsDir() || hidden || !d.Type().IsRegular():
			return nil
		}
		if seen++; seen > maxFolderFiles {
			return fmt.Errorf("%w: more than %d files in %s; name the volumes", ErrManifest, maxFolderFiles, dir)
		}
		if strings.EqualFold(filepath.Ext(path), ".rdp") || beginsAsVolume(path) {
			out = append(out, path)
		}
		return nil
	})
	return out, err
}

// beginsAsVolume tells whether the first bytes are a stored frame with a tar header of a manifest.
func beginsAsVolume(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	var b [headerLen + 3 + len(noteName) + 1]byte
	if _, err := io.ReadFull(f, b[:]); err != nil {
		return false
	}
	return bytes.HasPrefix(b[:], frameStart) && bytes.HasSuffix(b[:], []byte(noteName+"\x00"))
}

// whatBecame guesses what happened on its way to a file that does not begin as a volume, by its first bytes, "" if it cannot tell.
func whatBecame(f io.ReaderAt) string {
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, 0)
	b = b[:n]
	switch {
	case n == 0:
		return "it is empty"
	case bytes.HasPrefix(b, []byte("redoubt.shard/v1")):
		return "it is a shard of a volume: `redoubt mirror receive` puts volumes together"
	case bytes.HasPrefix(b, []byte("PK\x03\x04")), bytes.HasPrefix(b, []byte("\x1f\x8b")), bytes.HasPrefix(b, []byte("BZh")),
		bytes.HasPrefix(b, []byte("\xfd7zXZ\x00")), bytes.HasPrefix(b, []byte("7z\xbc\xaf")):
		return "it is an archive: unpack it, and import the volumes that are in it"
	case bytes.HasPrefix(b, []byte(noteName+"\x00")):
		return "it was decompressed on its way: a volume has to arrive with the bytes it was made with"
	case n > 262 && string(b[257:262]) == "ustar":
		return "it is an archive: unpack it, and import the volumes that are in it"
	case bytes.HasPrefix(b, []byte("KLUv/")):
		return "it is base64: decode it"
	case bytes.Contains(b, []byte("redoubt.parcel/v1")) && bytes.Contains(b, []byte("\r\n")):
		return "its line ends were changed on the way: carry volumes as binary files"
	case bytes.HasPrefix(b, frameStart[:4]) && !bytes.HasPrefix(b, frameStart):
		return "it was compressed anew on its way: a volume has to arrive with the bytes it was made with"
	}
	return ""
}

// Piece is a file that begins with a manifest of a known key.
type Piece struct {
	Manifest *Manifest
	Digest   Digest
	By       *Verifier
	N        int   // number of the volume it is, 0 if it is none of the manifest's
	Err      error // why it is none
}

// Identify says which volume of which parcel a file is, reading it once. Errors are those of Scan.
func Identify(ctx context.Context, path string, keys []*Verifier) (Piece, error) {
	list, err := Scan([]string{path}, keys)
	if err != nil {
		return Piece{}, err
	}
	p := list[0]
	defer p.Close()
	out := Piece{Manifest: p.Manifest, Digest: p.Digest, By: p.By}
	i, err := p.place(ctx, p.files[0])
	switch {
	case ctx.Err() != nil:
		return out, ctx.Err()
	case errors.Is(err, ErrMedium):
		return out, &VolumeError{number(path), path, err}
	case err != nil:
		out.Err = &VolumeError{number(path), path, err}
	default:
		out.N = i + 1
	}
	return out, nil
}
