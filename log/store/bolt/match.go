package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	bbolt "go.etcd.io/bbolt"

	"redoubt.internal/log/store"
)

// matchBytes is what one transaction copies while two files are made equal.
const matchBytes = 4 << 20

// match makes the second file equal to d, or d equal to a second one that is one transaction ahead.
func (d *DB) match(other *DB) error {
	var mine, theirs []byte
	read := func(db *DB, to *[]byte) error {
		return db.view(func(tx *bbolt.Tx) error { *to = bytes.Clone(tx.Bucket(bucket).Get([]byte(pairKey))); return nil })
	}
	if err := read(d, &mine); err != nil {
		return err
	}
	if err := read(other, &theirs); err != nil {
		return err
	}
	if mine == nil {
		return d.beginPair(other, theirs)
	}
	if len(mine) != 16 || theirs != nil && len(theirs) != 16 {
		return fmt.Errorf("%w: the count of a pair", store.ErrCorrupt)
	}
	if theirs == nil || binary.BigEndian.Uint64(theirs) < binary.BigEndian.Uint64(mine) {
		return refill(d, other)
	}
	switch ahead := binary.BigEndian.Uint64(theirs) - binary.BigEndian.Uint64(mine); {
	case ahead == 0 && bytes.Equal(mine, theirs):
		return nil
	case ahead == 0:
		return fmt.Errorf("%w: both count %d transactions", ErrSecondForeign, binary.BigEndian.Uint64(mine))
	case ahead == 1:
		return copyAll(other, d, math.MaxInt) // in one transaction, so that it is there or not
	default:
		return fmt.Errorf("%w: by %d transactions", ErrSecondAhead, ahead)
	}
}

// beginPair begins to count in a file that never had a second one.
func (d *DB) beginPair(other *DB, theirs []byte) error {
	if theirs != nil {
		return fmt.Errorf("%w: it is the second one of another file, or this is a copy from before it was", ErrSecondForeign)
	}
	if err := d.update(func(tx *boltTx) error { return tx.Put([]byte(pairKey), counted(1)) }); err != nil {
		return err
	}
	return refill(d, other)
}

// refill makes a second file equal to the first. Until it is, it has no count.
func refill(from, to *DB) error {
	if err := to.update(func(tx *boltTx) error { return tx.Delete([]byte(pairKey)) }); err != nil {
		return err
	}
	return copyAll(from, to, matchBytes)
}

// copyAll makes to equal to from, by transactions of about that many bytes.
func copyAll(from, to *DB, most int) error {
	var next, count []byte
	for done := false; !done; {
		var changes []edit
		err := from.view(func(a *bbolt.Tx) error {
			return to.view(func(b *bbolt.Tx) error {
				count = bytes.Clone(a.Bucket(bucket).Get([]byte(pairKey)))
				changes, next = differences(a.Bucket(bucket).Cursor(), b.Bucket(bucket).Cursor(), next, most)
				return nil
			})
		})
		if err != nil {
			return err
		}
		if done = next == nil; done {
			changes = append(changes, edit{key: []byte(pairKey), value: count})
		}
		if err := to.take(changes); err != nil {
			return err
		}
	}
	return nil
}

// differences are the changes that make b equal to a from a key on, up to about most bytes of them, and the key to go on from; nil at
// the end. Both are sorted, so they are read side by side.
func differences(a, b *bbolt.Cursor, from []byte, most int) (changes []edit, next []byte) {
	seek := func(c *bbolt.Cursor) (k, v []byte) {
		if from == nil {
			return c.First()
		}
		return c.Seek(from)
	}
	ak, av := seek(a)
	bk, bv := seek(b)
	for size := 0; ak != nil || bk != nil; {
		order := bytes.Compare(ak, bk)
		switch {
		case bk == nil || ak != nil && order < 0:
			order = -1
		case ak == nil:
			order = 1
		}
		if size >= most {
			if next = ak; order > 0 {
				next = bk
			}
			return changes, bytes.Clone(next)
		}
		switch key := string(ak); {
		case order > 0:
			changes, size = append(changes, edit{key: bytes.Clone(bk), del: true}), size+len(bk)
		case key != pairKey && (order < 0 || !bytes.Equal(av, bv)):
			changes, size = append(changes, edit{key: bytes.Clone(ak), value: bytes.Clone(av)}), size+len(ak)+len(av)
		}
		if order <= 0 {
			ak, av = a.Next()
		}
		if order >= 0 {
			bk, bv = b.Next()
		}
	}
	return changes, nil
}
