package verify

import (
	"context"
	"syscall"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/root"
)

// BenchmarkVerify sets our whole path beside sigstore-go's own over the same
// real bundles, in one run; compare the two lines of each kind.
func BenchmarkVerify(b *testing.B) {
	samples, modes := realSamples(b, dataDir(b))
	kinds := map[string]int{}
	for i, s := range samples {
		d, err := decode(s.bundle)
		if err != nil || modes[i] != "tlog+obsTS+SCT" {
			continue
		}
		kind := "message"
		if d.statement != nil {
			kind = "attestation"
		}
		if len(d.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps()) > 0 {
			kind += "-stamped"
		}
		if kinds[kind]++; kinds[kind] > 1 {
			continue
		}
		b.Run(kind+"/sigstore-go", func(b *testing.B) {
			tr, err := root.NewTrustedRootFromJSON(s.root)
			if err != nil {
				b.Fatal(err)
			}
			defer cpu(b)()
			for b.Loop() {
				if err := upstreamUnder(tr, s); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(kind+"/redoubt", func(b *testing.B) {
			v, err := New(Config{Roots: []Root{{Name: "root", JSON: s.root}}})
			if err != nil {
				b.Fatal(err)
			}
			defer cpu(b)()
			for b.Loop() {
				if _, err := v.Verify(context.Background(), s.request()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// cpu reports the process's processor time per operation, which a busy machine
// distorts less than wall time.
func cpu(b *testing.B) func() {
	used := func() float64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return float64(u.Utime.Nano() + u.Stime.Nano())
	}
	start := used()
	return func() { b.ReportMetric((used()-start)/float64(b.N)/1000, "cpu-us/op") }
}
