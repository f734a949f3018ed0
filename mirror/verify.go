package mirror

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"redoubt.internal/mirror/tiles"
)

// Verified says what VerifyLog proved.
type Verified struct {
	Checkpoint Checkpoint
	Leaves     uint64 // entries whose bytes were hashed up to the signed root
	Bytes      int64  // of their bundles
}

// VerifyLog proves the log at c.Source from its first leaf, as an import would, and keeps nothing: the checkpoint by the
// log's key, the hash tiles, and at scope full every entry. It uses as many workers as given, 0 for one per processor.
func VerifyLog(ctx context.Context, c LogConfig, network *Network, workers int) (Verified, error) {
	return verifyLog(ctx, c, network, workers, false)
}

// VerifyCopy is VerifyLog for a copy in the folder c.Source that others will read: it reads the full hash tiles of level 0 too,
// which whoever hashes every entry can do without, so that at scope full no byte of the tree at the checkpoint is left out.
func VerifyCopy(ctx context.Context, c LogConfig, workers int) (Verified, error) {
	return verifyLog(ctx, c, nil, workers, true)
}

func verifyLog(ctx context.Context, c LogConfig, network *Network, workers int, whole bool) (Verified, error) {
	known, err := knownLogs([]LogConfig{c})
	if err != nil {
		return Verified{}, err
	}
	log := known[c.Origin]
	src, err := OpenSource(c.Source, c.Layout, network)
	if err != nil {
		return Verified{}, err
	}
	note, err := src.Checkpoint(ctx)
	if err != nil {
		return Verified{}, remoteErr("reading the checkpoint", err)
	}
	fetch := func(ctx context.Context, t tiles.Tile) ([]byte, error) {
		b, err := src.Tile(ctx, t, nil)
		return b, remoteErr("", err)
	}
	s, err := prove(ctx, log, Head{Origin: c.Origin, Root: tiles.EmptyRoot()}, note, log.Scope, fetch, func(tiles.Tile, []byte) error { return nil })
	if err != nil {
		return Verified{}, err
	}
	passed := func(tiles.Tile, []byte) error { return nil }
	kept := func(ctx context.Context, t tiles.Tile, hashes []byte) error { // that the copy's own tile is the one its entries have
		t.Level = 0
		b, err := fetch(ctx, t)
		if err != nil {
			return s.blame(fmt.Errorf("reading %s: %w", t.Path(), err))
		}
		if !bytes.Equal(b, hashes) {
			return s.blame(fmt.Errorf("%w: %s", tiles.ErrProof, t.Path()))
		}
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var next, leaves atomic.Uint64
	var read atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			hashes, buf := make([]byte, 0, tiles.Width*tiles.HashSize), []byte(nil)
			for k := next.Add(1) - 1; k < s.plan.bundles() && ctx.Err() == nil; k = next.Add(1) - 1 {
				t := s.plan.pack(k)
				b, err := src.Tile(ctx, t, buf)
				if err == nil {
					buf = b
					err = s.take(ctx, t, b, hashes, nil, passed)
				} else {
					err = remoteErr("reading "+t.Path(), err)
				}
				if err == nil && whole && t.Full() {
					if hashes, err = tiles.AppendLeafHashes(hashes[:0], b, t.Width); err == nil {
						err = kept(ctx, t, hashes)
					}
				}
				if err != nil {
					cancel(err)
					return
				}
				leaves.Add(uint64(t.Width))
				read.Add(int64(len(b)))
			}
		})
	}
	all.Wait()
	return Verified{s.to, leaves.Load(), read.Load()}, context.Cause(ctx)
}
