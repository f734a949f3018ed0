// Package spool is a folder in which verifications leave the log proofs they saw, one small file each, for the mirror to compare with what it knows.
//
// Whoever writes there is not trusted: a file is what it says or it is thrown away, and the mirror's cross-check believes the log's key alone.
//
//	<SHA-256 of the content>.json   {"index":..,"leaf":hex,"note":text,"origin":..,"proof":[hex..],"source":..}
//	.<anything>                     a file that is being written
package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// Observation is a proof that somebody showed.
type Observation struct {
	Origin string
	Note   []byte // the log's checkpoint
	Index  uint64 // of the leaf, in the log's own tree
	Leaf   tiles.Hash
	Proof  []tiles.Hash
	Source string // what showed it, such as a bundle's digest; at most 200 printable characters
}

// Limits of a spool.
const (
	MaxFiles = 4096 // files in it; a verification that finds so many leaves nothing
	MaxBytes = parcel.MaxCheckpoint + 16<<10
	maxPath  = 64 // hashes of a proof
)

// ErrMalformed says that a file of the spool is not what verifications leave there.
var ErrMalformed = errors.New("this is no proof that a verification left")

// ErrFull says that nothing more is left in a spool until the mirror has emptied it.
var ErrFull = errors.New("the spool is full")

type spooled struct {
	Index  uint64   `json:"index"`
	Leaf   string   `json:"leaf"`
	Note   string   `json:"note"`
	Origin string   `json:"origin"`
	Proof  []string `json:"proof"`
	Source string   `json:"source"`
}

// Path is where a state directory has its spool.
func Path(dir string) string { return filepath.Join(dir, "mirror", "spool") }

// Leave puts an observation in dir, which is made if it is not there. The same one twice is one file. A full spool is ErrFull.
func Leave(dir string, o Observation) error {
	b, err := Encode(o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o770); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	name := NameOf(b)
	if _, err := root.Lstat(name); err == nil {
		return nil
	}
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(MaxFiles)
	d.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(names) >= MaxFiles {
		return fmt.Errorf("%w: %d proofs wait in %s for the mirror; it takes them in when it reconciles", ErrFull, len(names), dir)
	}
	tmp := fmt.Sprintf(".%s.%d", name, os.Getpid())
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		root.Remove(tmp)
	}
	return err
}

// NameOf is the name of a file by its content.
func NameOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]) + ".json"
}

// Encode is the content of the file of an observation.
func Encode(o Observation) ([]byte, error) {
	s := spooled{Index: o.Index, Leaf: o.Leaf.String(), Note: string(o.Note), Origin: o.Origin, Proof: []string{}, Source: o.Source}
	for _, h := range o.Proof {
		s.Proof = append(s.Proof, h.String())
	}
	b, err := json.Marshal(s)
	if err == nil && len(b) > MaxBytes {
		err = fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), MaxBytes)
	}
	return b, err
}

// Parse reads what Encode wrote, and nothing else.
func Parse(b []byte) (o Observation, err error) {
	var s spooled
	if err := strictjson.Decode(b, strictjson.Limits{Bytes: MaxBytes, Depth: 2, Values: maxPath + 16}, &s); err != nil {
		return o, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(s.Proof) > maxPath || len(s.Note) > parcel.MaxCheckpoint || len(s.Origin) > 255 || len(s.Source) > 200 {
		return o, fmt.Errorf("%w: too long", ErrMalformed)
	}
	hash := func(text string) (h tiles.Hash) {
		raw, herr := hex.DecodeString(text)
		if herr != nil || len(raw) != tiles.HashSize {
			err = fmt.Errorf("%w: %.80q is no hash", ErrMalformed, text)
			return h
		}
		return tiles.Hash(raw)
	}
	o = Observation{Origin: s.Origin, Note: []byte(s.Note), Index: s.Index, Leaf: hash(s.Leaf), Source: s.Source}
	for _, p := range s.Proof {
		o.Proof = append(o.Proof, hash(p))
	}
	if err != nil {
		return Observation{}, err
	}
	if again, err := Encode(o); err != nil || !bytes.Equal(again, b) {
		return Observation{}, fmt.Errorf("%w: it is spelled in another way", ErrMalformed)
	}
	return o, nil
}
