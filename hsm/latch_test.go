package hsm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// One secret is refused once and for all processes; another gets its one try.
func TestLatch(t *testing.T) {
	source := filepath.Join(t.TempDir(), "pin")
	open := func() *Latch {
		t.Helper()
		l, err := NewLatch(source, "")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	if err := l.Allow([]byte("1234"), source); err != nil {
		t.Fatal(err)
	}
	if err := l.Refuse([]byte("1234")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(l.Path()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mark: %v, %v", info, err)
	}
	if data, err := os.ReadFile(l.Path()); err != nil || strings.Contains(string(data), "1234") {
		t.Errorf("the mark shows the secret: %s, %v", data, err)
	}
	for _, l := range []*Latch{l, open()} { // this process and the next
		if err := l.Allow([]byte("1234"), source); !errors.Is(err, ErrBadPIN) || !strings.Contains(err.Error(), source) {
			t.Errorf("refused secret: %v", err)
		}
		if err := l.Allow([]byte("5678"), source); err != nil {
			t.Errorf("another secret: %v", err)
		}
		if latched, err := l.Latched(); err != nil || !latched {
			t.Errorf("latched %v, %v", latched, err)
		}
	}
	if err := os.Remove(l.Path()); err != nil { // the operator says: reset on the token
		t.Fatal(err)
	}
	if err := l.Allow([]byte("1234"), source); err != nil {
		t.Errorf("after the mark was removed: %v", err)
	}
	if err := os.WriteFile(l.Path(), []byte(`{"salt":"AA=="}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open().Allow([]byte("1234"), source); err == nil || errors.Is(err, ErrBadPIN) {
		t.Errorf("damaged mark: %v", err)
	}
	if err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	if latched, err := open().Latched(); err != nil || latched {
		t.Errorf("after a good one: latched %v, %v", latched, err)
	}
	missing := LatchAt(filepath.Join(t.TempDir(), "absent", "latch"))
	if err := missing.Allow([]byte("1234"), source); err == nil || !strings.Contains(err.Error(), "not writable") {
		t.Errorf("a mark that could not be written: %v", err)
	}
	memory := LatchAt("")
	if err := memory.Refuse([]byte("1234")); err != nil {
		t.Fatal(err)
	}
	if err := memory.Allow([]byte("1234"), "memory"); !errors.Is(err, ErrBadPIN) {
		t.Errorf("in memory: %v", err)
	}
}

// Where the secret's directory cannot be written to, the mark goes elsewhere.
func TestLatchFallback(t *testing.T) {
	const readOnly = "/proc/self" // refuses files even to root
	state := filepath.Join(t.TempDir(), "state")
	l, err := NewLatch(readOnly+"/pin", state)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(l.Path()) != state {
		t.Fatalf("the mark is at %s; %s should refuse files", l.Path(), readOnly)
	}
	if err := l.Refuse([]byte("1234")); err != nil {
		t.Fatal(err)
	}
	if m, err := readLatch(l.Path()); err != nil || m == nil {
		t.Errorf("%v, %v", m, err)
	}
	other, err := NewLatch(readOnly+"/other", state)
	if err != nil || other.Path() == l.Path() {
		t.Errorf("two sources share %s, %v", l.Path(), err)
	}
}

func FuzzLatch(f *testing.F) {
	f.Add([]byte(`{"salt":"AAAAAAAAAAAAAAAAAAAAAA==","mark":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := parseLatch(data); err == nil && (len(m.Salt) != 16 || len(m.Mark) != 32) {
			t.Fatalf("took %+v", m)
		}
	})
}

// A service manager that starts again and again: a thousand processes, each with
// its own Latch over the same files, come to one try of one secret.
func TestLatchOverAThousandRestarts(t *testing.T) {
	source := filepath.Join(t.TempDir(), "pin")
	tries := 0
	for i := range 1000 {
		l, err := NewLatch(source, "")
		if err != nil {
			t.Fatal(err)
		}
		l.work = 4 // the tries are counted here, not the cost of guessing
		switch err := l.Allow([]byte("1234"), source); {
		case err == nil:
			tries++
			if err := l.Refuse([]byte("1234")); err != nil {
				t.Fatal(err)
			}
		case !errors.Is(err, ErrBadPIN):
			t.Fatalf("start %d: %v", i, err)
		}
	}
	if tries != 1 {
		t.Errorf("%d tries over 1000 starts", tries)
	}
}

// One login at a time for each source, in this process and others; one that never
// ended is told to the next.
func TestLatchBegin(t *testing.T) {
	source := filepath.Join(t.TempDir(), "pin")
	l, err := NewLatch(source, "")
	if err != nil {
		t.Fatal(err)
	}
	begin := func(want bool) *Attempt {
		t.Helper()
		a, err := l.Begin(t.Context())
		if err != nil || a.Interrupted != want {
			t.Fatalf("%+v, %v", a, err)
		}
		return a
	}
	a := begin(false)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Begin(ctx); !errors.Is(err, ErrUnavailable) {
		t.Errorf("two logins at a time: %v", err)
	}
	a.End()
	var wg sync.WaitGroup
	var under atomic.Int32
	for range 8 {
		wg.Go(func() {
			for range 20 {
				a, err := l.Begin(t.Context())
				if err != nil || a.Interrupted || under.Add(1) != 1 {
					t.Errorf("%+v, %v, beside another", a, err)
					return
				}
				if err := a.Try(); err != nil {
					t.Error(err)
				}
				under.Add(-1)
				a.End()
			}
		})
	}
	wg.Wait()
	a = begin(false)
	_ = a.file.Close() // as a process does that is killed before its try
	a = begin(false)
	if err := a.Try(); err != nil {
		t.Fatal(err)
	}
	_ = a.file.Close() // and in the middle of it
	begin(true).End()
	begin(false).End()
}
