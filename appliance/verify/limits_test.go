package verify

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"redoubt.internal/appliance/verify/verifytest"
)

// TestLimits: each limit of a bundle is taken exactly, and one more is refused.
func TestLimits(t *testing.T) {
	entry := func(body, hashes, note int) []*protorekor.TransparencyLogEntry {
		return []*protorekor.TransparencyLogEntry{{}, {CanonicalizedBody: make([]byte, body), InclusionProof: &protorekor.InclusionProof{
			Hashes: make([][]byte, hashes), Checkpoint: &protorekor.Checkpoint{Envelope: strings.Repeat("x", note)}}}}
	}
	stamps := func(n, size int) *protobundle.TimestampVerificationData {
		d := &protobundle.TimestampVerificationData{}
		for range n {
			d.Rfc3161Timestamps = append(d.Rfc3161Timestamps, &protocommon.RFC3161SignedTimestamp{SignedTimestamp: make([]byte, size)})
		}
		return d
	}
	chain := func(n int) *protobundle.VerificationMaterial {
		return &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_X509CertificateChain{
			X509CertificateChain: &protocommon.X509CertificateChain{Certificates: make([]*protocommon.X509Certificate, n)}}}
	}
	for more, ok := range []bool{true, false} {
		for name, m := range map[string]*protobundle.VerificationMaterial{
			"entries": {TlogEntries: make([]*protorekor.TransparencyLogEntry, maxEntries+more)}, "body": {TlogEntries: entry(maxBody+more, 0, 0)},
			"hashes": {TlogEntries: entry(0, maxProof+more, 0)}, "checkpoint": {TlogEntries: entry(0, 0, maxCheckpoint+more)},
			"timestamps": {TimestampVerificationData: stamps(maxTimestamps+more, 1)}, "token": {TimestampVerificationData: stamps(1, maxToken+more)}, "chain": chain(8 + more),
		} {
			if err := checkLimits(&protobundle.Bundle{VerificationMaterial: m}); (err == nil) != ok {
				t.Errorf("%s and %d more: %v", name, more, err)
			}
		}
		d := verifytest.New(t, "corp.internal")
		subject := fmt.Sprintf(`{"name":"a","digest":{"sha256":"%x"}}`, sha256.Sum256([]byte("artifact")))
		statement := func(subjects string) []byte {
			return []byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","predicate":{},"subject":[` + subjects + `]}`)
		}
		var digests strings.Builder
		for i := range maxDigests - 1 + more {
			fmt.Fprintf(&digests, `"x%d":"00",`, i)
		}
		for name, p := range map[string]verifytest.Parts{
			"subjects": d.AttestPayload("artifact", statement(strings.Repeat(subject+",", maxSubjects-1+more)+subject)),
			"digests":  d.AttestPayload("artifact", statement(strings.Replace(subject, `{"sha256"`, `{`+digests.String()+`"sha256"`, 1))),
		} {
			if _, err := decode(p.Bundle(t)); (err == nil) != ok {
				t.Errorf("%s and %d more: %v", name, more, err)
			}
		}
	}
}

// TestKeyLimits: the smallest RSA key and the longest file that are taken.
func TestKeyLimits(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text := publicPEM(t, &key.PublicKey)
	for size, ok := range map[int]bool{len(text): true, 64 << 10: true, 64<<10 + 1: false} {
		if _, err := ParseKey(append(bytes.Clone(text), bytes.Repeat([]byte("\n"), size-len(text))...)); (err == nil) != ok {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	for n, want := range map[int]int{4096: 11, 4097: 2} {
		d := verifytest.New(t, "corp.internal")
		for _, id := range []Identity{{SANRegexp: strings.Repeat("a", n), Issuer: d.Issuer}, {SAN: d.Identity, IssuerRegexp: strings.Repeat("a", n)}} {
			s := sampleOf(d, d.SignMessage(2, "artifact"))
			s.policy.Identities = []Identity{id}
			if _, err := s.verify(t); ExitCode(err) != want {
				t.Errorf("an expression of %d bytes: exit %d: %v", n, ExitCode(err), err)
			}
		}
	}
}

// TestTwoEntries: two entries of one log that both hold are both reported.
func TestTwoEntries(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	p := d.SignMessage(1, "artifact")
	digest := sha256.Sum256(p.Artifact)
	p.Entries = append(p.Entries, d.Entry(verifytest.BodyV1(p.Signer, digest[:], p.Signature), d.Now.Add(2*time.Minute), true))
	s := sampleOf(d, p)
	res, err := s.verify(t)
	if err != nil || len(res.Log()) != 2 {
		t.Fatalf("%+v, %v", res, err)
	}
	if upstream(t, s) != nil {
		t.Error("sigstore-go refuses it")
	}
	if seen := res.Observations(); len(seen) != 2 || seen[0].Index == seen[1].Index || len(seen[1].Proof) == 0 {
		t.Errorf("%d observations", len(seen))
	}
}

// TestBindEntry holds the fields of one entry by themselves, which behind sigstore-go's own checks some cannot be reached alone.
func TestBindEntry(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	for name, c := range map[string]struct {
		generation int
		change     func(e *protorekor.TransparencyLogEntry)
		ok         bool
	}{
		"v1":                {1, func(*protorekor.TransparencyLogEntry) {}, true},
		"v2":                {2, func(*protorekor.TransparencyLogEntry) {}, true},
		"v1, promise alone": {1, func(e *protorekor.TransparencyLogEntry) { e.InclusionProof = nil }, true},
		"v1, proof alone":   {1, func(e *protorekor.TransparencyLogEntry) { e.InclusionPromise, e.IntegratedTime = nil, 0 }, true},
		"v1, neither": {1, func(e *protorekor.TransparencyLogEntry) {
			e.InclusionPromise, e.IntegratedTime, e.InclusionProof = nil, 0, nil
		}, false},
		"v1, time without a promise": {1, func(e *protorekor.TransparencyLogEntry) { e.InclusionPromise = nil }, false},
		"v2 without a proof":         {2, func(e *protorekor.TransparencyLogEntry) { e.InclusionProof = nil }, false},
		"v2 with a promise": {2, func(e *protorekor.TransparencyLogEntry) {
			e.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: []byte("s")}
		}, false},
		"negative size":  {2, func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.TreeSize *= -1 }, false},
		"another size":   {2, func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.TreeSize++ }, false},
		"another root":   {2, func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.RootHash[0] ^= 1 }, false},
		"another index":  {2, func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.LogIndex--; e.LogIndex-- }, false},
		"two indices":    {2, func(e *protorekor.TransparencyLogEntry) { e.LogIndex-- }, false},
		"negative index": {2, func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.LogIndex, e.LogIndex = -1, -1 }, false},
		"index beyond the tree": {2, func(e *protorekor.TransparencyLogEntry) {
			e.InclusionProof.LogIndex, e.LogIndex = e.InclusionProof.TreeSize, e.InclusionProof.TreeSize
		}, false},
		"another kind":        {2, func(e *protorekor.TransparencyLogEntry) { e.KindVersion.Kind = "dsse" }, false},
		"another version":     {1, func(e *protorekor.TransparencyLogEntry) { e.KindVersion.Version = "0.0.3" }, false},
		"a body that is none": {1, func(e *protorekor.TransparencyLogEntry) { e.CanonicalizedBody = []byte("[]") }, false},
		"a body with names twice": {1, func(e *protorekor.TransparencyLogEntry) {
			e.CanonicalizedBody = append([]byte(`{"kind":"x",`), e.CanonicalizedBody[1:]...)
		}, false},
	} {
		b, err := decode(d.SignMessage(c.generation, "artifact").Bundle(t))
		if err != nil {
			t.Fatal(err)
		}
		r, err := parseRoot(Root{Name: "root", JSON: d.Root()})
		if err != nil {
			t.Fatal(err)
		}
		e := b.GetVerificationMaterial().GetTlogEntries()[0]
		c.change(e)
		l := r.RekorLogs()[fmt.Sprintf("%x", e.GetLogId().GetKeyId())]
		if p, err := bindEntry(e, l); (err == nil) != c.ok {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		if !c.ok || c.generation == 1 {
			continue
		}
		elsewhere := *l
		for _, url := range []string{"https://rekor.elsewhere.internal", "://", ""} {
			if elsewhere.BaseURL = url; url != l.BaseURL {
				if _, err := bindEntry(e, &elsewhere); err == nil {
					t.Errorf("a checkpoint of %s passes for the log %q", l.BaseURL, url)
				}
			}
		}
	}
}

// TestWithoutLogUnderOneRoot: an identity that needs no log is one of a root that names none, and of nobody else's.
func TestWithoutLogUnderOneRoot(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	signed := d.SignMessage(2, "artifact")
	signed.Entries = nil
	unlogged := Identity{Root: "root", SAN: d.Identity, Issuer: d.Issuer, WithoutLog: true}
	logged := unlogged
	logged.WithoutLog = false
	nowhere := unlogged
	nowhere.Root = ""
	for name, c := range map[string]struct {
		lacks      []string // members of the trusted root
		identities []Identity
		want       int
	}{
		"a root that names no log":                 {[]string{"tlogs", "ctlogs"}, []Identity{unlogged}, 0},
		"two identities under it":                  {[]string{"tlogs", "ctlogs"}, []Identity{unlogged, unlogged}, 0},
		"a root that names a log":                  {[]string{"ctlogs"}, []Identity{unlogged}, 2},
		"a root that names a certificate log":      {[]string{"tlogs"}, []Identity{unlogged}, 2},
		"a root that names both":                   {nil, []Identity{unlogged}, 2},
		"one beside who needs a log":               {[]string{"tlogs", "ctlogs"}, []Identity{unlogged, logged}, 2},
		"who needs a log, alone":                   {[]string{"tlogs", "ctlogs"}, []Identity{logged}, 22},
		"no root named":                            {[]string{"tlogs", "ctlogs"}, []Identity{nowhere}, 2},
		"a root that names no log, another person": {[]string{"tlogs", "ctlogs"}, []Identity{{Root: "root", SAN: "x", Issuer: d.Issuer, WithoutLog: true}}, 11},
	} {
		s := sampleOf(d, signed)
		root := parseTree(t, s.root)
		for _, member := range c.lacks {
			delete(root, member)
		}
		s.root, s.policy.Identities = verifytest.Encode(t, root), c.identities
		if _, err := s.verify(t); ExitCode(err) != c.want {
			t.Errorf("%s: exit %d, want %d: %v", name, ExitCode(err), c.want, err)
		}
	}
}
