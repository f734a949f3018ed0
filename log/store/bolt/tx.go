package bolt

import (
	"bytes"
	"fmt"
	"io"

	bbolt "go.etcd.io/bbolt"

	"redoubt.internal/log/store"
)

// boltTx implements store.Tx over the one bucket.
type boltTx struct {
	b       *bbolt.Bucket
	journal *journal // notes the changes; nil in a transaction that reads
	paired  bool     // changes are kept for the second file
	changes []edit
}

func (t *boltTx) Get(key []byte) ([]byte, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	return t.b.Get(key), nil
}

func (t *boltTx) Put(key, value []byte) error {
	if t.journal == nil {
		return store.ErrReadOnlyTx
	}
	if err := checkKey(key); err != nil {
		return err
	}
	if len(value) > store.MaxValue {
		return fmt.Errorf("%w: a value of %d bytes", store.ErrInvalid, len(value))
	}
	if value == nil {
		value = []byte{} // bbolt keeps a nil apart from an empty value until the commit
	}
	if err := t.b.Put(key, value); err != nil {
		return fmt.Errorf("putting a key: %w", err)
	}
	t.journal.put(key, value)
	if t.paired {
		t.changes = append(t.changes, edit{key: key, value: value})
	}
	return nil
}

func (t *boltTx) Delete(key []byte) error {
	if t.journal == nil {
		return store.ErrReadOnlyTx
	}
	if err := checkKey(key); err != nil {
		return err
	}
	if err := t.b.Delete(key); err != nil {
		return fmt.Errorf("deleting a key: %w", err)
	}
	t.journal.del(key)
	if t.paired {
		t.changes = append(t.changes, edit{key: key, del: true})
	}
	return nil
}

func (t *boltTx) Scan(from, to []byte, fn func(k, v []byte) bool) error {
	c := t.b.Cursor()
	var k, v []byte
	if len(from) == 0 {
		k, v = c.First()
	} else {
		k, v = c.Seek(from)
	}
	var last []byte
	for ; k != nil; k, v = c.Next() {
		if to != nil && bytes.Compare(k, to) >= 0 {
			return nil
		}
		// A damaged page can send the cursor astray or in circles; ascending order is the contract, so hold it to it.
		if last != nil && bytes.Compare(k, last) <= 0 || bytes.Compare(k, from) < 0 {
			return fmt.Errorf("%w: keys are out of order", store.ErrCorrupt)
		}
		if v == nil {
			return fmt.Errorf("%w: a bucket where a value belongs", store.ErrCorrupt)
		}
		if !fn(k, v) {
			return nil
		}
		last = k
	}
	return nil
}

func checkKey(key []byte) error {
	if len(key) == 0 || len(key) > store.MaxKey {
		return fmt.Errorf("%w: a key of %d bytes", store.ErrInvalid, len(key))
	}
	return nil
}

// Stamp tells the state a transaction of this engine sees from all others, of this file and of others: it is drawn anew with each
// commit. 0 is no stamp.
func Stamp(tx store.Tx) uint64 {
	if t, ok := tx.(*boltTx); ok {
		return t.b.Sequence()
	}
	return 0
}

// Snapshot implements store.DB. It reads one consistent state while writers go on.
func (d *DB) Snapshot(w io.Writer) error {
	return d.View(func(tx store.Tx) error { return store.WriteSnapshot(w, tx) })
}
