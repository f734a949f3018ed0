package policy

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"redoubt.internal/mirror/images"
)

// TestGatherNotation finds a Notation envelope in either place its type is said, hands it on as what it is, and lets it count for nothing here.
func TestGatherNotation(t *testing.T) {
	const kind = "application/vnd.cncf.notary.signature"
	p := newBench(t).policy("rules:\n- {name: any, images: ['**'], signatures: {by: [us]}}\n")
	for name, more := range map[string]map[string]any{
		"artifact type": {"artifactType": kind},
		"config":        {"config": descriptor{MediaType: kind, Digest: images.DigestOf([]byte("{}")), Size: 2}},
	} {
		s := newStore(t)
		i := s.put("v1", nil)
		s.blobs[images.DigestOf([]byte("{}"))] = []byte("{}")
		more["subject"] = i
		s.put("", more, s.blob("application/jose+json", []byte(`{"payload":""}`), nil))
		host := s.push(registry.WithReferrersSupport(true))
		for place, open := range map[string]func() (*images.Source, []images.Reference, error){
			"layout":   func() (*images.Source, []images.Reference, error) { return images.OpenLayout(s.layout()) },
			"registry": func() (*images.Source, []images.Reference, error) { return openAt(host, "/team/app:v1") },
		} {
			t.Run(name+" in a "+place, func(t *testing.T) {
				source, refs, err := open()
				if err != nil || len(refs) != 1 {
					t.Fatal(refs, err)
				}
				defer source.Close()
				g, err := Gather(context.Background(), source, refs[0], "")
				if err != nil || len(g.Evidence) != 1 || g.Evidence[0].Notation != "application/jose+json" || !bytes.Equal(g.Evidence[0].Bundle, []byte(`{"payload":""}`)) {
					t.Fatalf("%+v %v", g, err)
				}
				if d := p.Decide(context.Background(), g.Artifact, g.Evidence...); d.Allow || len(d.Ignored) != 1 || !strings.Contains(d.Ignored[0], "Notation") {
					t.Errorf("%+v", d)
				}
			})
		}
	}
}
