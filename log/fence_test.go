package log

import (
	"errors"
	"path/filepath"
	"testing"
)

// TestFence: a fenced mark is halted for good, for its own reason only, and a log under it opens read-only.
func TestFence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "marks")
	h, err := OpenHighWaterFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, origin := range []string{"a.example", "b.example"} {
		if err := h.For(origin).Raise(t.Context(), Mark{Origin: origin, Size: 3}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := h.Fence("taken over by act 1234"); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Fence("taken over by act 5678"); !errors.Is(err, ErrFenced) {
		t.Fatalf("fenced twice: %v", err)
	}
	h.Close()
	h, err = OpenHighWaterFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, origin := range []string{"a.example", "b.example"} {
		m := h.For(origin)
		if mark, err := m.Read(t.Context()); err != nil || mark.Fenced() != "taken over by act 1234" {
			t.Fatalf("%+v %v", mark, err)
		}
		if err := m.Raise(t.Context(), Mark{Origin: origin, Size: 4}); !errors.Is(err, ErrReadOnly) {
			t.Fatalf("raised: %v", err)
		}
		if err := m.(*fileMark).resume(); !errors.Is(err, ErrFenced) {
			t.Fatalf("resumed: %v", err)
		}
	}
}
