// Package diode carries volumes over a line that only goes one way, where nobody can ask for a lost piece again.
//
// Outside, Send cuts each volume into shards: data shards, which are the volume's bytes in order, and parity shards, made by a
// systematic Reed-Solomon code over GF(2^8). Any as many of them as there are data shards give the volume back. Shards may be
// sent several times over. Inside, a Receiver collects what arrived, in any order, and puts volumes together.
//
// A shard is one file that describes itself:
//
//	"redoubt.shard/v1"                16 bytes
//	SHA-256 of the volume             32 bytes
//	size of the volume                 8 bytes, big-endian, as all numbers
//	data shards, parity shards, index  2 bytes each; the index counts from 0, data first
//	zero                               2 bytes
//	SHA-256 of every shard's payload  32 bytes each, data first
//	SHA-256 of all of the above       32 bytes
//	payload                           ceil(size / data shards) bytes; the last data shard is filled up with zeros
//
// What it guarantees:
//   - A volume that comes out has the SHA-256 that every shard it was made of names. Nothing is trusted because of the code: what
//     comes out is a file like one from any other medium, and goes through the ordinary import.
//   - Every shard names the digests of its whole set. A shard that is damaged is known before it is used; a forged one belongs to
//     another set and spoils none.
//   - Lost, damaged and repeated shards are named. Memory, open files and disk are bounded; a process that is killed leaves
//     hidden files that the next one clears, and shards that the next one reads again.
//   - Shards are removed by Sweep alone: those of volumes the caller calls done, and those older than an age the caller names.
//
// What it does not: authenticate the sender, or hide anything. Whoever can write to the line can fill it.
//
// Start at Send and Receiver.Collect.
package diode

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrShard says that a file begins as a shard and is not a whole one.
	ErrShard = errors.New("the shard is damaged")
	// ErrNoShard says that a file does not begin as a shard does.
	ErrNoShard = errors.New("this is no shard")
	// ErrSettings says that volumes cannot be cut the way that was asked for.
	ErrSettings = errors.New("volumes cannot be cut that way")
	// ErrFull says that a volume does not fit into the quota or on the disk.
	ErrFull = errors.New("the disk is full or the quota for received volumes is used up")
	// ErrBusy says that another process sends to or collects into the folder.
	ErrBusy = errors.New("another process works on this folder")
)

const (
	magic = "redoubt.shard/v1"
	// MaxShards is the largest number of shards of a volume, data and parity.
	MaxShards = 255
	// MinShard is the smallest size of a data shard that can be asked for.
	MinShard = 1 << 10
	// maxVolume bounds what a header may claim: a tebibyte.
	maxVolume = 1 << 40

	fixedLen = len(magic) + sha256.Size + 8 + 4*2
	chunk    = 64 << 10 // bytes of every shard in memory at a time
)

// Digest is a SHA-256.
type Digest [sha256.Size]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText writes the digest in hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Digest) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != len(d) || hex.EncodeToString(raw) != string(b) {
		return fmt.Errorf("%.80q is no SHA-256 in lower-case hex", b)
	}
	copy(d[:], raw)
	return nil
}

// Header is what stands before a shard's payload.
type Header struct {
	Volume       Digest
	Size         int64 // bytes of the volume
	Data, Parity int
	Index        int
	Sums         []Digest // of every shard's payload
}

// payload is the length of every shard's payload.
func (h Header) payload() int64 { return (h.Size + int64(h.Data) - 1) / int64(h.Data) }

// headerLen is the length of a header of so many shards.
func headerLen(shards int) int64 { return int64(fixedLen + (shards+1)*sha256.Size) }

// length is the size of the shard's file.
func (h Header) length() int64 { return headerLen(len(h.Sums)) + h.payload() }

// set identifies the shards that were cut together: the header without its index.
func (h Header) set() Digest {
	h.Index = 0
	return sha256.Sum256(h.bytes())
}

func (h Header) bytes() []byte {
	b := append(make([]byte, 0, headerLen(len(h.Sums))), magic...)
	b = append(b, h.Volume[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Size))
	for _, n := range []int{h.Data, h.Parity, h.Index, 0} {
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	}
	for _, s := range h.Sums {
		b = append(b, s[:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func (h Header) check() error {
	switch {
	case h.Size < 1 || h.Size > maxVolume:
		return fmt.Errorf("%w: a volume of %d bytes", ErrShard, h.Size)
	case h.Data < 1 || h.Data+h.Parity > MaxShards:
		return fmt.Errorf("%w: %d data and %d parity shards", ErrShard, h.Data, h.Parity)
	case h.Index >= h.Data+h.Parity:
		return fmt.Errorf("%w: number %d of %d", ErrShard, h.Index, h.Data+h.Parity)
	case int64(h.Data-1)*h.payload() >= h.Size:
		return fmt.Errorf("%w: %d data shards of a volume of %d bytes", ErrShard, h.Data, h.Size)
	}
	return nil
}

// ReadHeader reads the header of a shard and nothing beyond it. It takes one spelling: what was read gives the same bytes again.
// Errors are ErrNoShard, ErrShard and those of r.
func ReadHeader(r io.Reader) (Header, error) {
	var fixed [fixedLen]byte
	n, err := io.ReadFull(r, fixed[:])
	if !bytes.HasPrefix(fixed[:n], []byte(magic)) {
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return Header{}, err
		}
		return Header{}, ErrNoShard
	}
	if err != nil {
		return Header{}, torn(err)
	}
	number := func(at int) int { return int(binary.BigEndian.Uint16(fixed[len(magic)+40+2*at:])) }
	h := Header{Volume: Digest(fixed[len(magic):]), Data: number(0), Parity: number(1), Index: number(2)}
	size := binary.BigEndian.Uint64(fixed[len(magic)+32:])
	if number(3) != 0 || size > maxVolume {
		return Header{}, fmt.Errorf("%w: its header has another form", ErrShard)
	}
	h.Size = int64(size)
	if err := h.check(); err != nil {
		return Header{}, err
	}
	rest := make([]byte, (h.Data+h.Parity+1)*sha256.Size)
	if _, err := io.ReadFull(r, rest); err != nil {
		return Header{}, torn(err)
	}
	for i := range h.Data + h.Parity {
		h.Sums = append(h.Sums, Digest(rest[i*sha256.Size:]))
	}
	if sum := h.bytes(); !bytes.Equal(sum[len(sum)-sha256.Size:], rest[len(rest)-sha256.Size:]) {
		return Header{}, fmt.Errorf("%w: its header has another SHA-256 than it says", ErrShard)
	}
	return h, nil
}

// torn tells a header that ends too early from a medium that cannot be read.
func torn(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it is cut short in its header", ErrShard)
	}
	return err
}
