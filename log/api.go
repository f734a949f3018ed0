package log

import (
	"context"
	"crypto"

	"redoubt.internal/log/store"
)

// Log is an open log. All methods are safe for concurrent use.
type Log struct{ c Config }

// FsckReport says what Fsck read and what it found wrong.
type FsckReport struct {
	Entries, Heads, Tiles uint64
	Size                  uint64
	Root                  [32]byte
	Problems              []string
}

func Create(ctx context.Context, c Config) error       { return ErrClosed }
func Open(ctx context.Context, c Config) (*Log, error) { return nil, ErrClosed }

func (l *Log) Run(ctx context.Context) error { return ErrClosed }
func (l *Log) Add(ctx context.Context, leaf, extra []byte, with func(store.Tx) error) (Receipt, error) {
	return Receipt{}, ErrClosed
}
func (l *Log) Head() Head { return Head{} }
func (l *Log) Entry(ctx context.Context, index uint64) (Entry, error) {
	return Entry{}, ErrClosed
}
func (l *Log) LeafIndex(ctx context.Context, hash [32]byte) (uint64, bool, error) {
	return 0, false, ErrClosed
}
func (l *Log) Find(ctx context.Context, key []byte, limit int) ([]uint64, error) {
	return nil, ErrClosed
}
func (l *Log) InclusionProof(ctx context.Context, index, size uint64) ([][]byte, error) {
	return nil, ErrClosed
}
func (l *Log) ConsistencyProof(ctx context.Context, from, to uint64) ([][]byte, error) {
	return nil, ErrClosed
}
func (l *Log) Root(ctx context.Context, size uint64) ([32]byte, error) {
	return [32]byte{}, ErrClosed
}
func (l *Log) Tile(ctx context.Context, level int, index uint64, width int) ([]byte, error) {
	return nil, ErrClosed
}
func (l *Log) EntryBundle(ctx context.Context, index uint64, width int) ([]byte, error) {
	return nil, ErrClosed
}
func (l *Log) Err() error { return ErrClosed }

func SignNote(origin string, s crypto.Signer, size uint64, root [32]byte) ([]byte, error) {
	return nil, ErrClosed
}
func Fsck(ctx context.Context, c Config, progress func(done, total uint64)) (FsckReport, error) {
	return FsckReport{}, ErrClosed
}
