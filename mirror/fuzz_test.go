package mirror

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"testing"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// FuzzCheckpoint: the text of a checkpoint is read in one way.
func FuzzCheckpoint(f *testing.F) {
	root := tiles.LeafHash(nil)
	f.Add(fmt.Appendf(nil, "log.example\n17\n%s\n", base64.StdEncoding.EncodeToString(root[:])))
	f.Add(fmt.Appendf(nil, "log.example\n17\n%s\nextension\n", base64.StdEncoding.EncodeToString(root[:])))
	f.Add([]byte("log.example\n-1\nAAAA\n"))
	f.Add([]byte("log.example\n01\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCheckpoint(b)
		if err != nil {
			if !errors.Is(err, ErrProof) {
				t.Fatal(err)
			}
			return
		}
		if again := fmt.Appendf(nil, "%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:])); !bytes.HasPrefix(b, again) {
			t.Fatalf("%q was read as %q", b, again)
		}
	})
}

// FuzzEvidence: no bytes prove a fork that the log's key did not sign twice.
func FuzzEvidence(f *testing.F) {
	vkey, err := parcel.VerifierKey("log.example", labKey(4).Public())
	if err != nil {
		f.Fatal(err)
	}
	root := tiles.LeafHash(nil)
	note, err := parcel.SignNote(fmt.Appendf(nil, "log.example\n17\n%s\n", base64.StdEncoding.EncodeToString(root[:])), "log.example", labKey(4))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fmt.Appendf(nil, `{"origin":"log.example","smaller_vkey":%q,"larger_vkey":%q,"smaller":%q,"larger":%q}`, vkey, vkey, note, note))
	f.Add([]byte(`{"origin":"log.example","smaller":"","larger":"","proof":["00"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := CheckEvidence(b, LogConfig{Origin: "log.example", VKey: vkey}); err == nil { // the log signed one checkpoint only
			t.Fatalf("one checkpoint proves a fork: %+v", e)
		}
	})
}

// FuzzPlan: a plan needs only tiles that the new tree has, in the order a parcel has them.
func FuzzPlan(f *testing.F) {
	f.Add(uint64(0), uint64(1), true, false)
	f.Add(uint64(300), uint64(70000), false, false)
	f.Add(uint64(1)<<40, uint64(1)<<40+5, true, true)
	f.Fuzz(func(t *testing.T, from, to uint64, full, extras bool) {
		to %= tiles.MaxSize + 1
		if to == 0 {
			return
		}
		from %= to + 1
		scope := parcel.ScopeSpine
		if full {
			scope = parcel.ScopeFull
		}
		from = max(from, to-min(to, 1<<20)) // what is carried grows with the step
		p := planStep(scope, from, to, extras)
		for i, s := range p.spine {
			if !s.In(to) {
				t.Fatalf("%s is not in a tree of %d", s.Path(), to)
			}
			if i > 0 && parcel.Compare(parcel.Name{Tile: p.spine[i-1]}, parcel.Name{Tile: s}) >= 0 {
				t.Fatalf("%s before %s", p.spine[i-1].Path(), s.Path())
			}
		}
		for k := uint64(0); k < p.packages(); k += max(1, p.packages()/7) {
			if b := p.pack(k); !b.In(to) {
				t.Fatalf("%s is not in a tree of %d", b.Path(), to)
			}
		}
	})
}

// TestPlansProveThemselves runs the plan of every step between small sizes, and of random large ones, through the proof: the
// files a plan names are enough, and all of them are needed by name.
func TestPlansProveThemselves(t *testing.T) {
	c := tinyLog(t, 1, 2, 3, 255, 256, 257, 511, 512, 513, 1000, 65535, 65536, 65537, 65792, 70000)
	sizes := []uint64{1, 2, 3, 255, 256, 257, 511, 512, 513, 1000, 65535, 65536, 65537, 65792, 70000}
	known, err := knownLogs([]LogConfig{c})
	if err != nil {
		t.Fatal(err)
	}
	src, err := OpenSource(c.Source, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	heads := []Head{{Root: tiles.EmptyRoot()}}
	for _, size := range sizes {
		note := readFile(t, c.Source, size)
		to, err := known[c.Origin].open(note)
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, Head{Size: size, Root: to.Root, Note: note})
	}
	steps := 0
	for i, from := range heads {
		for _, to := range heads[max(i, 1):] {
			for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSpine} {
				named := make(map[tiles.Tile]bool)
				for _, s := range planStep(scope, from.Size, to.Size, false).spine {
					named[s] = true
				}
				var kept []tiles.Tile
				_, err := prove(ctx, known[c.Origin], from, to.Note, scope, func(_ context.Context, x tiles.Tile) ([]byte, error) {
					if !named[x] {
						return nil, fmt.Errorf("%s is not in the plan", x.Path())
					}
					return src.Tile(ctx, x, nil)
				}, func(x tiles.Tile, _ []byte) error { kept = append(kept, x); return nil })
				if err != nil || !slices.Equal(kept, planStep(scope, from.Size, to.Size, false).spine) {
					t.Fatalf("%s from %d to %d: %v", scope, from.Size, to.Size, err)
				}
				steps++
			}
		}
	}
	t.Logf("%d steps", steps)
}
