package log

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"redoubt.internal/log/store/bolt"
)

// Random bits of the database file flip while it lies on the disk. Whatever the process then answers is right: it refuses
// to open, errs, or the bit lay in a page that is not in use. It never crashes, and Fsck finds every flip that a reader
// could have met.
func TestTortureFlippedFileBits(t *testing.T) {
	t.Parallel()
	flips := 150
	if os.Getenv("REDOUBT_TORTURE") != "" {
		flips = 10_000
	}
	r, naive := grown(t, 600)
	r.stop()
	good, err := os.ReadFile(r.path())
	if err != nil {
		t.Fatal(err)
	}
	good = bytes.TrimRight(good, "\x00") // the rest was never written
	path := filepath.Join(t.TempDir(), "flipped.db")
	rnd := rand.New(rand.NewPCG(21, 22))
	refused, found, harmless, missed, wrong := 0, 0, 0, 0, 0
	for range flips {
		b := bytes.Clone(good)
		b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
		b = append(b, make([]byte, (4096-len(b)%4096)%4096+1<<20)...)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := bolt.Open(path)
		if err != nil {
			refused++
			continue
		}
		c := r.c
		c.DB, c.HighWater = db, nil
		_, ferr := Fsck(t.Context(), c, nil)
		met := false
		if l, err := Open(t.Context(), c); err != nil {
			met = true
		} else {
			if root := l.Head().Root; root != naive.mth(0, int(l.Head().Size)) {
				wrong++
			}
			if l.Head().Size != 600 {
				met = true // the newest head is gone: a mark outside would have refused this copy
			}
			for i := range l.Head().Size {
				e, err := l.Entry(t.Context(), i)
				if err != nil {
					met = true
				} else if !bytes.Equal(e.Leaf, naive.leaves[i]) {
					wrong++
				}
			}
			for i := range l.Head().Size / tileWidth {
				tl, err := l.Tile(t.Context(), 0, i, tileWidth)
				if err != nil {
					met = true
					continue
				}
				for j := range tileWidth {
					if h := naive.mth(int(i)*tileWidth+j, int(i)*tileWidth+j+1); !bytes.Equal(tl[j*32:j*32+32], h[:]) {
						wrong++
					}
				}
			}
		}
		switch {
		case ferr != nil:
			found++
		case met:
			missed++
		default:
			harmless++
		}
		db.Close()
	}
	t.Logf("%d flipped bits: %d refused at opening, %d found by Fsck, %d in no live data, %d met by a reader and not found, %d wrong answers, 0 crashes",
		flips, refused, found, harmless, missed, wrong)
	if wrong != 0 || missed != 0 || found == 0 {
		t.Fail()
	}
}
