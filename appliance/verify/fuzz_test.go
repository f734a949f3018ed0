package verify

import (
	"context"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/root"

	"redoubt.internal/appliance/verify/verifytest"
)

// FuzzVerifyBundle: whatever the bytes, a verdict is reached without a panic,
// and a yes says what the seed it came from said.
func FuzzVerifyBundle(f *testing.F) {
	d := verifytest.New(f, "corp.internal")
	seeds := []sample{sampleOf(d, d.SignMessage(1, "artifact")), sampleOf(d, d.SignMessage(2, "artifact")), sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate)), keySample(d, d.SignMessage(1, "artifact"))}
	v, err := New(Config{Roots: []Root{{Name: "root", JSON: d.Root()}}})
	if err != nil {
		f.Fatal(err)
	}
	said := map[string]bool{}
	for i, s := range seeds {
		res, err := v.Verify(context.Background(), s.request())
		if err != nil {
			f.Fatal(err)
		}
		said[meaning(f, res)] = true
		f.Add(s.bundle, i == 3)
	}
	for _, s := range []string{`{}`, `{"version":1,"verification_material":{"certificate":"AA==","transparency_entries":[{}]},"envelope":{"statement":"e30=","signature":"AA=="}}`, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{},"messageSignature":{}}`, `{"dsseEnvelope":{"signatures":[{}]}}`} {
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, bundle []byte, key bool) {
		s := seeds[0]
		if key {
			s = seeds[3]
		}
		s.bundle = bundle
		res, err := v.Verify(context.Background(), s.request())
		if err == nil {
			got := meaning(t, res)
			for want := range said {
				if sameMeaning(want, got) {
					return
				}
			}
			t.Fatalf("accepted %q\nas %s", bundle, got)
		}
		if code := ExitCode(err); res != nil || code < 10 || code == 70 {
			t.Fatalf("exit %d: %v", code, err)
		}
	})
}

// FuzzTrustedRoot: what we take, sigstore-go takes; nothing panics.
func FuzzTrustedRoot(f *testing.F) {
	f.Add(verifytest.New(f, "corp.internal").Root())
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[{"baseUrl":"x"}]}`))
	f.Add([]byte(`{"certificateAuthorities":[{"certChain":{"certificates":[{}]}}],"timestampAuthorities":[{}],"ctlogs":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRoot(Root{Name: "r", JSON: data})
		if err != nil {
			if ExitCode(err) != 26 {
				t.Fatalf("exit %d: %v", ExitCode(err), err)
			}
			return
		}
		if _, err := root.NewTrustedRootFromJSON(data); err != nil {
			t.Fatalf("sigstore-go refuses: %v", err)
		}
		if r.TrustedRoot == nil {
			t.Fatal("nothing parsed")
		}
	})
}

// FuzzTimestampToken reads tokens alone.
func FuzzTimestampToken(f *testing.F) {
	d := verifytest.New(f, "corp.internal")
	f.Add(d.Token([]byte("sig"), d.Now, true))
	f.Add(d.Token([]byte("sig"), d.Now, false))
	f.Fuzz(func(t *testing.T, der []byte) {
		if tok, err := parseToken(der); err == nil && tok.signer == (signerID{}) {
			t.Fatal("a token without a signer")
		}
	})
}
