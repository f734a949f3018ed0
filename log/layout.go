package log

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"redoubt.internal/log/store"
)

// The log in the store. Integers are big endian; every key begins with Config.Prefix + "log/".
//
//	"a" level uint64 i  hash tile, full ones only: 256 x 32 bytes
//	"c" ...             runs of the derived index (table.go); may be deleted at any time
//	"e" uint64 last     chunk: entries one commit put into one bundle; last is the index of its last entry, so that
//	                    the first key at or after an index holds it
//	"h" uint64 size     head record: byte 1, root, int64 unix nanoseconds, the note's signature (key hash and bytes)
//	"m"                 meta: byte 2, the format of all this; SHA-256 of the signer's SPKI, origin. Written once
//	"z"                 latch: why the log must not go on
//
// Nothing is rewritten but a head whose signature turned out bad, which is never published: the newest chunk and the newest
// head are found by their keys. The large kinds come first, because
// a B+tree rewrites the last leaf of a kind together with what follows it there.
//
// A chunk: byte 1, byte 1 if a root follows the header (in the last chunk of each commit: the root over everything up to
// its end) or 0, uint16 number of entries, uint32 length of the framed part; the root; the framed part; the extras.
// Framed part: per entry uint16 length, leaf: exactly what a C2SP entry bundle is made of. Extras: nothing when all are
// empty, else per entry uint32 length, SHA-256(uint64 index || leaf hash || extra), extra.
type layout struct{ prefix []byte }

// format is raised when what is drawn above changes.
const format = 2

// checkFormat looks at the meta record.
func checkFormat(meta []byte) error {
	switch {
	case len(meta) < 33:
		return fmt.Errorf("%w: its meta record has %d bytes", ErrCorrupt, len(meta))
	case meta[0] != format:
		return fmt.Errorf("%w: it is stored in format %d, this program reads format %d", ErrFormat, meta[0], format)
	}
	return nil
}

func newLayout(prefix string) layout { return layout{[]byte(prefix + "log/")} }

func (k layout) key(kind byte, rest ...byte) []byte {
	b := make([]byte, 0, len(k.prefix)+1+len(rest))
	b = append(b, k.prefix...)
	b = append(b, kind)
	return append(b, rest...)
}

func (k layout) num(kind byte, n uint64) []byte {
	b := make([]byte, 0, len(k.prefix)+10)
	b = append(b, k.prefix...)
	b = append(b, kind)
	return binary.BigEndian.AppendUint64(b, n)
}

func (k layout) meta() []byte             { return k.key('m') }
func (k layout) latch() []byte            { return k.key('z') }
func (k layout) chunk(last uint64) []byte { return k.num('e', last) }
func (k layout) head(size uint64) []byte  { return k.num('h', size) }
func (k layout) tile(level int, index uint64) []byte {
	b := k.key('a', byte(level))
	return binary.BigEndian.AppendUint64(b, index)
}

// after ends the range of a kind, end that of the log.
func (k layout) after(kind byte) []byte { return k.key(kind + 1) }
func (k layout) end() []byte            { return append(bytes.Clone(k.prefix[:len(k.prefix)-1]), '/'+1) }

// number reads the index or size out of a chunk or head key.
func (k layout) number(key []byte) (uint64, bool) {
	n := len(k.prefix) + 1
	if len(key) != n+8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(key[n:]), true
}

// first finds the first key of a kind at or after n.
func (k layout) first(tx store.Tx, kind byte, n uint64) (num uint64, found bool, err error) {
	ok := true
	err = tx.Scan(k.num(kind, n), k.after(kind), func(key, _ []byte) bool {
		num, ok = k.number(key)
		ok = ok && num >= n // whatever the engine does, last below must come to an end
		found = true
		return false
	})
	if err == nil && !ok {
		err = fmt.Errorf("%w: a stray key of kind %q", ErrCorrupt, kind)
	}
	return num, found, err
}

// last finds the last key of a kind.
func (k layout) last(tx store.Tx, kind byte) (num uint64, found bool, err error) {
	return k.lastBelow(tx, kind, math.MaxUint64)
}

// lastBelow finds the last key of a kind below limit, in a logarithm of steps.
func (k layout) lastBelow(tx store.Tx, kind byte, limit uint64) (num uint64, found bool, err error) {
	num, found, err = k.first(tx, kind, 0)
	if err != nil || !found || num >= limit {
		return 0, false, err
	}
	for bit := 63; bit >= 0; bit-- {
		for probe := num + 1<<bit; probe > num; probe = num + 1<<bit {
			n, more, err := k.first(tx, kind, probe)
			if err != nil {
				return 0, false, err
			}
			if !more || n >= limit {
				break
			}
			num = n
		}
	}
	return num, true, nil
}

func extraDigest(index uint64, leaf [32]byte, extra []byte) [32]byte {
	h := sha256.New()
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], index)
	h.Write(b[:])
	h.Write(leaf[:])
	h.Write(extra)
	var out [32]byte
	h.Sum(out[:0])
	return out
}

const (
	chunkHeader = 8
	// chunkBytes ends a chunk early. bbolt rewrites the last leaf, three or four values, on each commit: with values as
	// large as a batch it would write every entry three times.
	chunkBytes = 16000
)

// splitChunks cuts rs, of consecutive indices, at bundle boundaries and at chunkBytes.
func splitChunks(rs []*request) [][]*request {
	var out [][]*request
	from, size := 0, 0
	for i, r := range rs {
		n := 2 + len(r.leaf) + len(r.extra)
		if i > from && (r.index%tileWidth == 0 || size+n > chunkBytes) {
			out = append(out, rs[from:i])
			from, size = i, 0
		}
		size += n
	}
	if from < len(rs) {
		out = append(out, rs[from:])
	}
	return out
}

// encodeChunk frames rs, at most 256 requests of consecutive indices. root is nil or the root over all up to the last.
func encodeChunk(rs []*request, root *[32]byte) []byte {
	framed, extras, any := 0, 0, false
	for _, r := range rs {
		framed += 2 + len(r.leaf)
		extras += 36 + len(r.extra)
		any = any || len(r.extra) > 0
	}
	if !any {
		extras = 0
	}
	b := make([]byte, 0, chunkHeader+32+framed+extras)
	b = append(b, 1, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(rs)))
	b = binary.BigEndian.AppendUint32(b, uint32(framed))
	if root != nil {
		b[1] = 1
		b = append(b, root[:]...)
	}
	for _, r := range rs {
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.leaf)))
		b = append(b, r.leaf...)
	}
	if any {
		for _, r := range rs {
			d := extraDigest(r.index, r.hash, r.extra)
			b = binary.BigEndian.AppendUint32(b, uint32(len(r.extra)))
			b = append(b, d[:]...)
			b = append(b, r.extra...)
		}
	}
	return b
}

// chunk is a parsed chunk. Its slices point into the stored value.
type chunk struct {
	first   uint64
	root    []byte // nil when the chunk has none
	framed  []byte
	leaves  [][]byte
	extras  [][]byte // nil when all are empty
	digests [][]byte
}

// parseChunk reads the value stored under the chunk key of index last. It is strict: every byte is accounted for.
func parseChunk(last uint64, b []byte) (chunk, error) {
	bad := func(what string) (chunk, error) {
		return chunk{}, fmt.Errorf("%w: the chunk ending at entry %d: %s", ErrCorrupt, last, what)
	}
	if len(b) < chunkHeader || b[0] != 1 || b[1] > 1 {
		return bad("unknown format")
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	flen := uint64(binary.BigEndian.Uint32(b[4:]))
	var root []byte
	if hasRoot := b[1] == 1; hasRoot {
		if len(b) < chunkHeader+32 {
			return bad("cut short")
		}
		root = b[chunkHeader : chunkHeader+32]
		b = b[32:]
	}
	b = b[chunkHeader:]
	if n < 1 || n > tileWidth || flen > uint64(len(b)) {
		return bad("impossible counts")
	}
	if last+1 < uint64(n) {
		return bad("it begins before entry 0")
	}
	c := chunk{first: last + 1 - uint64(n), root: root, framed: b[:flen]}
	if c.first/tileWidth != last/tileWidth {
		return bad("it crosses a bundle")
	}
	var err error
	if c.leaves, err = ParseBundle(c.framed, n); err != nil {
		return bad(err.Error())
	}
	rest := b[flen:]
	if len(rest) == 0 {
		return c, nil
	}
	any := false
	for range n {
		if len(rest) < 36 {
			return bad("extras cut short")
		}
		el := uint64(binary.BigEndian.Uint32(rest))
		if el > MaxExtra || el > uint64(len(rest)-36) {
			return bad("an extra of impossible length")
		}
		c.digests = append(c.digests, rest[4:36])
		c.extras = append(c.extras, rest[36:36+el:36+el])
		rest = rest[36+el:]
		any = any || el > 0
	}
	if len(rest) != 0 || !any {
		return bad("bytes after the extras")
	}
	return c, nil
}

// extra returns the checked extra of entry first+i whose leaf hash is h.
func (c chunk) extra(i int, h [32]byte) ([]byte, error) {
	if c.extras == nil {
		return nil, nil
	}
	if d := extraDigest(c.first+uint64(i), h, c.extras[i]); !bytes.Equal(d[:], c.digests[i]) {
		return nil, fmt.Errorf("%w: the extra of entry %d does not match its digest", ErrCorrupt, c.first+uint64(i))
	}
	return c.extras[i], nil
}

// ParseBundle splits a C2SP entry bundle of exactly n entries (1 to 256). The leaves point into b.
func ParseBundle(b []byte, n int) ([][]byte, error) {
	if n < 1 || n > tileWidth {
		return nil, fmt.Errorf("%w: a bundle of %d entries", ErrCorrupt, n)
	}
	leaves := make([][]byte, 0, n)
	for range n {
		if len(b) < 2 {
			return nil, fmt.Errorf("%w: a bundle cut short after %d of %d entries", ErrCorrupt, len(leaves), n)
		}
		l := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+l {
			return nil, fmt.Errorf("%w: a bundle cut short after %d of %d entries", ErrCorrupt, len(leaves), n)
		}
		leaves = append(leaves, b[2:2+l:2+l])
		b = b[2+l:]
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: a bundle holds more than %d entries", ErrCorrupt, n)
	}
	return leaves, nil
}

// encodeHead is the head record. The note is rendered again from it; only its signature is stored.
func encodeHead(h Head, sig []byte) []byte {
	b := append([]byte{1}, h.Root[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Time.UnixNano()))
	return append(b, sig...)
}

func parseHead(size uint64, b []byte) (h Head, sig []byte, err error) {
	if len(b) < 1+32+8+5 || b[0] != 1 {
		return h, nil, fmt.Errorf("%w: the head record of size %d", ErrCorrupt, size)
	}
	h.Size = size
	h.Root = [32]byte(b[1:33])
	h.Time = time.Unix(0, int64(binary.BigEndian.Uint64(b[33:41]))).UTC()
	return h, bytes.Clone(b[41:]), nil
}
