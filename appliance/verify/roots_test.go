package verify

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"redoubt.internal/appliance/verify/verifytest"
)

// githubRelease is a real attestation of a release on GitHub, signed by GitHub's own authority and stamped by its own, that stands in no log: from
// cli/cli at 8b939a89, pkg/cmd/attestation/test/data/github_release_bundle.json (MIT). Its root stands in the public log data.
func githubRelease(t testing.TB) (bundle, root []byte) {
	t.Helper()
	root = read(t, dataDir(t), "roots", "trusted_root.github.json")
	bundle, err := os.ReadFile(filepath.Join("testdata", "github-release.sigstore.json"))
	if err != nil {
		t.Fatal(err)
	}
	return bundle, root
}

// TestSeveralRoots verifies real bundles of two deployments, each under the root its identity is accepted under. Roots stand beside each other and
// never mix: whom one vouches for is nobody under the other, and nothing stands without a log where a root names one.
func TestSeveralRoots(t *testing.T) {
	bundle, github := githubRelease(t)
	const digest, releases = "sha256:e15b593c6ab8d7725a3cc82226ef816cac6bf9c70eed383bd459295cc65f5ec3", "https://dotcom.releases.github.com"
	v, err := New(Config{Roots: []Root{{Name: "public-good", JSON: read(t, dataDir(t), "roots", "trusted_root.public-good.json")}, {Name: "github", JSON: github}}})
	if err != nil {
		t.Fatal(err)
	}
	ofGitHub := Identity{Root: "github", SAN: releases, IssuerRegexp: ".*", WithoutLog: true}
	check := func(what string, code int, r Request, says string) *Result {
		t.Helper()
		res, err := v.Verify(t.Context(), r)
		if ExitCode(err) != code || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: exit %d instead of %d: %v", what, ExitCode(err), code, err)
		}
		return res
	}
	request := func(ids ...Identity) Request {
		return Request{Artifact: Artifact{Digest: digest}, Bundle: bundle, Policy: Policy{Identities: ids}}
	}
	res := check("GitHub's own", 0, request(ofGitHub), "")
	if res == nil || res.Root() != "github" || len(res.Times()) != 1 || len(res.Log()) != 0 {
		t.Fatalf("%+v", res)
	}
	wrong := ofGitHub
	wrong.Root = "public-good"
	check("pinned to the other root", 2, request(wrong), "names no log")
	logged := ofGitHub
	logged.WithoutLog = false
	check("no log, and none was forgone", 22, request(logged), "no log entry")
	anywhere := ofGitHub
	anywhere.Root = ""
	check("no log under any root", 2, request(anywhere), "names the root")
	check("one with and one without a log under one root", 2, request(ofGitHub, logged), "every identity")
	other := ofGitHub
	other.SAN = "https://dotcom.example"
	check("another identity", 11, request(other), "signed by")
	bad := request(ofGitHub)
	bad.Artifact.Digest = "sha256:" + strings.Repeat("0", 64)
	check("another artifact", 12, bad, "")

	samples, modes := realSamples(t, dataDir(t))
	tried := 0
	for i, s := range samples {
		if modes[i] != "tlog+obsTS+SCT" || !strings.Contains(s.policy.Identities[0].SAN, "github.com/") {
			continue
		}
		id := s.policy.Identities[0]
		id.Root = "public-good"
		r := s.request()
		r.Policy.Identities = []Identity{ofGitHub, id}
		if res, err := v.Verify(t.Context(), r); err != nil || res.Root() != "public-good" {
			if ExitCode(err) == 20 || ExitCode(err) == 22 || ExitCode(err) == 24 { // of another deployment than these two
				continue
			}
			t.Fatalf("%s: %v", s.name, err)
		}
		tried++
		id.Root, id.WithoutLog = "github", true
		r.Policy.Identities = []Identity{id}
		if _, err := v.Verify(t.Context(), r); !slices.Contains([]int{11, 20, 22, 24}, ExitCode(err)) {
			t.Fatalf("%s under GitHub's root: exit %d: %v", s.name, ExitCode(err), err)
		}
	}
	if tried < 10 {
		t.Errorf("only %d public-good bundles of GitHub workflows were verified", tried)
	}
	t.Logf("%d public-good bundles of GitHub workflows and one of GitHub's own root", tried)
}

// TestEachRootThatVouches: the first does for Verify, and VerifyAll names each.
func TestEachRootThatVouches(t *testing.T) {
	d, foreign := verifytest.New(t, "corp.internal"), verifytest.New(t, "elsewhere.example")
	s := sampleOf(d, d.SignMessage(2, "artifact"))
	v, err := New(Config{Roots: []Root{{Name: "other", JSON: foreign.Root()}, {Name: "one", JSON: d.Root()}, {Name: "two", JSON: d.Root()}}})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := v.Verify(t.Context(), s.request()); err != nil || r.Root() != "one" {
		t.Errorf("%v, %v", r, err)
	}
	all, err := v.VerifyAll(t.Context(), s.request())
	if err != nil || len(all) != 2 || all[0].Root() != "one" || all[1].Root() != "two" {
		t.Errorf("%v, %v", all, err)
	}
}

// TestFurthest: of the refusals under several roots the one that got furthest is given, the first of those that got as far.
func TestFurthest(t *testing.T) {
	d, foreign := verifytest.New(t, "corp.internal"), verifytest.New(t, "elsewhere.example")
	s := sampleOf(d, d.SignMessage(2, "artifact"))
	s.policy.Identities[0].SAN = "nobody@corp.internal"
	own := func(name string) Root { return Root{Name: name, JSON: d.Root()} }
	other := Root{Name: "other", JSON: foreign.Root()}
	for want, roots := range map[string][]Root{"under root first": {own("first"), other}, "under root last": {other, own("last")}, "under root one": {own("one"), own("two")}} {
		v, err := New(Config{Roots: roots})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), s.request()); ExitCode(err) != 11 || !strings.HasPrefix(err.Error(), want) || len(Reasons(err)) != 2 {
			t.Errorf("%v, want it %s", err, want)
		}
	}
	if !Further(ErrIdentity, ErrUntrusted) || Further(ErrUntrusted, ErrIdentity) || Further(ErrIdentity, ErrIdentity) {
		t.Error("who got further")
	}
}
