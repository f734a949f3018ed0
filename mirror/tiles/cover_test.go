package tiles

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	proof2 "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

func raw(hashes []Hash) (out [][]byte) {
	for _, h := range hashes {
		out = append(out, slices.Clone(h[:]))
	}
	return out
}

// allNodes are the complete subtrees of leaves with their hashes.
func allNodes(leaves []Hash) map[Node]Hash {
	out := make(map[Node]Hash)
	for i, h := range leaves {
		out[Node{0, uint64(i)}] = h
	}
	for level := 1; len(leaves)>>level > 0; level++ {
		for i := range uint64(len(leaves)) >> level {
			out[Node{level, i}] = HashChildren(out[Node{level - 1, 2 * i}], out[Node{level - 1, 2*i + 1}])
		}
	}
	return out
}

func sparseOf(size uint64, nodes map[Node]Hash) *Sparse {
	return NewSparse(size, func(_ context.Context, n Node) (Hash, error) {
		h, ok := nodes[n]
		if !ok {
			return h, fmt.Errorf("%s is not known", n)
		}
		return h, nil
	})
}

// TestPathFixesTrueNodes: of every leaf of all small trees, and of all pairs of sizes, the proof gives the root and no hash but those
// the tree has; every sibling and ancestor that is complete is among them.
func TestPathFixesTrueNodes(t *testing.T) {
	ctx := context.Background()
	for n := uint64(1); n <= 66; n++ {
		leaves := someLeaves(int(n))
		nodes, root := allNodes(leaves), naive(leaves)
		tree := sparseOf(n, nodes)
		for i := range n {
			leaf, proof, err := tree.Inclusion(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			got, fixed, err := Path(i, n, leaf, proof)
			if err != nil || got != root {
				t.Fatalf("leaf %d of %d: %v", i, n, err)
			}
			have := make(map[Node]bool)
			for _, f := range fixed {
				if nodes[f.Node] != f.Hash {
					t.Fatalf("leaf %d of %d: %s has another hash", i, n, f.Node)
				}
				h, rest, ok := PathTo(i, n, leaf, proof, f.Node)
				if got, err := NodeRoot(f.Node, n, h, rest); !ok || err != nil || got != root || h != f.Hash {
					t.Fatalf("leaf %d of %d: %s is not proven by the rest: %v", i, n, f.Node, err)
				}
				sh, sp, err := tree.Subtree(ctx, f.Node)
				if got, gerr := NodeRoot(f.Node, n, sh, sp); err != nil || gerr != nil || got != root {
					t.Fatalf("%s of %d: %v, %v", f.Node, n, err, gerr)
				}
				chunks := (n + 1<<f.Level - 1) >> f.Level // what any verifier makes of it
				if err := proof2.VerifyInclusion(rfc6962.DefaultHasher, f.Index, chunks, sh[:], raw(sp), root[:]); err != nil {
					t.Fatalf("%s of %d by another verifier: %v", f.Node, n, err)
				}
				have[f.Node] = true
			}
			for at := (Node{0, i}); at.In(n); at = at.parent() {
				if !have[at] || at.sibling().In(n) && !have[at.sibling()] {
					t.Fatalf("leaf %d of %d: %s or its sibling is left out", i, n, at)
				}
			}
		}
		for m := uint64(1); m < n; m++ {
			proof, err := tree.Consistency(ctx, m)
			if err != nil {
				t.Fatal(err)
			}
			root1, root2, fixed, err := PrefixPath(m, n, Seeded(m, naive(leaves[:m]), proof))
			if err != nil || root1 != naive(leaves[:m]) || root2 != root {
				t.Fatalf("%d in %d: %v", m, n, err)
			}
			have := make(map[Node]bool)
			for _, f := range fixed {
				if nodes[f.Node] != f.Hash {
					t.Fatalf("%d in %d: %s has another hash", m, n, f.Node)
				}
				have[f.Node] = true
			}
			for _, p := range Peaks(m) {
				if !have[p] {
					t.Fatalf("%d in %d: peak %s is left out", m, n, p)
				}
			}
			if m == n-1 && slices.ContainsFunc(Peaks(n), func(p Node) bool { return !have[p] }) {
				t.Fatalf("the step of one leaf to %d does not give its peaks", n)
			}
		}
	}
}

// TestSparseMirror keeps only what covers carry, over random steps of a growing tree with random records, and proves every record and
// every earlier size at each head. One flipped hash of a cover is refused.
func TestSparseMirror(t *testing.T) {
	ctx := context.Background()
	for seed := range uint64(60) {
		r := rand.New(rand.NewChaCha8([32]byte{byte(seed)}))
		leaves := someLeaves(700)
		kept := make(map[Node]Hash)
		var records []uint64
		var sizes []uint64
		for from := uint64(0); from < 600; {
			to := from + 1 + r.Uint64N(100)
			full := allNodes(leaves[:to])
			var fresh []uint64
			for range r.IntN(4) {
				fresh = append(fresh, r.Uint64N(to))
			}
			fresh = slices.Compact(slices.Sorted(slices.Values(fresh)))
			c, err := NewCover(to, fresh, Peaks(from))
			if err != nil {
				t.Fatal(err)
			}
			var hashes, own []Hash
			for _, n := range c.Carried() {
				hashes = append(hashes, full[n])
			}
			for _, l := range fresh {
				own = append(own, leaves[l])
			}
			root := naive(leaves[:to])
			if len(hashes) > 0 {
				bad := slices.Clone(hashes)
				bad[r.IntN(len(bad))][r.IntN(32)] ^= 1
				if _, err := c.Prove(root, own, bad); !errors.Is(err, ErrProof) {
					t.Fatalf("a flipped hash: %v", err)
				}
			}
			if _, err := c.Prove(root, own, append(hashes, Hash{})); !errors.Is(err, ErrProof) {
				t.Fatalf("one hash too many: %v", err)
			}
			proven, err := c.Prove(root, own, hashes)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range proven {
				if h, ok := kept[n.Node]; ok && h != n.Hash {
					t.Fatalf("%s changed", n.Node)
				}
				kept[n.Node] = n.Hash
			}
			records, sizes, from = append(records, fresh...), append(sizes, to), to
			tree := sparseOf(to, maps.Clone(kept))
			for _, i := range records {
				leaf, proof, err := tree.Inclusion(ctx, i)
				if err != nil || leaf != leaves[i] {
					t.Fatalf("seed %d: leaf %d of %d: %v", seed, i, to, err)
				}
				if got, _, err := Path(i, to, leaf, proof); err != nil || got != root {
					t.Fatalf("seed %d: leaf %d of %d does not prove", seed, i, to)
				}
			}
			for _, s := range sizes {
				if got, err := tree.RootAt(ctx, s); err != nil || got != naive(leaves[:s]) {
					t.Fatalf("seed %d: size %d in %d: %v", seed, s, to, err)
				}
				if s < to {
					proof, err := tree.Consistency(ctx, s)
					if err != nil {
						t.Fatal(err)
					}
					if a, b, err := PrefixRoots(s, to, Seeded(s, naive(leaves[:s]), proof)); err != nil || a != naive(leaves[:s]) || b != root {
						t.Fatalf("seed %d: consistency of %d and %d: %v", seed, s, to, err)
					}
				}
			}
		}
	}
}
