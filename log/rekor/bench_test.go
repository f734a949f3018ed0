package rekor_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// tokenKey is a key as the tokens hand it out: each signature verified before it is used.
func tokenKey(b testing.TB) *hsm.Key {
	key := generate(b)
	return must(hsm.NewKey(hsm.Info{}, key.Public(), func(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return key.Sign(rand.Reader, digest, opts)
	}))
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchmarkPost posts b.N different entries from 64 clients over loopback HTTP, each answer holding its proof. CPU is that of server and clients
// together.
func benchmarkPost(b *testing.B, path string, make1 func(i int) object) {
	r := newRigWith(b, tokenKey(b), nil)
	const clients = 64
	bodies := make([][]byte, b.N)
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := w; i < b.N; i += 2 {
				bodies[i] = encode(make1(i))
			}
		})
	}
	wg.Wait()
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	client := &http.Client{Transport: transport}
	defer transport.CloseIdleConnections()
	var next atomic.Int64
	took := make([][]time.Duration, clients)
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	for c := range clients {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(b.N) {
					return
				}
				start := time.Now()
				resp, err := client.Post(r.url+path, "application/json", bytes.NewReader(bodies[i]))
				if err != nil {
					b.Error(err)
					return
				}
				answer, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 201 || !json.Valid(answer) {
					b.Errorf("%d %v %s", resp.StatusCode, err, answer)
					return
				}
				took[c] = append(took[c], time.Since(start))
			}
		})
	}
	wg.Wait()
	used := cpu() - before
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
	if got := r.merkle.Head().Size; got != uint64(b.N) {
		b.Fatalf("%d entries, want %d", got, b.N)
	}
}

func BenchmarkPost64(b *testing.B) {
	key := generate(b)
	der := certify(b, key.Public(), "dev@corp.example")
	spki, cert := pemKey(key.Public()), pemCert(der)
	b.Run("v1/certificate", func(b *testing.B) {
		benchmarkPost(b, "/api/v1/log/entries", func(i int) object { return hashedrekord(key, cert, fmt.Sprint(i)) })
	})
	b.Run("v1/key", func(b *testing.B) {
		benchmarkPost(b, "/api/v1/log/entries", func(i int) object { return hashedrekord(key, spki, fmt.Sprint(i)) })
	})
	b.Run("v2/certificate", func(b *testing.B) {
		benchmarkPost(b, "/api/v2/log/entries", func(i int) object { return requestV2(key, certV2(der), fmt.Sprint(i)) })
	})
	b.Run("v2/key", func(b *testing.B) {
		benchmarkPost(b, "/api/v2/log/entries", func(i int) object { return requestV2(key, keyV2(key.Public()), fmt.Sprint(i)) })
	})
}
