package rekor

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"redoubt.internal/log"
)

// What stands beside a leaf, not hashed into the tree but kept and checked with it:
//
//	byte     format, 1
//	uint64   integratedTime, Unix seconds, big endian, below 2^63
//	uvarint  number of search keys, then 16 bytes each
//	uvarint  length of the attestation, then its bytes
//
// A search key is the first 16 bytes of SHA-256 of the lower-cased text ("sha256:<hex>", an e-mail address, a URI). The texts themselves
// are in the leaf or, for subjects of an attestation, with the client; hashing them keeps a thousand subjects in 16 KiB.
type extra struct {
	time        int64
	keys        []searchKey
	attestation []byte
}

type searchKey [16]byte

const (
	extraFormat = 1
	maxKeys     = 2048
)

func newSearchKey(text string) searchKey {
	sum := sha256.Sum256([]byte(strings.ToLower(text)))
	return searchKey(sum[:16])
}

// SearchKey is what log.Log.Find wants for a term: an e-mail or URI, a digest as "sha256:HEX", the bare SHA-256 of a key's PEM.
// Case does not matter.
func SearchKey(term string) []byte {
	key := newSearchKey(term)
	return key[:]
}

// hashKeys returns the search keys of texts in their order, each once.
func hashKeys(texts []string) []searchKey {
	keys := make([]searchKey, 0, len(texts))
	seen := make(map[searchKey]bool, len(texts))
	for _, t := range texts {
		if k := newSearchKey(t); !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	return keys
}

// encodeExtra encodes x. An attestation that does not fit beside the keys is left out, as Rekor leaves out attestations over its own limit:
// the entry holds its hash, and the client the attestation.
func encodeExtra(x extra) ([]byte, error) {
	if x.time < 0 {
		return nil, fmt.Errorf("%w: the clock stands before 1970", ErrExtra)
	}
	if len(x.keys) > maxKeys {
		return nil, fmt.Errorf("%w: %d search keys (subjects, materials, keys), at most %d", ErrEntry, len(x.keys), maxKeys)
	}
	b := make([]byte, 0, 16+16*len(x.keys)+len(x.attestation))
	b = append(b, extraFormat)
	b = binary.BigEndian.AppendUint64(b, uint64(x.time))
	b = binary.AppendUvarint(b, uint64(len(x.keys)))
	for _, k := range x.keys {
		b = append(b, k[:]...)
	}
	if len(b)+binary.MaxVarintLen32+len(x.attestation) > log.MaxExtra {
		x.attestation = nil
	}
	b = binary.AppendUvarint(b, uint64(len(x.attestation)))
	return append(b, x.attestation...), nil
}

// parseExtra is the inverse of encodeExtra and accepts nothing else.
func parseExtra(b []byte) (extra, error) {
	bad := func(what string) (extra, error) { return extra{}, fmt.Errorf("%w: %s", ErrExtra, what) }
	if len(b) > log.MaxExtra {
		return bad("too long")
	}
	if len(b) < 9 || b[0] != extraFormat {
		return bad("unknown format")
	}
	x := extra{time: int64(binary.BigEndian.Uint64(b[1:]))}
	rest := b[9:]
	n, rest, ok := uvarint(rest)
	if !ok || x.time < 0 || n > maxKeys || uint64(len(rest)) < 16*n {
		return bad("search keys")
	}
	x.keys = make([]searchKey, n)
	seen := make(map[searchKey]bool, n)
	for i := range x.keys {
		x.keys[i] = searchKey(rest[16*i:])
		if seen[x.keys[i]] {
			return bad("a search key twice")
		}
		seen[x.keys[i]] = true
	}
	n, rest, ok = uvarint(rest[16*n:])
	if !ok || uint64(len(rest)) != n {
		return bad("attestation")
	}
	if n > 0 {
		x.attestation = rest
	}
	return x, nil
}

// uvarint reads a minimally encoded uvarint.
func uvarint(b []byte) (n uint64, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || !bytes.Equal(binary.AppendUvarint(nil, n), b[:size]) {
		return 0, nil, false
	}
	return n, b[size:], true
}

// IndexKeys is the log.Config.IndexKeys of the Merkle log beneath. It has none for an entry this package did not make.
func IndexKeys(_, stored []byte) [][]byte {
	x, err := parseExtra(stored)
	if err != nil {
		return nil
	}
	keys := make([][]byte, len(x.keys))
	for i := range x.keys {
		keys[i] = x.keys[i][:]
	}
	return keys
}
