package log

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
)

// Readers beside writers: heads only grow, in size and in time; each is consistent with the one seen before; and an
// acknowledged entry can be read, proven and found at once.
func TestReadersSeeOneHistory(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) {
		c.IndexKeys = func(leaf, _ []byte) [][]byte { return [][]byte{leaf} }
	})
	ctx, stop := context.WithCancel(t.Context())
	var readers, writers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			seen := r.l.Head()
			for ctx.Err() == nil {
				h := r.l.Head()
				if h.Size < seen.Size || h.Time.Before(seen.Time) {
					t.Errorf("the head went back from %d to %d", seen.Size, h.Size)
					return
				}
				proof, err := r.l.ConsistencyProof(t.Context(), seen.Size, h.Size)
				if err == nil {
					err = VerifyConsistency(seen.Size, h.Size, seen.Root, h.Root, proof)
				}
				if err != nil {
					t.Error(err)
					return
				}
				if h.Size > 0 {
					if b, err := r.l.EntryBundle(t.Context(), (h.Size-1)/tileWidth, int((h.Size-1)%tileWidth)+1); err != nil || len(b) == 0 {
						t.Error(err)
						return
					}
				}
				seen = h
			}
		})
	}
	for g := range 8 {
		writers.Go(func() {
			for i := range 60 {
				leaf := fmt.Appendf(nil, "%d-%d", g, i)
				rc, err := r.l.Add(t.Context(), leaf, nil, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if h := r.l.Head(); h.Size < rc.Checkpoint.Size {
					t.Errorf("answered at size %d, published %d", rc.Checkpoint.Size, h.Size)
				}
				e, err := r.l.Entry(t.Context(), rc.Index)
				if err != nil || !bytes.Equal(e.Leaf, leaf) {
					t.Errorf("entry %d: %v", rc.Index, err)
				}
				if j, ok, err := r.l.LeafIndex(t.Context(), rc.LeafHash); err != nil || !ok || j != rc.Index {
					t.Errorf("entry %d by its hash: %d %v %v", rc.Index, j, ok, err)
				}
				if found, err := r.l.Find(t.Context(), leaf, 10); err != nil || len(found) != 1 || found[0] != rc.Index {
					t.Errorf("entry %d by its key: %v %v", rc.Index, found, err)
				}
			}
		})
	}
	writers.Wait()
	stop()
	readers.Wait()
	if n := r.l.Head().Size; n != 480 {
		t.Fatal(n)
	}
}
