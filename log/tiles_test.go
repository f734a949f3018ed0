package log

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"redoubt.internal/log/store"
)

func (l *Log) loadTreeForTest(size uint64) (t tree, err error) {
	err = l.c.DB.View(func(tx store.Tx) error {
		t, err = l.loadTree(tx, size)
		return err
	})
	return t, err
}

// tiles serves our tiles to golang.org/x/mod/sumdb/tlog, the independent reader, and can lie in one place.
type tiles struct {
	t    *testing.T
	l    *Log
	flip func(tile tlog.Tile, data []byte)
	read int
}

func (s *tiles) Height() int { return tileHeight }

func (s *tiles) ReadTiles(ts []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, t := range ts {
		b, err := s.l.Tile(s.t.Context(), t.L, uint64(t.N), t.W)
		if err != nil {
			return nil, err
		}
		s.read++
		if s.flip != nil {
			s.flip(t, b)
		}
		out = append(out, b)
	}
	return out, nil
}

func (s *tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// What we serve is what an independent tile reader proves every leaf with; and it refuses it once a hash is forged.
func TestTilesAgainstTlog(t *testing.T) {
	r, naive := grown(t, 700)
	forged, refused := 0, 0
	for size := 1; size <= 700; size++ {
		if size > 40 && size%97 != 0 && size != 256 && size != 257 && size != 512 && size != 700 {
			continue
		}
		at := tlog.Tree{N: int64(size), Hash: tlog.Hash(naive.mth(0, size))}
		// The newest leaves: their tiles are the partial ones.
		for i := max(0, size-3); i < size; i++ {
			hr := tlog.TileHashReader(at, &tiles{t: t, l: r.l})
			h, err := hr.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(i))})
			if err != nil || [32]byte(h[0]) != naive.mth(i, i+1) {
				t.Fatalf("leaf %d of %d: %v", i, size, err)
			}
		}
		// Every 32 bytes of every tile read, one at a time.
		for i := 0; i < size; i += max(1, size/5) {
			var seen []tlog.Tile
			s := &tiles{t: t, l: r.l, flip: func(tl tlog.Tile, _ []byte) { seen = append(seen, tl) }}
			tlog.TileHashReader(at, s).ReadHashes([]int64{tlog.StoredHashIndex(0, int64(i))})
			for _, victim := range seen {
				step := 1
				if victim.W > 64 {
					step = 7
				}
				for slot := 0; slot < victim.W; slot += step {
					forged++
					s := &tiles{t: t, l: r.l, flip: func(tl tlog.Tile, b []byte) {
						if tl == victim {
							b[slot*32+slot%32] ^= 1 << (slot % 8)
						}
					}}
					h, err := tlog.TileHashReader(at, s).ReadHashes([]int64{tlog.StoredHashIndex(0, int64(i))})
					if err != nil {
						refused++
					} else if [32]byte(h[0]) != naive.mth(i, i+1) {
						t.Fatalf("size %d: forged %v slot %d was believed", size, victim, slot)
					}
				}
			}
		}
	}
	t.Logf("%d forged tiles, %d refused, none believed", forged, refused)
	if refused != forged {
		t.Errorf("%d forged tiles were read as if good", forged-refused)
	}
}

// Bundles and tiles at every width, and every request beyond the tree.
func TestBundlesAndTileRequests(t *testing.T) {
	r, naive := grown(t, 600)
	for _, c := range []struct {
		index uint64
		width int
	}{{0, 256}, {0, 1}, {0, 100}, {1, 256}, {1, 255}, {2, 88}, {2, 1}} {
		b, err := r.l.EntryBundle(t.Context(), c.index, c.width)
		if err != nil {
			t.Fatal(err)
		}
		leaves, err := ParseBundle(b, c.width)
		if err != nil {
			t.Fatal(err)
		}
		h, err := r.l.Tile(t.Context(), 0, c.index, c.width)
		if err != nil {
			t.Fatal(err)
		}
		for i, leaf := range leaves {
			n := int(c.index)*256 + i
			want := naive.mth(n, n+1)
			if !bytes.Equal(leaf, naive.leaves[n]) || !bytes.Equal(h[i*32:i*32+32], want[:]) {
				t.Fatalf("bundle %d/%d entry %d", c.index, c.width, i)
			}
		}
	}
	if h, err := r.l.Tile(t.Context(), 1, 0, 2); err != nil {
		t.Fatal(err)
	} else if w := naive.mth(256, 512); !bytes.Equal(h[32:], w[:]) {
		t.Fatal("level 1")
	}
	for _, c := range []struct {
		level int
		index uint64
		width int
	}{
		{0, 0, 0}, {0, 0, -1}, {0, 0, 257}, {0, 2, 89}, {0, 2, 256}, {0, 3, 1}, {0, 1 << 60, 1}, {0, 1<<64 - 1, 256},
		{1, 0, 3}, {1, 1, 1}, {2, 0, 1}, {-1, 0, 1}, {8, 0, 1}, {63, 0, 1}, {1 << 30, 0, 1},
	} {
		if _, err := r.l.Tile(t.Context(), c.level, c.index, c.width); !errors.Is(err, ErrNotFound) {
			t.Errorf("tile %v: %v", c, err)
		}
		if c.level == 0 {
			if _, err := r.l.EntryBundle(t.Context(), c.index, c.width); !errors.Is(err, ErrNotFound) {
				t.Errorf("bundle %v: %v", c, err)
			}
		}
	}
	for _, i := range []uint64{600, 601, 1 << 63, 1<<64 - 1} {
		if _, err := r.l.Entry(t.Context(), i); !errors.Is(err, ErrNotFound) {
			t.Errorf("entry %d: %v", i, err)
		}
		if _, err := r.l.InclusionProof(t.Context(), i, 600); !errors.Is(err, ErrNotFound) {
			t.Errorf("proof of %d: %v", i, err)
		}
		if _, err := r.l.InclusionProof(t.Context(), 0, i+1); i != 1<<64-1 && !errors.Is(err, ErrNotFound) {
			t.Errorf("proof in %d: %v", i+1, err)
		}
		if _, err := r.l.ConsistencyProof(t.Context(), 1, i+1); i != 1<<64-1 && !errors.Is(err, ErrNotFound) {
			t.Errorf("consistency with %d: %v", i+1, err)
		}
	}
	if _, err := r.l.ConsistencyProof(t.Context(), 5, 4); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// A byte changed in the store is never served, whatever is asked for, and Fsck finds it.
func TestChangedBytesAreNotServed(t *testing.T) {
	r, naive := grown(t, 600)
	type change struct {
		name string
		key  []byte
		at   int
	}
	var all []change
	r.db.View(func(tx store.Tx) error {
		return tx.Scan(r.l.keys.prefix, r.l.keys.end(), func(k, v []byte) bool {
			for _, at := range []int{0, 1, 3, 6, 8, 20, len(v) / 2, len(v) - 1} {
				if at < len(v) {
					all = append(all, change{fmt.Sprintf("%q byte %d", k, at), bytes.Clone(k), at})
				}
			}
			return true
		})
	})
	put := func(key, val []byte) {
		r.db.Update(func(tx store.Tx) error { return tx.Put(key, val) })
	}
	for _, c := range all {
		var good []byte
		r.db.View(func(tx store.Tx) error {
			v, err := tx.Get(c.key)
			good = bytes.Clone(v)
			return err
		})
		bad := bytes.Clone(good)
		bad[c.at] ^= 0x10
		put(c.key, bad)
		if _, err := Fsck(t.Context(), r.c, nil); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFormat) {
			t.Errorf("%s: Fsck says %v", c.name, err)
		}
		// A reader that had nothing cached.
		l, err := Open(t.Context(), r.c)
		if err == nil {
			for i := range uint64(600) {
				if e, err := l.Entry(t.Context(), i); err == nil && !bytes.Equal(e.Leaf, naive.leaves[i]) {
					t.Fatalf("%s: a wrong entry %d is served", c.name, i)
				}
			}
			for i := range uint64(3) {
				w := min(256, 600-int(i)*256)
				if b, err := l.EntryBundle(t.Context(), i, w); err == nil {
					for j, leaf := range must(ParseBundle(b, w)) {
						if !bytes.Equal(leaf, naive.leaves[int(i)*256+j]) {
							t.Fatalf("%s: a wrong bundle is served", c.name)
						}
					}
				}
				if b, err := l.Tile(t.Context(), 0, i, w); err == nil {
					for j := range w {
						n := int(i)*256 + j
						if h := naive.mth(n, n+1); !bytes.Equal(b[j*32:j*32+32], h[:]) {
							t.Fatalf("%s: a wrong tile is served", c.name)
						}
					}
				}
			}
		}
		put(c.key, good)
	}
	if _, err := Fsck(t.Context(), r.c, nil); err != nil {
		t.Fatalf("after putting everything back: %v", err)
	}
	t.Logf("%d changed bytes, none served, all found", len(all))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
