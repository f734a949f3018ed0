package log

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/log/store/bolt"
)

// Run with: go test ./log -run '^$' -bench . -benchtime 2s
// The figures of one run belong together; those of two runs do not (the disk and the neighbours differ).

func cpuTime() time.Duration {
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkFlush is what the disk gives: one 4 KiB write into a written file and an fdatasync.
func BenchmarkFlush(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const blocks = 4096
	f.Write(make([]byte, blocks*4096))
	f.Sync()
	buf := make([]byte, 4096)
	rand.Read(buf)
	i := int64(0)
	for b.Loop() {
		f.WriteAt(buf, i%blocks*4096)
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "flush/s")
}

// BenchmarkAppend adds 1 KiB entries and waits for each receipt.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 64, 256, 1024} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) { benchAppend(b, writers, nil) })
	}
	b.Run("writers=1,no-mark", func(b *testing.B) {
		benchAppend(b, 1, func(c *Config) { c.HighWater = nil })
	})
	for _, writers := range []int{1, 256} { // what a second disk costs: compare these with each other
		b.Run(fmt.Sprintf("writers=%d,one-disk", writers), func(b *testing.B) { benchAppend(b, writers, func(*Config) {}) })
		b.Run(fmt.Sprintf("writers=%d,second-disk", writers), func(b *testing.B) {
			benchPaired = filepath.Join(b.TempDir(), "second.db")
			defer func() { benchPaired = "" }()
			benchAppend(b, writers, func(*Config) {})
		})
	}
	b.Run("writers=256,unique", func(b *testing.B) {
		benchAppend(b, 256, func(c *Config) { c.Unique = true })
	})
}

// benchPaired is the second file of the next benchmark's database; "" for none.
var benchPaired string

func benchAppend(b *testing.B, writers int, change func(*Config)) {
	r := newRig(b, nil)
	if change != nil {
		r.stop()
		change(&r.c)
		keep := r.c.HighWater == nil
		r.db, _ = bolt.Open(r.path())
		if benchPaired != "" {
			if err := r.db.Pair(benchPaired, true); err != nil {
				b.Fatal(err)
			}
		}
		r.c.DB = r.db
		r.openHW()
		if keep {
			r.c.HighWater = nil
		}
		r.open()
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	cpu := cpuTime()
	for range writers {
		wg.Go(func() {
			leaf := make([]byte, 1024)
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				binary.BigEndian.PutUint64(leaf, uint64(i))
				if _, err := r.l.Add(context.Background(), leaf, nil, nil); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-us/op")
}

// BenchmarkInclusionProof proves random entries of a log of 100,000, its tiles in memory.
func BenchmarkInclusionProof(b *testing.B) {
	r, size := benchLog(b)
	rnd := mrand.New(mrand.NewPCG(1, 2))
	cpu := cpuTime()
	for b.Loop() {
		if _, err := r.l.InclusionProof(context.Background(), rnd.Uint64N(size), size); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/(cpuTime()-cpu).Seconds(), "proofs/cpu-s")
}

// BenchmarkInclusionProofCold drops the cached tiles before each proof.
func BenchmarkInclusionProofCold(b *testing.B) {
	r, size := benchLog(b)
	rnd := mrand.New(mrand.NewPCG(1, 2))
	cpu := cpuTime()
	for b.Loop() {
		clear(r.l.cache.m)
		if _, err := r.l.InclusionProof(context.Background(), rnd.Uint64N(size), size); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/(cpuTime()-cpu).Seconds(), "proofs/cpu-s")
}

// BenchmarkOpen opens a log of 100,000 entries: the right edge and the index's newest part are rebuilt.
func BenchmarkOpen(b *testing.B) {
	r, _ := benchLog(b)
	for b.Loop() {
		if _, err := Open(context.Background(), r.c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLookup finds entries by leaf hash: those that are there, and those that are not.
func BenchmarkLookup(b *testing.B) {
	r, size := benchLog(b)
	rnd := mrand.New(mrand.NewPCG(1, 2))
	b.Run("hit", func(b *testing.B) {
		for b.Loop() {
			h := leafHash(benchLeaf(rnd.Uint64N(size)))
			if _, ok, err := r.l.LeafIndex(context.Background(), h); err != nil || !ok {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("miss", func(b *testing.B) {
		for b.Loop() {
			if _, ok, err := r.l.LeafIndex(context.Background(), leafHash(benchLeaf(1<<40+rnd.Uint64N(1<<40)))); err != nil || ok {
				b.Fatal(ok, err)
			}
		}
	})
}

// BenchmarkFsck recomputes a log of 100,000 entries.
func BenchmarkFsck(b *testing.B) {
	r, size := benchLog(b)
	cpu := cpuTime()
	for b.Loop() {
		if _, err := Fsck(context.Background(), r.c, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*float64(size)/(cpuTime()-cpu).Seconds(), "entries/cpu-s")
	b.ReportMetric(float64(b.N)*float64(size)/b.Elapsed().Seconds(), "entries/s")
}

func benchLeaf(i uint64) []byte {
	leaf := make([]byte, 1024)
	binary.BigEndian.PutUint64(leaf, i)
	return leaf
}

// benchLog is a log of 100,000 entries of 1 KiB, and its size.
func benchLog(b *testing.B) (*rig, uint64) {
	const size = 100_000
	r := newRig(b, nil)
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range 1024 {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= size {
					return
				}
				if _, err := r.l.Add(context.Background(), benchLeaf(i), nil, nil); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	info, _ := os.Stat(r.path())
	b.Logf("%d bytes on disk per entry", info.Size()/size)
	return r, size
}
