package ca_test

import (
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/ca"
	"redoubt.internal/ca/catest"
)

// cpu is the processor time of this process so far, user and system.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIssue is one certificate at 64 clients: token, proof, lint,
// precertificate, SCT and three durable records, with software keys: tokens are
// RS256, as those of the built-in and the public issuers, all else P-256. It
// reports the processor time of the whole process per certificate; making
// tokens and proofs is the clients' work and done before.
func BenchmarkIssue(b *testing.B) {
	const clients = 64
	key := clientKeys()["P-256"]
	r := catest.New(b, catest.Options{IssuerKey: clientKeys()["RSA-2048"]})
	requests := make([]ca.Request, clients)
	for i := range requests {
		requests[i] = r.Request(b, "dev@corp.example", key)
	}
	var turn atomic.Int64
	b.SetParallelism(clients / 2) // times GOMAXPROCS, which is 2 on the reference machine
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		i := int(turn.Add(1)) % clients
		for pb.Next() {
			if _, err := r.Authority.Issue(b.Context(), requests[i]); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
}
