// Package bolt is the embedded engine of store.DB: one bbolt file, one process, one writer at a time.
//
// It guarantees what package store asks for, and besides:
//   - One process holds the file. A second one waits a bounded time (LockWait) and then gets store.ErrLocked.
//   - A nil Update is durable: either by bbolt's two flushes, or, when it is small, by one flush of a journal beside the
//     file, from which the next Open restores what the file itself may have lost (journal.go).
//   - A failed write or flush latches the file: every later Update returns store.ErrSync until it is opened again. A
//     full disk met before the flush is no such failure (store.ErrFull): nothing was committed, and it heals by itself.
//   - A file carries the number of its format (store.Format); one that a later program wrote is not opened (format.go).
//   - bbolt panics, or faults, on damaged pages. Both are caught here and come back as store.ErrCorrupt.
//
// bbolt pages carry no checksums: see package store.
package bolt

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bbolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

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

	writing sync.Mutex // guards journal, bbolt's NoSync, and filling
	filling bool       // a new file nobody relies on: see Fill
	journal journal
	second  *second // see Pair; nil without one
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
	if err := os.Remove(journalPath(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("creating %s: %w", path, err) // of a database that is gone
	}
	d, err := open(tmp)
	if err != nil {
		return nil, err
	}
	err = d.b.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket(bucket); err != nil {
			return err
		}
		return setFormat(tx, store.Format)
	})
	if cerr := d.b.Close(); err == nil {
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

// Open opens an existing database file, and brings it up to its journal after a crash.
func Open(path string) (*DB, error) {
	path, err := filepath.EvalSymlinks(path) // the journal lies beside the file itself, whatever name leads to it
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return nil, fmt.Errorf("opening %s: %w: not a database file", path, store.ErrCorrupt)
	}
	j, err := openJournal(path)
	if err != nil {
		return nil, err
	}
	d, err := openWith(path, j)
	if err != nil && j != nil {
		j.Close()
	}
	return d, err
}

func openWith(path string, j *os.File) (*DB, error) {
	found, err := restore(path, j)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	d, err := open(path)
	if err != nil {
		return nil, err
	}
	d.journal.f = j
	if err := d.replay(found); err != nil {
		d.b.Close()
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	err = d.view(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucket) == nil {
			return fmt.Errorf("opening %s: %w: the bucket %q is missing", path, store.ErrCorrupt, bucket)
		}
		if err := checkFormat(tx); err != nil {
			return fmt.Errorf("opening %s: %w", path, err)
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
	var f *os.File
	mapped := 0
	for size := mmapSize; ; size /= 4 {
		if size < 1<<20 {
			size = 0 // what the file needs
		}
		b, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:         LockWait,
			InitialMmapSize: size,
			FreelistType:    bbolt.FreelistArrayType, // hands out neighbouring pages, which the kernel writes in one piece
			NoStatistics:    true,
			OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
				f, err = os.OpenFile(name, flag, mode)
				return f, err
			},
		})
		mapped = size
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
	d = &DB{b: b, path: path, journal: journal{file: f}}
	if int64(mapped) >= journalMapping {
		d.journal.room = int64(mapped) / 2
	}
	return d, nil
}

// View implements store.DB.
func (d *DB) View(fn func(store.Tx) error) error {
	return d.view(func(tx *bbolt.Tx) error { return fn(&boltTx{b: tx.Bucket(bucket)}) })
}

func (d *DB) view(fn func(*bbolt.Tx) error) (err error) {
	defer guard(&err)()
	return d.b.View(fn)
}

// errNothing ends a transaction that changed nothing.
var errNothing = errors.New("nothing to commit")

// Update implements store.DB.
func (d *DB) Update(fn func(store.Tx) error) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	return d.update(func(tx *boltTx) error {
		if err := fn(tx); err != nil || d.journal.changes == 0 {
			return err
		}
		return tx.count()
	})
}

// update is Update for who holds writing, or has the file alone.
func (d *DB) update(fn func(*boltTx) error) (err error) {
	if e := d.broken.Load(); e != nil {
		return *e
	}
	if err := d.repair(); err != nil {
		return err
	}
	j := &d.journal
	j.reset()
	at, committing := j.at, false
	defer func() {
		switch {
		case err == errNothing:
			err = nil
		case err != nil && committing:
			// A failure of fn drops the transaction and nothing else. A failure of the commit decides about the file.
			err = d.commitFailed(err, j.at-at)
		case err == nil && j.at == at:
			j.restart()
		}
		d.second.settled(err)
	}()
	defer guard(&err)()
	err = d.b.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		// Most keys of the product grow at the end of their range: fill pages instead of splitting them in halves.
		b.FillPercent = 0.9
		t := &boltTx{b: b, journal: j, paired: d.second != nil}
		if err := fn(t); err != nil {
			return err
		}
		if j.changes == 0 {
			return errNothing
		}
		committing = true
		if err := stamp(b); err != nil {
			return err
		}
		if d.filling {
			d.b.NoSync = true
			return nil
		}
		wait := d.second.begin(t.changes) // both disks write at the same time
		done, err := j.write(d.b, tx)
		if serr := wait(); err == nil {
			err = serr
		}
		d.b.NoSync = done
		return err
	})
	if err == nil && d.filling {
		// The disk begins on it now, where the kernel would wait for a tenth of the memory to fill. What that says, the flush says again.
		unix.SyncFileRange(int(j.file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return err
}

// stamp tells this state from all others, of this file and of others: the sequence of the bucket, which nobody else uses,
// lies on a page that each commit writes anyway. A journal finds its base by it.
func stamp(b *bbolt.Bucket) error { return b.SetSequence(rand.Uint64()) }

// commitFailed turns an error of a commit into ErrFull or the latched ErrSync. The record of its changes, of that many
// bytes, is in the journal already, or there is none.
func (d *DB) commitFailed(err error, recorded int64) error {
	var pe *os.PathError
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	refused := errors.Is(err, ErrSecond)
	if recorded > 0 {
		if uerr := d.journal.undo(recorded); uerr != nil {
			err, full, refused = errors.Join(err, uerr), false, false
		}
	}
	if refused {
		return fmt.Errorf("committing to %s: %w", d.path, err) // the transaction was dropped, as when fn fails
	}
	if full && errors.As(err, &pe) {
		// pwrite or truncate met a full disk. No flush was tried, the meta page is the old one: nothing happened.
		return fmt.Errorf("committing to %s: %w: %w", d.path, store.ErrFull, err)
	}
	err = fmt.Errorf("committing to %s: %w: %w", d.path, store.ErrSync, err)
	d.broken.CompareAndSwap(nil, &err)
	return err
}

// Close implements store.DB. It leaves a database file that needs no journal.
func (d *DB) Close() (err error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	defer guard(&err)()
	if d.second != nil {
		defer func() { err = errors.Join(err, d.second.close()) }()
	}
	err = d.settle()
	d.journal.release() // bbolt waits for it
	err = errors.Join(err, d.b.Close())
	if d.journal.f != nil {
		err = errors.Join(err, d.journal.f.Close())
		d.journal.f = nil
	}
	return err
}

// settle flushes what the journal has made durable into the database file, and empties the journal.
func (d *DB) settle() error {
	if d.journal.n == 0 || d.broken.Load() != nil {
		return nil
	}
	d.b.NoSync = false
	if err := d.b.Update(func(*bbolt.Tx) error { return nil }); err != nil {
		return fmt.Errorf("closing %s: %w", d.path, err)
	}
	d.journal.restart()
	if err := d.journal.wipe(0); err != nil {
		return fmt.Errorf("closing the journal of %s: %w", d.path, err)
	}
	return nil
}

// Fill makes the Updates of a new file, until Close, as fast as the page cache: none of them is durable when it returns. It is for a
// file that counts for nothing yet, and whose whole file system the caller flushes before it does.
func (d *DB) Fill() {
	d.writing.Lock()
	defer d.writing.Unlock()
	// bbolt flushes a file that grows; of a commit it writes every page it took, so the file is long enough without.
	d.filling, d.b.NoGrowSync = true, true
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
