// Package bolt is the embedded engine of store.DB: one bbolt file, one process, one writer at a time.
//
// It guarantees what package store asks for, and besides:
//   - One process holds the file. A second one waits a bounded time (LockWait) and then gets store.ErrLocked.
//   - A nil Update is two flushes of a file that is never opened with NoSync, NoGrowSync or NoFreelistSync.
//   - A failed write or flush latches the file: every later Update returns store.ErrSync until it is opened again. A
//     full disk met before the flush is no such failure (store.ErrFull): nothing was committed, and it heals by itself.
//   - bbolt panics, or faults, on damaged pages. Both are caught here and come back as store.ErrCorrupt.
//
// bbolt pages carry no checksums: see package store.
package bolt

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	bbolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"redoubt.internal/log/store"
)

// LockWait is how long Create and Open wait for another process to let go of the file.
const LockWait = 2 * time.Second

// mmapSize is the address space mapped at the start, in bytes. A remap waits for every reader, a snapshot included, and the
// writer with it; address space costs no memory. Where it is limited (RLIMIT_AS), less is mapped: see open.
const mmapSize = min(64<<30, math.MaxInt/4)

var bucket = []byte("kv")

// DB is an open file. It implements store.DB.
type DB struct {
	b    *bbolt.DB
	path string
	// broken holds the first write failure. From then on nothing is written: after a failed flush the page cache may
	// claim what the disk does not have.
	broken atomic.Pointer[error]
}

// Create makes a new database file at path (mode 0600) and opens it. The folder entry is flushed too.
func Create(path string) (*DB, error) {
	// The file appears under its name only when it is a complete, flushed database.
	tmp := path + ".new"
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("creating %s: %w", path, store.ErrExists)
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("creating %s: %w", path, err)
	}
	d, err := open(tmp)
	if err != nil {
		return nil, err
	}
	err = d.b.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(bucket)
		return err
	})
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("creating %s: %w", path, err)
	}
	// Link refuses an existing target, where rename would replace it.
	if err := os.Link(tmp, path); err != nil {
		if errors.Is(err, os.ErrExist) {
			err = store.ErrExists
		}
		return nil, fmt.Errorf("creating %s: %w", path, err)
	}
	if err := os.Remove(tmp); err != nil {
		return nil, fmt.Errorf("creating %s: %w", path, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("creating %s: %w", path, err)
	}
	return Open(path)
}

// Open opens an existing database file.
func Open(path string) (*DB, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return nil, fmt.Errorf("opening %s: %w: not a database file", path, store.ErrCorrupt)
	}
	d, err := open(path)
	if err != nil {
		return nil, err
	}
	err = d.view(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucket) == nil {
			return fmt.Errorf("opening %s: %w: the bucket %q is missing", path, store.ErrCorrupt, bucket)
		}
		return nil
	})
	if err != nil {
		d.b.Close()
		return nil, err
	}
	return d, nil
}

func open(path string) (d *DB, err error) {
	defer guard(&err)()
	var b *bbolt.DB
	for size := mmapSize; ; size /= 4 {
		if size < 1<<20 {
			size = 0 // what the file needs
		}
		b, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:         LockWait,
			InitialMmapSize: size,
			FreelistType:    bbolt.FreelistArrayType, // hands out neighbouring pages, which the kernel writes in one piece
			NoStatistics:    true,
		})
		if size == 0 || !errors.Is(err, syscall.ENOMEM) {
			break
		}
	}
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("opening %s: %w (waited %v); stop that process or use another directory", path, store.ErrLocked, LockWait)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, fmt.Errorf("opening %s: %w: %w", path, store.ErrCorrupt, err)
	case err != nil:
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return &DB{b: b, path: path}, nil
}

// View implements store.DB.
func (d *DB) View(fn func(store.Tx) error) error {
	return d.view(func(tx *bbolt.Tx) error { return fn(&boltTx{b: tx.Bucket(bucket)}) })
}

func (d *DB) view(fn func(*bbolt.Tx) error) (err error) {
	defer guard(&err)()
	return d.b.View(fn)
}

// Update implements store.DB.
func (d *DB) Update(fn func(store.Tx) error) (err error) {
	if e := d.broken.Load(); e != nil {
		return *e
	}
	committing := false
	defer func() {
		// A failure of fn drops the transaction and nothing else. A failure of the commit decides about the file.
		if err != nil && committing {
			err = d.commitFailed(err)
		}
	}()
	defer guard(&err)()
	return d.b.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		// Most keys of the product grow at the end of their range: fill pages instead of splitting them in halves.
		b.FillPercent = 0.9
		if err := fn(&boltTx{b: b, writable: true}); err != nil {
			return err
		}
		committing = true
		return nil
	})
}

// commitFailed turns an error of a commit into ErrFull or the latched ErrSync.
func (d *DB) commitFailed(err error) error {
	var pe *os.PathError
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && errors.As(err, &pe) {
		// pwrite or truncate met a full disk. No flush was tried, the meta page is the old one: nothing happened.
		return fmt.Errorf("committing to %s: %w: %w", d.path, store.ErrFull, err)
	}
	err = fmt.Errorf("committing to %s: %w: %w", d.path, store.ErrSync, err)
	d.broken.CompareAndSwap(nil, &err)
	return err
}

// Close implements store.DB.
func (d *DB) Close() (err error) {
	defer guard(&err)()
	return d.b.Close()
}

// Path is the file's path.
func (d *DB) Path() string { return d.path }

// guard turns a panic, or a fault on the mapped file, of this goroutine into store.ErrCorrupt.
func guard(err *error) func() {
	old := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			*err = fmt.Errorf("%w: %v", store.ErrCorrupt, r)
		}
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
