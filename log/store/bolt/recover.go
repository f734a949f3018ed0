package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	bbolt "go.etcd.io/bbolt"

	"redoubt.internal/log/store"
)

// found is what a journal holds: a base and the changes of the transactions after it.
type found struct {
	base, last uint64 // transaction ids
	metas      []byte // as in the first record
	changes    [][]byte
	// beyond is the last transaction of records that lie behind the end: the one at the end is damaged. 0 when there are none.
	beyond uint64
}

// record returns the record that b begins with, nil when it is not whole.
func record(b []byte) []byte {
	if len(b) < journalHeader || string(b[:8]) != journalMagic {
		return nil
	}
	n := binary.BigEndian.Uint64(b[40:])
	if n > uint64(len(b)-journalHeader) {
		return nil
	}
	rec := b[:journalHeader+n]
	if sum := recordSum(rec); !bytes.Equal(sum[:], rec[journalSum:journalHeader]) {
		return nil
	}
	return rec
}

// readJournal reads the records of a journal from its beginning. Where a record is torn, or older, there it ends: what was
// acknowledged lies before it, unless there is more of the same base behind it. It returns nil without a record.
func readJournal(b []byte) *found {
	if len(b) < journalHeader+metasBytes {
		return nil
	}
	all, nonce, at := &found{metas: b[journalHeader:][:metasBytes]}, b[8:24], int64(0)
	for at < int64(len(b)) {
		rec := record(b[at:])
		if rec == nil {
			break
		}
		base, id, payload := binary.BigEndian.Uint64(rec[24:]), binary.BigEndian.Uint64(rec[32:]), rec[journalHeader:]
		if at == 0 {
			if len(payload) < metasBytes {
				break
			}
			all.base, all.last, payload = base, base, payload[metasBytes:]
		}
		if base != all.base || id != all.last+1 || !bytes.Equal(rec[8:24], nonce) {
			break
		}
		all.last, all.changes = id, append(all.changes, payload)
		at += blocks(len(rec))
	}
	for ; at < int64(len(b)) && !bytes.Equal(nonce, make([]byte, len(nonce))); at += journalBlock {
		rec := record(b[at:])
		if rec == nil || !bytes.Equal(rec[8:24], nonce) {
			continue
		}
		if id := binary.BigEndian.Uint64(rec[32:]); id > all.last+1 {
			all.beyond = max(all.beyond, id)
		}
	}
	if len(all.changes) == 0 && all.beyond == 0 {
		return nil
	}
	return all
}

// apply makes the changes of one record.
func apply(changes []byte, put func(k, v []byte) error, del func(k []byte) error) error {
	bad := fmt.Errorf("%w: a record of the journal is not one", store.ErrCorrupt)
	bytesOf := func() ([]byte, bool) {
		n, size := binary.Uvarint(changes)
		if size <= 0 || n > uint64(len(changes)-size) {
			return nil, false
		}
		b := changes[size : uint64(size)+n]
		changes = changes[uint64(size)+n:]
		return b, true
	}
	for len(changes) > 0 {
		kind := changes[0]
		changes = changes[1:]
		k, ok := bytesOf()
		if !ok || kind > 1 || checkKey(k) != nil {
			return bad
		}
		if kind == 0 {
			if err := del(k); err != nil {
				return err
			}
			continue
		}
		v, ok := bytesOf()
		if !ok {
			return bad
		}
		if err := put(k, v); err != nil {
			return err
		}
	}
	return nil
}

// restore brings the database file back to the base of its journal, if the journal has records that the file may lack. It
// returns them, nil when the file needs none.
func restore(path string, j *os.File) (*found, error) {
	if j == nil {
		return nil, nil
	}
	b := make([]byte, journalSize)
	if n, err := j.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("reading the journal: %w: %d bytes: %w", store.ErrCorrupt, n, err)
	}
	all := readJournal(b)
	if all == nil {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := lock(f); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint64(all.metas)
	if size < 1<<9 || size > 1<<20 {
		return nil, fmt.Errorf("%w: the journal does not hold the state it begins with", store.ErrCorrupt)
	}
	var newest uint64 // transaction the file itself claims
	for i := range 2 {
		b := make([]byte, metaBytes)
		if _, err := f.ReadAt(b, int64(i)*int64(size)); err != nil {
			return nil, fmt.Errorf("reading a meta page: %w: %w", store.ErrCorrupt, err)
		}
		if m, ok := parseMeta(b); ok {
			newest = max(newest, m.id)
		}
	}
	if newest > max(all.last, all.beyond) {
		return nil, nil // a flushed commit came after the journal
	}
	if all.beyond > 0 {
		return nil, fmt.Errorf("%w: %s holds what was acknowledged up to transaction %d, and the record after transaction %d is damaged. "+
			"Without it the file is not whole: put a backup in the place of both", store.ErrCorrupt, journalPath(path), all.beyond, all.last)
	}
	sum, err := baseSum(f, all.metas, all.base)
	if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, io.EOF) {
		return nil, err // says nothing about the journal
	}
	if err != nil || newest > 0 && newest+1 < all.base || !bytes.Equal(sum[:], all.metas[metasBytes-len(sum):]) {
		return nil, fmt.Errorf("%w: the file ends at transaction %d and %s goes on from %d: they are not of one moment. A copy put in the "+
			"place of a database needs no journal: move the journal away", store.ErrCorrupt, newest, journalPath(path), all.base)
	}
	saved := [2][]byte{all.metas[8 : 8+metaBytes], all.metas[8+metaBytes : 8+2*metaBytes]}
	for i, m := range saved {
		if _, err := f.WriteAt(m, int64(i)*int64(size)); err != nil {
			return nil, fmt.Errorf("restoring a meta page: %w", err)
		}
	}
	return all, f.Sync()
}

// meta is what a meta page says of its state (bbolt, internal/common/meta.go). Pages are counted from 0.
type meta struct{ id, end, root, freelist uint64 }

// parseMeta reads a meta page, if it is whole: native byte order, FNV-1a over all but the sum.
func parseMeta(b []byte) (m meta, ok bool) {
	h := fnv.New64a()
	h.Write(b[16:72])
	word := func(at int) uint64 { return binary.NativeEndian.Uint64(b[at:]) }
	if binary.NativeEndian.Uint32(b[16:]) != 0xED0CDAED || word(72) != h.Sum64() {
		return m, false
	}
	return meta{root: word(32), freelist: word(48), end: word(56), id: word(64)}, true
}

// replay applies the records to the restored file. Afterwards everything in the file is durable, and the journal is empty.
func (d *DB) replay(all *found) (err error) {
	if all == nil {
		// What this process sees may still be on its way to the disk, if the last one was killed after it wrote. So may the
		// journal: a disk that still holds records taken back would apply them to a later state.
		if d.journal.f != nil {
			if err := d.journal.flush(); err != nil {
				return fmt.Errorf("flushing the journal: %w", err)
			}
		}
		return d.journal.file.Sync()
	}
	defer guard(&err)()
	err = d.b.Update(func(tx *bbolt.Tx) error {
		if uint64(tx.ID()) != all.base+1 {
			return fmt.Errorf("%w: it stands at transaction %d, its journal begins after %d", store.ErrCorrupt, tx.ID()-1, all.base)
		}
		b := tx.Bucket(bucket)
		if b == nil {
			return fmt.Errorf("%w: the bucket %q is missing", store.ErrCorrupt, bucket)
		}
		b.FillPercent = 0.9
		if err := stamp(b); err != nil {
			return err
		}
		for _, c := range all.changes {
			if err := apply(c, b.Put, b.Delete); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = d.journal.wipe(0)
	}
	if err != nil {
		return fmt.Errorf("applying the journal: %w", err)
	}
	return nil
}

// createJournal makes an empty journal for the owner of the database. It appears under its name, which the caller flushes, when
// it is complete.
func createJournal(path, name string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		tmp.Chown(int(owner.Uid), int(owner.Gid)) // as far as a container allows
	}
	if _, err := tmp.Write(make([]byte, journalSize)); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	// Link, not rename: if another process made it meanwhile, that one stays.
	if err := os.Link(tmp.Name(), name); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// lock takes the file for this process, or gives up after LockWait.
func lock(f *os.File) error {
	for deadline := time.Now().Add(LockWait); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w (waited %v); stop that process or use another directory", store.ErrLocked, LockWait)
		}
	}
}
