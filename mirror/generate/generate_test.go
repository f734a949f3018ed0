package generate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"redoubt.internal/mirror/tiles"
)

func digest(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		name, _ := filepath.Rel(dir, p)
		h.Write([]byte(name))
		h.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestSameSeedSameBytes pins the generator: its logs are compared across machines and versions by this digest.
func TestSameSeedSameBytes(t *testing.T) {
	ctx := context.Background()
	c := Config{Seed: 7, Origin: "log.example", Sizes: []uint64{100, 256, 1000}}
	a, b, other := t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if _, err := Write(ctx, dir, c); err != nil {
			t.Fatal(err)
		}
	}
	if digest(t, a) != digest(t, b) {
		t.Fatal("two logs from one seed")
	}
	c.Seed++
	if _, err := Write(ctx, other, c); err != nil {
		t.Fatal(err)
	}
	if digest(t, a) == digest(t, other) {
		t.Fatal("one log from two seeds")
	}
	sum := sha256.Sum256(Config{Seed: 7}.Entry(3))
	if got := hex.EncodeToString(sum[:8]); got != wantEntry {
		t.Fatalf("entry 3 of seed 7 is %s, was %s", got, wantEntry)
	}
}

func TestShape(t *testing.T) {
	c := Config{Seed: 1, ForkAt: 50}
	var total int
	for i := range uint64(2000) {
		e := c.Entry(i)
		total += len(e)
		if len(e) > tiles.MaxEntry {
			t.Fatalf("entry %d has %d bytes", i, len(e))
		}
		if same := bytes.Equal(e, Config{Seed: 1}.Entry(i)); same != (i < 50) {
			t.Fatalf("fork at 50: entry %d, same %t", i, same)
		}
	}
	if mean := total / 2000; mean < 1900 || mean > 2400 {
		t.Fatalf("the mean entry has %d bytes", mean)
	}
}

// TestBuilderRoots compares the builder's roots with a tree read back from its tiles.
func TestBuilderRoots(t *testing.T) {
	dir := t.TempDir()
	b, err := NewBuilder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Root() != tiles.EmptyRoot() {
		t.Fatal("the empty root")
	}
	for i := range 600 {
		if err := b.Add([]byte{byte(i), byte(i >> 8)}); err != nil {
			t.Fatal(err)
		}
		if err := b.Publish([]byte("x")); err != nil {
			t.Fatal(err)
		}
		tree := tiles.NewTree(b.Size(), b.Root(), func(_ context.Context, x tiles.Tile) ([]byte, error) {
			return os.ReadFile(filepath.Join(dir, x.Path()))
		})
		if _, _, err := tree.Inclusion(context.Background(), uint64(i/2)); err != nil {
			t.Fatalf("size %d: %v", i+1, err)
		}
	}
	if err := b.Add(make([]byte, tiles.MaxEntry+1)); err == nil {
		t.Fatal("an entry longer than a bundle can hold")
	}
}

func BenchmarkEntries(b *testing.B) {
	c := Config{Seed: 1}
	n := 0
	for i := uint64(0); b.Loop(); i++ {
		n += len(c.Entry(i))
	}
	b.SetBytes(int64(n / b.N))
}

const wantEntry = "0f3bc7256b6ad27e"
