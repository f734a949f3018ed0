// Package generate makes tiled logs for tests, demonstrations and measurements: from a seed, always the same bytes.
//
// Contract: Write produces a C2SP tlog-tiles directory of any number of entries shaped like those of a public signature log,
// with a signed checkpoint at each size asked for; entry i depends on the seed and i alone, so a log of more entries begins as
// a log of fewer. Damage then spoils such a directory in one of the ways a hostile or broken source can. Builder makes a
// directory from any leaves.
//
// The keys come from the seed. Nothing made here proves anything to anyone.
package generate

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// Config says which log to make.
type Config struct {
	// Seed decides every byte.
	Seed uint64
	// Origin is the first line of the checkpoints and the name of the key.
	Origin string
	// Sizes are the sizes to sign a checkpoint at, ascending. The last is the number of entries.
	Sizes []uint64
	// ForkAt gives all entries from this index on other bytes than the seed's own log has; 0 does not. The key stays.
	ForkAt uint64
	// NewKey signs with another key of the same name.
	NewKey bool
	// Smallest and Largest bound the size of entries in bytes, all sizes alike, instead of the mix of a public log; 0 keeps the mix.
	Smallest, Largest int
}

// Log is a log that was made.
type Log struct {
	Dir    string
	Origin string
	VKey   string
	Bytes  int64 // of all entries
	Heads  []parcel.State
}

// Key returns the log's key.
func (c Config) Key() ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "redoubt generated log key %d %t %s", c.Seed, c.NewKey, c.Origin))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Write makes the log in dir, which it creates. The newest checkpoint is dir/checkpoint, and each is dir/checkpoints/<size>.
func Write(ctx context.Context, dir string, c Config) (*Log, error) {
	b, err := NewBuilder(dir)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	vkey, err := parcel.VerifierKey(c.Origin, c.Key().Public())
	if err != nil {
		return nil, err
	}
	out := &Log{Dir: dir, Origin: c.Origin, VKey: vkey}
	if len(c.Sizes) == 0 || !slices.IsSorted(c.Sizes) {
		return nil, fmt.Errorf("the sizes %v do not ascend", c.Sizes)
	}
	last := c.Sizes[len(c.Sizes)-1]
	type piece struct {
		bundle, hashes []byte
		err            error
	}
	// Pieces end at bundle boundaries and at the sizes to sign; a few are made ahead, on all processors.
	var cuts []uint64
	for at := uint64(0); at < last; {
		next := (at/tiles.Width + 1) * tiles.Width
		for _, s := range c.Sizes {
			if s > at {
				next = min(next, s)
			}
		}
		cuts = append(cuts, next)
		at = next
	}
	pending := make(chan chan piece, 2*runtime.GOMAXPROCS(0))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(pending)
		from := uint64(0)
		for _, to := range cuts {
			done := make(chan piece, 1)
			select {
			case pending <- done:
			case <-ctx.Done():
				return
			}
			go func(from, to uint64) {
				var p piece
				p.bundle = c.Bundle(from, to)
				p.hashes, p.err = tiles.AppendLeafHashes(nil, p.bundle, int(to-from))
				done <- p
			}(from, to)
			from = to
		}
	}()
	sizes := c.Sizes
	for done := range pending {
		p := <-done
		if p.err != nil {
			return nil, p.err
		}
		if err := b.addHashed(p.bundle, p.hashes); err != nil {
			return nil, err
		}
		out.Bytes += int64(len(p.bundle) - 2*len(p.hashes)/tiles.HashSize)
		for len(sizes) > 0 && sizes[0] == b.Size() {
			note, err := c.checkpoint(b.Size(), b.Root())
			if err != nil {
				return nil, err
			}
			if err := b.Publish(note); err != nil {
				return nil, err
			}
			root := b.Root()
			out.Heads = append(out.Heads, parcel.State{Size: b.Size(), Root: root[:]})
			sizes = sizes[1:]
		}
	}
	return out, ctx.Err()
}

func (c Config) checkpoint(size uint64, root tiles.Hash) ([]byte, error) {
	return parcel.SignNote(CheckpointText(c.Origin, size, root), c.Origin, c.Key())
}

// Bundle returns the entries [from, to) in the framing of an entry bundle.
func (c Config) Bundle(from, to uint64) []byte {
	var b []byte
	for i := from; i < to; i++ {
		at := len(b)
		b = append(b, 0, 0)
		b = c.appendEntry(b, i)
		binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	}
	return b
}

// Entry returns entry i.
func (c Config) Entry(i uint64) []byte { return c.appendEntry(nil, i) }

// kinds is an assumed mix of a public signature log, medians in bytes as measured on the public one.
var kinds = []struct {
	share  float64
	kind   string
	median int
}{
	{0.62, "hashedrekord/x509", 1713},
	{0.08, "hashedrekord/key", 900},
	{0.24, "dsse", 3540},
	{0.045, "intoto", 1887},
	{0.01, "rekord", 1551},
}

func (c Config) appendEntry(b []byte, i uint64) []byte {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], c.Seed)
	binary.BigEndian.PutUint64(seed[8:], i)
	if c.ForkAt != 0 && i >= c.ForkAt {
		seed[31] = 1
	}
	src := rand.NewChaCha8(seed)
	r := rand.New(src)
	if c.Largest > 0 {
		return appendSized(b, src, c.Smallest+r.IntN(c.Largest-c.Smallest+1))
	}
	kind, size := "tail", 0
	for p, k := r.Float64(), 0; k < len(kinds); k++ {
		if p -= kinds[k].share; p < 0 {
			kind, size = kinds[k].kind, int(float64(kinds[k].median)*(0.85+0.3*r.Float64()))
			break
		}
	}
	if size == 0 { // the fat tail: 4 KiB to 60 KiB, mostly small
		f := r.Float64()
		size = 4096 + int(56e3*f*f*f*f)
	}
	var digest [32]byte
	src.Read(digest[:])
	start := len(b)
	b = append(b, `{"apiVersion":"0.0.1","kind":"`...)
	b = append(b, kind...)
	b = append(b, `","spec":{"data":{"hash":{"algorithm":"sha256","value":"`...)
	b = hex.AppendEncode(b, digest[:])
	b = append(b, `"}},"signature":{"content":"`...)
	const end = `"}}}`
	content := make([]byte, max(0, size-(len(b)-start)-len(end))*3/4)
	src.Read(content)
	b = base64.RawStdEncoding.AppendEncode(b, content)
	return append(b, end...)
}

// appendSized appends an entry of so many bytes that says nothing.
func appendSized(b []byte, src *rand.ChaCha8, size int) []byte {
	const begin, end = `{"entry":"`, `"}`
	content := make([]byte, max(0, size-len(begin)-len(end))/4*3+3)
	src.Read(content)
	start := len(b)
	b = append(b, begin...)
	b = base64.RawStdEncoding.AppendEncode(b, content)
	return append(b[:start+max(len(begin), size-len(end))], end...)
}
