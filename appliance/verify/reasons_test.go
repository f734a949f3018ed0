package verify

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/ca/denied"
)

// every verifies with all reasons, under the given roots.
func (s sample) every(t testing.TB, roots ...Root) (*Result, error) {
	t.Helper()
	if len(roots) == 0 {
		roots = []Root{{Name: "root", JSON: s.root}}
	}
	v, err := New(Config{Roots: roots, EveryReason: true})
	if err != nil {
		t.Fatal(err)
	}
	return v.Verify(context.Background(), s.request())
}

func ids(err error) (all []string) {
	for _, r := range Reasons(err) {
		all = append(all, r.ID)
	}
	return all
}

// TestAttacksEveryReason: looking for every reason changes neither verdict nor exit code, and finds the one that decided it.
func TestAttacksEveryReason(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			s := a.make(verifytest.New(t, "corp.internal"))
			if _, err := New(Config{Roots: []Root{{JSON: s.root}}}); err != nil {
				return // nothing is judged under such a root
			}
			res, err := s.every(t)
			if res != nil || ExitCode(err) != a.want {
				t.Fatalf("exit %d, want %d: %v", ExitCode(err), a.want, err)
			}
			all := Reasons(err)
			if !slices.ContainsFunc(all, func(r Reason) bool { return r.Code == a.want && r.ID != "" && r.Reason != "" && r.Detail != "" }) {
				t.Errorf("%d is not among %+v", a.want, all)
			}
			if named := ids(err); len(slices.Compact(slices.Sorted(slices.Values(named)))) != len(named) {
				t.Errorf("a reason is told twice: %v", named)
			}
		})
	}
}

// TestEveryReason: what is wrong in several ways is refused for each of them, whichever is seen first.
func TestEveryReason(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	other := verifytest.New(t, "corp.internal")
	good := sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate))
	if _, err := good.every(t); err != nil {
		t.Fatal(err)
	}
	list, err := denied.New("corp.internal").With(denied.Entry{Issuer: d.Issuer, IdentityRegexp: ".*", Reason: "left"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	stranger := Identity{SAN: "nobody@corp.internal", Issuer: "https://nobody.internal"}
	for name, c := range map[string]struct {
		spoil func(*sample)
		want  []string
	}{
		"artifact and identity": {func(s *sample) { s.artifact, s.policy.Identities = []byte("another"), []Identity{stranger} }, []string{"identity", "signature"}},
		"identity, type and deny list": {func(s *sample) {
			s.policy = Policy{Identities: []Identity{stranger}, Denied: list, PredicateTypes: []string{"https://example.com/other"}}
		}, []string{"denied", "identity", "policy"}},
		"age and type": {func(s *sample) {
			s.policy.MaxTrustAge, s.policy.PredicateTypes = time.Hour, []string{"https://example.com/other"}
		}, []string{"policy", "stale"}},
		"another deployment's root": {func(s *sample) { s.root = other.Root() }, []string{"untrusted"}},
		"proof and identity": {func(s *sample) {
			b := parseTree(t, s.bundle)
			set(b, "1", in(proofPath, "treeSize")...)
			s.bundle, s.policy.Identities = verifytest.Encode(t, b), []Identity{stranger}
		}, []string{"identity", "log_proof"}},
		"timestamp and artifact": {func(s *sample) {
			b := parseTree(t, s.bundle)
			stamp := decodeB64(t, at(b, "verificationMaterial", "timestampVerificationData", "rfc3161Timestamps", 0, "signedTimestamp").(string))
			stamp[len(stamp)-1] ^= 1
			set(b, b64(stamp), "verificationMaterial", "timestampVerificationData", "rfc3161Timestamps", 0, "signedTimestamp")
			s.bundle, s.artifact = verifytest.Encode(t, b), []byte("another")
		}, []string{"signature", "time"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := good
			s.policy.Identities = slices.Clone(good.policy.Identities)
			c.spoil(&s)
			res, err := s.every(t)
			if res != nil || err == nil {
				t.Fatal("accepted")
			}
			if got := slices.Sorted(slices.Values(ids(err))); !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v: %v", got, c.want, Reasons(err))
			}
			if first, _ := s.verify(t); first != nil {
				t.Error("accepted without looking for every reason")
			}
		})
	}
}

// TestFailure: the document says what was judged, under which roots, and what each of them had against it.
func TestFailure(t *testing.T) {
	d, other := verifytest.New(t, "corp.internal"), verifytest.New(t, "other.internal")
	s := sampleOf(d, d.SignMessage(2, "artifact"))
	s.policy.Identities[0].SAN = "nobody@corp.internal"
	_, err := s.every(t, Root{Name: "own", JSON: d.Root(), AsOf: time.Now().Add(-time.Hour)}, Root{Name: "other", JSON: other.Root()})
	f := NewFailure(err)
	if f.Code != 11 || f.Bundle != hexSum(s.bundle) || f.Artifact == nil || f.Artifact.Digest != hexSum(s.artifact) || len(f.Roots) != 2 || f.Roots[0].Age != "1h0m0s" || f.Roots[1].AsOf != nil {
		t.Errorf("%+v", f)
	}
	under := map[string][]string{}
	for _, r := range f.Reasons {
		under[r.Root] = append(under[r.Root], r.ID)
	}
	if !slices.Equal(under["own"], []string{"identity"}) || !slices.Contains(under["other"], "untrusted") {
		t.Errorf("%v", under)
	}
	if raw, err := json.Marshal(f); err != nil || !strings.Contains(string(raw), `"verified":false`) {
		t.Errorf("%s %v", raw, err)
	}
	if len(Reasons(nil)) != 0 || ids(errDisk)[0] != "local" {
		t.Error("reasons of other errors")
	}
}
