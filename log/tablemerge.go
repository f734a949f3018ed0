package log

import (
	"bytes"
	"encoding/binary"

	"redoubt.internal/log/store"
)

// writeRun stores n sorted records as run id, in transactions of bounded size, its filter last.
func (t *table) writeRun(id, n uint64, next func() (record, bool, error)) (run, error) {
	r := run{id: id, n: n, bloom: newBloom(n)}
	type pair struct{ k, v []byte }
	var bulk []pair
	size := 0
	flush := func() error {
		err := t.db.Update(func(tx store.Tx) error {
			for _, p := range bulk {
				if err := tx.Put(p.k, p.v); err != nil {
					return err
				}
			}
			return nil
		})
		bulk, size = nil, 0
		return err
	}
	put := func(k, v []byte) error {
		bulk = append(bulk, pair{k, seal(v)})
		if size += len(v); size < bulkBytes {
			return nil
		}
		return flush()
	}
	var chunk []byte
	var last record
	for {
		rec, ok, err := next()
		if err != nil {
			return r, err
		}
		if !ok || len(chunk) == chunkRecords*recordSize {
			if len(chunk) > 0 {
				if err := put(last.encode(t.runKey(id, 'r')), chunk); err != nil {
					return r, err
				}
			}
			if !ok {
				break
			}
			chunk = make([]byte, 0, chunkRecords*recordSize)
		}
		chunk = rec.encode(chunk)
		last = rec
		r.bloom.add(rec.key)
	}
	for i := 0; i*bloomPiece < len(r.bloom); i++ {
		k := binary.BigEndian.AppendUint32(t.runKey(id, 'b'), uint32(i))
		if err := put(k, r.bloom[i*bloomPiece:min(len(r.bloom), (i+1)*bloomPiece)]); err != nil {
			return r, err
		}
	}
	return r, flush()
}

// runReader reads a stored run from its beginning, some chunks to a transaction.
type runReader struct {
	t    *table
	id   uint64
	from []byte // where the next transaction begins; nil at the end
	recs []byte
}

func (r *runReader) peek() (record, bool, error) {
	if len(r.recs) == 0 && r.from != nil {
		if err := r.fill(); err != nil {
			return record{}, false, err
		}
	}
	if len(r.recs) == 0 {
		return record{}, false, nil
	}
	return parseRecord(r.recs), true, nil
}

func (r *runReader) fill() error {
	var buf, next []byte
	var bad error
	err := r.t.db.View(func(tx store.Tx) error {
		n := 0
		return tx.Scan(r.from, r.t.runKey(r.id, 's'), func(k, v []byte) bool {
			if n++; n > 32 {
				next = bytes.Clone(k)
				return false
			}
			var recs []byte
			if recs, bad = checked(v); bad != nil || len(recs)%recordSize != 0 {
				bad = errIndex
				return false
			}
			buf = append(buf, recs...)
			return true
		})
	})
	if err == nil {
		err = bad
	}
	r.recs, r.from = buf, next
	return err
}

// mergeRuns stores the records of old, sorted, as run id.
func (t *table) mergeRuns(id uint64, old []run) (run, error) {
	var readers []*runReader
	var n uint64
	for _, o := range old {
		readers = append(readers, &runReader{t: t, id: o.id, from: t.runKey(o.id, 'r')})
		n += o.n
	}
	return t.writeRun(id, n, func() (record, bool, error) {
		var least record
		var from *runReader
		for _, r := range readers {
			rec, ok, err := r.peek()
			if err != nil {
				return least, false, err
			}
			if ok && (from == nil || rec.compare(least) < 0) {
				least, from = rec, r
			}
		}
		if from == nil {
			return least, false, nil
		}
		from.recs = from.recs[recordSize:]
		return least, true, nil
	})
}
