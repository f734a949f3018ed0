package log

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"testing"
)

func FuzzParseBundle(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x00"), 2)
	f.Add([]byte("\xff\xff"), 1)
	f.Add([]byte{}, 256)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		leaves, err := ParseBundle(b, n)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		var again []byte
		for _, l := range leaves {
			again = append(binary.BigEndian.AppendUint16(again, uint16(len(l))), l...)
		}
		if len(leaves) != n || !bytes.Equal(again, b) {
			t.Fatal("an accepted bundle is not what would be written")
		}
	})
}

func FuzzParseChunk(f *testing.F) {
	reqs := func(extras ...string) (rs []*request) {
		for i, x := range extras {
			leaf := []byte{byte(i)}
			rs = append(rs, &request{leaf: leaf, extra: []byte(x), hash: leafHash(leaf), index: uint64(i + 5)})
		}
		return rs
	}
	f.Add(uint64(7), encodeChunk(reqs("", "", ""), &emptyRoot))
	f.Add(uint64(6), encodeChunk(reqs("extra", ""), nil))
	f.Add(uint64(1<<64-1), encodeChunk(reqs("x"), nil))
	f.Fuzz(func(t *testing.T, last uint64, b []byte) {
		c, err := parseChunk(last, b)
		if err != nil {
			return
		}
		var rs []*request
		for i, leaf := range c.leaves {
			r := &request{leaf: leaf, hash: leafHash(leaf), index: c.first + uint64(i)}
			if r.extra, err = c.extra(i, r.hash); err != nil {
				return
			}
			rs = append(rs, r)
		}
		var root *[32]byte
		if c.root != nil {
			root = (*[32]byte)(c.root)
		}
		if !bytes.Equal(encodeChunk(rs, root), b) {
			t.Fatal("an accepted chunk is not what would be written")
		}
	})
}

func FuzzHighWaterFile(f *testing.F) {
	file := make([]byte, 2*slotStride)
	f.Add(bytes.Clone(file), 0)
	copy(file, slot{seq: 3, mark: Mark{Origin: "a", Size: 5}}.encode())
	copy(file[slotStride:], slot{seq: 4, mark: Mark{Origin: "a", Size: 6, Halted: "why"}}.encode())
	f.Add(bytes.Clone(file), 1)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		whole := make([]byte, fileSize)
		if at < 0 || at >= slotCount {
			at = 0
		}
		copy(whole[at*slotStride:], b)
		h := &File{slots: map[string]*slot{}}
		if err := h.parse(whole); err != nil {
			return
		}
		for o, s := range h.slots {
			if o != s.mark.Origin || o == "" || len(o) > 255 || len(s.mark.Halted) > maxHalt {
				t.Fatalf("%+v", s)
			}
			if got, ok := parseSlot(s.encode()); !ok || got.mark != s.mark || got.seq != s.seq {
				t.Fatalf("%+v does not survive writing", s)
			}
		}
	})
}

func FuzzVerifyNote(f *testing.F) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	n, err := SignNote("o.example", key, 3, emptyRoot)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(n)
	f.Add(append(bytes.Clone(n), "\u2014 other.example AAAAAAA=\n"...))
	f.Add([]byte("o.example\n18446744073709551616\n\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		size, root, err := VerifyNote("o.example", key.Public(), b)
		if err == nil && (size != 3 || root != emptyRoot) {
			t.Fatalf("forged: %q", b)
		}
		if err != nil && !errors.Is(err, ErrNote) {
			t.Fatal(err)
		}
	})
}

// Proofs of any shape and length: they verify only what the tree says, and never loop or crash.
func FuzzVerifyProofs(f *testing.F) {
	const max = 70
	naive := newRef(max)
	pack := func(p [][]byte) []byte { return bytes.Join(p, nil) }
	f.Add(uint64(3), uint64(7), pack(naive.path(3, 0, 7)))
	f.Add(uint64(6), uint64(7), pack(naive.subproof(6, 0, 7, true)))
	f.Add(uint64(0), uint64(1), []byte{})
	f.Add(uint64(1<<63), uint64(1<<64-1), make([]byte, 64*32))
	f.Fuzz(func(t *testing.T, a, b uint64, raw []byte) {
		var proof [][]byte
		for i := 0; i < len(raw); i += 32 {
			proof = append(proof, raw[i:min(len(raw), i+32)]) // the last one perhaps short
		}
		root := [32]byte{}
		leaf := [32]byte{}
		if b <= max {
			root = naive.mth(0, int(b))
		}
		if a < max {
			leaf = naive.mth(int(a), int(a)+1)
		}
		if err := VerifyInclusion(leaf, a, b, proof, root); err == nil {
			if b > max || a >= b || !equalProof(proof, naive.path(int(a), 0, int(b))) {
				t.Fatalf("a proof that is not the proof: %d in %d", a, b)
			}
		}
		old := [32]byte{}
		if a <= max {
			old = naive.mth(0, int(a))
		}
		if err := VerifyConsistency(a, b, old, root, proof); err == nil && a != 0 && a != b {
			if b > max || a > b || !equalProof(proof, naive.subproof(int(a), 0, int(b), true)) {
				t.Fatalf("a proof that is not the proof: %d to %d", a, b)
			}
		}
	})
}

// Any tile and bundle request against a real log: an answer of the right length, or ErrNotFound.
func FuzzTileRequest(f *testing.F) {
	r, _ := grown(f, 520)
	f.Add(0, uint64(0), 256)
	f.Add(0, uint64(2), 8)
	f.Add(1, uint64(0), 2)
	f.Add(63, uint64(1<<63), -5)
	f.Fuzz(func(t *testing.T, level int, index uint64, width int) {
		b, err := r.l.Tile(t.Context(), level, index, width)
		if err == nil && len(b) != 32*width || err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatal(len(b), err)
		}
		if b, err = r.l.EntryBundle(t.Context(), index, width); err == nil {
			_, err = ParseBundle(b, width)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	})
}
