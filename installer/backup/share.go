package backup

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/parcel"
)

// Where several processes have a state directory, each reads its databases and files alone. Create asks each for its share: what is new in
// it since the run before, as objects that are sealed already, so that whoever puts the run together learns nothing of what is in them.
//
// Shares are copied before the rest, which holds what has to come first in life: a certificate is in its log before the entry that was
// signed with it, an act in the audit log before what it changed. So whatever a run has, it has what that stands on.
//
// A share goes as frames: a letter, a length of four bytes, the largest first, and so many bytes. Objects ('o') come first, then an
// answer ('a') or the sentence that says why there is none ('e').

// Share is what another process has of a state directory.
type Share struct {
	Name string
	// Databases are those of the share, with their logs. DB and Stamp are the other process's.
	Databases []Database
	// Owns says whether a path below the state directory, with slashes, is the share's.
	Owns func(path string) bool
	// Ask hands over what is asked and returns the frames.
	Ask func(ctx context.Context, ask []byte) (io.ReadCloser, error)
}

// Ask is what a process is asked for.
type Ask struct {
	Name       string    `json:"name"` // of the share
	Recipients []string  `json:"recipients"`
	Plain      bool      `json:"plain"`
	Have       *contents `json:"have"` // what the backup has of the share
}

// answer is what it makes of that.
type answer struct {
	Contents *contents `json:"contents"` // the difference
	Logs     []LogHead `json:"logs"`
	Marks    []Mark    `json:"marks"`
	LeftOut  []string  `json:"leftOut"`
}

const (
	frameObject = 'o'
	frameAnswer = 'a'
	frameError  = 'e'

	// MaxAsk bounds what a process is asked, in bytes; objects of 8 MiB each take 300 there.
	MaxAsk = 64 << 20
	// maxSentence bounds a frame that says what went wrong.
	maxSentence = 4 << 10
)

// ErrShare: what another process handed over is not its share.
var ErrShare = errors.New("this is not the share that was asked for")

// ParseAsk reads what is asked.
func ParseAsk(data []byte) (*Ask, error) {
	a := &Ask{}
	if err := strictjson.Decode(data, strictjson.Limits{Bytes: MaxAsk, Values: 8 << 20}, a); err != nil {
		return nil, fmt.Errorf("%w: reading what is asked: %v", ErrShare, err)
	}
	if a.Have == nil || a.Have.holed() || (len(a.Recipients) == 0) != a.Plain {
		return nil, fmt.Errorf("%w: what is asked has holes", ErrShare)
	}
	return a, nil
}

// WriteShare copies what c says, of which it uses Dir, Skip, Owns, Databases and Marks, and writes the frames. An error is among them.
func WriteShare(ctx context.Context, c Config, a *Ask, w io.Writer) error {
	err := writeShare(ctx, c, a, w)
	if err != nil {
		text := err.Error()
		return errors.Join(err, writeFrame(w, frameError, []byte(text[:min(len(text), maxSentence)])))
	}
	return nil
}

func writeShare(ctx context.Context, c Config, a *Ask, w io.Writer) (err error) {
	r := &run{c: c, have: a.Have, diff: &contents{}, known: map[[32]byte]Part{}}
	if r.seal, err = newSealer(a.Recipients); err != nil {
		return err
	}
	r.put = func(sealed []byte) (Part, bool, error) {
		return Part{Object: parcel.Sum(sealed), Bytes: int64(len(sealed))}, true, writeFrame(w, frameObject, sealed)
	}
	r.know(r.have)
	if err := r.copy(ctx); err != nil {
		return err
	}
	text, err := json.Marshal(answer{r.diff, r.heads, c.Marks, r.left})
	if err != nil {
		return err
	}
	return writeFrame(w, frameAnswer, text)
}

func writeFrame(w io.Writer, kind byte, data []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(data)))
	_, err := w.Write(head)
	if err == nil {
		_, err = w.Write(data)
	}
	if err != nil {
		return fmt.Errorf("handing over a share: %w", err)
	}
	return nil
}

// readFrames hands the objects of a share to put, and returns the answer after them.
func readFrames(r io.Reader, put func(object []byte) error) (*answer, error) {
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(r, head); err != nil {
			return nil, fmt.Errorf("%w: it ends before its end: %w", ErrShare, err)
		}
		kind, length := head[0], int64(binary.BigEndian.Uint32(head[1:]))
		if most := map[byte]int64{frameObject: maxPlain, frameAnswer: MaxAsk, frameError: maxSentence}[kind]; length > most || length == 0 {
			return nil, fmt.Errorf("%w: a frame %q of %d bytes", ErrShare, kind, length)
		}
		var data bytes.Buffer
		if n, err := io.Copy(&data, io.LimitReader(r, length)); err != nil || n < length {
			return nil, fmt.Errorf("%w: it ends before its end: %w", ErrShare, errors.Join(err, io.ErrUnexpectedEOF))
		}
		switch kind {
		case frameError:
			return nil, errors.New(strings.ToValidUTF8(data.String(), "?"))
		case frameAnswer:
			a := &answer{}
			if err := strictjson.Decode(data.Bytes(), strictjson.Limits{Bytes: MaxAsk, Values: 8 << 20}, a); err != nil {
				return nil, fmt.Errorf("%w: reading the answer: %v", ErrShare, err)
			}
			if a.Contents == nil || a.Contents.holed() {
				return nil, fmt.Errorf("%w: an answer with holes", ErrShare)
			}
			return a, nil
		}
		if err := put(data.Bytes()); err != nil {
			return nil, err
		}
	}
}

// share adds the share of another process to the run.
func (r *run) share(ctx context.Context, s Share) error {
	have := r.have.of(s.Databases, s.Owns)
	text, err := json.Marshal(Ask{s.Name, append([]string{}, r.c.Recipients...), r.c.Plain, have})
	if err != nil {
		return err
	}
	frames, err := s.Ask(ctx, text)
	if err != nil {
		return err
	}
	defer frames.Close()
	there := map[string]int64{} // objects the share may be made of
	have.parts(func(p Part) { there[p.Object.String()] = p.Bytes })
	a, err := readFrames(frames, func(object []byte) error {
		p, err := r.store(object)
		there[p.Object.String()] = p.Bytes
		return err
	})
	if err != nil {
		return err
	}
	if err := s.check(a, have, there); err != nil {
		return fmt.Errorf("%w: %w", ErrShare, err)
	}
	r.diff.Databases = append(r.diff.Databases, a.Contents.Databases...)
	r.diff.Files = append(r.diff.Files, a.Contents.Files...)
	r.diff.Removed = append(r.diff.Removed, a.Contents.Removed...)
	r.heads, r.left = append(r.heads, a.Logs...), append(r.left, a.LeftOut...)
	for _, m := range a.Marks {
		if slices.ContainsFunc(a.Logs, func(h LogHead) bool { return h.Origin == m.Origin }) {
			r.c.Marks = append(r.c.Marks, m)
		}
	}
	return nil
}

// check refuses what the share cannot be made of: other databases, logs and files than its own, objects that nobody handed over. A process
// that was taken over cannot put files of others into a backup.
func (s Share) check(a *answer, have *contents, there map[string]int64) error {
	for _, d := range s.Databases {
		now := orElse(a.Contents.database(d.Name), have.database(d.Name))
		if now == nil {
			return fmt.Errorf("nothing of %s", d.Name)
		}
		for _, l := range d.Logs {
			n := slices.IndexFunc(a.Logs, func(h LogHead) bool { return h.Name == l.Name && h.Origin == l.Config.Origin })
			if part := now.log(l.Name); n < 0 || part == nil || part.Prefix != l.Config.Prefix || part.Origin != l.Config.Origin {
				return fmt.Errorf("nothing of the %s log in %s", l.Name, d.Name)
			}
		}
	}
	for i, d := range a.Contents.Databases {
		k := slices.IndexFunc(s.Databases, func(o Database) bool { return o.Name == d.Name })
		if k < 0 || len(d.Logs) != len(s.Databases[k].Logs) || slices.ContainsFunc(a.Contents.Databases[:i], func(o *database) bool { return o.Name == d.Name }) {
			return fmt.Errorf("a database %.80q that is not its own", d.Name)
		}
	}
	if logs := s.logs(); len(a.Logs) != logs {
		return fmt.Errorf("%d heads of %d logs", len(a.Logs), logs)
	}
	paths := slices.Concat(a.Contents.Removed, a.LeftOut)
	for _, f := range a.Contents.Files {
		paths = append(paths, f.Path)
	}
	for _, path := range paths {
		if !fs.ValidPath(path) || len(path) > maxPath || !s.Owns(path) {
			return fmt.Errorf("a file %.80q that is not its own", path)
		}
	}
	var err error
	a.Contents.parts(func(p Part) {
		if size, ok := there[p.Object.String()]; !ok || size != p.Bytes {
			err = fmt.Errorf("an object %s that it did not hand over", p.Object)
		}
	})
	return err
}

func (s Share) logs() (n int) {
	for _, d := range s.Databases {
		n += len(d.Logs)
	}
	return n
}

func orElse[T any](a, b *T) *T {
	if a == nil {
		return b
	}
	return a
}
