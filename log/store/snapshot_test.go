package store

import (
	"bytes"
	"testing"
)

// FuzzReadSnapshot: no bytes make the reader crash, allocate without bound, or accept what it would not write again.
func FuzzReadSnapshot(f *testing.F) {
	mem := &memTx{}
	for i := range 4 {
		mem.k = append(mem.k, []byte{byte(i + 1)})
		mem.v = append(mem.v, bytes.Repeat([]byte{byte(i)}, i*100))
	}
	var good bytes.Buffer
	if err := WriteSnapshot(&good, mem); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte(snapshotMagic))
	f.Add([]byte(snapshotMagic + "\x00\x00\x00\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := &memTx{}
		err := ReadSnapshot(bytes.NewReader(b), func(k, v []byte) error {
			got.k, got.v = append(got.k, bytes.Clone(k)), append(got.v, bytes.Clone(v))
			return nil
		})
		fast := &memTx{}
		ferr := SnapshotRecords(b, func(k, v []byte) error {
			fast.k, fast.v = append(fast.k, k), append(fast.v, v)
			return nil
		})
		if err != nil {
			return
		}
		if ferr != nil || len(fast.k) != len(got.k) {
			t.Fatalf("%d records in memory, %d as a stream: %v", len(fast.k), len(got.k), ferr)
		}
		for i := range fast.k {
			if !bytes.Equal(fast.k[i], got.k[i]) || !bytes.Equal(fast.v[i], got.v[i]) {
				t.Fatalf("record %d differs", i)
			}
		}
		var again bytes.Buffer
		if err := WriteSnapshot(&again, got); err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Fatalf("an accepted snapshot is not what would be written: %v", err)
		}
	})
}

// memTx is a Tx over two slices, only for scanning.
type memTx struct{ k, v [][]byte }

func (m *memTx) Get([]byte) ([]byte, error) { return nil, nil }
func (m *memTx) Put(_, _ []byte) error      { return ErrReadOnlyTx }
func (m *memTx) Delete([]byte) error        { return ErrReadOnlyTx }
func (m *memTx) Scan(_, _ []byte, fn func(k, v []byte) bool) error {
	for i := range m.k {
		if !fn(m.k[i], m.v[i]) {
			break
		}
	}
	return nil
}
