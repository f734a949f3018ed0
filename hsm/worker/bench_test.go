//go:build cgo

package worker

import (
	"crypto"
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// BenchmarkSign measures a key in a child process beside the same key in this
// one, on eight sessions, by turns: processor time of both processes for each
// signature, without its verification.
func BenchmarkSign(b *testing.B) {
	s := newShim(b)
	s.config.Env = []string{"SOFTHSM2_CONF"} // faults are out of reach
	c, err := childConfig(s)
	must(b, err)
	b.Setenv("FAULTY_CONTROL", "")
	inside, err := c.open(b.Context())
	must(b, err)
	defer inside.Close()
	key, err := inside.Generate(b.Context(), "pkcs11:object=bench", hsm.ECDSAP256)
	must(b, err)
	tok := s.open(b)
	remote, err := tok.Signer(b.Context(), "pkcs11:object=bench")
	must(b, err)
	ours := func() time.Duration {
		var u syscall.Rusage
		must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	both := func() time.Duration { return ours() + processTime(b, tok.current.cmd.Process.Pid) }
	sides := []struct {
		name      string
		signer    crypto.Signer
		cpu, wall time.Duration
	}{{name: "in-process", signer: key.Unverified()}, {name: "worker", signer: remote.Unverified()}}
	n := 0
	for b.Loop() {
		const sessions, turn = 8, 200 // the child's time is told in hundredths of a second
		n += sessions * turn
		for i := range sides {
			side := &sides[i]
			cpu, wall := both(), time.Now()
			var wg sync.WaitGroup
			for range sessions {
				wg.Go(func() {
					for range turn {
						if _, err := side.signer.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			side.cpu, side.wall = side.cpu+both()-cpu, side.wall+time.Since(wall)
		}
	}
	for _, side := range sides {
		b.ReportMetric(float64(side.cpu.Microseconds())/float64(n), side.name+"-cpu-us")
		b.ReportMetric(float64(n)/side.wall.Seconds(), side.name+"/s")
	}
	b.ReportMetric(float64((sides[1].cpu-sides[0].cpu).Microseconds())/float64(n), "process-cost-us")
	b.ReportMetric(0, "ns/op")
}

// processTime is the processor time of another process (proc(5), stat).
func processTime(b *testing.B, pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(b, err)
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+2:]))
	var ticks int
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		must(b, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
