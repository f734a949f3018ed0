package store

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// The snapshot stream, all integers big endian:
//
//	"redoubt.kv/1\n"
//	record*  uint32 key length (1..MaxKey), uint32 value length (0..MaxValue), key, value; keys strictly ascending
//	end      uint32 0, uint64 number of records, SHA-256 of everything before the digest
//
// Nothing follows the digest. It is a digest, not a signature: whoever ships a snapshot signs it.
const snapshotMagic = "redoubt.kv/1\n"

// ErrSnapshot says that a snapshot stream is not one, or is damaged.
var ErrSnapshot = errors.New("this is not a whole snapshot")

// WriteSnapshot writes everything tx sees to w. It is what engines build DB.Snapshot from.
func WriteSnapshot(w io.Writer, tx Tx) error {
	s := NewSnapshot(w)
	var werr error
	err := tx.Scan(nil, nil, func(k, v []byte) bool {
		werr = s.Put(k, v)
		return werr == nil
	})
	if err == nil {
		err = werr
	}
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		return fmt.Errorf("writing snapshot: %w", err)
	}
	return nil
}

// Snapshot writes one stream, record by record.
type Snapshot struct {
	to io.Writer
	w  *bufio.Writer // hashed on the way
	h  hash.Hash
	n  uint64
}

// NewSnapshot begins a stream on w.
func NewSnapshot(w io.Writer) *Snapshot {
	h := sha256.New()
	s := &Snapshot{to: w, w: bufio.NewWriterSize(io.MultiWriter(w, h), 1<<16), h: h}
	s.w.WriteString(snapshotMagic) // an error stays with the writer until Flush
	return s
}

// Put writes the next record. Keys ascend; the reader checks it.
func (s *Snapshot) Put(k, v []byte) error {
	var hdr [8]byte
	binary.BigEndian.PutUint32(hdr[:], uint32(len(k)))
	binary.BigEndian.PutUint32(hdr[4:], uint32(len(v)))
	s.w.Write(hdr[:])
	s.w.Write(k)
	_, err := s.w.Write(v)
	s.n++
	return err
}

// Close writes the end of the stream.
func (s *Snapshot) Close() error {
	var end [12]byte
	binary.BigEndian.PutUint64(end[4:], s.n)
	s.w.Write(end[:])
	if err := s.w.Flush(); err != nil {
		return err
	}
	_, err := s.to.Write(s.h.Sum(nil))
	return err
}

// ReadSnapshot reads a snapshot strictly and calls fn for each record. k and v are valid during the call. fn runs
// before the digest at the end is known: the caller throws away what it did when ReadSnapshot errs.
func ReadSnapshot(r io.Reader, fn func(k, v []byte) error) error {
	s := &snapshotReader{r: bufio.NewReaderSize(r, 1<<18), h: sha256.New()}
	magic, err := s.take(nil, len(snapshotMagic))
	if err != nil || string(magic) != snapshotMagic {
		return fmt.Errorf("%w: wrong first line", ErrSnapshot)
	}
	var last, key, val []byte
	var n uint64
	var word [8]byte
	for {
		b, err := s.take(word[:0], 4)
		if err != nil {
			return fmt.Errorf("%w: cut short after %d records", ErrSnapshot, n)
		}
		klen := binary.BigEndian.Uint32(b)
		if klen == 0 {
			break
		}
		if b, err = s.take(word[:0], 4); err != nil {
			return fmt.Errorf("%w: cut short after %d records", ErrSnapshot, n)
		}
		vlen := binary.BigEndian.Uint32(b)
		if klen > MaxKey || vlen > MaxValue {
			return fmt.Errorf("%w: record %d has a key of %d and a value of %d bytes", ErrSnapshot, n, klen, vlen)
		}
		if key, err = s.take(key[:0], int(klen)); err != nil {
			return fmt.Errorf("%w: cut short after %d records", ErrSnapshot, n)
		}
		if n > 0 && bytes.Compare(key, last) <= 0 {
			return fmt.Errorf("%w: record %d is out of order", ErrSnapshot, n)
		}
		if val, err = s.take(val[:0], int(vlen)); err != nil {
			return fmt.Errorf("%w: cut short after %d records", ErrSnapshot, n)
		}
		if err := fn(key, val); err != nil {
			return err
		}
		n++
		last = append(last[:0], key...)
	}
	b, err := s.take(word[:0], 8)
	if err != nil || binary.BigEndian.Uint64(b) != n {
		return fmt.Errorf("%w: it does not hold the number of records it names", ErrSnapshot)
	}
	want := s.h.Sum(nil)
	got, err := s.take(nil, sha256.Size)
	if err != nil || !bytes.Equal(want, got) {
		return fmt.Errorf("%w: digest mismatch", ErrSnapshot)
	}
	if _, err := s.r.ReadByte(); err != io.EOF {
		return fmt.Errorf("%w: something follows its end", ErrSnapshot)
	}
	return nil
}

// SnapshotRecords calls fn for each record of a whole snapshot in memory. k and v point into b. The digest at the end is not computed:
// it is for bytes whose own digest the caller has compared.
func SnapshotRecords(b []byte, fn func(k, v []byte) error) error {
	rest, ok := bytes.CutPrefix(b, []byte(snapshotMagic))
	if !ok {
		return fmt.Errorf("%w: wrong first line", ErrSnapshot)
	}
	var last []byte
	for n := uint64(0); ; n++ {
		if len(rest) < 12+sha256.Size {
			return fmt.Errorf("%w: cut short after %d records", ErrSnapshot, n)
		}
		klen := binary.BigEndian.Uint32(rest)
		if klen == 0 {
			if len(rest) != 12+sha256.Size || binary.BigEndian.Uint64(rest[4:]) != n {
				return fmt.Errorf("%w: it does not hold the number of records it names", ErrSnapshot)
			}
			return nil
		}
		vlen := binary.BigEndian.Uint32(rest[4:])
		if klen > MaxKey || vlen > MaxValue || uint64(len(rest)) < 8+uint64(klen)+uint64(vlen) {
			return fmt.Errorf("%w: record %d has a key of %d and a value of %d bytes", ErrSnapshot, n, klen, vlen)
		}
		end := 8 + klen
		key, value := rest[8:end:end], rest[end:end+vlen:end+vlen]
		if n > 0 && bytes.Compare(key, last) <= 0 {
			return fmt.Errorf("%w: record %d is out of order", ErrSnapshot, n)
		}
		if err := fn(key, value); err != nil {
			return err
		}
		last, rest = key, rest[end+vlen:]
	}
}

type snapshotReader struct {
	r *bufio.Reader
	h hash.Hash
}

// take appends n bytes of the stream to buf. It allocates no more than what the stream really holds, plus a step.
func (s *snapshotReader) take(buf []byte, n int) ([]byte, error) {
	const step = 1 << 20
	for n > 0 {
		m := min(n, step)
		at := len(buf)
		buf = append(buf, make([]byte, m)...)
		if _, err := io.ReadFull(s.r, buf[at:]); err != nil {
			return nil, err
		}
		n -= m
		s.h.Write(buf[at:])
	}
	return buf, nil
}

// Restore fills the empty db from a snapshot, in transactions of bounded size. On error db holds part of the snapshot:
// delete it.
func Restore(r io.Reader, db DB) error {
	empty := true
	err := db.View(func(tx Tx) error {
		return tx.Scan(nil, nil, func(_, _ []byte) bool { empty = false; return false })
	})
	if err != nil {
		return fmt.Errorf("restoring snapshot: %w", err)
	}
	if !empty {
		return fmt.Errorf("restoring snapshot: %w: restore goes into an empty database", ErrExists)
	}
	type record struct{ k, v []byte }
	var batch []record
	size := 0
	flush := func() error {
		err := db.Update(func(tx Tx) error {
			for _, r := range batch {
				if err := tx.Put(r.k, r.v); err != nil {
					return err
				}
			}
			return nil
		})
		batch, size = batch[:0], 0
		return err
	}
	err = ReadSnapshot(r, func(k, v []byte) error {
		batch = append(batch, record{bytes.Clone(k), append([]byte{}, v...)})
		if size += len(k) + len(v); size >= 8<<20 || len(batch) >= 1<<14 {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return fmt.Errorf("restoring snapshot: %w", err)
	}
	return nil
}
