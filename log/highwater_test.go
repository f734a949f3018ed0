package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// copyFile is what a backup of the data directory does: it carries the database, never its sibling.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// For random pairs A < B: back up at A, go on to B, put A back. The log opens, reads, and never signs again, whatever
// is tried; the latest database put back makes it writable again.
func TestTortureRestoredBackupRefusesToSign(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(9, 10))
	second := 0
	pairs := 10
	if os.Getenv("REDOUBT_TORTURE") != "" {
		pairs = 1000
	}
	for n := range pairs {
		r := newRig(t, nil)
		a, more := rnd.IntN(10), 1+rnd.IntN(10)
		for i := range a {
			r.add(fmt.Sprint("old ", i), "")
		}
		r.stop()
		copyFile(t, r.path(), r.path()+".backup")
		r.db, _ = bolt.Open(r.path())
		r.c.DB = r.db
		r.openHW()
		r.open()
		for i := range more {
			r.add(fmt.Sprint("new ", i), "")
		}
		signed := r.l.Head()
		r.stop()
		copyFile(t, r.path(), r.path()+".latest")
		copyFile(t, r.path()+".backup", r.path())
		r.db, _ = bolt.Open(r.path())
		r.c.DB = r.db
		r.openHW()
		r.open()
		err := r.l.Err()
		if !errors.Is(err, ErrRolledBack) || !errors.Is(err, ErrReadOnly) {
			t.Fatalf("pair %d (%d, %d): %v", n, a, a+more, err)
		}
		for _, size := range []string{fmt.Sprintf("size %d", signed.Size), fmt.Sprintf("size %d", a)} {
			if !bytes.Contains([]byte(err.Error()), []byte(size)) {
				t.Fatalf("%q does not name %s", err, size)
			}
		}
		if _, err := r.l.Add(t.Context(), []byte("fork"), nil, nil); !errors.Is(err, ErrRolledBack) {
			t.Fatal(err)
		}
		<-r.done
		if !errors.Is(r.ran, ErrRolledBack) {
			t.Fatal(r.ran)
		}
		if h := r.l.Head(); h.Size != uint64(a) {
			second++
		}
		if a > 0 {
			if _, err := r.l.Entry(t.Context(), 0); err != nil {
				t.Fatalf("a rolled-back log does not read: %v", err)
			}
		}
		if _, err := Fsck(t.Context(), r.c, nil); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("Fsck does not see that this is an older copy: %v", err)
		}
		r.stop()
		copyFile(t, r.path()+".latest", r.path())
		r.db, _ = bolt.Open(r.path())
		r.c.DB = r.db
		r.openHW()
		r.open()
		if rc := r.add("on", ""); rc.Index != signed.Size {
			t.Fatal("the latest copy does not go on")
		}
		r.stop()
	}
	t.Logf("%d restored backups, %d signed on", pairs, second)
	if second != 0 {
		t.Fail()
	}
}

// A database of the same size with another history is refused too, and so is a missing mark, or a recreated log.
func TestMarkOfAnotherHistory(t *testing.T) {
	r := newRig(t, nil)
	r.add("one", "")
	r.stop()
	os.Rename(r.path(), r.path()+".mine")
	// The same key signs another log of the same size elsewhere, and its database is put here.
	hw := r.path() + ".highwater"
	os.Rename(hw, hw+".mine")
	db, _ := bolt.Create(r.path())
	r.c.DB, r.db = db, db
	r.openHW()
	if err := Create(t.Context(), r.c); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.add("another one", "")
	r.stop()
	os.Rename(hw+".mine", hw)
	open := func() error {
		r.db, _ = bolt.Open(r.path())
		r.c.DB = r.db
		r.openHW()
		r.open()
		defer r.stop()
		return r.l.Err()
	}
	if err := open(); !errors.Is(err, ErrRolledBack) {
		t.Fatalf("another root of the same size: %v", err)
	}
	os.Rename(hw, hw+".mine")
	if err := open(); !errors.Is(err, ErrRolledBack) {
		t.Fatalf("a missing mark: %v", err)
	}
	os.Remove(hw)
	os.Rename(hw+".mine", hw)
	// A new log of that origin would sign small sizes a second time.
	os.Remove(r.path())
	r.db, _ = bolt.Create(r.path())
	r.c.DB = r.db
	r.openHW()
	defer r.stop()
	if err := Create(t.Context(), r.c); !errors.Is(err, ErrRolledBack) {
		t.Fatalf("a second creation: %v", err)
	}
	r.cancel = func() {}
}

func TestHighWaterFile(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "data.highwater")
	h, err := OpenHighWaterFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a, b := h.For("a.example"), h.For("b.example")
	if _, err := a.Read(ctx); !errors.Is(err, ErrNoMark) {
		t.Fatal(err)
	}
	raise := func(w HighWater, o string, size uint64, root byte) error {
		return w.Raise(ctx, Mark{Origin: o, Size: size, Root: [32]byte{root}})
	}
	for i := range uint64(10) {
		if err := raise(a, "a.example", i, byte(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := raise(b, "b.example", 7, 7); err != nil {
		t.Fatal(err)
	}
	if err := raise(a, "a.example", 9, 9); err != nil {
		t.Fatalf("the same again: %v", err)
	}
	for name, err := range map[string]error{
		"lower":      raise(a, "a.example", 8, 8),
		"other root": raise(a, "a.example", 9, 1),
	} {
		if !errors.Is(err, ErrRolledBack) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := raise(a, "b.example", 10, 1); !errors.Is(err, ErrHighWater) {
		t.Errorf("a mark of another origin: %v", err)
	}
	if _, err := OpenHighWaterFile(path); !errors.Is(err, ErrHighWater) {
		t.Errorf("a second holder: %v", err)
	}
	size := func() int64 { i, _ := os.Stat(path); return i.Size() }
	if size() != fileSize {
		t.Error("the file grew")
	}
	h.Close()

	// Every cut of the write in progress leaves one of the two marks.
	good, _ := os.ReadFile(path)
	s := slot{pair: 0, seq: 11, mark: Mark{Origin: "a.example", Size: 10, Root: [32]byte{10}}}
	for cut := 0; cut <= slotSize; cut++ {
		torn := bytes.Clone(good)
		copy(torn[int(s.seq%2)*slotStride:], s.encode()[:cut])
		f := &File{slots: map[string]*slot{}}
		if err := f.parse(torn); err != nil {
			t.Fatal(err)
		}
		got := f.slots["a.example"]
		// A cut within the zeros at the end of a field changes nothing that counts, so either may be found.
		if got == nil || got.mark.Size != 9 && got.mark.Size != 10 {
			t.Fatalf("cut at %d: %+v", cut, got)
		}
		if cut == slotSize && got.mark.Size != 10 || cut < 100 && got.mark.Size != 9 {
			t.Fatalf("cut at %d: size %d", cut, got.mark.Size)
		}
	}
	// A torn sector takes one slot alone.
	torn := bytes.Clone(good)
	for i := range slotStride {
		torn[i] ^= 0x55
	}
	f := &File{slots: map[string]*slot{}}
	if err := f.parse(torn); err != nil || f.slots["a.example"] == nil || f.slots["a.example"].mark.Size < 8 || f.slots["b.example"].mark.Size != 7 {
		t.Fatal(err, f.slots["a.example"])
	}
	// Both slots damaged: no mark can be read, so no signature; the place is not given to another origin, and no log that
	// lacks a mark may be created, for it may have been this one's.
	bad := bytes.Clone(good)
	bad[100] ^= 1
	bad[slotStride+100] ^= 1
	os.WriteFile(path, bad, 0o600)
	if h, err = OpenHighWaterFile(path); err != nil {
		t.Fatal(err)
	}
	for _, o := range []string{"a.example", "new.example"} {
		if _, err := h.For(o).Read(ctx); !errors.Is(err, ErrHighWater) || errors.Is(err, ErrNoMark) {
			t.Fatal(o, err)
		}
		if err := raise(h.For(o), o, 0, 0); !errors.Is(err, ErrHighWater) {
			t.Fatal(o, err)
		}
	}
	if m, err := h.For("b.example").Read(ctx); err != nil || m.Size != 7 {
		t.Fatal(m, err)
	}
	if h.free[0] == 0 {
		t.Error("the damaged place is free")
	}
	h.Close()
	for name, content := range map[string][]byte{"short": good[:1000], "long": append(bytes.Clone(good), 0), "empty": nil} {
		os.WriteFile(path, content, 0o600)
		if _, err := OpenHighWaterFile(path); !errors.Is(err, ErrHighWater) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHighWaterFileIsFull(t *testing.T) {
	h, err := OpenHighWaterFile(filepath.Join(t.TempDir(), "hw"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for i := range slotCount/2 + 1 {
		o := fmt.Sprintf("log%d.example", i)
		err := h.For(o).Raise(t.Context(), Mark{Origin: o, Root: emptyRoot})
		if (err != nil) != (i == slotCount/2) {
			t.Fatal(i, err)
		}
	}
	if len(h.Marks()) != slotCount/2 {
		t.Fatal(len(h.Marks()))
	}
}

// A damaged mark is no invitation to create its log a second time.
func TestCreateOnDamagedMark(t *testing.T) {
	r := newRig(t, nil)
	r.add("one", "")
	r.stop()
	b, err := os.ReadFile(r.path() + ".highwater")
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	b[slotStride+20] ^= 1
	if err := os.WriteFile(r.path()+".highwater", b, 0o600); err != nil {
		t.Fatal(err)
	}
	os.Remove(r.path())
	if r.db, err = bolt.Create(r.path()); err != nil {
		t.Fatal(err)
	}
	defer r.db.Close()
	r.c.DB = r.db
	r.openHW()
	defer r.hw.Close()
	if err := Create(t.Context(), r.c); !errors.Is(err, ErrHighWater) {
		t.Fatal(err)
	}
}

// A crash during the very first raise of a log leaves a place that can be taken again.
func TestTornFirstRaise(t *testing.T) {
	first := slot{seq: 1, mark: Mark{Origin: "a.example", Root: emptyRoot}}.encode()
	for cut := range slotSize {
		b := make([]byte, fileSize)
		copy(b[slotStride:], first[:cut])
		f := &File{slots: map[string]*slot{}}
		if err := f.parse(b); err != nil || f.damaged != 0 || f.free[0] != 0 {
			t.Fatal(cut, err, f.damaged)
		}
	}
}

// Several logs share one database and one high-water file, and write at the same time.
func TestSeveralLogs(t *testing.T) {
	r := newRig(t, nil)
	c := r.c
	c.Origin, c.Prefix = "other.example.test", "u/"
	c.HighWater = []HighWater{r.hw.For(c.Origin)}
	if err := Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	l2, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l2.Run(ctx) }()
	for i := range 40 {
		r.add(fmt.Sprint("one ", i), "")
		if _, err := l2.Add(t.Context(), fmt.Append(nil, "two ", i), nil, func(tx store.Tx) error {
			// Even a neighbour's keys are closed only by prefix; this one is the room's own.
			return tx.Put(fmt.Append(nil, "room/", i), []byte("x"))
		}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
	for _, c := range []Config{r.c, c} {
		if rep, err := Fsck(t.Context(), c, nil); err != nil || rep.Entries != 40 {
			t.Fatal(rep, err)
		}
	}
}
