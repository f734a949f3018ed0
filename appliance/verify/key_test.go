package verify

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

// keySample makes a managed-key bundle of a message: the same deployment's log,
// the signer's public key in place of the certificate.
func keySample(d *verifytest.Deployment, p verifytest.Parts) sample {
	d.T.Helper()
	digest := sha256.Sum256(p.Artifact)
	body := fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":"%s","publicKey":{"content":"%s"}}}}`, digest, b64(p.Signature), b64(publicPEM(d.T, &p.Signer.Key.PublicKey)))
	p.Entries = []any{d.Entry(body, d.Now.Add(time.Minute), true)}
	b := p.Tree()
	set(b, nil, "verificationMaterial", "certificate")
	set(b, map[string]any{"hint": "h"}, "verificationMaterial", "publicKey")
	s := sampleOf(d, p)
	s.bundle, s.policy = verifytest.Encode(d.T, b), Policy{Key: &Key{Public: &p.Signer.Key.PublicKey}}
	return s
}

// TestManagedKey: a key in place of an identity, and each way it can be wrong.
func TestManagedKey(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	p := d.SignMessage(1, "artifact")
	s := keySample(d, p)
	if err := upstream(t, s); err != nil {
		t.Fatal(err)
	}
	s.policy.Key.NotBefore, s.policy.Key.NotAfter = d.Now, d.Now.Add(time.Minute)
	res, err := s.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	if san, _ := res.Signer(); san != "" || res.report.Signer.Kind != "key" || res.report.Signer.Key == "" {
		t.Errorf("signer %+v", res.report.Signer)
	}
	stamped := func(after time.Duration) func(*sample) {
		return func(s *sample) {
			other := p
			other.Stamps = []any{map[string]any{"signedTimestamp": b64(d.Token(p.Signature, d.Now.Add(after), true))}}
			s.bundle, s.policy.WithoutLog = keySample(d, other).bundle, true
		}
	}
	for name, c := range map[string]struct {
		spoil func(*sample)
		want  int
	}{
		"key ended a second earlier":       {func(s *sample) { s.policy.Key.NotAfter = d.Now.Add(59 * time.Second) }, 24},
		"key starts a second too late":     {func(s *sample) { s.policy.Key.NotBefore = d.Now.Add(61 * time.Second) }, 24},
		"other key":                        {func(s *sample) { s.policy.Key = &Key{Public: &verifytest.ECKey(t).PublicKey} }, 12},
		"other artifact":                   {func(s *sample) { s.artifact = []byte("artefact") }, 12},
		"identity asked":                   {func(s *sample) { s.policy = Policy{Identities: []Identity{{SAN: "a", Issuer: "b"}}} }, 10},
		"certificate where a key stood":    {func(s *sample) { s.bundle = sampleOf(d, p).bundle }, 10},
		"timestamp at the key's end":       {stamped(time.Minute), 0},
		"timestamp a second after its end": {stamped(61 * time.Second), 24},
		"identity and key":                 {func(s *sample) { s.policy.Identities = []Identity{{SAN: "a", Issuer: "b"}} }, 2},
		"neither":                          {func(s *sample) { s.policy = Policy{} }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			key := *s.policy.Key
			bad := s
			bad.policy.Key = &key
			c.spoil(&bad)
			if _, err := bad.verify(t); ExitCode(err) != c.want {
				t.Errorf("exit %d, want %d: %v", ExitCode(err), c.want, err)
			}
		})
	}
}
