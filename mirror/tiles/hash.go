package tiles

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// Hash is a SHA-256 hash of a leaf, a node or a whole tree.
type Hash [HashSize]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes the hash as 64 hex digits.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads 64 hex digits.
func (h *Hash) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != HashSize {
		return fmt.Errorf("%.80q is no hash", b)
	}
	*h = Hash(raw)
	return nil
}

// ErrBundle says that bytes are not an entry bundle of the width they should have.
var ErrBundle = errors.New("this is not an entry bundle of the right width")

// EmptyRoot is the root of the tree without leaves.
func EmptyRoot() Hash { return sha256.Sum256(nil) }

// LeafHash is SHA-256(0x00 || leaf).
func LeafHash(leaf []byte) Hash {
	b := make([]byte, 1+len(leaf))
	copy(b[1:], leaf)
	return sha256.Sum256(b)
}

// HashChildren is SHA-256(0x01 || left || right).
func HashChildren(left, right Hash) Hash {
	var b [1 + 2*HashSize]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+HashSize:], right[:])
	return sha256.Sum256(b[:])
}

// AppendLeafHashes appends the leaf hashes of an entry bundle of width entries to dst and returns it.
//
// A bundle is width times {uint16 length, big endian; entry} and nothing after it (C2SP tlog-tiles, "Log Entries"). bundle
// is written to while this runs and is as before afterwards: the low byte of each length stands right before its entry, and
// for the time of hashing it becomes the 0x00 of the leaf hash, which saves a copy of every entry.
func AppendLeafHashes(dst, bundle []byte, width int) ([]byte, error) {
	at := 0
	for i := range width {
		if len(bundle)-at < 2 {
			return dst, fmt.Errorf("%w: it ends within entry %d of %d", ErrBundle, i, width)
		}
		n := int(binary.BigEndian.Uint16(bundle[at:]))
		if len(bundle)-at-2 < n {
			return dst, fmt.Errorf("%w: it ends within entry %d of %d", ErrBundle, i, width)
		}
		low := bundle[at+1]
		bundle[at+1] = 0
		h := sha256.Sum256(bundle[at+1 : at+2+n])
		bundle[at+1] = low
		dst = append(dst, h[:]...)
		at += 2 + n
	}
	if at != len(bundle) {
		return dst, fmt.Errorf("%w: %d bytes follow entry %d", ErrBundle, len(bundle)-at, width)
	}
	return dst, nil
}

// AppendEntry appends an entry of at most MaxEntry bytes to a bundle.
func AppendEntry(bundle, entry []byte) []byte {
	return append(binary.BigEndian.AppendUint16(bundle, uint16(len(entry))), entry...)
}

// SplitBundle calls fn for each entry of a bundle of width entries, in order.
func SplitBundle(bundle []byte, width int, fn func(i int, entry []byte) error) error {
	for i := range width {
		if len(bundle) < 2 || len(bundle)-2 < int(binary.BigEndian.Uint16(bundle)) {
			return fmt.Errorf("%w: it ends within entry %d of %d", ErrBundle, i, width)
		}
		n := int(binary.BigEndian.Uint16(bundle))
		if err := fn(i, bundle[2:2+n:2+n]); err != nil {
			return err
		}
		bundle = bundle[2+n:]
	}
	if len(bundle) != 0 {
		return fmt.Errorf("%w: %d bytes follow entry %d", ErrBundle, len(bundle), width)
	}
	return nil
}

// CutBundle returns the first width entries of a bundle that has at least as many.
func CutBundle(bundle []byte, width int) ([]byte, error) {
	at := 0
	for i := range width {
		if len(bundle)-at < 2 || len(bundle)-at-2 < int(binary.BigEndian.Uint16(bundle[at:])) {
			return nil, fmt.Errorf("%w: it ends within entry %d of %d", ErrBundle, i, width)
		}
		at += 2 + int(binary.BigEndian.Uint16(bundle[at:]))
	}
	return bundle[:at:at], nil
}

// Subtree returns the root over a power of two of hashes, written one after the other.
func Subtree(hashes []byte) Hash {
	if len(hashes) == HashSize {
		return Hash(hashes)
	}
	var level [Width / 2]Hash
	var b [1 + 2*HashSize]byte
	b[0] = 1
	n := len(hashes) / (2 * HashSize)
	for i := range n {
		copy(b[1:], hashes[2*i*HashSize:])
		level[i] = sha256.Sum256(b[:])
	}
	for ; n > 1; n /= 2 {
		for i := range n / 2 {
			copy(b[1:], level[2*i][:])
			copy(b[1+HashSize:], level[2*i+1][:])
			level[i] = sha256.Sum256(b[:])
		}
	}
	return level[0]
}
