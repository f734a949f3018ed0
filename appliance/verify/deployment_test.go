package verify

import (
	"net/url"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/appliance/verify/verifytest"
)

// sampleOf asks for what the deployment signed, with the right identity.
func sampleOf(d *verifytest.Deployment, p verifytest.Parts) sample {
	return sample{root: d.Root(), artifact: p.Artifact, bundle: p.Bundle(d.T), policy: Policy{Identities: []Identity{{SAN: d.Identity, Issuer: d.Issuer}}}}
}

// TestDeployment: what the test deployment makes is what clients accept, so
// that a refusal below is for the fault planted and no other.
func TestDeployment(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	old := d.SignMessage(1, "artifact")
	old.MediaType = verifytest.MediaV01
	for name, p := range map[string]verifytest.Parts{"v1 message": d.SignMessage(1, "artifact"), "v2 message": d.SignMessage(2, "artifact"), "v2 attestation": d.Attest("artifact", verifytest.CustomPredicate), "v0.1 chain": old} {
		t.Run(name, func(t *testing.T) {
			s := sampleOf(d, p)
			if err := protojson.Unmarshal(s.bundle, &protobundle.Bundle{}); err != nil {
				t.Fatal(err)
			}
			if err := upstream(t, s); err != nil {
				t.Fatalf("sigstore-go: %v", err)
			}
			res, err := s.verify(t)
			if err != nil {
				t.Fatal(err)
			}
			if san, issuer := res.Signer(); san != d.Identity || issuer != d.Issuer || len(res.Log()) != 1 || len(res.Times()) != 1 {
				t.Errorf("result %+v", res)
			}
			if u, err := url.Parse(res.Log()[0].BaseURL); err != nil || u.Hostname() != "rekor.corp.internal" {
				t.Errorf("log %+v", res.Log())
			}
		})
	}
}
