package bolt

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	bbolt "go.etcd.io/bbolt"

	"redoubt.internal/log/store"
)

// A second file, on another disk, gets every transaction before its Update returns: both disks write at the same time, and
// what the second one does not take, the first one does not commit. So whichever disk is left holds everything that was
// acknowledged.
//
// Both files count their transactions under one key of their own. The counts say which of two files is the newer one:
//
//	pairKey -> uint64 transactions since the pair was begun | 8 random bytes, drawn with each
//
// A crash leaves the files equal, the second one behind by one transaction, or ahead by one that was not acknowledged; that one is
// taken over. A second file without a count is one that was being filled.
const pairKey = "\xffsecond"

var (
	// ErrSecond says that the second disk did not take a transaction, so that it was not committed.
	ErrSecond = errors.New("the second disk does not take what the first one does")
	// ErrSecondAhead says that the second disk holds later transactions: the first file is an older copy.
	ErrSecondAhead = errors.New("the second disk holds more than the first one: the first is an older copy")
	// ErrSecondForeign says that the two files went different ways.
	ErrSecondForeign = errors.New("the second disk holds another state than the first one came from")
)

// second is the second file of a DB. It belongs to whoever holds DB.writing, but for lost.
type second struct {
	db       *DB
	required bool
	lost     atomic.Pointer[error] // why it is written no more
	undo     []edit                // what it has of a transaction that the first file lacks
}

type edit struct {
	key, value []byte
	del        bool
}

// Pair makes the file at path, which is made if it is not there, the second one of d. Where required, an Update fails that it does
// not take; else the first failure ends the pair, and SecondErr says so. Pair copies what the second one lacks first.
func (d *DB) Pair(path string, required bool) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	db, err := openOrCreate(path)
	if err != nil {
		return fmt.Errorf("opening the second file: %w", err)
	}
	if err := errors.Join(d.match(db), d.sameFormat(db)); err != nil {
		db.Close()
		return fmt.Errorf("bringing %s up to date: %w", path, err)
	}
	d.second = &second{db: db, required: required}
	return nil
}

// SecondErr says why the second file is written no more; nil while it is, and where there is none.
func (d *DB) SecondErr() error {
	if d.second == nil {
		return nil
	}
	if e := d.second.lost.Load(); e != nil {
		return *e
	}
	return nil
}

// Complete says whether the file, which is or was the second one of another, holds all of it.
func (d *DB) Complete() (complete bool, err error) {
	err = d.view(func(tx *bbolt.Tx) error { complete = tx.Bucket(bucket).Get([]byte(pairKey)) != nil; return nil })
	return complete, err
}

func openOrCreate(path string) (*DB, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Create(path)
	}
	if err != nil {
		return nil, err
	}
	return Open(path)
}

// count adds one to the transactions of a file that has, or had, a second one.
func (t *boltTx) count() error {
	was := t.b.Get([]byte(pairKey))
	if was == nil {
		return nil
	}
	if len(was) != 16 {
		return fmt.Errorf("%w: the count of a pair has %d bytes", store.ErrCorrupt, len(was))
	}
	return t.Put([]byte(pairKey), counted(binary.BigEndian.Uint64(was)+1))
}

func counted(n uint64) []byte {
	value := binary.BigEndian.AppendUint64(nil, n)
	var drawn [8]byte
	rand.Read(drawn[:]) // never fails
	return append(value, drawn[:]...)
}

// begin starts to write the changes of a transaction to the second file; wait says whether it has them.
func (s *second) begin(changes []edit) (wait func() error) {
	if s == nil || s.lost.Load() != nil && !s.required {
		return func() error { return nil }
	}
	if e := s.lost.Load(); e != nil {
		return func() error { return *e }
	}
	done := make(chan error, 1)
	go func() { done <- s.db.take(changes) }()
	return func() error {
		err := <-done
		if err == nil {
			s.undo = changes
			return nil
		}
		err = fmt.Errorf("%w: %w", ErrSecond, err)
		if !errors.Is(err, store.ErrFull) || !s.required {
			s.lost.CompareAndSwap(nil, &err)
		}
		if s.required {
			return err
		}
		return nil
	}
}

// take makes the changes of another file in this one.
func (d *DB) take(changes []edit) error {
	return d.update(func(tx *boltTx) error {
		for _, c := range changes {
			var err error
			if c.del {
				err = tx.Delete(c.key)
			} else {
				err = tx.Put(c.key, c.value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// repair takes back what the second file has of a transaction that the first one did not commit.
func (d *DB) repair() error {
	s := d.second
	if s == nil || s.undo == nil || s.lost.Load() != nil {
		return nil
	}
	var back []edit
	err := d.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		for _, c := range s.undo {
			v := b.Get(c.key)
			back = append(back, edit{key: c.key, value: bytes.Clone(v), del: v == nil})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.db.take(back); err != nil {
		err = fmt.Errorf("%w: taking a transaction back: %w", ErrSecond, err)
		if s.lost.CompareAndSwap(nil, &err); s.required {
			return err
		}
	}
	s.undo = nil
	return nil
}

// settled is told how the first file's commit of what begin wrote ended.
func (s *second) settled(err error) {
	if s == nil || s.undo == nil {
		return
	}
	if err == nil {
		s.undo = nil
		return
	}
	for i, c := range s.undo { // the caller's bytes are its own again
		s.undo[i] = edit{key: bytes.Clone(c.key)}
	}
}

// close lets the second file go. One that is lost may not close any more, and nothing depends on it.
func (s *second) close() error {
	if err := s.db.Close(); err != nil && s.lost.Load() == nil {
		return fmt.Errorf("closing the second file: %w", err)
	}
	return nil
}
