package ca_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"os"
	"runtime/debug"
	"sync"
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
// tokens and proofs is the clients' work and done before. verify-us/op is one
// P-256 verification in the same run, the unit that makes runs on a busy machine
// comparable: 46 on the reference machine when quiet.
func BenchmarkIssue(b *testing.B) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // as the service unit does
	}
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
	b.ReportMetric(verification(b, clients), "verify-us/op")
}

// verification is the processor time of one P-256 verification in microseconds,
// on as many goroutines as there are clients.
func verification(b *testing.B, clients int) float64 {
	b.Helper()
	const each = 16
	key := clientKeys()["P-256"].(*ecdsa.PrivateKey)
	digest := sha256.Sum256([]byte("unit"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	before := cpu(b)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
					b.Error("signature does not verify")
				}
			}
		})
	}
	wg.Wait()
	return float64((cpu(b) - before).Microseconds()) / float64(clients*each)
}
