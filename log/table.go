package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"slices"
	"sync"

	"redoubt.internal/log/store"
)

// A table maps truncated hashes to entry indices. The newest records are a map in memory; a full map becomes a sorted
// run in the store, written in bulk by a goroutine of its own, and four runs of like size are merged into one. Runs
// follow each other in index order. Of a run only its Bloom filter, 10 bits a record, is kept in memory.
//
// On disk, under "c" table: runs in chunks of sorted records, each chunk under the key of its last record, so that the
// first chunk at or after a hash holds it; Bloom filters in pieces; one manifest. Everything carries a CRC-32C over key and
// value. A chunk begins with the last record of the chunk before it, and the manifest names the last record of a run: a
// miss is believed only where no chunk can be missing. A run that the manifest does not name is the rest of an interrupted
// merge and is deleted when the table is loaded.
const (
	recordSize   = 24 // 16 bytes of hash, uint64 index
	manifestRun  = 16 + recordSize
	memRecords   = 1 << 16
	chunkRecords = 340 // of a run, in one value of about 8 KiB
	bloomPiece   = 32 << 10
	bloomHashes  = 7
	mergeWidth   = 4
	bulkBytes    = 2 << 20 // of one transaction
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errIndex says that the stored index is damaged; it is dropped and built anew at the next start.
var errIndex = fmt.Errorf("%w: the derived index is damaged and will be rebuilt at the next start", ErrCorrupt)

type record struct {
	key [16]byte
	val uint64
}

func (a record) compare(b record) int {
	if c := bytes.Compare(a.key[:], b.key[:]); c != 0 {
		return c
	}
	switch {
	case a.val < b.val:
		return -1
	case a.val > b.val:
		return 1
	}
	return 0
}

func (a record) encode(b []byte) []byte {
	return binary.BigEndian.AppendUint64(append(b, a.key[:]...), a.val)
}

func parseRecord(b []byte) record {
	return record{[16]byte(b), binary.BigEndian.Uint64(b[16:24])}
}

type memRun map[[16]byte][]uint64

// run is a stored run.
type run struct {
	id    uint64
	n     uint64
	last  record
	bloom bloom
}

type table struct {
	db      store.DB
	prefix  []byte // of all keys of the table
	version uint32
	logger  *slog.Logger
	limit   int // records in memory before they become a run

	mu       sync.RWMutex
	mem      memRun
	n        int    // records in mem
	next     uint64 // entries below are in mem, frozen or runs; the adding goroutine's, others read under mu
	frozen   memRun // being written out
	frozenTo uint64 // entries below are in frozen or runs
	covered  uint64 // entries below are in runs
	runs     []run  // in index order; replaced, never changed
	commits  uint64 // how often runs was replaced
	nextID   uint64
	busy     bool // settle runs; one at a time
	broken   bool // writing failed or damage was met: the rest stays in memory
	again    int  // records in mem at which a frozen map that met a full disk is tried again

	working sync.WaitGroup
}

func (t *table) init(db store.DB, keys layout, id byte, version uint32, logger *slog.Logger) {
	t.db, t.prefix, t.version, t.logger = db, keys.key('c', id), version, logger
	t.mem, t.limit = memRun{}, memRecords
}

// add takes the hashes of the entry after the last one added.
func (t *table) add(index uint64, hashes ...[32]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range hashes {
		k := [16]byte(h[:16])
		t.mem[k] = append(t.mem[k], index)
		t.n++
	}
	t.next = index + 1
	if t.busy || t.broken || t.frozen == nil && t.n < t.limit || t.frozen != nil && t.n < t.again {
		return
	}
	if t.frozen == nil {
		t.frozen, t.frozenTo, t.mem, t.n = t.mem, t.next, memRun{}, 0
	}
	t.busy = true
	t.working.Go(t.settle)
}

// await waits for the work in the background.
func (t *table) await() { t.working.Wait() }

// find returns at most limit indices of h, from upwards, ascending. Some may be wrong: they share 16 bytes of hash.
func (t *table) find(h [32]byte, from uint64, limit int) ([]uint64, error) {
	k := [16]byte(h[:16])
	for {
		// The store is read without the lock, so that a lookup never holds up the writer. A merge deletes the runs it
		// replaced only after they are replaced here: with the same commit before and after, all of them were there.
		t.mu.RLock()
		runs, commits := t.runs, t.commits
		var young []uint64
		for _, m := range []memRun{t.frozen, t.mem} {
			for _, v := range m[k] {
				if v >= from && len(young) < limit {
					young = append(young, v)
				}
			}
		}
		t.mu.RUnlock()
		var out []uint64
		var err error
		for _, r := range runs {
			if err == nil && len(out) < limit && r.bloom.has(k) {
				out, err = t.findInRun(r, k, from, limit, out)
			}
		}
		t.mu.RLock()
		same := commits == t.commits
		t.mu.RUnlock()
		if !same {
			continue
		}
		if errors.Is(err, errIndex) {
			t.drop()
		}
		return append(out, young[:min(len(young), limit-len(out))]...), err
	}
}

func (t *table) findInRun(r run, k [16]byte, from uint64, limit int, out []uint64) ([]uint64, error) {
	want := record{k, from}
	if want.compare(r.last) > 0 {
		return out, nil
	}
	var ferr error
	err := t.db.View(func(tx store.Tx) error {
		var at record // the last one of the chunk before
		done, first := false, true
		err := tx.Scan(want.encode(t.runKey(r.id, 'r')), t.runKey(r.id, 's'), func(key, v []byte) bool {
			before, recs, err := parseChunkOfRun(key, v)
			if err != nil || first && before != (record{}) && before.compare(want) >= 0 || !first && before != at {
				ferr = errIndex // one between is missing
				return false
			}
			at, first = lastRecord(recs), false
			n := len(recs) / recordSize
			i := binarySearch(recs, n, want)
			for ; i < n && len(out) < limit; i++ {
				rec := parseRecord(recs[i*recordSize:])
				if rec.key != k {
					done = true
					return false
				}
				out = append(out, rec.val)
			}
			done = len(out) == limit
			return !done
		})
		if ferr == nil && !done && at != r.last {
			ferr = errIndex // one at the end is missing
		}
		return err
	})
	if err == nil {
		err = ferr
	}
	return out, err
}

// binarySearch is the first of n records not below want.
func binarySearch(recs []byte, n int, want record) int {
	lo, hi := 0, n
	for lo < hi {
		mid := (lo + hi) / 2
		if parseRecord(recs[mid*recordSize:]).compare(want) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func (t *table) runKey(id uint64, kind byte) []byte {
	b := make([]byte, 0, len(t.prefix)+9+recordSize)
	b = append(b, t.prefix...)
	b = append(b, 'r')
	b = binary.BigEndian.AppendUint64(b, id)
	return append(b, kind)
}

func (t *table) manifestKey() []byte { return append(bytes.Clone(t.prefix), 'm') }

// bloom is a Bloom filter over hashes, which need no further hashing.
type bloom []byte

func newBloom(n uint64) bloom { return make(bloom, max(64, n*10/8)) }

func (b bloom) bits(k [16]byte, fn func(byteAt uint64, bit byte) bool) {
	h1, h2 := binary.BigEndian.Uint64(k[:]), binary.BigEndian.Uint64(k[8:])|1
	for range bloomHashes {
		at := h1 % (uint64(len(b)) * 8)
		if !fn(at/8, 1<<(at%8)) {
			return
		}
		h1 += h2
	}
}

func (b bloom) add(k [16]byte) {
	b.bits(k, func(at uint64, bit byte) bool { b[at] |= bit; return true })
}

func (b bloom) has(k [16]byte) bool {
	all := true
	b.bits(k, func(at uint64, bit byte) bool { all = b[at]&bit != 0; return all })
	return all
}

// settle writes the frozen map as a run and merges runs of like size. A failure leaves everything findable: the map
// stays in memory, after a full disk until another try, and what was half written is deleted then or at the next start.
func (t *table) settle() {
	t.mu.RLock()
	frozen, to, runs, id := t.frozen, t.frozenTo, slices.Clone(t.runs), t.nextID
	t.mu.RUnlock()
	recs := make([]record, 0, t.limit)
	for k, vs := range frozen {
		for _, v := range vs {
			recs = append(recs, record{k, v})
		}
	}
	slices.SortFunc(recs, record.compare)
	at := 0
	var committed uint64 // the newest run of the manifest, if stored
	stored := false
	r, err := t.writeRun(id, uint64(len(recs)), func() (record, bool, error) {
		if at == len(recs) {
			return record{}, false, nil
		}
		at++
		return recs[at-1], true, nil
	})
	if err == nil {
		runs = append(runs, r)
		if err = t.commit(runs, to, id+1); err == nil {
			committed, stored = id, true
		}
	}
	for err == nil && t.mergeable(runs) {
		old := runs[len(runs)-mergeWidth:]
		id++
		if r, err = t.mergeRuns(id, old); err != nil {
			break
		}
		runs = append(slices.Clone(runs[:len(runs)-mergeWidth]), r)
		if err = t.commit(runs, to, id+1); err != nil {
			break
		}
		committed = id
		for _, o := range old {
			if err = t.deleteRange(t.runKey(o.id, 0), t.runKey(o.id, 0xff)); err != nil {
				break
			}
		}
	}
	full := errors.Is(err, store.ErrFull)
	switch {
	case full:
		t.logger.Warn("writing the derived index; trying again later", "err", err)
		// What was half written takes room. If it cannot be deleted now, the next start does.
		if stored && committed == id {
			break
		}
		if err := t.deleteRange(t.runKey(id, 0), t.runKey(id, 0xff)); err != nil {
			t.logger.Warn("deleting a half-written run of the derived index", "err", err)
		}
	case errors.Is(err, errIndex):
		t.drop()
	case err != nil:
		t.logger.Error("writing the derived index; it stays in memory", "err", err)
	}
	t.mu.Lock()
	t.busy, t.broken = false, t.broken || err != nil && !full
	t.nextID = max(t.nextID, id+1) // not id: a rest of it may be stored
	t.again = t.n + max(1, t.limit/4)
	t.mu.Unlock()
}

// commit makes a list of runs the table's. Afterwards the frozen map is no longer needed.
func (t *table) commit(runs []run, covered, nextID uint64) error {
	err := t.db.Update(func(tx store.Tx) error {
		t.mu.RLock()
		broken := t.broken
		t.mu.RUnlock()
		if broken {
			return errIndex // drop came first: its deletion of the manifest stands
		}
		return tx.Put(t.manifestKey(), t.manifest(runs, covered, nextID))
	})
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.runs, t.covered, t.nextID, t.frozen = slices.Clone(runs), covered, nextID, nil
	t.commits++
	t.mu.Unlock()
	return nil
}

// mergeable says whether the last mergeWidth runs are of one size class, which grows with each factor of mergeWidth.
func (t *table) mergeable(runs []run) bool {
	if len(runs) < mergeWidth {
		return false
	}
	class := func(n uint64) (c int) {
		for n > uint64(t.limit)*mergeWidth/2 {
			n /= mergeWidth
			c++
		}
		return c
	}
	last := runs[len(runs)-mergeWidth:]
	return class(last[0].n) <= class(last[mergeWidth-1].n)
}
