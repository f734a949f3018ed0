package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

// kibLog makes a log of n entries of 1 KiB.
func kibLog(b *testing.B, n uint64) LogConfig {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "kib")
	w, err := generate.NewBuilder(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	leaf := make([]byte, 1024)
	for i := range n {
		copy(leaf, fmt.Sprintf("%020d", i))
		if err := w.Add(leaf); err != nil {
			b.Fatal(err)
		}
	}
	note, err := parcel.SignNote(generate.CheckpointText("kib.example", n, w.Root()), "kib.example", labKey(4))
	if err != nil {
		b.Fatal(err)
	}
	if err := w.Publish(note); err != nil {
		b.Fatal(err)
	}
	vkey, err := parcel.VerifierKey("kib.example", labKey(4).Public())
	if err != nil {
		b.Fatal(err)
	}
	return LogConfig{Origin: "kib.example", VKey: vkey, Source: dir}
}

const kibEntries = 100 * 1024

// BenchmarkVerifyImport does what an import proves, per leaf of 1 KiB, on one core: checkpoint signature, spine, every leaf
// hash, every subtree, read from warm files. leaves/s/core is the figure to compare; sha256 is the same bytes hashed raw.
func BenchmarkVerifyImport(b *testing.B) {
	c := kibLog(b, kibEntries)
	cpu := cpuTime()
	for b.Loop() {
		v, err := VerifyLog(context.Background(), c, nil, 1)
		if err != nil || v.Leaves != kibEntries {
			b.Fatal(v, err)
		}
	}
	rate := float64(b.N) * kibEntries / (cpuTime() - cpu).Seconds() // CPU time: the cores are shared
	b.ReportMetric(rate, "leaves/s/core")
	piece, start, n := bytes.Repeat([]byte{1}, 1025), cpuTime(), 0
	for cpuTime()-start < 300*time.Millisecond {
		for range 1000 {
			sha256.Sum256(piece)
		}
		n += 1000
	}
	raw := float64(n) / (cpuTime() - start).Seconds()
	b.ReportMetric(raw, "sha256/s/core")
	b.ReportMetric(rate/raw, "of-sha256")
}

// BenchmarkImport imports a parcel of 100 x 1,024 leaves of 1 KiB: digests, decompression, proof, tile files, flushes, commit.
func BenchmarkImport(b *testing.B) {
	l := newLab(b, kibLog(b, kibEntries))
	l.pull()
	files := l.export(0)
	n := 0
	var cpu time.Duration
	for b.Loop() {
		b.StopTimer()
		n++
		l.mc.DB, l.mc.Dir = newDB(b, filepath.Join(l.dir, fmt.Sprintf("in%d.db", n))), filepath.Join(l.dir, fmt.Sprintf("in%d", n))
		l.reopen()
		start := cpuTime()
		b.StartTimer()
		l.load(files)
		b.StopTimer()
		cpu += cpuTime() - start
		os.RemoveAll(l.mc.Dir)
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*kibEntries/b.Elapsed().Seconds(), "leaves/s")
	b.ReportMetric(float64(b.N)*kibEntries/cpu.Seconds(), "leaves/cpu-s")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestTortureMillion carries a generated log of a million entries, about 2.1 GB, from a directory to a mirror in two transfers. It
// runs when REDOUBT_TORTURE is set, and prints what it measured.
func TestTortureMillion(t *testing.T) {
	if os.Getenv("REDOUBT_TORTURE") == "" {
		t.Skip("set REDOUBT_TORTURE to carry a million entries (needs 12 GB of disk)")
	}
	const n = 1_000_000
	measure := func(what string, entries float64, fn func()) {
		t.Helper()
		wall, cpu := time.Now(), cpuTime()
		fn()
		w, c := time.Since(wall), cpuTime()-cpu
		t.Logf("%-28s %7.1f s wall, %6.1f s CPU, %8.0f entries/s, %8.0f entries/CPU-s", what, w.Seconds(), c.Seconds(), entries/w.Seconds(), entries/c.Seconds())
	}
	var g *generate.Log
	var c LogConfig
	measure("generate", n, func() {
		g, c = makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{400_000, n}})
	})
	t.Logf("%d bytes of entries, root of %d entries %s, %d processors", g.Bytes, n, g.Heads[1].Root, runtime.GOMAXPROCS(0))
	l := newLab(t, c)
	var files []string
	measure("pull 0 to 400,000", 400_000, l.pull)
	measure("export", 400_000, func() { files = l.export(500_000_000) })
	measure("import", 400_000, func() { l.load(files) })
	show(t, g, n)
	measure("pull 400,000 to 1,000,000", 600_000, l.pull)
	measure("export", 600_000, func() { files = l.export(500_000_000) })
	t.Logf("%d volumes", len(files))
	measure("import", 600_000, func() { l.load(files) })
	measure("reconcile", n, func() {
		r, err := l.in.Reconcile(context.Background())
		if err != nil || r.Err() != nil || r.Logs[0].Leaves != n {
			t.Fatal(err, r.Err())
		}
	})
	if h, err := l.in.Head(c.Origin); err != nil || h.Size != n || !g.Heads[1].Root.Equal(h.Root[:]) {
		t.Fatal(h, err)
	}
}
