//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/rand"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// cpuTime is the processor time of this process, children not counted.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSign measures a bare loop of C_SignInit and C_Sign beside hsm.Key, on
// eight sessions. They take turns of a few hundred signatures, so that both meet
// the same machine: "raw" is the module and its Go binding alone, "ours" adds the
// pool, the deadline and recovery, "verified" adds the verification of each
// signature. overhead-% is that of "ours" in processor time; ns/op is of no use.
func BenchmarkSign(b *testing.B) {
	for _, alg := range []hsm.Algorithm{hsm.ECDSAP256, hsm.ECDSAP384, hsm.RSA3072} {
		b.Run(string(alg), func(b *testing.B) { benchmarkSign(b, alg) })
	}
}

func benchmarkSign(b *testing.B, alg hsm.Algorithm) {
	const sessions = 8
	s := newStore(b, "bench")
	c := s.config("bench")
	c.Sessions = sessions
	tok := open(b, c)
	key := generate(b, tok, "k", alg)
	module := intruder(b)
	mech, input, err := mechanismFor(alg, digest[:], crypto.SHA256)
	must(b, err)
	raw := make([]func() error, sessions)
	for i := range raw {
		sh, err := module.OpenSession(slotOf(b, module, "bench"), pkcs11.CKF_SERIAL_SESSION)
		must(b, err)
		h, err := findPrivate(module, sh, nil, "k")
		must(b, err)
		raw[i] = func() error {
			if err := module.SignInit(sh, []*pkcs11.Mechanism{mech}, h); err != nil {
				return err
			}
			_, err := module.Sign(sh, input)
			return err
		}
	}
	by := func(signer crypto.Signer) []func() error {
		fns := make([]func() error, sessions)
		for i := range fns {
			fns[i] = func() error { _, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256); return err }
		}
		return fns
	}
	sides := []struct {
		name string
		fns  []func() error
		cpu  time.Duration
		wall time.Duration
	}{{name: "raw", fns: raw}, {name: "ours", fns: by(key.Unverified())}, {name: "verified", fns: by(key)}}
	n := 0
	for b.Loop() {
		const turn = 64 // signatures of each session
		n += turn * sessions
		for i := range sides {
			side := &sides[(n/(turn*sessions)+i)%len(sides)] // each turn begins with another
			cpu, wall := cpuTime(b), time.Now()
			var wg sync.WaitGroup
			for _, fn := range side.fns {
				wg.Go(func() {
					for range turn {
						if err := fn(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			side.cpu, side.wall = side.cpu+cpuTime(b)-cpu, side.wall+time.Since(wall)
		}
	}
	for _, side := range sides {
		b.ReportMetric(float64(side.cpu.Microseconds())/float64(n), side.name+"-cpu-us")
		b.ReportMetric(float64(n)/side.wall.Seconds(), side.name+"/s")
	}
	b.ReportMetric(100*(float64(sides[1].cpu)/float64(sides[0].cpu)-1), "overhead-%")
	b.ReportMetric(0, "ns/op")
}
