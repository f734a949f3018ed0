package log

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"
)

// A search index that has to be built anew keeps neither Open nor Add nor reads waiting, and no search gets half an answer.
func TestSearchIndexInBackground(t *testing.T) {
	const size = indexAtOnce + 1000
	leaf := func(i int) []byte { return binary.BigEndian.AppendUint64([]byte("leaf "), uint64(i)) }
	indexKeys := func(leaf, _ []byte) [][]byte { return [][]byte{leaf, {leaf[len(leaf)-1]}} }
	r := newRig(t, func(c *Config) { c.IndexKeys = indexKeys })
	var adding sync.WaitGroup
	for g := range 250 {
		adding.Go(func() {
			for i := g; i < size; i += 250 {
				if _, err := r.l.Add(context.Background(), leaf(i), nil, nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	adding.Wait()

	// The next start needs other keys, and the first of them are long in coming.
	gate := make(chan struct{})
	r.c.IndexVersion++
	r.c.IndexKeys = func(leaf, extra []byte) [][]byte {
		if len(leaf) < 20 { // not one of those added below
			<-gate
		}
		return indexKeys(leaf, extra)
	}
	find := func(key []byte, want int) {
		t.Helper()
		found, err := r.l.Find(t.Context(), key, 1<<20)
		if err != nil || len(found) != want {
			t.Errorf("%d found, %v; want %d", len(found), err, want)
		}
	}
	for _, interrupt := range []bool{true, false} {
		r.reopen()
		if n := r.l.Head().Size; n < size {
			t.Fatalf("opened at %d", n)
		}
		young := bytes.Repeat([]byte{7}, 20+int(r.l.Head().Size-size))
		if _, err := r.l.Add(t.Context(), young, nil, nil); err != nil {
			t.Fatal(err)
		}
		if e, err := r.l.Entry(t.Context(), 17); err != nil || len(e.Leaf) == 0 {
			t.Fatal(err)
		}
		soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if found, err := r.l.Find(soon, leaf(3), 1); !errors.Is(err, ErrIndexing) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a search of half an index: %v %v", found, err)
		}
		cancel()
		if interrupt {
			// A stop in the middle, and another start.
			held := gate
			time.AfterFunc(10*time.Millisecond, func() { close(held) })
			r.stop()
			gate = make(chan struct{})
			continue
		}
		close(gate)
		find(young, 1)
		if _, err := r.l.Add(t.Context(), append(young, 0), nil, nil); err != nil {
			t.Fatal(err)
		}
		find(append(young, 0), 1)
	}
	for i := 0; i < size; i += 97 {
		find(leaf(i), 1)
	}
	all := 2 // those added above that end in 7
	for i := range size {
		if byte(i) == 7 {
			all++
		}
	}
	find([]byte{7}, all)
	r.reopen()
	find([]byte{7}, all)
}
