package tiles

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// naive is the tree of RFC 6962, section 2.1, written down as it stands there.
func naive(leaves []Hash) Hash {
	switch len(leaves) {
	case 0:
		return EmptyRoot()
	case 1:
		return leaves[0]
	}
	k := split(uint64(len(leaves)))
	return HashChildren(naive(leaves[:k]), naive(leaves[k:]))
}

// build returns the served tiles of the leaves for tiles of 2^h hashes.
func build(leaves []Hash, h int) map[Tile][]byte {
	out := make(map[Tile][]byte)
	level := leaves
	for l := 0; len(level) > 0; l++ {
		var up []Hash
		for i := 0; i < len(level); i += 1 << h {
			part := level[i:min(i+1<<h, len(level))]
			var b []byte
			for _, x := range part {
				b = append(b, x[:]...)
			}
			out[Tile{l, uint64(i >> h), len(part)}] = b
			if len(part) == 1<<h {
				up = append(up, naive(part))
			}
		}
		level = up
	}
	return out
}

func someLeaves(n int) []Hash {
	out := make([]Hash, n)
	for i := range out {
		out[i] = LeafHash(fmt.Appendf(nil, "leaf %d", i))
	}
	return out
}

func testTree(leaves []Hash, h int, served map[Tile][]byte) *Tree {
	t := NewTree(uint64(len(leaves)), Hash{}, func(_ context.Context, t Tile) ([]byte, error) {
		b, ok := served[t]
		if !ok {
			return nil, fmt.Errorf("tile %v is not there", t)
		}
		return bytes.Clone(b), nil
	})
	t.height = h
	return t
}

// TestEveryFlipIsRefused flips each 32-byte hash of each tile, for all small sizes and several tile heights, and asks for
// each tile of the tree: no byte other than the true ones comes back. golang.org/x/mod/sumdb/tlog before v0.40.0 let 660 of
// 31,283 such reads pass (CVE-2026-56865).
func TestEveryFlipIsRefused(t *testing.T) { flipEverything(t, []int{1, 2, 3, 8}, 70, 10_000) }

// TestTortureEveryFlip does the same for trees of up to 300 leaves. It runs when REDOUBT_TORTURE is set.
func TestTortureEveryFlip(t *testing.T) {
	if os.Getenv("REDOUBT_TORTURE") == "" {
		t.Skip("set REDOUBT_TORTURE to flip every hash of all trees of up to 300 leaves")
	}
	flipEverything(t, []int{2, 8}, 300, 100_000)
}

func flipEverything(t *testing.T, heights []int, sizes, atLeast int) {
	ctx := context.Background()
	flips, refused, reads := 0, 0, 0
	for _, h := range heights {
		for n := 1; n <= sizes; n++ {
			leaves := someLeaves(n)
			root, good := naive(leaves), build(leaves, h)
			served := maps.Clone(good)
			for bad := range good {
				for at := 0; at < len(good[bad]); at += HashSize {
					served[bad] = bytes.Clone(good[bad])
					served[bad][at+flips%HashSize] ^= 1 << (flips % 8)
					flips++
					tree, hit := testTree(leaves, h, served), false
					tree.root = root
					for want := range good {
						reads++
						got, err := tree.Tile(ctx, want.Level, want.Index)
						if err == nil && !bytes.Equal(got, good[want]) {
							t.Fatalf("size %d, height %d: flip in %v, byte %d: %v came back forged", n, h, bad, at, want)
						}
						if want == bad && err == nil {
							t.Fatalf("size %d, height %d: flip in %v, byte %d, was not noticed", n, h, bad, at)
						}
						hit = hit || errors.Is(err, ErrProof)
					}
					if hit {
						refused++
					}
				}
				served[bad] = good[bad]
			}
		}
	}
	if refused != flips || flips < atLeast {
		t.Fatalf("%d of %d flips refused", refused, flips)
	}
	t.Logf("%d flips in %d reads, 0 forged hashes", flips, reads)
}

// TestTreeAgainstReference checks roots and proofs of all pairs of small sizes against the naive tree and against the
// verifier of transparency-dev/merkle.
func TestTreeAgainstReference(t *testing.T) {
	ctx := context.Background()
	slices := func(in []Hash) [][]byte {
		var out [][]byte
		for _, h := range in {
			out = append(out, bytes.Clone(h[:]))
		}
		return out
	}
	for _, h := range []int{1, 2, 8} {
		for n := 1; n <= 40; n++ {
			leaves := someLeaves(n)
			tree, root := testTree(leaves, h, build(leaves, h)), naive(leaves)
			tree.root = root
			for m := 0; m <= n; m++ {
				old, err := tree.RootAt(ctx, uint64(m))
				if err != nil || old != naive(leaves[:m]) {
					t.Fatalf("root of %d in %d: %v, %v", m, n, old, err)
				}
				p, err := tree.Consistency(ctx, uint64(m))
				if err != nil {
					t.Fatal(err)
				}
				if 0 < m && m < n {
					list := Seeded(uint64(m), old, p)
					if r1, r2, err := PrefixRoots(uint64(m), uint64(n), list); err != nil || r1 != old || r2 != root {
						t.Fatalf("roots of %d and %d: %v, %v, %v", m, n, r1, r2, err)
					}
					list[0][7] ^= 1
					if _, r2, err := PrefixRoots(uint64(m), uint64(n), list); err == nil && r2 == root {
						t.Fatalf("another list than that from %d leads to the root of %d", m, n)
					}
					list[0][7] ^= 1
				}
				if m > 0 {
					if err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(m), uint64(n), slices(p), old[:], root[:]); err != nil {
						t.Fatalf("consistency %d to %d: %v", m, n, err)
					}
				}
			}
			for i := range leaves {
				leaf, p, err := tree.Inclusion(ctx, uint64(i))
				if err != nil || leaf != leaves[i] {
					t.Fatal(leaf, err)
				}
				if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), uint64(n), leaf[:], slices(p), root[:]); err != nil {
					t.Fatalf("inclusion %d of %d: %v", i, n, err)
				}
			}
		}
	}
}

func TestNames(t *testing.T) {
	for want, tile := range map[string]Tile{
		"tile/0/000":                {0, 0, 256},
		"tile/0/x001/x234/067":      {0, 1234067, 256},
		"tile/1/999.p/1":            {1, 999, 1},
		"tile/entries/x001/000":     {Entries, 1000, 256},
		"tile/entries/x008/x001/02": {},
		"tile/0/000.p/256":          {},
		"tile/0/000.p/0":            {},
		"tile/0/000.p/01":           {},
		"tile/0/001/000":            {},
		"tile/0/x000/001":           {},
		"tile/00/001":               {},
		"tile/+1/001":               {},
		"tile/6/001":                {},
		"tile/-1/001":               {},
		"tile/0/../001":             {},
		"tile/0/+01":                {},
		"tile/data/001":             {},
		"Tile/0/001":                {},
		"tile/0/":                   {},
		"tile//000":                 {},
		"":                          {},
	} {
		got, err := Parse(want)
		if tile.Width == 0 {
			if !errors.Is(err, ErrName) {
				t.Errorf("%q was read as %v", want, got)
			}
			continue
		}
		if err != nil || got != tile || tile.Path() != want {
			t.Errorf("%q: %v, %v", want, got, err)
		}
	}
}

func TestLeafHashesOfABundle(t *testing.T) {
	var bundle, want []byte
	for i := range 5 {
		e := bytes.Repeat([]byte{byte(i)}, i*300)
		bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(e))), e...)
		h := LeafHash(e)
		want = append(want, h[:]...)
	}
	before := bytes.Clone(bundle)
	got, err := AppendLeafHashes(nil, bundle, 5)
	if err != nil || !bytes.Equal(got, want) || !bytes.Equal(bundle, before) {
		t.Fatalf("wrong hashes, or the bundle changed: %v", err)
	}
	for _, bad := range []struct {
		b []byte
		n int
	}{{bundle, 4}, {bundle, 6}, {bundle[:len(bundle)-1], 5}, {append(bytes.Clone(bundle), 0), 5}, {nil, 1}, {[]byte{0}, 1}} {
		if _, err := AppendLeafHashes(nil, bad.b, bad.n); !errors.Is(err, ErrBundle) {
			t.Errorf("%d bytes as %d entries: %v", len(bad.b), bad.n, err)
		}
		if err := SplitBundle(bad.b, bad.n, func(int, []byte) error { return nil }); !errors.Is(err, ErrBundle) {
			t.Errorf("%d bytes split into %d entries: %v", len(bad.b), bad.n, err)
		}
	}
	if cut, err := CutBundle(bundle, 2); err != nil || len(cut) != 2+2+300 {
		t.Fatalf("cut to %d bytes, %v", len(cut), err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"tile/0/x001/x234/067", "tile/entries/000.p/9", "tile/3/000", "tile/0/../000", "tile/0/x999/x999/x999/x999/999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if tile, err := Parse(s); err == nil && tile.Path() != s {
			t.Fatalf("%q and %q name one tile", s, tile.Path())
		}
	})
}

func FuzzBundle(f *testing.F) {
	f.Add([]byte{0, 1, 'a', 0, 0}, 2)
	f.Add([]byte{255, 255}, 1)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		n &= 511
		_, err1 := AppendLeafHashes(nil, bytes.Clone(b), n)
		entries := 0
		err2 := SplitBundle(b, n, func(int, []byte) error { entries++; return nil })
		if (err1 == nil) != (err2 == nil) || err2 == nil && entries != n {
			t.Fatalf("the two readers of a bundle disagree: %v, %v", err1, err2)
		}
	})
}

// BenchmarkLeaves hashes bundles of 1 KiB entries and their subtree, the work of an import per package.
func BenchmarkLeaves(b *testing.B) {
	var bundle []byte
	for range Width {
		bundle = append(binary.BigEndian.AppendUint16(bundle, 1024), make([]byte, 1024)...)
	}
	b.SetBytes(Width * 1024)
	hashes := make([]byte, 0, Width*HashSize)
	for b.Loop() {
		hashes, _ = AppendLeafHashes(hashes[:0], bundle, Width)
		Subtree(hashes)
	}
	b.ReportMetric(float64(b.N)*Width/b.Elapsed().Seconds(), "leaves/s")
}
