package log

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// The high-water file: 128 slots of 512 bytes, each at the start of 4 KiB of its own, which is what a disk may lose with a
// torn write. The file is written in full when it is made so that a raise never grows it. Slots 2i and 2i+1 belong to one
// origin and are written in turn, so a torn write costs at most the raise that never returned. A slot, integers big endian:
//
//	0   "RDBTHWM2"
//	8   uint64 sequence; the valid slot of the higher one counts
//	16  uint64 size
//	24  root, 32 bytes
//	56  uint8 length of origin, origin
//	312 uint8 length of the halt reason, reason (empty: not halted)
//	480 SHA-256 of bytes 0 to 479
const (
	slotSize   = 512
	slotStride = 4096
	fileSize   = slotStride * slotCount
	slotCount  = 128
	slotMagic  = "RDBTHWM2"
	slotOrigin = 56
	slotHalt   = 312
	slotSum    = 480
	maxHalt    = slotSum - slotHalt - 1
)

// ErrHighWater says that the high-water file is not one, or cannot be written.
var ErrHighWater = errors.New("the high-water file is unusable")

// File holds the marks of all logs of one data directory. It stands beside that directory, never inside it: a backup of
// the directory must not carry it. One process holds the file at a time.
type File struct {
	f    *os.File
	path string

	mu    sync.Mutex
	slots map[string]*slot
	free  []int // first slot of each unused pair
	// damaged counts the pairs that hold a mark of nobody knows whom.
	damaged int
	broken  error // the first failed write; from then on what is on the disk is unknown
}

type slot struct {
	pair int
	seq  uint64
	mark Mark
}

// OpenHighWaterFile opens the file at path and makes an empty one where there is none. That is safe: marks are made by
// Create alone, and a log whose mark is missing does not sign.
func OpenHighWaterFile(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		if err := createHighWater(path); err != nil {
			return nil, fmt.Errorf("creating %s: %w", path, err)
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("opening high-water file: %w", err)
	}
	h := &File{f: f, path: path, slots: map[string]*slot{}}
	if err := h.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("opening high-water file %s: %w", path, err)
	}
	return h, nil
}

func createHighWater(path string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := tmp.Write(make([]byte, fileSize)); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	// Link, not rename: if another process made the file meanwhile, its marks stay.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (h *File) load() error {
	deadline := time.Now().Add(2 * time.Second)
	for {
		err := syscall.Flock(int(h.f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			return fmt.Errorf("%w: another process holds it: %w", ErrHighWater, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	info, err := h.f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != fileSize {
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrHighWater, info.Size(), fileSize)
	}
	buf := make([]byte, fileSize)
	if _, err := h.f.ReadAt(buf, 0); err != nil {
		return fmt.Errorf("%w: %w", ErrHighWater, err)
	}
	return h.parse(buf)
}

// parse reads the slots. A pair with bytes in it but no valid slot is damage and keeps its place: whose mark it was is
// unknown, so no origin without one is believed to have none. Bytes in the odd slot alone are no damage but the torn first
// raise of a new log, which signed nothing.
func (h *File) parse(buf []byte) error {
	for i := 0; i < slotCount; i += 2 {
		even, odd := buf[i*slotStride:(i+1)*slotStride], buf[(i+1)*slotStride:(i+2)*slotStride]
		a, aok := parseSlot(even[:slotSize])
		b, bok := parseSlot(odd[:slotSize])
		switch {
		case aok && bok && a.mark.Origin != b.mark.Origin:
			return fmt.Errorf("%w: slots %d and %d name two origins", ErrHighWater, i, i+1)
		case bok && (!aok || b.seq > a.seq):
			a = b
		case !aok:
			if len(bytes.Trim(even, "\x00")) == 0 {
				h.free = append(h.free, i)
			} else {
				h.damaged++
			}
			continue
		}
		if h.slots[a.mark.Origin] != nil {
			return fmt.Errorf("%w: two marks for %q", ErrHighWater, a.mark.Origin)
		}
		a.pair = i
		h.slots[a.mark.Origin] = &a
	}
	return nil
}

func parseSlot(b []byte) (s slot, ok bool) {
	sum := sha256.Sum256(b[:slotSum])
	if len(b) != slotSize || string(b[:8]) != slotMagic || !bytes.Equal(sum[:], b[slotSum:]) {
		return s, false
	}
	s.seq = binary.BigEndian.Uint64(b[8:])
	s.mark.Size = binary.BigEndian.Uint64(b[16:])
	s.mark.Root = [32]byte(b[24:56])
	n := int(b[slotOrigin])
	s.mark.Origin = string(b[slotOrigin+1 : slotOrigin+1+n])
	if n = int(b[slotHalt]); n > maxHalt {
		return s, false
	}
	s.mark.Halted = string(b[slotHalt+1 : slotHalt+1+n])
	return s, s.mark.Origin != ""
}

func (s slot) encode() []byte {
	b := make([]byte, slotSize)
	copy(b, slotMagic)
	binary.BigEndian.PutUint64(b[8:], s.seq)
	binary.BigEndian.PutUint64(b[16:], s.mark.Size)
	copy(b[24:], s.mark.Root[:])
	b[slotOrigin] = byte(copy(b[slotOrigin+1:slotHalt], s.mark.Origin))
	b[slotHalt] = byte(copy(b[slotHalt+1:slotSum], s.mark.Halted))
	sum := sha256.Sum256(b[:slotSum])
	copy(b[slotSum:], sum[:])
	return b
}

// For returns the mark of one origin.
func (h *File) For(origin string) HighWater { return &fileMark{h, origin} }

// Marks lists every mark in the file.
func (h *File) Marks() []Mark {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Mark
	for _, s := range h.slots {
		out = append(out, s.mark)
	}
	return out
}

// Close releases the file.
func (h *File) Close() error { return h.f.Close() }

// fileMark is the HighWater of one origin.
type fileMark struct {
	h      *File
	origin string
}

func (m *fileMark) Read(ctx context.Context) (Mark, error) {
	m.h.mu.Lock()
	defer m.h.mu.Unlock()
	s := m.h.slots[m.origin]
	if s == nil {
		err := ErrNoMark
		if m.h.damaged > 0 {
			err = fmt.Errorf("%w: %d damaged marks, of which this may be one", ErrHighWater, m.h.damaged)
		}
		return Mark{}, fmt.Errorf("reading %s of %s: %w", m.h.path, m.origin, err)
	}
	return s.mark, nil
}

func (m *fileMark) Raise(ctx context.Context, to Mark) error {
	m.h.mu.Lock()
	defer m.h.mu.Unlock()
	s := m.h.slots[m.origin]
	if to.Origin != m.origin || len(to.Origin) > 255 || to.Origin == "" {
		return fmt.Errorf("raising %s of %s: %w: the mark is of %q", m.h.path, m.origin, ErrHighWater, to.Origin)
	}
	if s != nil {
		if to.Size < s.mark.Size || to.Size == s.mark.Size && to.Root != s.mark.Root {
			return fmt.Errorf("raising %s of %s to size %d: %w: it stands at size %d, root %x", m.h.path, m.origin, to.Size, ErrRolledBack, s.mark.Size, s.mark.Root)
		}
		if s.mark.Halted != "" && to.Halted == "" {
			return fmt.Errorf("raising %s of %s: %w: halted: %s", m.h.path, m.origin, ErrReadOnly, s.mark.Halted)
		}
		if to == s.mark {
			return nil
		}
	}
	return m.h.write(to)
}

// write stores a mark durably. The caller holds mu.
func (h *File) write(to Mark) error {
	if h.broken != nil {
		return h.broken
	}
	to.Halted = to.Halted[:min(len(to.Halted), maxHalt)]
	next := slot{mark: to, seq: 1}
	if s := h.slots[to.Origin]; s != nil {
		next.pair, next.seq = s.pair, s.seq+1
	} else {
		if h.damaged > 0 {
			return fmt.Errorf("raising %s of %s: %w: %d damaged marks, of which this may be one", h.path, to.Origin, ErrHighWater, h.damaged)
		}
		if len(h.free) == 0 {
			return fmt.Errorf("raising %s of %s: %w: all %d places are taken", h.path, to.Origin, ErrHighWater, slotCount/2)
		}
		next.pair, h.free = h.free[0], h.free[1:]
	}
	at := int64(next.pair) + int64(next.seq%2)
	_, err := h.f.WriteAt(next.encode(), at*slotStride)
	if err == nil {
		err = syscall.Fdatasync(int(h.f.Fd()))
	}
	if err != nil {
		h.broken = fmt.Errorf("raising %s of %s: %w: %w", h.path, to.Origin, ErrHighWater, err)
		return h.broken
	}
	h.slots[to.Origin] = &next
	return nil
}

// Resume takes the halt off an origin, after an operator has seen to the cause. See log.Resume, which checks first.
func (m *fileMark) resume() error {
	m.h.mu.Lock()
	defer m.h.mu.Unlock()
	s := m.h.slots[m.origin]
	if s == nil || s.mark.Halted == "" {
		return nil
	}
	if s.mark.Fenced() != "" {
		return fmt.Errorf("%w: %s", ErrFenced, s.mark.Fenced())
	}
	to := s.mark
	to.Halted = ""
	return m.h.write(to)
}

// ReadHighWaterFile reads the marks in the file at path and changes nothing; it takes no lock, so another process may hold it.
// Errors: those of the file system, ErrHighWater when it is not a high-water file.
func ReadHighWaterFile(path string) ([]Mark, error) {
	buf, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading high-water file: %w", err)
	}
	if len(buf) != fileSize {
		return nil, fmt.Errorf("%w: %s has %d bytes, not %d", ErrHighWater, path, len(buf), fileSize)
	}
	h := &File{path: path, slots: map[string]*slot{}}
	if err := h.parse(buf); err != nil {
		return nil, fmt.Errorf("reading high-water file %s: %w", path, err)
	}
	return h.Marks(), nil
}
