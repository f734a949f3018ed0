package log

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

const slowFormat = "redoubt marks bound to a counter v1"

// slowFile is one of the two slots of the marks file: JSON, with SHA-256 over the same JSON without the sum, padded with zeros. A
// store of count n writes slot n%2, so that a torn write costs the slot that was no longer needed. The file is made in full with the
// counter and written in place from then on: the directory it stands in need not be writable.
type slowFile struct {
	Format  string     `json:"format"`
	Counter uint64     `json:"counter"`
	Time    time.Time  `json:"time"`
	Marks   []slowLine `json:"marks"`
	Sum     string     `json:"sum"`
}

// slowSlot is the size of a slot.
const slowSlot = 64 << 10

type slowLine struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"` // 64 hex digits
	Halted string `json:"halted,omitempty"`
	root   [32]byte
}

func (l slowLine) mark() Mark {
	return Mark{Origin: l.Origin, Size: l.Size, Root: l.root, Halted: l.Halted}
}

func (f slowFile) sum() string {
	f.Sum = ""
	b, err := json.Marshal(f)
	if err != nil { // no field of it can fail
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// readSlowFile reads the newest slot that is whole. A file of zeros alone, as a crash leaves it before the first store, is
// fs.ErrNotExist.
func readSlowFile(path string) (newest *slowFile, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 2*slowSlot+1))
	if err != nil {
		return nil, err
	}
	if len(data) != 2*slowSlot {
		return nil, fmt.Errorf("the file of marks has %d bytes, not %d", len(data), 2*slowSlot)
	}
	if len(bytes.Trim(data, "\x00")) == 0 {
		return nil, fmt.Errorf("%s is empty: %w", path, fs.ErrNotExist)
	}
	for i := range 2 {
		slot, e := parseSlowFile(bytes.TrimRight(data[i*slowSlot:(i+1)*slowSlot], "\x00"))
		if e == nil && slot.Counter%2 != uint64(i) {
			e = errors.New("a slot in the place of the other")
		}
		if err = errors.Join(err, e); e == nil && (newest == nil || slot.Counter > newest.Counter) {
			newest = slot
		}
	}
	if newest == nil {
		return nil, fmt.Errorf("the file of marks is damaged: %w", err)
	}
	return newest, nil
}

// parseSlowFile reads a slot; anything not written by writeSlowFile is refused.
func parseSlowFile(data []byte) (*slowFile, error) {
	var f slowFile
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("not a slot of marks: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the marks")
	}
	if f.Format != slowFormat || f.Sum == "" || f.Sum != f.sum() {
		return nil, errors.New("the file of marks is damaged")
	}
	seen := map[string]bool{}
	for i := range f.Marks {
		l := &f.Marks[i]
		if n, err := hex.Decode(l.root[:], []byte(l.Root[:min(len(l.Root), 64)])); err != nil || n != 32 || len(l.Root) != 64 || l.Origin == "" || seen[l.Origin] {
			return nil, errors.New("the file of marks is damaged")
		}
		seen[l.Origin] = true
	}
	return &f, nil
}

// createSlowFile makes a file of two empty slots; one that is there stays.
func createSlowFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("making the file of marks: %w", err)
	}
	st, err := f.Stat()
	if err == nil && st.Size() == 0 {
		_, err = f.Write(make([]byte, 2*slowSlot))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("making the file of marks: %w", err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("syncing the file of marks: %w", err)
	}
	return nil
}

// writeSlowFile writes the slot of count durably, in place.
func writeSlowFile(path string, counter uint64, at time.Time, marks map[string]Mark) (err error) {
	s := slowFile{Format: slowFormat, Counter: counter, Time: at, Marks: []slowLine{}}
	for _, origin := range slices.Sorted(maps.Keys(marks)) {
		m := marks[origin]
		s.Marks = append(s.Marks, slowLine{Origin: m.Origin, Size: m.Size, Root: hex.EncodeToString(m.Root[:]), Halted: m.Halted[:min(len(m.Halted), maxHalt)]})
	}
	s.Sum = s.sum()
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encoding marks: %w", err)
	}
	if len(data) > slowSlot {
		return fmt.Errorf("encoding marks: %w: %d bytes of marks, place for %d", ErrHighWater, len(data), slowSlot)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("writing marks: %w", err)
	}
	_, err = f.WriteAt(append(data, make([]byte, slowSlot-len(data))...), int64(counter%2)*slowSlot)
	if err == nil {
		err = syscall.Fdatasync(int(f.Fd()))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing marks: %w", err)
	}
	return nil
}
