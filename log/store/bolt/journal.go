package bolt

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	bbolt "go.etcd.io/bbolt"

	"redoubt.internal/log/store"
)

// The journal is a file beside the database, written in full when it is made. A small transaction is appended to it and
// flushed, and only then committed to the database file without a flush: one flush instead of two, of one block that is there
// already. A large transaction, or one that finds the journal full, is committed with bbolt's own two flushes, and the journal
// begins anew.
//
// The state of the last flushed commit is the base. Until the next flushed commit a read transaction is held at the base, so
// bbolt overwrites none of its pages; its two meta pages, which bbolt does overwrite, are kept in the first record. After a
// crash the base is restored and the records are applied to it, whatever the database file holds (recover.go).
//
// A record lies at a multiple of 4 KiB, so that a torn write harms none before it. Integers are big endian:
//
//	0  "RDBTJNL1"
//	8  16 random bytes, the same in all records over one base: what older records leave behind them, callers' bytes among
//	   it, is never taken for a record of these
//	24 uint64 bbolt's transaction id of the base
//	32 uint64 transaction id: base+1, base+2, ...
//	40 uint64 length of the payload
//	48 SHA-256 of bytes 0 to 47 and the payload
//	80 payload: in the first record the page size (uint64), the first 80 bytes of both meta pages, and SHA-256 of the pages
//	   the base's root and freelist begin with; then the changes in their order, each a byte 1 (put) or 0 (delete), uvarint
//	   length of the key, key, and for a put uvarint length of the value, value
const (
	journalMagic   = "RDBTJNL1"
	journalSum     = 48 // where the digest begins
	journalHeader  = 80
	journalBlock   = 4 << 10
	journalSize    = 1 << 20
	journalMost    = 64 << 10 // of changes in one record
	journalMapping = 4 << 30  // the least mapping beside which a journal is used
	journalChange  = 4096     // changes in one record
	metaBytes      = 80       // of a meta page: bbolt's page header and meta (bbolt, internal/common/meta.go)
	metasBytes     = 8 + 2*metaBytes + sha256.Size
)

// journalPath is where the journal of a database lies.
func journalPath(path string) string { return path + "-journal" }

// journal is the writing side. It belongs to whoever holds DB.writing.
type journal struct {
	f     *os.File
	file  *os.File // the database, opened by bbolt
	base  uint64   // of the records written
	nonce [16]byte
	pin   *bbolt.Tx // reads at the base, when there is one
	n     int       // records
	at    int64     // where the next one goes
	// room is half of what bbolt maps. A commit beyond it may move the mapping, which waits for pin for ever: so above it
	// nothing is recorded, and no transaction is as large as the other half.
	room int64

	buf     []byte // the record in the making
	changes int
}

// reset begins the record of a transaction.
func (j *journal) reset() {
	room := journalHeader + metasBytes
	if cap(j.buf) < room {
		j.buf = make([]byte, room, 8<<10)
	}
	j.buf, j.changes = j.buf[:room], 0
}

// put and del note a change. What would make the record too large is only counted.
func (j *journal) put(key, value []byte) {
	j.changes++
	if len(j.buf)+len(key)+len(value) > journalMost || j.changes > journalChange {
		j.changes = journalChange + 1
		return
	}
	j.buf = append(j.buf, 1)
	j.buf = append(binary.AppendUvarint(j.buf, uint64(len(key))), key...)
	j.buf = append(binary.AppendUvarint(j.buf, uint64(len(value))), value...)
}

func (j *journal) del(key []byte) {
	j.changes++
	if len(j.buf)+len(key) > journalMost || j.changes > journalChange {
		j.changes = journalChange + 1
		return
	}
	j.buf = append(j.buf, 0)
	j.buf = append(binary.AppendUvarint(j.buf, uint64(len(key))), key...)
}

// write makes the changes of tx durable, or says that bbolt has to: when there are too many, or no place for them.
func (j *journal) write(b *bbolt.DB, tx *bbolt.Tx) (done bool, err error) {
	from := 0 // in buf: the metas are left out of all records but the first
	if j.n > 0 {
		from = metasBytes
	}
	if j.f == nil || j.changes > journalChange || tx.Size() > j.room || j.at+int64(len(j.buf)-from) > journalSize {
		return false, nil
	}
	if j.n == 0 {
		if err := j.begin(b, uint64(tx.ID())-1); err != nil {
			return false, err
		}
	}
	if last := j.base + uint64(j.n); uint64(tx.ID()) != last+1 {
		return false, fmt.Errorf("the journal ends at transaction %d, and this one is %d", last, tx.ID())
	}
	rec := j.buf[from:]
	copy(rec, journalMagic)
	copy(rec[8:], j.nonce[:])
	binary.BigEndian.PutUint64(rec[24:], j.base)
	binary.BigEndian.PutUint64(rec[32:], uint64(tx.ID()))
	binary.BigEndian.PutUint64(rec[40:], uint64(len(rec)-journalHeader))
	sum := recordSum(rec)
	copy(rec[journalSum:], sum[:])
	if _, err := j.f.WriteAt(rec, j.at); err != nil {
		return false, err
	}
	if err := j.flush(); err != nil {
		return false, err
	}
	j.n++
	j.at += blocks(len(rec))
	return true, nil
}

// begin notes the base that the records are going to follow, and holds on to it.
func (j *journal) begin(b *bbolt.DB, base uint64) error {
	metas := j.buf[journalHeader:]
	size := b.Info().PageSize
	binary.BigEndian.PutUint64(metas, uint64(size))
	for i := range 2 {
		if _, err := j.file.ReadAt(metas[8+i*metaBytes:8+(i+1)*metaBytes], int64(i*size)); err != nil {
			return fmt.Errorf("reading a meta page: %w", err)
		}
	}
	sum, err := baseSum(j.file, metas, base)
	if err != nil {
		return err
	}
	copy(metas[metasBytes-len(sum):], sum[:])
	if j.pin == nil {
		pin, err := b.Begin(false)
		if err != nil {
			return fmt.Errorf("holding on to a state: %w", err)
		}
		j.pin = pin
	}
	if uint64(j.pin.ID()) != base {
		return fmt.Errorf("holding on to state %d: it is %d", base, j.pin.ID())
	}
	j.base = base
	rand.Read(j.nonce[:]) // never fails
	return nil
}

// baseSum is the digest of the pages that the root, which carries the stamp, and the freelist of state base begin with.
func baseSum(f *os.File, metas []byte, base uint64) (sum [32]byte, err error) {
	size := binary.BigEndian.Uint64(metas)
	for _, m := range [][]byte{metas[8 : 8+metaBytes], metas[8+metaBytes : 8+2*metaBytes]} {
		meta, ok := parseMeta(m)
		if !ok || meta.id != base {
			continue
		}
		pages := make([]byte, 2*size)
		for i, page := range []uint64{meta.root, meta.freelist} {
			if page >= meta.end {
				return sum, fmt.Errorf("%w: a page beyond the end", store.ErrCorrupt)
			}
			if _, err := f.ReadAt(pages[uint64(i)*size:uint64(i+1)*size], int64(page*size)); err != nil {
				return sum, fmt.Errorf("reading a page: %w", err)
			}
		}
		return sha256.Sum256(pages), nil
	}
	return sum, fmt.Errorf("%w: no meta page is of transaction %d", store.ErrCorrupt, base)
}

// undo takes back the last record, whose transaction bbolt did not commit.
func (j *journal) undo(size int64) error {
	j.n--
	j.at -= size
	return j.wipe(j.at)
}

// wipe makes the record at an offset none.
func (j *journal) wipe(at int64) error {
	if _, err := j.f.WriteAt(make([]byte, journalHeader), at); err != nil {
		return err
	}
	return j.flush()
}

func (j *journal) flush() error {
	if err := syscall.Fdatasync(int(j.f.Fd())); err != nil {
		return os.NewSyscallError("fdatasync", err)
	}
	return nil
}

// restart is called after a flushed commit, which is the next base: a record before it counts no more, because its
// transaction id is below that of the database.
func (j *journal) restart() {
	j.release()
	j.n, j.at, j.base = 0, 0, 0
}

func (j *journal) release() {
	if j.pin != nil {
		j.pin.Rollback()
		j.pin = nil
	}
}

// recordSum is the digest of a record with its payload.
func recordSum(rec []byte) (sum [32]byte) {
	h := sha256.New()
	h.Write(rec[:journalSum])
	h.Write(rec[journalHeader:])
	h.Sum(sum[:0])
	return sum
}

// blocks is the room a record of n bytes takes.
func blocks(n int) int64 { return (int64(n) + journalBlock - 1) &^ (journalBlock - 1) }

// openJournal opens the journal of the database at path, with a new one where there is none, and locks it. On a full disk a
// new one cannot be had: it returns nil, and every commit is bbolt's own.
func openJournal(path string) (*os.File, error) {
	name := journalPath(path)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		if err := createJournal(path, name); errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return nil, nil
		} else if err != nil {
			return nil, fmt.Errorf("creating %s: %w", name, err)
		}
		f, err = os.OpenFile(name, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	// Each time: whoever made it may have been killed before this.
	if err := syncDir(filepath.Dir(name)); err != nil {
		f.Close()
		return nil, fmt.Errorf("flushing the folder of %s: %w", name, err)
	}
	return f, nil
}
