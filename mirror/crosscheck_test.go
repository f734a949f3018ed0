package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/spool"
	"redoubt.internal/mirror/tiles"
)

// history is a log in memory: the entries of signedLog, under its key.
type history struct {
	nodes map[tiles.Node]tiles.Hash
}

func newHistory(size, forkAt uint64) history {
	h := history{make(map[tiles.Node]tiles.Hash)}
	for i := range size {
		h.nodes[tiles.Node{Level: 0, Index: i}] = tiles.LeafHash(fmt.Appendf(nil, "entry %d%s", i, strings.Repeat("!", min(1, int(i/forkAt)))))
	}
	for level := 1; size>>level > 0; level++ {
		for i := range size >> level {
			below := tiles.Node{Level: level - 1, Index: 2 * i}
			h.nodes[tiles.Node{Level: level, Index: i}] = tiles.HashChildren(h.nodes[below], h.nodes[tiles.Node{Level: below.Level, Index: below.Index + 1}])
		}
	}
	return h
}

// shows is the proof of a leaf in the first size leaves, under a checkpoint the log's key signed.
func (h history) shows(t *testing.T, index, size uint64) spool.Observation {
	t.Helper()
	tree := tiles.NewSparse(size, func(_ context.Context, n tiles.Node) (tiles.Hash, error) { return h.nodes[n], nil })
	root, err1 := tree.RootAt(t.Context(), size)
	leaf, proof, err2 := tree.Inclusion(t.Context(), index)
	signed, err3 := parcel.SignNote(generate.CheckpointText("log.example", size, root), "log.example", labKey(4))
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return spool.Observation{Origin: "log.example", Note: signed, Index: index, Leaf: leaf, Proof: proof, Source: fmt.Sprintf("bundle %d of %d", index, size)}
}

// TestCrossCheck shows proofs of an honest and of a forked history to mirrors of the honest one, at every scope, before and after they
// come by parcel. No honest proof is ever taken for a fork; whatever is found is proven to anyone by evidence; and where the mirrored tree
// covers a proof, or proofs share a subtree that the fork changed, it is found.
func TestCrossCheck(t *testing.T) {
	const size = 700
	r := rand.New(rand.NewChaCha8([32]byte{1}))
	honest := newHistory(1500, tiles.MaxSize)
	detected, missed := 0, 0
	for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSparse, parcel.ScopeSpine} {
		for round := range 12 {
			forkAt := 1 + r.Uint64N(1499)
			forked := newHistory(1500, forkAt)
			c := signedLog(t, 4, tiles.MaxSize, size, 1500)
			c.Scope = scope
			if scope == parcel.ScopeSparse {
				c.Records = []uint64{1, 5, 260, 511, 600}
			}
			l := newLab(t, c)
			rewind(t, c.Source, size)
			l.pull()
			l.load(l.export(0))
			for range 8 {
				n := 1 + r.Uint64N(1500)
				if _, err := l.in.Observe(t.Context(), honest.shows(t, r.Uint64N(n), n)); err != nil {
					t.Fatalf("%s: an honest proof of size %d: %v", scope, n, err)
				}
			}
			n := 1 + r.Uint64N(1500)
			bad := forked.shows(t, r.Uint64N(n), n)
			_, err := l.in.Observe(t.Context(), bad)
			if err == nil && round%2 == 0 { // what was only kept is compared when the tree arrives
				rewind(t, c.Source, 1500)
				l.pull()
				_, err = l.in.Import(t.Context(), l.export(0))
			}
			switch {
			case err == nil && (n <= forkAt || scope != parcel.ScopeFull):
				missed++
				continue
			case err == nil && n > size && round%2 == 1:
				missed++
				continue
			case err == nil:
				t.Fatalf("%s: a proof of size %d of a history that forks at %d was taken", scope, n, forkAt)
			case n <= forkAt:
				t.Fatalf("%s: a proof of size %d from before the fork at %d: %v", scope, n, forkAt, err)
			}
			var fork *ForkError
			if ExitCode(err) != 30 || !errors.As(err, &fork) {
				t.Fatalf("%s: %v", scope, err)
			}
			detected++
			checkByOthers(t, fork.Evidence, c)
			if _, err := l.in.Observe(t.Context(), bad); !errors.Is(err, ErrFrozen) {
				t.Fatal("the log is not frozen", err)
			}
		}
	}
	t.Logf("%d detected, %d not comparable, 0 false alarms", detected, missed)
	if detected < 12 {
		t.Fatal("the cross-check finds too little to be one")
	}
}

func rewind(t *testing.T, dir string, size uint64) {
	t.Helper()
	if err := generate.Rewind(dir, size); err != nil {
		t.Fatal(err)
	}
}

// checkByOthers verifies evidence with the note and proof verifiers of other projects alone.
func checkByOthers(t *testing.T, file string, c LogConfig) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CheckEvidence(data, c); err != nil {
		t.Fatal(err)
	}
	var e Evidence
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(c.VKey)
	if err != nil {
		t.Fatal(err)
	}
	var heads []Checkpoint
	for _, signed := range []string{e.Smaller, e.Larger} {
		n, err := note.Open([]byte(signed), note.VerifierList(v))
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseCheckpoint([]byte(n.Text))
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, h)
	}
	a, b := heads[0], heads[1]
	raw := func(in []tiles.Hash) (out [][]byte) {
		for _, h := range in {
			out = append(out, append([]byte(nil), h[:]...))
		}
		return out
	}
	switch s := e.Subtree; {
	case s != nil:
		if s.Smaller == s.Larger {
			t.Fatal("one hash")
		}
		chunks := func(size uint64) uint64 { return (size + 1<<s.Level - 1) >> s.Level }
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, s.Index, chunks(a.Size), s.Smaller[:], raw(s.SmallerProof), a.Root[:]); err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, s.Index, chunks(b.Size), s.Larger[:], raw(s.LargerProof), b.Root[:]); err != nil {
			t.Fatal(err)
		}
	case a.Size == b.Size:
		if a.Root == b.Root {
			t.Fatal("one root")
		}
	default:
		list := e.Proof
		if a.Size&(a.Size-1) == 0 {
			list = list[1:]
		}
		var other tiles.Hash
		if other, _, err = tiles.PrefixRoots(a.Size, b.Size, e.Proof); err != nil || other == a.Root {
			t.Fatal(err)
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, a.Size, b.Size, raw(list), other[:], b.Root[:]); err != nil {
			t.Fatal(err)
		}
	}
	// A flipped bit anywhere in what proves it, and nothing is proven.
	if e.Subtree != nil && len(e.Subtree.LargerProof) > 0 {
		e.Subtree.LargerProof[0][3] ^= 1
		spoilt, _ := json.Marshal(e)
		if _, err := CheckEvidence(spoilt, c); err == nil {
			t.Fatal("spoilt evidence holds")
		}
	}
}

// TestObserveRefuses: what is no proof, or not the log's, is not compared and leaves nothing behind.
func TestObserveRefuses(t *testing.T) {
	c := signedLog(t, 4, tiles.MaxSize, 700)
	l := newLab(t, c)
	l.pull()
	l.load(l.export(0))
	before := l.fingerprint()
	h := newHistory(1500, tiles.MaxSize)
	for name, spoil := range map[string]func(*spool.Observation){
		"another leaf":    func(o *spool.Observation) { o.Leaf[0] ^= 1 },
		"another index":   func(o *spool.Observation) { o.Index++ },
		"a longer proof":  func(o *spool.Observation) { o.Proof = append(o.Proof, tiles.Hash{}) },
		"a shorter proof": func(o *spool.Observation) { o.Proof = o.Proof[1:] },
		"no note":         func(o *spool.Observation) { o.Note = nil },
		"another log":     func(o *spool.Observation) { o.Origin = "other.example" },
		"a changed note":  func(o *spool.Observation) { o.Note[len("log.example\n")] ^= 1 },
	} {
		o := h.shows(t, 900, 1201)
		spoil(&o)
		if _, err := l.in.Observe(t.Context(), o); ExitCode(err) != 31 && ExitCode(err) != 60 {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if l.fingerprint() != before {
		t.Fatal("something was kept")
	}
	got, err := l.in.Observe(t.Context(), h.shows(t, 900, 1201))
	if err != nil || got.New == 0 || got.Known == 0 || got.Root {
		t.Fatalf("%+v, %v", got, err)
	}
	if again, err := l.in.Observe(t.Context(), h.shows(t, 900, 1201)); err != nil || again.New != 0 || again.Known != got.Nodes {
		t.Fatalf("%+v, %v", again, err)
	}
	if below, err := l.in.Observe(t.Context(), h.shows(t, 9, 400)); err != nil || !below.Root {
		t.Fatalf("%+v, %v", below, err)
	}
}
