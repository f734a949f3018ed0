package log

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// ref is RFC 6962 written down as the RFC does, without any idea of speed: the naive tree beside the fast one.
type ref struct {
	leaves [][]byte
	memo   map[[2]int][32]byte // of MTH(D[a:b]) only
}

func (r *ref) mth(a, b int) [32]byte {
	if h, ok := r.memo[[2]int{a, b}]; ok {
		return h
	}
	var h [32]byte
	switch n := b - a; n {
	case 0:
		h = sha256.Sum256(nil)
	case 1:
		h = sha256.Sum256(append([]byte{0}, r.leaves[a]...))
	default:
		k := 1
		for k*2 < n {
			k *= 2
		}
		left, right := r.mth(a, a+k), r.mth(a+k, b)
		h = sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
	}
	r.memo[[2]int{a, b}] = h
	return h
}

func (r *ref) path(m, a, b int) [][]byte {
	n := b - a
	if n == 1 {
		return nil
	}
	k := 1
	for k*2 < n {
		k *= 2
	}
	if m < k {
		h := r.mth(a+k, b)
		return append(r.path(m, a, a+k), h[:])
	}
	h := r.mth(a, a+k)
	return append(r.path(m-k, a+k, b), h[:])
}

func (r *ref) subproof(m, a, b int, whole bool) [][]byte {
	n := b - a
	if m == n {
		if whole {
			return nil
		}
		h := r.mth(a, b)
		return [][]byte{h[:]}
	}
	k := 1
	for k*2 < n {
		k *= 2
	}
	if m <= k {
		h := r.mth(a+k, b)
		return append(r.subproof(m, a, a+k, whole), h[:])
	}
	h := r.mth(a, a+k)
	return append(r.subproof(m-k, a+k, b, false), h[:])
}

func newRef(n int) *ref {
	r := &ref{memo: map[[2]int][32]byte{}}
	for i := range n {
		r.leaves = append(r.leaves, fmt.Appendf(nil, "leaf number %d", i))
	}
	return r
}

func equalProof(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// grown is a log of n reference leaves, stored and read back, so that full tiles come from the database.
func grown(t testing.TB, n int) (*rig, *ref) {
	t.Helper()
	r, naive := newRig(t, nil), newRef(n)
	fill(t, r, naive.leaves)
	r.reopen()
	return r, naive
}

// fill appends leaves in order, many to a commit.
func fill(t testing.TB, r *rig, leaves [][]byte) {
	t.Helper()
	r.cancel() // the writer stops; the queue is filled by hand to keep the order
	<-r.done
	for len(leaves) > 0 {
		n := min(len(leaves), 300)
		b := newBatch()
		for _, leaf := range leaves[:n] {
			b.reqs = append(b.reqs, &request{leaf: leaf, hash: leafHash(leaf)})
		}
		leaves = leaves[n:]
		r.l.cycle(t.Context(), b)
		r.l.cycle(t.Context(), nil)
		<-b.done
		if b.failed != nil {
			t.Fatal(b.failed)
		}
	}
	r.reopen()
}

// The fast tree against the naive one, at every size from 0 to 600: roots, tails, inclusion and consistency proofs.
func TestReference(t *testing.T) {
	t.Parallel()
	const max = 600
	r, naive := grown(t, max)
	var grow tree
	for size := 0; size <= max; size++ {
		if got := grow.root(); got != naive.mth(0, size) {
			t.Fatalf("root of the edge at size %d", size)
		}
		got, err := r.l.Root(t.Context(), uint64(size))
		if err != nil || got != naive.mth(0, size) {
			t.Fatalf("root of size %d: %v", size, err)
		}
		if size < max {
			grow.append(leafHash(naive.leaves[size]), nil)
		}
	}
	proofs := 0
	for size := 1; size <= max; size++ {
		root := naive.mth(0, size)
		for i := range size {
			// Every pair up to 300, beyond it the edges and a stride.
			if size > 300 && i > 2 && i < size-3 && (i+size)%7 != 0 {
				continue
			}
			got, err := r.l.InclusionProof(t.Context(), uint64(i), uint64(size))
			if err != nil || !equalProof(got, naive.path(i, 0, size)) {
				t.Fatalf("inclusion of %d in %d: %v", i, size, err)
			}
			if err := VerifyInclusion(naive.mth(i, i+1), uint64(i), uint64(size), got, root); err != nil {
				t.Fatal(err)
			}
			got, err = r.l.ConsistencyProof(t.Context(), uint64(i+1), uint64(size))
			if err != nil || !equalProof(got, naive.subproof(i+1, 0, size, true)) {
				t.Fatalf("consistency of %d with %d: %v", i+1, size, err)
			}
			if err := VerifyConsistency(uint64(i+1), uint64(size), naive.mth(0, i+1), root, got); err != nil {
				t.Fatal(err)
			}
			proofs += 2
		}
	}
	t.Logf("%d sizes, %d proofs agree with the naive tree", max+1, proofs)
}

// The edge rebuilt from the store is the edge that grew, at every size around tile boundaries.
func TestLoadTreeAtEverySize(t *testing.T) {
	const max = 1100
	r, naive := grown(t, max)
	var grow tree
	for size := uint64(0); size <= max; size++ {
		loaded, err := r.l.loadTreeForTest(size)
		if err != nil {
			t.Fatal(err)
		}
		if loaded.root() != grow.root() || len(loaded.edge) != len(grow.edge) {
			t.Fatalf("size %d: %d and %d levels", size, len(loaded.edge), len(grow.edge))
		}
		if size < max {
			grow.append(leafHash(naive.leaves[size]), nil)
		}
	}
}

// A tree of three levels, without a store: 256*256 leaves and more.
func TestDeepTree(t *testing.T) {
	var grow tree
	full := map[tileID]*tile{}
	leaves := map[uint64][32]byte{}
	size := uint64(256*256 + 256*3 + 5)
	var hashes [][32]byte
	for i := range size {
		h := sha256.Sum256(fmt.Appendf(nil, "%d", i))
		hashes = append(hashes, h)
		leaves[i] = h
		for _, f := range grow.append(h, nil) {
			full[tileID{f.level, f.index}] = f.tile
		}
	}
	if len(full) != 256+3+1 {
		t.Fatalf("%d full tiles", len(full))
	}
	// Independent: x/mod/sumdb/tlog over the same hashes.
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(idx))
		for i, x := range idx {
			out[i] = stored[x]
		}
		return out, nil
	})
	for i, h := range hashes {
		more, err := tlog.StoredHashesForRecordHash(int64(i), tlog.Hash(h), reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
	}
	want, err := tlog.TreeHash(int64(size), reader)
	if err != nil || [32]byte(want) != grow.root() {
		t.Fatalf("root differs from tlog's: %v", err)
	}
	v := &view{tree: grow, head: Head{Size: size, Root: grow.root()}}
	l := &Log{}
	for id, tl := range full {
		l.cache.put(id.level, id.index, tl)
	}
	for _, s := range []uint64{1, 255, 256, 257, 65535, 65536, 65537, 65792, size - 1, size} {
		for _, i := range []uint64{0, 1, 254, 255, 256, 257, s / 3, s / 2, s - 1} {
			if i >= s {
				continue
			}
			got, err := l.nodes(v).inclusion(i, s)
			if err != nil {
				t.Fatal(err)
			}
			want, err := tlog.ProveRecord(int64(s), int64(i), reader)
			if err != nil || len(want) != len(got) {
				t.Fatalf("proof of %d in %d: %v", i, s, err)
			}
			for j := range want {
				if !bytes.Equal(want[j][:], got[j]) {
					t.Fatalf("proof of %d in %d differs from tlog's", i, s)
				}
			}
		}
	}
}

func vectors(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("REDOUBT_PUBLIC_LOG_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "public-log-data")
	}
	dir = filepath.Join(dir, "merkle-vectors", "testdata")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("public log data absent: " + err.Error())
	}
	return dir
}

// The vectors of transparency-dev/merkle, good and corrupted.
func TestMerkleVectors(t *testing.T) {
	dir := vectors(t)
	accepted, refused, odd := 0, 0, 0
	for _, kind := range []string{"inclusion", "consistency"} {
		err := filepath.WalkDir(filepath.Join(dir, kind), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var v struct {
				LeafIdx, TreeSize uint64
				Size1, Size2      uint64
				Root, LeafHash    []byte
				Root1, Root2      []byte
				Proof             [][]byte
				WantErr           bool
			}
			if err := json.Unmarshal(b, &v); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			hash := func(b []byte) (h [32]byte, ok bool) {
				if len(b) != 32 {
					return h, false
				}
				return [32]byte(b), true
			}
			var verr error
			if kind == "inclusion" {
				leaf, ok1 := hash(v.LeafHash)
				root, ok2 := hash(v.Root)
				if verr = ErrProof; ok1 && ok2 {
					verr = VerifyInclusion(leaf, v.LeafIdx, v.TreeSize, v.Proof, root)
				}
			} else {
				r1, ok1 := hash(v.Root1)
				r2, ok2 := hash(v.Root2)
				if !(ok1 && ok2) && !v.WantErr {
					odd++ // two equal roots that are no hashes: our types cannot hold them
					return nil
				}
				if verr = ErrProof; ok1 && ok2 {
					verr = VerifyConsistency(v.Size1, v.Size2, r1, r2, v.Proof)
				}
			}
			if (verr != nil) != v.WantErr {
				t.Errorf("%s: %v, want an error: %v", path, verr, v.WantErr)
			}
			if verr == nil {
				accepted++
			} else {
				refused++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d vectors accepted, %d refused, %d cannot be put to us", accepted, refused, odd)
	if accepted == 0 || refused == 0 || odd > 1 {
		t.Error("the vectors are not what they were")
	}
}
