package verify

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"slices"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/mirror/freshness"
)

// TestWarnings: each state of a log that a person should read about, and none that is as it should be.
func TestWarnings(t *testing.T) {
	seen := verifytest.Epoch
	for name, c := range map[string]struct {
		upstream *Upstream
		want     int
	}{
		"not asked": {nil, 0}, "fresh": {&Upstream{Observed: &seen, Level: freshness.Fresh}, 0}, "old": {&Upstream{Observed: &seen, Level: freshness.Warn}, 1},
		"not mirrored": {&Upstream{Level: freshness.Fresh}, 1}, "frozen": {&Upstream{Observed: &seen, Level: freshness.Fresh, Frozen: true}, 1},
	} {
		r := Result{report{Log: logProofs{Proven: []LogProof{{Upstream: c.upstream}}}}}
		root := Result{report{Root: rootReport{Upstream: c.upstream}}}
		if len(r.Warnings()) != c.want || len(root.Warnings()) != c.want {
			t.Errorf("%s: %q and %q", name, r.Warnings(), root.Warnings())
		}
	}
	if a, b := (LogProof{Origin: "o", BaseURL: "u"}).name(), (LogProof{BaseURL: "u"}).name(); a != `"o"` || b != "u" {
		t.Errorf("%s and %s", a, b)
	}
}

// TestObserve: a proof that was not verified is no observation.
func TestObserve(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	p := d.SignMessage(2, "artifact")
	b, err := decode(p.Bundle(t))
	if err != nil {
		t.Fatal(err)
	}
	e := b.GetVerificationMaterial().GetTlogEntries()[0]
	index, other := e.GetLogIndex(), e.GetLogIndex()+1
	id := hex.EncodeToString(e.GetLogId().GetKeyId())
	for name, c := range map[string]struct {
		proven LogProof
		want   int
	}{
		"the proof": {LogProof{Origin: "rekor.corp.internal", LogID: id, Index: &index}, 1}, "of another log": {LogProof{Origin: "rekor.corp.internal", LogID: "00", Index: &index}, 0},
		"of another origin": {LogProof{Origin: "x", LogID: id, Index: &index}, 0}, "of another index": {LogProof{Origin: "rekor.corp.internal", LogID: id, Index: &other}, 0},
		"a promise": {LogProof{Origin: "rekor.corp.internal", LogID: id}, 0},
	} {
		r := &report{Log: logProofs{Proven: []LogProof{c.proven}}}
		if r.observe(b); len(r.observed) != c.want {
			t.Errorf("%s: %d observations", name, len(r.observed))
		}
	}
	proof := e.GetInclusionProof()
	if o, ok := observation(e); !ok || len(o.Proof) != len(proof.GetHashes()) || o.Index != uint64(index) {
		t.Errorf("%+v, %v", o, ok)
	}
	proof.Hashes[0] = proof.Hashes[0][1:]
	if _, ok := observation(e); ok {
		t.Error("a hash cut short is observed")
	}
	proof.Hashes = nil
	proof.Checkpoint.Envelope = "x"
	if _, ok := observation(e); ok {
		t.Error("a checkpoint that is none is observed")
	}
}

// TestPathLeaf: of the critical extensions that Go does not understand, the name alone is forgiven.
func TestPathLeaf(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	odd := asn1.ObjectIdentifier{1, 2, 3, 4}
	d.Edit = func(c *x509.Certificate) {
		c.EmailAddresses = nil
		name := verifytest.MustDER(t, []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: verifytest.MustDER(t, odd)}})
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: name}, pkix.Extension{Id: odd, Critical: true, Value: []byte{5, 0}})
	}
	b, err := decode(d.SignMessage(2, "artifact").Bundle(t))
	if err != nil {
		t.Fatal(err)
	}
	if whole := b.content.Certificate().UnhandledCriticalExtensions; len(whole) != 2 {
		t.Fatalf("%v", whole)
	}
	if left := pathLeaf(b).UnhandledCriticalExtensions; !slices.EqualFunc(left, []asn1.ObjectIdentifier{odd}, asn1.ObjectIdentifier.Equal) {
		t.Errorf("left: %v", left)
	}
	d.Edit = nil
	if b, err = decode(d.SignMessage(2, "artifact").Bundle(t)); err != nil || pathLeaf(b) != b.content.Certificate() {
		t.Errorf("a plain certificate is copied: %v", err)
	}
	if b, err = decode(keySample(d, d.SignMessage(1, "artifact")).bundle); err != nil || pathLeaf(b) != nil {
		t.Errorf("a key has a certificate: %v", err)
	}
}

// TestTrustAge: as old as allowed is not too old.
func TestTrustAge(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	s := sampleOf(d, d.SignMessage(2, "artifact"))
	s.policy.MaxTrustAge = time.Hour
	for age, want := range map[time.Duration]int{time.Hour: 0, time.Hour + 1: 21} {
		v, err := New(Config{Roots: []Root{{Name: "root", JSON: s.root, AsOf: verifytest.Epoch}}, Now: func() time.Time { return verifytest.Epoch.Add(age) }})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), s.request()); ExitCode(err) != want {
			t.Errorf("%s old: exit %d: %v", age, ExitCode(err), err)
		}
		all, err := v.VerifyAll(t.Context(), s.request())
		if ExitCode(err) != want || (len(all) == 1) != (want == 0) {
			t.Errorf("%s old: %d results, %v", age, len(all), err)
		}
	}
}
