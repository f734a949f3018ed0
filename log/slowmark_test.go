package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// hardCounter is a counter of which a test says when it fails.
type hardCounter struct {
	mu      sync.Mutex
	defined bool
	value   uint64
	before  error // Raise fails without effect
	after   error // Raise takes effect and fails
	raises  int
}

func (h *hardCounter) config(path string) SlowConfig {
	lock := func() func() { h.mu.Lock(); return h.mu.Unlock }
	return SlowConfig{Path: path, Name: "counter", Every: time.Hour,
		Define: func(context.Context) error { defer lock()(); h.defined = true; h.value += 7; return nil },
		Read: func(context.Context) (uint64, error) {
			defer lock()()
			if !h.defined {
				return 0, ErrNoCounter
			}
			return h.value, nil
		},
		Raise: func(context.Context) (uint64, error) {
			defer lock()()
			if h.before != nil {
				return 0, h.before
			}
			h.value, h.raises = h.value+1, h.raises+1
			return h.value, h.after
		}}
}

func slowOpen(t *testing.T, h *hardCounter, path string) *SlowMarks {
	t.Helper()
	s := OpenSlowMarks(t.Context(), h.config(path))
	t.Cleanup(func() { s.Close() })
	return s
}

func at(size uint64) Mark { return Mark{Origin: "a", Size: size, Root: [32]byte{byte(size)}} }

func raise(t *testing.T, s *SlowMarks, m Mark) {
	t.Helper()
	if err := s.For(m.Origin).Raise(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// The first mark and a halt are stored at once, others at Flush and Close, and
// only what is stored is read.
func TestSlowMarks(t *testing.T) {
	h, path := &hardCounter{}, filepath.Join(t.TempDir(), "marks")
	s := slowOpen(t, h, path)
	if _, err := s.For("a").Read(t.Context()); !errors.Is(err, ErrNoMark) {
		t.Fatalf("absent mark: %v", err)
	}
	if h.defined {
		t.Error("opening defined the counter")
	}
	raise(t, s, at(0))
	if h.raises != 1 {
		t.Errorf("first mark: %d raises", h.raises)
	}
	for size := range uint64(100) {
		raise(t, s, at(size+1))
	}
	if h.raises != 1 || !s.Status().Pending {
		t.Errorf("commits raised the counter: %d", h.raises)
	}
	if m, err := s.For("a").Read(t.Context()); err != nil || m.Size != 0 {
		t.Errorf("%+v, %v", m, err)
	}
	for _, bad := range []Mark{at(99), {Origin: "a", Size: 100}, {Origin: "b", Size: 200}} {
		if err := s.For("a").Raise(t.Context(), bad); err == nil {
			t.Errorf("took %+v", bad)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = slowOpen(t, h, path)
	if m, err := s.For("a").Read(t.Context()); err != nil || m != at(100) {
		t.Errorf("after close and open: %+v, %v", m, err)
	}
	halted := at(100)
	halted.Halted = "disk full"
	raise(t, s, halted)
	s = slowOpen(t, h, path) // as after a crash: nothing was closed
	if m, err := s.For("a").Read(t.Context()); err != nil || m != halted {
		t.Errorf("halt: %+v, %v", m, err)
	}
	if err := s.For("a").Raise(t.Context(), at(101)); !errors.Is(err, ErrReadOnly) {
		t.Errorf("raised over a halt: %v", err)
	}
	if err := (&slowMark{s, "a"}).resume(); err != nil {
		t.Fatal(err)
	}
	raise(t, s, at(101))
}

// Putting back an older file, taking it away, or taking the counter away stops
// every log; a crash in the middle of a store does not.
func TestSlowMarksRewound(t *testing.T) {
	h, path := &hardCounter{}, filepath.Join(t.TempDir(), "marks")
	copies := map[int][]byte{}
	for i := range 4 {
		s := slowOpen(t, h, path)
		raise(t, s, at(uint64(i)))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		copies[i], _ = os.ReadFile(path)
	}
	put := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fails := func(what string, want error) {
		t.Helper()
		s := slowOpen(t, h, path)
		if _, err := s.For("a").Read(t.Context()); !errors.Is(err, want) {
			t.Errorf("%s: read %v, want %v", what, err, want)
		}
		if err := s.For("a").Raise(t.Context(), at(50)); !errors.Is(err, want) {
			t.Errorf("%s: raise %v, want %v", what, err, want)
		}
		if s.Status().Err == "" {
			t.Errorf("%s: not in the status", what)
		}
	}
	for i := range 3 {
		put(copies[i])
		fails(fmt.Sprintf("file of state %d", i), ErrRolledBack)
	}
	os.Remove(path)
	fails("no file", ErrRolledBack)
	put(bytes.Replace(copies[3], []byte(`"size":3`), []byte(`"size":2`), 1))
	fails("edited file", ErrRolledBack) // its other slot is of the store before
	put(copies[3][:50])
	fails("cut file", ErrHighWater)
	put(copies[3])
	h.defined = false
	fails("no counter", ErrRolledBack)
	h.defined, h.value = true, h.value+1
	fails("counter raised by others", ErrRolledBack)
	h.value -= 3
	fails("counter rewound", ErrRolledBack)
	h.value += 2
	s := slowOpen(t, h, path)
	if m, err := s.For("a").Read(t.Context()); err != nil || m != at(3) {
		t.Errorf("as it was: %+v, %v", m, err)
	}
}

// A torn write costs the store that did not return, and no other.
func TestSlowMarksTorn(t *testing.T) {
	h, path := &hardCounter{}, filepath.Join(t.TempDir(), "marks")
	s := slowOpen(t, h, path)
	for i := range 3 {
		raise(t, s, at(uint64(i)))
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeSlowFile(path, h.value+1, time.Now().UTC(), map[string]Mark{"a": at(9)}); err != nil {
		t.Fatal(err)
	}
	next, _ := os.ReadFile(path)
	from := int(h.value+1) % 2 * slowSlot
	for _, n := range []int{0, 1, 100, 511, 512, 4096} { // octets of the slot that reached the disk
		torn := bytes.Clone(whole)
		copy(torn[from:from+n], next[from:from+n])
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		value := h.value
		m, err := slowOpen(t, h, path).For("a").Read(t.Context())
		want := at(2)
		if h.value != value {
			want, h.value = at(9), value // enough of it for the whole store: open completed it
		}
		if err != nil || m != want {
			t.Errorf("%d octets: %+v, %v", n, m, err)
		}
	}
	// A file just made, before anything was stored in it.
	fresh := &hardCounter{}
	path = filepath.Join(t.TempDir(), "marks")
	if err := createSlowFile(path); err != nil {
		t.Fatal(err)
	}
	raise(t, slowOpen(t, fresh, path), at(0))
}

// A store that fails half way, and a crash there, lose nothing that was said to
// be stored, and the next store or open goes on.
func TestSlowMarksHalfStored(t *testing.T) {
	away := errors.New("the TPM is away")
	for name, fail := range map[string]func(h *hardCounter) *error{
		"before": func(h *hardCounter) *error { return &h.before }, "after": func(h *hardCounter) *error { return &h.after },
	} {
		for _, crash := range []bool{false, true} {
			h, path := &hardCounter{}, filepath.Join(t.TempDir(), "marks")
			s := slowOpen(t, h, path)
			raise(t, s, at(1))
			raise(t, s, at(2))
			*fail(h) = away
			for range 3 {
				if err := s.Flush(t.Context()); !errors.Is(err, away) && name == "before" {
					t.Fatalf("%s: %v", name, err)
				}
			}
			if m, err := s.For("a").Read(t.Context()); err != nil && name == "before" {
				t.Errorf("%s: %+v, %v", name, m, err)
			}
			*fail(h) = nil
			if crash {
				s = slowOpen(t, h, path)
			}
			if err := s.For("a").Raise(t.Context(), at(3)); err != nil {
				t.Fatalf("%s, crash %v: %v", name, crash, err)
			}
			if err := s.Close(); err != nil {
				t.Fatalf("%s, crash %v: %v", name, crash, err)
			}
			if m, err := slowOpen(t, h, path).For("a").Read(t.Context()); err != nil || m != at(3) {
				t.Errorf("%s, crash %v: %+v, %v", name, crash, m, err)
			}
		}
	}
}

// Logs live with a counter that is away, but not for ever.
func TestSlowMarksAway(t *testing.T) {
	h, path := &hardCounter{}, filepath.Join(t.TempDir(), "marks")
	s := slowOpen(t, h, path)
	raise(t, s, at(1))
	h.before = errors.New("the TPM is away")
	raise(t, s, at(2))
	if err := s.Flush(t.Context()); err == nil {
		t.Fatal("stored on a counter that is away")
	}
	raise(t, s, at(3))
	s.mu.Lock()
	s.dirtyAt = time.Now().Add(-11 * time.Hour) // eleven intervals
	s.mu.Unlock()
	if err := s.For("a").Raise(t.Context(), at(4)); !errors.Is(err, ErrHighWater) {
		t.Errorf("eleven intervals later: %v", err)
	}
	h.before = nil
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	raise(t, s, at(4))
}

func FuzzSlowFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "marks")
	if err := createSlowFile(path); err != nil {
		f.Fatal(err)
	}
	if err := writeSlowFile(path, 8, time.Unix(1, 0).UTC(), map[string]Mark{"a": at(3), "b": {Origin: "b", Halted: "x"}}); err != nil {
		f.Fatal(err)
	}
	data, _ := os.ReadFile(path)
	f.Add(bytes.TrimRight(data[:slowSlot], "\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := parseSlowFile(data)
		if err != nil {
			return
		}
		for _, l := range v.Marks {
			if m := l.mark(); m.Origin == "" || fmt.Sprintf("%x", m.Root) != l.Root && len(l.Root) != 64 {
				t.Fatalf("took %+v", l)
			}
		}
	})
}
