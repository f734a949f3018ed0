package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"redoubt.internal/appliance/verify/verifytest"
)

// A tournament judges the mutants of one original by a verifier and by a peer: sigstore-go, unless told otherwise.
type tournament struct {
	original original
	message  *protobundle.Bundle
	want     string // what the original's verdict says
	verify   func(Request) (*Result, error)
	peer     string
	theirs   func(source []byte, s sample, ours error) error // of what was changed, and of the bundle made of it, if any

	mu        sync.Mutex
	mutants   int            // that decode to another message, or to none
	formless  int            // of these, those that make no bundle at all
	spellings int            // that decode to the same message
	both      int            // accepted by both
	unbound   map[string]int // accepted, by the reason in unbound
	stricter  map[string]int // refused here alone, by the reason in stricter
	forged    []string       // accepted and should not be
	faults    []string       // other verdicts that should not be
}

func newTournament(t testing.TB, o original, blind []any) *tournament {
	t.Helper()
	v, err := New(Config{Roots: []Root{{Name: "root", JSON: o.sample.root}}})
	if err != nil {
		t.Fatal(err)
	}
	n := &tournament{original: o, message: &protobundle.Bundle{}, peer: "sigstore-go", unbound: map[string]int{}, stricter: map[string]int{}}
	n.verify = func(r Request) (*Result, error) { return v.Verify(context.Background(), r) }
	if blind != nil { // a verifier that does not look at one field sees the original's there
		whole, _ := find(parseTree(t, o.sample.bundle), blind)
		n.verify = func(r Request) (*Result, error) {
			var tree map[string]any
			if json.Unmarshal(r.Bundle, &tree) == nil {
				if _, ok := find(tree, blind); ok {
					set(tree, whole, blind...)
					r.Bundle, _ = json.Marshal(tree)
				}
			}
			return v.Verify(context.Background(), r)
		}
	}
	tr, err := root.NewTrustedRootFromJSON(o.sample.root)
	if err != nil {
		t.Fatal(err)
	}
	n.theirs = func(_ []byte, s sample, _ error) error { return guarded(tr, s) }
	res, err := n.verify(o.sample.request())
	if err != nil {
		t.Fatalf("%s: %v", o.name, err)
	}
	n.want = meaning(t, res)
	if err := protojson.Unmarshal(o.sample.bundle, n.message); err != nil {
		t.Fatal(err)
	}
	return n
}

// judge weighs one mutant.
func (n *tournament) judge(t testing.TB, m verifytest.Mutant) {
	s := n.original.sample
	var res *Result
	bundle, formless := n.original.bundle(m.Bundle)
	s.bundle = bundle
	ours := formless
	if formless == nil {
		res, ours = n.verify(s.request())
	}
	theirs := n.theirs(m.Bundle, s, ours)
	message := &protobundle.Bundle{}
	same := protojson.Unmarshal(bundle, message) == nil && proto.Equal(message, n.message)
	n.mu.Lock()
	defer n.mu.Unlock()
	if formless != nil {
		n.formless++
	}
	say := func(to *[]string, format string, args ...any) {
		*to = append(*to, n.original.name+", "+m.Path+": "+fmt.Sprintf(format, args...))
	}
	if same {
		n.spellings++
	} else {
		n.mutants++
	}
	if ours == nil && theirs == nil {
		n.both++
	}
	switch {
	case formless == nil && ours != nil && (ExitCode(ours) < 10 || ExitCode(ours) == 70):
		say(&n.faults, "exit %d: %v", ExitCode(ours), ours)
	case ours == nil && theirs != nil:
		say(&n.forged, "accepted here alone; %s: %v", n.peer, theirs)
	case ours == nil && !sameMeaning(n.want, meaning(t, res)):
		say(&n.forged, "accepted with another meaning\n%s\n%s", n.want, meaning(t, res))
	case ours == nil && !same:
		reasons := n.differences(message)
		for _, why := range reasons {
			n.unbound[why]++
		}
		if len(reasons) == 0 {
			say(&n.forged, "accepted, though it differs in what is no unbound field")
		}
	case ours != nil && theirs == nil:
		if why := verifytest.Stricter(ours); why != "" {
			n.stricter[why]++
			return
		}
		say(&n.faults, "%s accepts it, here without a reason in the table: %v", n.peer, ours)
	}
}

// guarded takes a panic for a no.
func guarded(tr *root.TrustedRoot, s sample) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return upstreamUnder(tr, s)
}

// differences are the reasons why each field that differs from the original may; none when one of them may not.
func (n *tournament) differences(is *protobundle.Bundle) (reasons []string) {
	for field, pair := range differing("", asTree(n.message), asTree(is)) {
		i := slices.IndexFunc(unbound, func(u looseField) bool {
			return u.field.MatchString(field) && (u.same == nil || u.same(pair[0], pair[1]))
		})
		if i < 0 {
			return nil
		}
		reasons = append(reasons, unbound[i].why)
	}
	return slices.Compact(slices.Sorted(slices.Values(reasons)))
}

// run judges one mutant of each stride, all of them or until the first fault.
func (n *tournament) run(t testing.TB, stride int, every, all bool) {
	t.Helper()
	next := make(chan verifytest.Mutant)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for m := range next {
				n.judge(t, m)
			}
		})
	}
	verifytest.Mutate(t, n.original.source(), n.original.others, every, stride, func(m verifytest.Mutant) bool {
		next <- m
		n.mu.Lock()
		defer n.mu.Unlock()
		return all || len(n.forged) == 0
	})
	close(next)
	wg.Wait()
}

// report fails the test for what was found.
func (n *tournament) report(t testing.TB) {
	t.Helper()
	for i, f := range append(n.forged, n.faults...) {
		if i < 20 {
			t.Error(f)
		}
	}
	if len(n.forged)+len(n.faults) > 0 {
		t.Errorf("%s: %d accepted that should not be, %d other faults", n.original.name, len(n.forged), len(n.faults))
	}
}

// TestTortureMutants: no change to a bundle is accepted that changes what it says, nothing is accepted here that sigstore-go refuses, and what
// sigstore-go accepts and is refused here is one of the reasons of the table. REDOUBT_TORTURE judges every mutant, else one of forty-seven;
// REDOUBT_TORTURE=bits flips every bit.
func TestTortureMutants(t *testing.T) {
	torture := os.Getenv("REDOUBT_TORTURE")
	stride := 47
	if torture != "" {
		stride = 1
	}
	mutants, spellings, formless, loose, strict := 0, 0, 0, map[string]int{}, map[string]int{}
	all := originals(t)
	for _, o := range all {
		n := newTournament(t, o, nil)
		n.run(t, stride, torture == "bits", true)
		n.report(t)
		mutants, spellings, formless = mutants+n.mutants, spellings+n.spellings, formless+n.formless
		if o.apart != nil {
			t.Logf("%s: %d mutants, %d of which make no bundle", o.name, n.mutants, n.formless)
		}
		for why, k := range n.unbound {
			loose[why] += k
		}
		for why, k := range n.stricter {
			strict[why] += k
		}
	}
	t.Logf("%d mutants of %d originals, %d of which make no bundle of their parts; %d more that spell the same message", mutants, len(all), formless, spellings)
	for _, why := range slices.Sorted(maps.Keys(loose)) {
		t.Logf("%5d accepted by both, unbound: %s", loose[why], why)
	}
	for _, why := range slices.Sorted(maps.Keys(strict)) {
		t.Logf("%5d accepted by sigstore-go alone: %s", strict[why], why)
	}
	if torture == "" || len(all) < 10 {
		return
	}
	if mutants < 100_000 {
		t.Errorf("only %d mutants", mutants)
	}
	for _, u := range unbound {
		if loose[u.why] == 0 {
			t.Errorf("no mutant differs in: %s", u.why)
		}
	}
	for _, why := range verifytest.StricterReasons() {
		if strict[why] == 0 {
			t.Errorf("no mutant is refused here alone for: %s", why)
		}
	}
}

// TestMutantsCatchBlindVerifiers is the control: a verifier that does not look at one field, the log's promise or any other, is caught.
func TestMutantsCatchBlindVerifiers(t *testing.T) {
	for name, b := range blind(t) {
		n := newTournament(t, original{name: name, sample: b.sample}, b.field)
		n.run(t, 7, false, false)
		if len(n.forged) == 0 {
			t.Errorf("a verifier that does not look at the %s passes %d mutants", name, n.mutants)
		} else {
			t.Logf("%s: after %d mutants, %.160s", name, n.mutants, n.forged[0])
		}
	}
}

// A blindSpot is a field of a bundle that a verifier does not look at.
type blindSpot struct {
	sample sample
	field  []any
}

func blind(t testing.TB) map[string]blindSpot {
	d := verifytest.New(t, "corp.internal")
	v1, v2, attestation := sampleOf(d, d.SignMessage(1, "artifact")), sampleOf(d, d.SignMessage(2, "artifact")), sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate))
	stamp := []any{"verificationMaterial", "timestampVerificationData", "rfc3161Timestamps", 0, "signedTimestamp"}
	return map[string]blindSpot{
		"promise": {v1, in(entryPath, "inclusionPromise", "signedEntryTimestamp")}, "integrated time": {v1, in(entryPath, "integratedTime")},
		"log id": {v1, in(entryPath, "logId", "keyId")}, "body": {v2, in(entryPath, "canonicalizedBody")}, "proof": {v2, in(proofPath, "hashes")},
		"index": {v2, in(proofPath, "logIndex")}, "root": {v2, in(proofPath, "rootHash")}, "checkpoint": {v2, in(proofPath, "checkpoint", "envelope")},
		"certificate": {v2, []any{"verificationMaterial", "certificate", "rawBytes"}}, "timestamp": {v2, stamp}, "kind": {v2, in(entryPath, "kindVersion", "kind")},
		"signature": {v2, []any{"messageSignature", "signature"}}, "digest": {v2, []any{"messageSignature", "messageDigest", "digest"}},
		"digest algorithm": {v2, []any{"messageSignature", "messageDigest", "algorithm"}}, "payload": {attestation, []any{"dsseEnvelope", "payload"}},
		"payload type": {attestation, []any{"dsseEnvelope", "payloadType"}},
	}
}
