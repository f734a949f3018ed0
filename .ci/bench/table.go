package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// result is one turn of one side.
type result struct {
	rate     float64 // operations a second
	cpu      float64 // us an operation, of the process that serves alone
	p50, p99 float64 // ms; 0 where single operations are not timed
	others   float64 // percent of all processors that went to neither this program nor the process measured
}

// side is one product in one row.
type side struct {
	do  func() error                // one operation; "pushback" in an error means try again
	cpu func() time.Duration        // of the process that serves, since it began
	own func() time.Duration        // of this program, when that is another process; nil otherwise
	run func() (result, error)      // instead of do: measures a whole turn by itself
	mid func(d time.Duration) error // before each turn, outside the clock; may be nil
}

// row is one line of the table.
type row struct {
	name         string
	clients      int
	peer         string // who, or why there is none
	ours, theirs []result
	share        bool // the peer is a limit of the machine: show the ratio as a percentage
}

// turns lets both sides take their turns, ours first. A nil peer has none.
func turns(r *row, n int, d time.Duration, ours, peer *side) error {
	for range n {
		a, err := measure(r.clients, d, ours)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		r.ours = append(r.ours, a)
		if peer == nil {
			continue
		}
		b, err := measure(r.clients, d, peer)
		if err != nil { // a peer that fails costs its figures, not the table
			r.peer, r.theirs, peer = fmt.Sprintf("%s: %.100v", r.peer, err), nil, nil
			continue
		}
		r.theirs = append(r.theirs, b)
	}
	fmt.Fprint(os.Stderr, ".")
	return nil
}

// measure lets n clients work for d, each waiting for its answer.
func measure(n int, d time.Duration, s *side) (result, error) {
	if s.mid != nil {
		if err := s.mid(d); err != nil {
			return result{}, err
		}
	}
	runtime.GC()
	busy0, all0 := procStat()
	known := func() time.Duration { // CPU of all that belongs to the measurement
		if s.own != nil {
			return s.cpu() + s.own()
		}
		return s.cpu()
	}
	known0 := known()
	noise := func() float64 {
		busy1, all1 := procStat()
		if all1 <= all0 {
			return 0
		}
		return max(0, 100*(busy1-busy0-100*(known()-known0).Seconds())/(all1-all0)) // 100 ticks a second
	}
	if s.run != nil {
		r, err := s.run()
		r.others = noise()
		return r, err
	}
	var mu sync.Mutex
	var lat []time.Duration
	var failed error
	var wg sync.WaitGroup
	cpu0, start := s.cpu(), time.Now()
	for range n {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for time.Since(start) < d {
				t := time.Now()
				if err = s.do(); err != nil && strings.Contains(err.Error(), "pushback") {
					err = nil
					time.Sleep(time.Millisecond)
					continue
				}
				if err != nil {
					break
				}
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			defer mu.Unlock()
			lat = append(lat, mine...)
			if err != nil {
				failed = err
			}
		})
	}
	wg.Wait()
	took, cpu := time.Since(start), s.cpu()-cpu0
	if failed != nil || len(lat) == 0 {
		return result{}, fmt.Errorf("after %d operations: %w", len(lat), failed)
	}
	slices.Sort(lat)
	ops := float64(len(lat))
	ms := func(q float64) float64 { return float64(lat[int(q*(ops-1))].Microseconds()) / 1000 }
	return result{rate: ops / took.Seconds(), cpu: float64(cpu.Microseconds()) / ops, p50: ms(0.5), p99: ms(0.99), others: noise()}, nil
}

func printTable(rows []*row) {
	w := 0
	for _, r := range rows {
		w = max(w, len(r.name))
	}
	fmt.Printf("%-*s %7s %10s %10s %8s %17s %15s %17s %11s  %s\n", w, "", "", "a second", "", "", "CPU us/op", "p50 ms", "p99 ms", "others", "")
	fmt.Printf("%-*s %7s %10s %10s %8s %8s %8s %7s %7s %8s %8s %5s %5s  %s\n", w, "what", "clients", "ours", "peer", "ratio", "ours", "peer", "ours", "peer", "ours", "peer", "ours", "peer", "peer (ratio of each turn)")
	for _, r := range rows {
		x := median(r.ours)
		if len(r.theirs) == 0 {
			fmt.Printf("%-*s %7d %10.0f %10s %8s %8.1f %8s %7s %7s %8s %8s %4.0f%% %5s  %s\n", w, r.name, r.clients, x.rate, "-", "-", x.cpu, "-", ms(x.p50), "-", ms(x.p99), "-", x.others, "-", r.peer)
			continue
		}
		y := median(r.theirs)
		ratio, each := times(x.rate/y.rate)+"x", ""
		if r.share {
			ratio = fmt.Sprintf("%.1f %%", 100*x.rate/y.rate)
		} else {
			var all []string
			for i := range r.theirs {
				all = append(all, times(r.ours[i].rate/r.theirs[i].rate))
			}
			each = " (" + strings.Join(all, " ") + ")"
		}
		fmt.Printf("%-*s %7d %10.0f %10.0f %8s %8.1f %8.1f %7s %7s %8s %8s %4.0f%% %4.0f%%  %s%s\n", w, r.name, r.clients, x.rate, y.rate, ratio, x.cpu, y.cpu, ms(x.p50), ms(y.p50), ms(x.p99), ms(y.p99), x.others, y.others, r.peer, each)
	}
}

func times(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func ms(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
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

// selfCPU is what this process used.
func selfCPU() time.Duration {
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// processCPU is what another process used, in ticks of 10 ms (proc(5), /proc/PID/stat, fields 14 and 15).
func processCPU(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	var user, system int64
	fmt.Sscan(f[11], &user)
	fmt.Sscan(f[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond
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
