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
		bulk = append(bulk, pair{k, seal(k, v)})
		if size += len(v); size < bulkBytes {
			return nil
		}
		return flush()
	}
	var last record
	var chunk []byte // begins with the last record of the one before
	for {
		rec, ok, err := next()
		if err != nil {
			return r, err
		}
		if !ok || len(chunk) == (1+chunkRecords)*recordSize {
			if len(chunk) > 0 {
				if err := put(last.encode(t.runKey(id, 'r')), chunk); err != nil {
					return r, err
				}
			}
			if !ok {
				break
			}
			chunk = last.encode(make([]byte, 0, (1+chunkRecords)*recordSize))
		}
		if chunk == nil {
			chunk = record{}.encode(nil)
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
	r.last = last
	return r, flush()
}

// runReader reads a stored run from its beginning, some chunks to a transaction.
type runReader struct {
	t    *table
	run  run
	at   record // the last one read into recs
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
	at := r.at
	err := r.t.db.View(func(tx store.Tx) error {
		n := 0
		return tx.Scan(r.from, r.t.runKey(r.run.id, 's'), func(k, v []byte) bool {
			if n++; n > 32 {
				next = bytes.Clone(k)
				return false
			}
			before, recs, err := parseChunkOfRun(k, v)
			if err != nil || before != at {
				bad = errIndex
				return false
			}
			at = lastRecord(recs)
			buf = append(buf, recs...)
			return true
		})
	})
	if err == nil {
		err = bad
	}
	if err == nil && next == nil && at != r.run.last {
		err = errIndex // the end is missing
	}
	r.at, r.recs, r.from = at, buf, next
	return err
}

// mergeRuns stores the records of old, sorted, as run id.
func (t *table) mergeRuns(id uint64, old []run) (run, error) {
	var readers []*runReader
	var n uint64
	for _, o := range old {
		readers = append(readers, &runReader{t: t, run: o, from: t.runKey(o.id, 'r')})
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
