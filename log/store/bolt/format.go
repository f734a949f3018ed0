package bolt

import (
	"fmt"

	bbolt "go.etcd.io/bbolt"

	"redoubt.internal/log/store"
)

// The number of the format (store.Format) is the sequence of a bucket that holds nothing else, so that it is no key of the store.
var formatBucket = []byte("format")

// Format is the format that the file is of.
func (d *DB) Format() (n uint64, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		n = formatOf(tx)
		return nil
	})
	return n, err
}

// sameFormat gives other the format of d.
func (d *DB) sameFormat(other *DB) error {
	mine, err := d.Format()
	if err != nil {
		return err
	}
	if theirs, err := other.Format(); err != nil || mine == theirs {
		return err
	}
	return other.Migrate(mine, func(store.Tx) error { return nil })
}

func formatOf(tx *bbolt.Tx) uint64 {
	if b := tx.Bucket(formatBucket); b != nil {
		return b.Sequence()
	}
	return store.FirstFormat
}

func setFormat(tx *bbolt.Tx, n uint64) error {
	b, err := tx.CreateBucketIfNotExists(formatBucket)
	if err != nil {
		return err
	}
	return b.SetSequence(n)
}

// checkFormat refuses what a later program wrote.
func checkFormat(tx *bbolt.Tx) error {
	if n := formatOf(tx); n > store.Format {
		return fmt.Errorf("%w: it is of format %d, this program knows formats up to %d", store.ErrNewer, n, store.Format)
	}
	return nil
}

// Migrate makes the changes of fn and gives the file the format to, both in one transaction or neither. It is bbolt's own commit, never
// one of the journal: the number is no key. A second file follows at the next Pair.
func (d *DB) Migrate(to uint64, fn func(store.Tx) error) (err error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	if e := d.broken.Load(); e != nil {
		return *e
	}
	if d.second != nil {
		return fmt.Errorf("migrating %s: it is paired", d.path)
	}
	committing := false
	defer func() {
		switch {
		case err != nil && committing:
			err = d.commitFailed(err, 0)
		case err == nil:
			d.journal.restart()
		}
	}()
	defer guard(&err)()
	d.journal.reset()
	d.b.NoSync = d.filling
	return d.b.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		t := &boltTx{b: b, journal: &d.journal}
		if err := fn(t); err != nil {
			return err
		}
		if d.journal.changes > 0 { // a second file lacks them, and takes them at the next Pair
			if err := t.count(); err != nil {
				return err
			}
		}
		committing = true
		if err := setFormat(tx, to); err != nil {
			return err
		}
		return stamp(b)
	})
}
