package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// BenchmarkDecide measures a decision as the gate makes it, without what a cache would save: one signature; a signature and provenance with CEL;
// a hundred rules; and a hundred bundles that nobody asked for beside the one that counts.
func BenchmarkDecide(b *testing.B) {
	w := newBench(b)
	signed := evidence("signed", w.own.SignMessage(2, "artifact"), b)
	attested := attested(b, w.own, slsa1, builtBy("https://build.internal/three@v1", "https://git.internal/team/app"))
	var junk []Evidence
	for i := range 100 {
		junk = append(junk, evidence(fmt.Sprint(i), w.them.SignMessage(2, "another"), b))
	}
	var rules strings.Builder
	for i := range 100 {
		fmt.Fprintf(&rules, "- {name: r%d, images: ['registry.corp.internal/team-%d/**'], signatures: {by: [us]}}\n", i, i)
	}
	const one = "- {name: r, images: ['**'], signatures: {by: [us]}}\n"
	const both = "- {name: r, images: ['**'], signatures: {by: [us]}, attestations: [{type: slsa-provenance, by: [us], slsa: {level: 3, builders: [{id: 'https://build.internal/**', level: 3}]}, cel: ['predicate.buildDefinition.buildType.startsWith(\"https://build.internal/\")']}]}\n"
	for _, bench := range []struct {
		name, rules string
		evidence    []Evidence
	}{
		{"signature", one, []Evidence{signed}}, {"signature and attestation", both, []Evidence{signed, attested}}, {"100 rules", rules.String() + one, []Evidence{signed}},
		{"100 bundles of others", one, append(junk, signed)},
	} {
		p := w.policy("rules:\n" + bench.rules)
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := p.Decide(context.Background(), theImage(), bench.evidence...); !d.Allow {
					b.Fatal(d.explain())
				}
			}
		})
	}
}
