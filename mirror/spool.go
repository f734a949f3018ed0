package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// A spool is a folder in which verifications leave the proofs they saw, one small file each, for the mirror to compare with what it knows.
// Whoever writes there is not trusted: a file is what it says or it is thrown away, and the cross-check believes the log's key alone.
//
//	<SHA-256 of the content>.json   {"index":..,"leaf":hex,"note":text,"origin":..,"proof":[hex..],"source":..}
//	.<anything>                     a file that is being written

// Limits of a spool.
const (
	maxSpooled  = 4096 // files in it; a verification that finds so many leaves nothing
	maxSpool    = 1024 // files looked at in one go
	maxSpoolOne = parcel.MaxCheckpoint + 16<<10
	maxPath     = 64 // hashes of a proof
)

// ErrSpool says that a file of the spool is not what verifications leave there.
var ErrSpool = errors.New("this is no proof that a verification left")

type spooled struct {
	Index  uint64   `json:"index"`
	Leaf   string   `json:"leaf"`
	Note   string   `json:"note"`
	Origin string   `json:"origin"`
	Proof  []string `json:"proof"`
	Source string   `json:"source"`
}

// Spool leaves an observation in dir, which is made if it is not there. The same one twice is one file. A full spool is ErrFull.
func Spool(dir string, o Observation) error {
	b, err := encodeSpooled(o)
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
	name := spoolName(b)
	if _, err := root.Lstat(name); err == nil {
		return nil
	}
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(maxSpooled)
	d.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(names) >= maxSpooled {
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

func spoolName(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]) + ".json"
}

func encodeSpooled(o Observation) ([]byte, error) {
	s := spooled{Index: o.Index, Leaf: o.Leaf.String(), Note: string(o.Note), Origin: o.Origin, Proof: []string{}, Source: o.Source}
	for _, h := range o.Proof {
		s.Proof = append(s.Proof, h.String())
	}
	b, err := json.Marshal(s)
	if err == nil && len(b) > maxSpoolOne {
		err = fmt.Errorf("%w: %d bytes, at most %d", ErrSpool, len(b), maxSpoolOne)
	}
	return b, err
}

// parseSpooled reads what encodeSpooled wrote, and nothing else.
func parseSpooled(b []byte) (o Observation, err error) {
	var s spooled
	if err := strictjson.Decode(b, strictjson.Limits{Bytes: maxSpoolOne, Depth: 2, Values: maxPath + 16}, &s); err != nil {
		return o, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	if len(s.Proof) > maxPath || len(s.Note) > parcel.MaxCheckpoint || len(s.Origin) > 255 || len(s.Source) > 200 {
		return o, fmt.Errorf("%w: too long", ErrSpool)
	}
	hash := func(text string) (h tiles.Hash) {
		raw, herr := hex.DecodeString(text)
		if herr != nil || len(raw) != tiles.HashSize {
			err = fmt.Errorf("%w: %.80q is no hash", ErrSpool, text)
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
	if again, err := encodeSpooled(o); err != nil || !bytes.Equal(again, b) {
		return Observation{}, fmt.Errorf("%w: it is spelled in another way", ErrSpool)
	}
	return o, nil
}

// SpoolReport says what became of the files of a spool. Its JSON form is stable.
type SpoolReport struct {
	Taken   int `json:"taken"`   // proofs compared with everything accepted before
	Known   int `json:"known"`   // subtree hashes in them that were known, and agree
	New     int `json:"new"`     // subtree hashes that are kept from now on
	Foreign int `json:"foreign"` // proofs of logs this mirror does not know
	Refused int `json:"refused"` // files that are no proofs, or whose proof does not hold
	Left    int `json:"left"`    // files for the next time
}

// ObserveSpool compares every proof in dir with what is mirrored and empties dir of it. A proof that contradicts a log freezes that log and
// is in its evidence: the errors are those forks, and ErrBusy when an import runs and the rest waits.
func (m *Mirror) ObserveSpool(ctx context.Context, dir string) (out SpoolReport, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	defer root.Close()
	d, err := root.Open(".")
	if err != nil {
		return out, err
	}
	names, err := d.Readdirnames(maxSpool)
	d.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return out, err
	}
	slices.Sort(names)
	var forks []error
	for i, name := range names {
		if strings.HasPrefix(name, ".") { // being written, unless whoever wrote it is gone
			if st, err := root.Lstat(name); err == nil && m.c.Now().Sub(st.ModTime()) > time.Hour {
				root.Remove(name)
			}
			continue
		}
		c, err := m.observeFile(ctx, root, name)
		var fork *ForkError
		switch {
		case err == nil:
			out.Taken++
			out.Known, out.New = out.Known+c.Known, out.New+c.New
		case errors.Is(err, ErrBusy) || ctx.Err() != nil:
			out.Left = len(names) - i
			return out, errors.Join(append(forks, err)...)
		case errors.As(err, &fork):
			out.Taken++
			if !fork.Frozen { // else it was known before
				forks = append(forks, err)
			}
		case errors.Is(err, ErrUnknownOrigin):
			out.Foreign++
		default:
			out.Refused++
			m.c.Logger.WarnContext(ctx, "file in the spool refused", "name", name, "error", oneLine(err))
		}
		if err := root.Remove(name); err != nil {
			return out, errors.Join(append(forks, fmt.Errorf("emptying %s: %w", dir, err))...)
		}
	}
	return out, errors.Join(forks...)
}

// observeFile compares one file of a spool.
func (m *Mirror) observeFile(ctx context.Context, root *os.Root, name string) (Confirmed, error) {
	st, err := root.Lstat(name)
	if err != nil {
		return Confirmed{}, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxSpoolOne {
		return Confirmed{}, fmt.Errorf("%w: a %s of %d bytes", ErrSpool, st.Mode().Type(), st.Size())
	}
	f, err := root.Open(name)
	if err != nil {
		return Confirmed{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSpoolOne+1))
	if err != nil {
		return Confirmed{}, err
	}
	if name != spoolName(b) {
		return Confirmed{}, fmt.Errorf("%w: it is not called by its digest", ErrSpool)
	}
	o, err := parseSpooled(b)
	if err != nil {
		return Confirmed{}, err
	}
	return m.Observe(ctx, o)
}
