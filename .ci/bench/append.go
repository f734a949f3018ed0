package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"redoubt.internal/hsm"
	"redoubt.internal/log"
	"redoubt.internal/log/store/bolt"
)

const leafSize = 1024

// benchAppend measures the Merkle engine in this process. Ours signs a head per commit and answers with a verified inclusion
// proof; tessera's answer here is the durable index, without waiting for its checkpoint. Both fsync.
func benchAppend(ctx context.Context, dir string) ([]*row, error) {
	if !wanted("append", "single") {
		return nil, nil
	}
	ours, err := openOurs(ctx, dir, true)
	if err != nil {
		return nil, err
	}
	bare, err := openOurs(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	disk, err := openRaw(filepath.Join(dir, "raw"))
	if err != nil {
		return nil, err
	}
	if !wanted("append") {
		return benchSingle(adding(ours), adding(bare), adding(disk))
	}
	peer, stop, err := openTessera(ctx, filepath.Join(dir, "tessera"))
	if err != nil {
		return nil, err
	}
	defer stop()
	var rows []*row
	for _, n := range []int{1, 64, 256, 1024} {
		r := &row{name: "append of 1 KiB", clients: n, peer: "tessera v1.0.4 POSIX, 256/250 ms"}
		if err := turns(r, *rounds, *step, adding(ours), adding(peer)); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	more, err := benchSingle(adding(ours), adding(bare), adding(disk))
	return append(rows, more...), err
}

// benchSingle measures one writer against the disk, in short turns because the flush rate wanders, and shows the quietest
// third of the turns apart: there the others' load says least.
func benchSingle(ours, bare, disk *side) ([]*row, error) {
	const turn = 200 * time.Millisecond
	type triple [3]result
	var all []triple
	for range 10 * *rounds {
		var t triple
		for i, s := range []*side{disk, ours, bare} {
			var err error
			if t[i], err = measure(1, turn, s); err != nil {
				return nil, err
			}
		}
		all = append(all, t)
	}
	fmt.Fprint(os.Stderr, ".")
	var rows []*row
	show := func(when string, ts []triple) {
		with := &row{name: "append" + when + ", high-water file", clients: 1, peer: "write+fdatasync of 4 KiB, this disk", share: true}
		without := &row{name: "append" + when + ", no high-water file", clients: 1, peer: with.peer, share: true}
		for _, t := range ts {
			with.theirs, without.theirs = append(with.theirs, t[0]), append(without.theirs, t[0])
			with.ours, without.ours = append(with.ours, t[1]), append(without.ours, t[2])
		}
		rows = append(rows, with, without)
	}
	show("", all)
	noise := func(t triple) float64 { return t[0].others + t[1].others + t[2].others }
	slices.SortFunc(all, func(a, b triple) int { return cmp.Compare(noise(a), noise(b)) })
	show(" in the quietest third", all[:max(1, len(all)/3)])
	return rows, nil
}

type adder func(ctx context.Context, leaf []byte) error

var serial atomic.Uint64

func adding(add adder) *side {
	return &side{cpu: selfCPU, do: func() error {
		leaf := make([]byte, leafSize)
		binary.BigEndian.PutUint64(leaf, serial.Add(1))
		return add(context.Background(), leaf)
	}}
}

func openOurs(ctx context.Context, dir string, mark bool) (adder, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := hsm.NewKey(hsm.Info{URI: "soft:bench", Kind: "soft", Software: true}, priv.Public(), func(_ context.Context, d []byte, o crypto.SignerOpts) ([]byte, error) {
		return priv.Sign(rand.Reader, d, o)
	})
	if err != nil {
		return nil, err
	}
	return openLog(ctx, dir, fmt.Sprintf("ours-%v-%d", mark, serial.Add(1)), key, mark)
}

// openLog makes a log whose heads key signs.
func openLog(ctx context.Context, dir, name string, key crypto.Signer, mark bool) (adder, error) {
	db, err := bolt.Create(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	c := log.Config{DB: db, Origin: "bench.example.test", Signer: key}
	if mark {
		hw, err := log.OpenHighWaterFile(filepath.Join(dir, name+".highwater"))
		if err != nil {
			return nil, err
		}
		c.HighWater = []log.HighWater{hw.For(c.Origin)}
	}
	if err := log.Create(ctx, c); err != nil {
		return nil, err
	}
	l, err := log.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	go l.Run(ctx)
	return func(ctx context.Context, leaf []byte) error {
		_, err := l.Add(ctx, leaf, nil, nil)
		return err
	}, nil
}

func openTessera(ctx context.Context, dir string) (adder, func(), error) {
	// The note library makes Ed25519 keys, whose signatures are cheaper than our P-256 ones.
	skey, _, err := note.GenerateKey(rand.Reader, "bench.example.test")
	if err != nil {
		return nil, nil, err
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return nil, nil, err
	}
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return nil, nil, err
	}
	opts := tessera.NewAppendOptions().WithCheckpointSigner(signer).WithBatching(256, 250*time.Millisecond).WithCheckpointInterval(time.Second)
	a, shutdown, _, err := tessera.NewAppender(ctx, driver, opts)
	if err != nil {
		return nil, nil, err
	}
	add := func(ctx context.Context, leaf []byte) error {
		_, err := a.Add(ctx, tessera.NewEntry(leaf))()
		return err
	}
	return add, func() { shutdown(ctx) }, nil
}

func openRaw(path string) (adder, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	const blocks = 4096
	if _, err := f.Write(make([]byte, blocks*4096)); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	buf, i := make([]byte, 4096), int64(0)
	return func(context.Context, []byte) error {
		i++
		buf[0]++
		if _, err := f.WriteAt(buf, i%blocks*4096); err != nil {
			return err
		}
		return syscall.Fdatasync(int(f.Fd()))
	}, nil
}
