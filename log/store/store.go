// Package store is the one transactional key-value contract every room of the product writes through.
//
// What an engine promises:
//   - Transactions are serializable. View sees one consistent state; Update is all or nothing.
//   - A nil return from Update means the writes are durable: they survive a power cut.
//   - The function given to Update may run more than once. It touches nothing but its Tx, and whatever it
//     computes on the side it computes anew on each run.
//   - Bytes handed out by Get and Scan are valid until the function returns and are never modified.
//   - Scan ascends in bytewise key order over [from, to).
//   - ErrConflict comes only from the caller's own compare inside a transaction; an engine never invents it,
//     and passes it through unchanged.
//   - Damage met while reading is an error (ErrCorrupt), never a crash of the process.
//   - Snapshot writes an engine-neutral, sorted stream (see snapshot.go) of one consistent state.
//
// What it does not promise: checksums over the data. Whoever stores something that must not change stores
// its digest too, as package log does.
//
// The embedded engine is store/bolt; store/storetest is the conformance test every engine passes.
package store

import (
	"errors"
	"io"
)

var (
	// ErrConflict says that a value compared inside the transaction was not the expected one: somebody else wrote.
	ErrConflict = errors.New("the stored value is not the expected one: another writer was here")
	// ErrCorrupt says that the engine met damaged data.
	ErrCorrupt = errors.New("the database file is damaged")
	// ErrExists says that a database to be created exists already.
	ErrExists = errors.New("the database exists already")
	// ErrLocked says that another process holds the database.
	ErrLocked = errors.New("another process holds the database")
	// ErrSync says that a write or its flush failed: what is on the disk is unknown, and the engine writes no more.
	ErrSync = errors.New("writing to the disk failed")
	// ErrFull says that the disk is full. Nothing was committed; the same write may succeed later.
	ErrFull = errors.New("the disk is full")
	// ErrInvalid says that a key or a value is outside the limits below.
	ErrInvalid = errors.New("the key or value is not acceptable")
	// ErrReadOnlyTx says that a write was tried inside View.
	ErrReadOnlyTx = errors.New("a read transaction writes nothing")
)

// Limits every engine accepts and every snapshot is held to, in bytes.
const (
	MaxKey   = 1 << 10
	MaxValue = 1 << 28
)

// DB is a transactional key-value store. All methods are safe for concurrent use; Update calls run one at a time.
//
// A function given to View or Update calls none of DB's methods, nor anything that does: transactions do not nest. An
// engine that grows its mapping waits for the outer transaction while the inner one waits for the engine, and nothing in
// the process reads or writes any more.
type DB interface {
	// View runs fn in a read transaction.
	View(fn func(Tx) error) error
	// Update runs fn in a write transaction and commits it durably when fn returns nil; any error of fn drops all
	// its writes and is returned unchanged.
	Update(fn func(Tx) error) error
	// Snapshot writes the whole store as one sorted stream.
	Snapshot(w io.Writer) error
	// Close waits for running transactions and releases the files.
	Close() error
}

// Tx is one transaction. Keys are 1 to MaxKey bytes, values at most MaxValue.
type Tx interface {
	// Get returns the value of key, nil when there is none. An empty value comes back non-nil.
	Get(key []byte) ([]byte, error)
	// Put sets key to value. The caller leaves both unchanged until the transaction ends.
	Put(key, value []byte) error
	// Delete removes key; removing an absent key is no error.
	Delete(key []byte) error
	// Scan calls fn for each key in [from, to), ascending, until fn returns false. A nil from starts at the first
	// key, a nil to ends after the last. fn does not write.
	Scan(from, to []byte, fn func(k, v []byte) bool) error
}
