package rekor_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// clientEnv, when set, makes the test binary a load generator: "kind url count".
const clientEnv = "REDOUBT_REKOR_BENCH_CLIENT"

func TestMain(m *testing.M) {
	if job := os.Getenv(clientEnv); job != "" {
		if err := benchClient(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const benchClients = 64

// benchClient makes and signs count different entries, says "ready", waits for a line, posts them from 64 connections, and reports p50 and p99
// of the time from request to proof.
func benchClient(job string) error {
	var kind, url string
	var count int
	if _, err := fmt.Sscan(job, &kind, &url, &count); err != nil {
		return err
	}
	key := must(newKey())
	der := certify(&testing.B{}, key.Public(), "dev@corp.example")
	make1 := map[string]func(string) object{
		"v1/certificate": func(a string) object { return hashedrekord(key, pemCert(der), a) },
		"v1/key":         func(a string) object { return hashedrekord(key, pemKey(key.Public()), a) },
		"v2/certificate": func(a string) object { return requestV2(key, certV2(der), a) },
		"v2/key":         func(a string) object { return requestV2(key, keyV2(key.Public()), a) },
	}[kind]
	bodies := make([][]byte, count)
	for i := range bodies {
		bodies[i] = encode(make1(fmt.Sprint(i)))
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: benchClients}}
	var next atomic.Int64
	took := make([][]time.Duration, benchClients)
	failed := make(chan error, benchClients)
	var wg sync.WaitGroup
	for c := range benchClients {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(count); i = next.Add(1) - 1 {
				start := time.Now()
				resp, err := client.Post(url, "application/json", bytes.NewReader(bodies[i]))
				if err != nil {
					failed <- err
					return
				}
				answer, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 201 || !bytes.Contains(answer, []byte(`nclusionProof`)) {
					failed <- fmt.Errorf("%d %v %s", resp.StatusCode, err, answer)
					return
				}
				took[c] = append(took[c], time.Since(start))
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return json.NewEncoder(os.Stdout).Encode([]int64{all[len(all)/2].Microseconds(), all[len(all)*99/100].Microseconds()})
}

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

// benchmarkPost serves b.N different entries posted by another process from 64 connections over loopback, each answer holding its proof. The CPU
// reported is the server's alone.
func benchmarkPost(b *testing.B, kind, path string) {
	r := newRigWith(b, tokenKey(b), nil)
	child := exec.Command(os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", clientEnv, kind, r.url+path, b.N))
	child.Stderr = os.Stderr
	in, out := must(child.StdinPipe()), bufio.NewReader(must(child.StdoutPipe()))
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	defer child.Wait()
	if line, err := out.ReadString('\n'); strings.TrimSpace(line) != "ready" {
		b.Fatal(line, err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	io.WriteString(in, "go\n")
	var took []int64
	if err := json.NewDecoder(out).Decode(&took); err != nil {
		b.Fatal(err)
	}
	used := cpu() - before
	b.StopTimer()
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "server-cpu-us/op")
	b.ReportMetric(float64(took[0])/1000, "p50-ms")
	b.ReportMetric(float64(took[1])/1000, "p99-ms")
	if got := r.merkle.Head().Size; got != uint64(b.N) {
		b.Fatalf("%d entries, want %d", got, b.N)
	}
}

func BenchmarkPost64(b *testing.B) {
	for _, kind := range []string{"v1/certificate", "v1/key", "v2/certificate", "v2/key"} {
		b.Run(kind, func(b *testing.B) { benchmarkPost(b, kind, "/api/"+kind[:2]+"/log/entries") })
	}
}
