// Package log is the Merkle engine: an append-only RFC 6962 tree in a store.DB, with one writer and many readers.
//
// What it guarantees:
//   - An entry is acknowledged only after the entry, the hash tiles, its caller's own writes and a signed head that
//     covers it are durable, and the high-water mark outside the database is raised. The Receipt carries an inclusion
//     proof and a signed note, both verified before they are handed out.
//   - Nothing is signed that is not durable, and no second root is ever signed for a size: a log whose head is behind,
//     or beside, one of its high-water marks opens read-only (ErrRolledBack).
//   - A failed write or flush latches the log read-only (ErrReadOnly with the reason). So does another writer.
//   - Every byte served is checked on the way out: entries against their leaf hash, tiles against their parent tile up
//     to the root of the last signed head, extras against their digest.
//
// What it does not: keep an entry secret, order entries by time, or defend against whoever holds the key and every mark.
//
// Start at Create and Open (open.go), Add (add.go), then Run, the one writer, which is the commit path (writer.go).
// The bytes on disk are drawn in layout.go. The standard library's log is not used in this product; this is ours.
package log

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"redoubt.internal/log/store"
)

var (
	// ErrReadOnly says that the log takes no entries; the text after it says why (see Log.Err).
	ErrReadOnly = errors.New("the log is read-only")
	// ErrRolledBack says that a high-water mark was ahead of, beside or missing for the log: signing on would fork it.
	ErrRolledBack = errors.New("the log is behind the highest head it ever signed")
	// ErrClosed says that the writer has stopped.
	ErrClosed = errors.New("the log's writer has stopped")
	// ErrDuplicate says that a log of unique entries holds this entry already; the error is a *DuplicateError.
	ErrDuplicate = errors.New("the log holds this entry already")
	// ErrTooLarge says that a leaf is longer than MaxLeaf or an extra longer than MaxExtra.
	ErrTooLarge = errors.New("the entry is too large")
	// ErrNotFound says that the index, size, tile or width asked for lies beyond the signed head or was never there.
	ErrNotFound = errors.New("the log has no such entry, tile or size")
	// ErrCorrupt says that stored data contradicts the tree; nothing of it is served.
	ErrCorrupt = errors.New("the stored log contradicts itself")
	// ErrFormat says that another version of the program wrote the log in a format that this one does not read.
	ErrFormat = errors.New("the log is of another format")
	// ErrExists says that Create met a log.
	ErrExists = errors.New("the log exists already")
	// ErrAbsent says that Open met no log.
	ErrAbsent = errors.New("there is no log here")
	// ErrWrongKey says that the signer is not the one the log was created with.
	ErrWrongKey = errors.New("this key is not the log's key")
	// ErrSigning says that the key gave no signature; the entry may already be stored and a later head will cover it.
	ErrSigning = errors.New("the log's key did not sign")
	// ErrIndexing says that the search index is being built after a start; entries are taken and read meanwhile.
	ErrIndexing = errors.New("the search index is being built")
	// ErrConfig says that the configuration cannot work.
	ErrConfig = errors.New("the log's configuration is wrong")
)

const (
	// MaxLeaf is the longest leaf in bytes (C2SP tlog-tiles: a uint16 length prefix).
	MaxLeaf = 65535
	// MaxExtra is the longest extra in bytes.
	MaxExtra = 64 << 10
)

// Config says which log, in which store, signed by which key.
type Config struct {
	// DB holds the log. Several logs share one DB, each under its own Prefix.
	DB store.DB
	// Prefix stands before every key of this log, for instance "ct/". The engine keeps its keys under Prefix + "log/"
	// and refuses a `with` function that writes there.
	Prefix string
	// Origin is the first line of every checkpoint and the name in its signature line, for instance "ct.example.org".
	Origin string
	// Signer signs the heads. Open and Fsck use only its public key until a head is due. Nil opens read-only.
	Signer crypto.Signer
	// Now is the clock; nil means time.Now. Head times never go back even when it does.
	Now func() time.Time
	// HighWater lists the marks kept outside the database. Each is raised after a head is durable, before it is published.
	HighWater []HighWater
	// Unique refuses an entry whose leaf is in the log already, or in flight.
	Unique bool
	// IndexKeys gives the search keys of an entry (at most 2048 of at most 1024 bytes are kept). It must be a pure function:
	// the index is rebuilt from entries and is never on the append path.
	IndexKeys func(leaf, extra []byte) [][]byte
	// IndexVersion is raised when IndexKeys gives other keys than before: the search index is then built anew.
	IndexVersion uint32
	// Logger takes notices of starts, stops and latches; nil discards them.
	Logger *slog.Logger
}

// Head is a signed tree head.
type Head struct {
	Size uint64
	Root [32]byte
	Time time.Time // when it was signed, UTC; never before the head below it
	Note []byte    // C2SP signed note of Origin by Signer
}

// Receipt is what an acknowledged Add hands out. Its proof and its note were verified.
type Receipt struct {
	Index      uint64
	Time       time.Time // of the head
	LeafHash   [32]byte  // SHA-256(0x00 || leaf), RFC 6962 2.1
	Proof      [][]byte  // inclusion of Index in Checkpoint, RFC 6962 2.1.1, leaf side first
	Checkpoint Head
}

// Entry is one stored entry.
type Entry struct {
	Index uint64
	Leaf  []byte // hashed and served in tiles
	Extra []byte // stored beside it with a digest, not hashed into the tree
}

// DuplicateError names the index of the entry a Unique log holds already. That index is covered by the log's head.
type DuplicateError struct{ Index uint64 }

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("%v at index %d", ErrDuplicate, e.Index)
}

// Unwrap makes errors.Is(err, ErrDuplicate) true.
func (e *DuplicateError) Unwrap() error { return ErrDuplicate }

// Mark is the highest head a signer has ever signed for an origin.
type Mark struct {
	Origin string
	Size   uint64
	Root   [32]byte
	// Halted is not empty after a write failed: the reason. A halted log stays read-only over restarts until Resume.
	Halted string
}

// HighWater keeps a Mark outside the database, so that a restored database cannot be signed on. It is implemented by
// the file form here and by hardware forms elsewhere.
type HighWater interface {
	// Read returns the mark; ErrNoMark when there is none.
	Read(ctx context.Context) (Mark, error)
	// Raise stores m durably. It refuses (ErrRolledBack) a size below the stored one, or the same size with another root.
	Raise(ctx context.Context, m Mark) error
}

// ErrNoMark says that no high-water mark is stored for the origin.
var ErrNoMark = errors.New("there is no high-water mark for this log")
