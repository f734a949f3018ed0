package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"redoubt.internal/log/store"
)

// seal puts a CRC over k and b before b, checked takes it off.
func seal(k, b []byte) []byte {
	crc := crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, b)
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), crc), b...)
}

func checked(k, b []byte) ([]byte, error) {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, b[4:]) {
		return nil, errIndex
	}
	return b[4:], nil
}

// parseChunkOfRun gives the last record of the chunk before (zero in the first) and the records, at least one.
func parseChunkOfRun(k, v []byte) (before record, recs []byte, err error) {
	b, err := checked(k, v)
	if err != nil || len(b) < 2*recordSize || len(b)%recordSize != 0 {
		return before, nil, errIndex
	}
	return parseRecord(b), b[recordSize:], nil
}

func lastRecord(recs []byte) record { return parseRecord(recs[len(recs)-recordSize:]) }

// manifest: uint32 2, uint32 version, uint64 covered, uint64 next id, then per run uint64 id, uint64 records, last record.
func (t *table) manifest(runs []run, covered, nextID uint64) []byte {
	b := binary.BigEndian.AppendUint32(nil, 2)
	b = binary.BigEndian.AppendUint32(b, t.version)
	b = binary.BigEndian.AppendUint64(b, covered)
	b = binary.BigEndian.AppendUint64(b, nextID)
	for _, r := range runs {
		b = binary.BigEndian.AppendUint64(b, r.id)
		b = binary.BigEndian.AppendUint64(b, r.n)
		b = r.last.encode(b)
	}
	return seal(t.manifestKey(), b)
}

// load reads the manifest and the filters. Whatever is wrong with them, or of another version, or beyond the size of
// the published head, is deleted: the index is then built anew.
func (t *table) load(size uint64) error {
	err := t.db.View(func(tx store.Tx) error {
		v, err := tx.Get(t.manifestKey())
		if err != nil || v == nil {
			return err
		}
		return t.parseManifest(tx, v, size)
	})
	if errors.Is(err, errIndex) {
		t.logger.Warn("rebuilding the derived index", "table", string(t.prefix[len(t.prefix)-1:]))
		t.runs, t.covered, t.nextID = nil, 0, 0
		if err = t.deleteAll(); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	t.next, t.frozenTo = t.covered, t.covered
	return t.deleteOrphans()
}

func (t *table) parseManifest(tx store.Tx, v []byte, size uint64) error {
	b, err := checked(t.manifestKey(), v)
	if err != nil {
		return err
	}
	if len(b) < 24 || (len(b)-24)%manifestRun != 0 || binary.BigEndian.Uint32(b) != 2 || binary.BigEndian.Uint32(b[4:]) != t.version {
		return errIndex
	}
	t.covered, t.nextID = binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
	if t.covered > size {
		return errIndex
	}
	for b = b[24:]; len(b) > 0; b = b[manifestRun:] {
		r := run{id: binary.BigEndian.Uint64(b), n: binary.BigEndian.Uint64(b[8:]), last: parseRecord(b[16:])}
		if r.n > maxIndexKeys*size {
			return errIndex
		}
		var bad error
		err := tx.Scan(t.runKey(r.id, 'b'), t.runKey(r.id, 'c'), func(k, v []byte) bool {
			var piece []byte
			if piece, bad = checked(k, v); bad != nil {
				return false
			}
			r.bloom = append(r.bloom, piece...)
			return true
		})
		if err != nil {
			return err
		}
		if bad != nil || len(r.bloom) != len(newBloom(r.n)) {
			return errIndex
		}
		t.runs = append(t.runs, r)
	}
	return nil
}

// drop forgets the stored index after damage was met. What is in memory stays in use; lookups go on failing until the
// next start, because a miss would be a guess.
func (t *table) drop() {
	t.mu.Lock()
	done := t.broken
	t.broken = true
	t.mu.Unlock()
	if done {
		return
	}
	t.logger.Error("the derived index is damaged; it is rebuilt at the next start", "table", string(t.prefix[len(t.prefix)-1:]))
	if err := t.db.Update(func(tx store.Tx) error { return tx.Delete(t.manifestKey()) }); err != nil {
		t.logger.Error("dropping the derived index", "err", err)
	}
}

// deleteOrphans deletes the runs that the manifest does not name.
func (t *table) deleteOrphans() error {
	known := map[uint64]bool{}
	for _, r := range t.runs {
		known[r.id] = true
	}
	from := t.runKey(0, 0)
	for {
		var id uint64
		found := false
		err := t.db.View(func(tx store.Tx) error {
			return tx.Scan(from, t.manifestEnd(), func(k, _ []byte) bool {
				if rest := k[len(t.prefix):]; len(rest) > 9 && rest[0] == 'r' {
					id, found = binary.BigEndian.Uint64(rest[1:]), true
				}
				return false
			})
		})
		if err != nil || !found {
			return err
		}
		if !known[id] {
			if err := t.deleteRange(t.runKey(id, 0), t.runKey(id, 0xff)); err != nil {
				return err
			}
		}
		t.nextID = max(t.nextID, id+1)
		from = t.runKey(id+1, 0)
	}
}

func (t *table) manifestEnd() []byte { return append(bytes.Clone(t.prefix), 'r'+1) }

func (t *table) deleteAll() error {
	return t.deleteRange(append(bytes.Clone(t.prefix), 0), append(bytes.Clone(t.prefix), 0xff))
}

// deleteRange deletes in transactions of bounded size, until a look of its own finds nothing left.
func (t *table) deleteRange(from, to []byte) error {
	var first []byte
	for {
		var keys [][]byte
		err := t.db.View(func(tx store.Tx) error {
			keys = keys[:0]
			return tx.Scan(from, to, func(k, _ []byte) bool {
				keys = append(keys, bytes.Clone(k))
				return len(keys) < 256
			})
		})
		if err != nil || len(keys) == 0 {
			return err
		}
		if bytes.Equal(keys[0], first) {
			return errIndex // it was deleted, and is there
		}
		first = keys[0]
		err = t.db.Update(func(tx store.Tx) error {
			for _, k := range keys {
				if err := tx.Delete(k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}
