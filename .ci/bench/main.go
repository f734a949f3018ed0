// Command bench measures the Merkle engine beside tessera v1.0.4 on POSIX (batches of 256 entries or 250 ms), in one
// process and in turns, so that both meet the same machine. It prints a table: ours, peer, ratio, CPU per operation and
// how much of the machine others used meanwhile. Both fsync. Ours signs a head per commit and answers with a verified
// inclusion proof; tessera's answer here is the durable index, without waiting for its checkpoint.
//
// It asserts nothing. Figures of different runs do not compare.
package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"k8s.io/klog/v2"

	"redoubt.internal/hsm"
	"redoubt.internal/log"
	"redoubt.internal/log/store/bolt"
)

const leafSize = 1024

var (
	rounds  = flag.Int("rounds", 3, "turns each side takes")
	step    = flag.Duration("step", 2*time.Second, "length of a turn")
	dir     = flag.String("dir", "", "where to put the logs (default: a temporary directory)")
	writers = []int{1, 64, 256, 1024}
)

func main() {
	flag.Parse()
	klog.LogToStderr(false)
	klog.SetOutput(discard{})
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func run() error {
	if *dir == "" {
		d, err := os.MkdirTemp("", "bench")
		if err != nil {
			return err
		}
		defer os.RemoveAll(d)
		*dir = d
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ours, err := openOurs(ctx, *dir, true)
	if err != nil {
		return err
	}
	bare, err := openOurs(ctx, *dir, false)
	if err != nil {
		return err
	}
	peer, stop, err := openTessera(ctx, filepath.Join(*dir, "tessera"))
	if err != nil {
		return err
	}
	defer stop()
	disk, err := openRaw(filepath.Join(*dir, "raw"))
	if err != nil {
		return err
	}
	fmt.Printf("append of %d B entries, %d processors, %d turns of %v each, all with fsync\n\n", leafSize, runtime.NumCPU(), *rounds, *step)
	fmt.Println("writers        ours/s   tessera/s   ratio (of each turn)        CPU us/op   p50 ms        p99 ms        others' load")
	fmt.Println("                                                            ours  peer   ours   peer   ours    peer")
	for _, n := range writers {
		var a, b []result
		var ratios []string
		for range *rounds {
			x := measure(n, *step, ours)
			y := measure(n, *step, peer)
			a, b = append(a, x), append(b, y)
			ratios = append(ratios, fmt.Sprintf("%.1f", x.rate/y.rate))
		}
		x, y := median(a), median(b)
		fmt.Printf("%7d   %11.0f %11.0f   %6.1fx (%s)%s  %6.1f %6.1f %6.2f %6.2f %6.2f %7.2f   %3.0f %%, %3.0f %%\n", n, x.rate, y.rate, x.rate/y.rate,
			strings.Join(ratios, " "), strings.Repeat(" ", max(0, 16-5**rounds)), x.cpu, y.cpu, x.p50, y.p50, x.p99, y.p99, x.others, y.others)
	}
	return single(ours, bare, disk)
}

// single measures one writer against the disk, in short turns because the flush rate wanders, and shows the quietest
// third of the turns apart: there the others' load says least.
func single(ours, bare, disk adder) error {
	const turn = 200 * time.Millisecond
	fmt.Printf("\none writer against this disk's 4 KiB write and fdatasync, %d turns of %v each\n", 10**rounds, turn)
	type triple [3]result
	var all []triple
	noise := func(t triple) float64 { return t[0].others + t[1].others + t[2].others }
	for range 10 * *rounds {
		all = append(all, triple{measure(1, turn, disk), measure(1, turn, ours), measure(1, turn, bare)})
	}
	show := func(name string, ts []triple) {
		var f, w, o []result
		for _, t := range ts {
			f, w, o = append(f, t[0]), append(w, t[1]), append(o, t[2])
		}
		flush, with, without := median(f), median(w), median(o)
		fmt.Printf("%s\n  write+fdatasync          %8.0f/s           others' load %3.0f %%\n", name, flush.rate, flush.others)
		fmt.Printf("  append, high-water file  %8.0f/s  %5.1f %%  others' load %3.0f %%  CPU %.0f us/op\n", with.rate, 100*with.rate/flush.rate, with.others, with.cpu)
		fmt.Printf("  append, without          %8.0f/s  %5.1f %%  others' load %3.0f %%  CPU %.0f us/op\n", without.rate, 100*without.rate/flush.rate, without.others, without.cpu)
	}
	show("all turns", all)
	slices.SortFunc(all, func(a, b triple) int { return cmp.Compare(noise(a), noise(b)) })
	show("the quietest third", all[:max(1, len(all)/3)])
	return nil
}

type adder func(ctx context.Context, leaf []byte) error

func openOurs(ctx context.Context, dir string, mark bool) (adder, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("ours-%v", mark)
	db, err := bolt.Create(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	key, err := hsm.NewKey(hsm.Info{URI: "soft:bench", Kind: "soft", Software: true}, priv.Public(), func(_ context.Context, d []byte, o crypto.SignerOpts) ([]byte, error) {
		return priv.Sign(rand.Reader, d, o)
	})
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

type result struct {
	rate     float64 // operations a second
	cpu      float64 // of this process, us an operation
	p50, p99 float64 // ms
	others   float64 // percent of all processors used by other processes
}

var serial atomic.Uint64

// measure lets n writers add distinct entries, each waiting for its answer, for d.
func measure(n int, d time.Duration, add adder) result {
	runtime.GC()
	ctx := context.Background()
	busy0, all0 := procStat()
	cpu0, start := cpuTime(), time.Now()
	var mu sync.Mutex
	var lat []time.Duration
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			var mine []time.Duration
			for time.Since(start) < d {
				leaf := make([]byte, leafSize)
				binary.BigEndian.PutUint64(leaf, serial.Add(1))
				t := time.Now()
				if err := add(ctx, leaf); err != nil {
					if strings.Contains(err.Error(), "pushback") {
						time.Sleep(time.Millisecond)
						continue
					}
					fmt.Fprintln(os.Stderr, "bench:", err)
					os.Exit(1)
				}
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			lat = append(lat, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	took, cpu := time.Since(start), cpuTime()-cpu0
	busy1, all1 := procStat()
	slices.Sort(lat)
	ops := float64(len(lat))
	ms := func(q float64) float64 { return float64(lat[int(q*(ops-1))].Microseconds()) / 1000 }
	r := result{rate: ops / took.Seconds(), cpu: float64(cpu.Microseconds()) / ops, p50: ms(0.5), p99: ms(0.99)}
	if all1 > all0 {
		own := cpu.Seconds() * 100 // clock ticks
		r.others = max(0, 100*(busy1-busy0-own)/(all1-all0))
	}
	return r
}

func median(rs []result) result {
	pick := func(f func(result) float64) float64 {
		var v []float64
		for _, r := range rs {
			v = append(v, f(r))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return result{
		rate: pick(func(r result) float64 { return r.rate }), cpu: pick(func(r result) float64 { return r.cpu }),
		p50: pick(func(r result) float64 { return r.p50 }), p99: pick(func(r result) float64 { return r.p99 }),
		others: pick(func(r result) float64 { return r.others }),
	}
}

func cpuTime() time.Duration {
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// procStat reads the ticks all processors were busy, and all ticks (proc(5), the first line of /proc/stat).
func procStat() (busy, all float64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line)[1:] {
		var v float64
		fmt.Sscan(f, &v)
		if i > 7 {
			break // guest time is in user time already
		}
		all += v
		if i != 3 && i != 4 { // idle, iowait
			busy += v
		}
	}
	return busy, all
}
