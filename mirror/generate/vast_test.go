package generate

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"testing"

	"redoubt.internal/mirror/tiles"
)

// TestVastIsALog compares a vast log of a small size with the same entries built one by one, file by file.
func TestVastIsALog(t *testing.T) {
	c := Config{Seed: 3, Origin: "vast.example", Sizes: []uint64{70_001}, Smallest: 20, Largest: 200}
	r := rand.New(rand.NewChaCha8([32]byte{1}))
	picks := []uint64{0, 70_000, 69_888, 256}
	for range 60 {
		picks = append(picks, r.Uint64N(70_001))
	}
	v := NewVast(c, picks)
	b, err := NewBuilder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for i := range v.Size() {
		if i == 0 || i == 255 || i == 300 || i == 65_537 {
			if root, err := v.Root(i); err != nil || root != b.Root() {
				t.Fatal(i, root, err)
			}
		}
		if err := b.Add(v.Entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	note, err := v.File("checkpoint", v.Size())
	if err != nil || b.Publish(note) != nil {
		t.Fatal(err)
	}
	files := 0
	err = fs.WalkDir(b.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == "checkpoints/70001" {
			return err
		}
		want, err := fs.ReadFile(b.root.FS(), name)
		if err != nil {
			return err
		}
		if got, err := v.File(name, v.Size()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs: %v", name, err)
		}
		files++
		return nil
	})
	if err != nil || files < 2*70_000/tiles.Width {
		t.Fatal(files, err)
	}
	for _, name := range []string{"tile/0/999", "tile/extras/000", "tile/1/001", "else"} {
		if _, err := v.File(name, v.Size()); !errors.Is(err, fs.ErrNotExist) {
			t.Error(name, err)
		}
	}
}

// TestSizedEntries keeps entries within the sizes asked for.
func TestSizedEntries(t *testing.T) {
	c := Config{Seed: 3, Smallest: 100, Largest: 200}
	seen := make(map[int]bool)
	for i := range uint64(3000) {
		seen[len(c.Entry(i))] = true
	}
	for n := range seen {
		if n < 100 || n > 200 {
			t.Error(n)
		}
	}
	if len(seen) != 101 || bytes.Equal(c.Entry(1), c.Entry(2)) || !bytes.Equal(c.Entry(1), c.Entry(1)) {
		t.Fatal(len(seen))
	}
}
