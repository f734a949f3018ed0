//go:build e2e

package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/mirror/detached"
)

// TestMutantsBesideCosign changes bundles that the appliance's servers made, and has cosign's code judge them too, as its namesake of package verify
// does with bundles of every form: nothing that redoubt verify accepts is refused by cosign, and what cosign alone accepts is refused here for a
// reason of verifytest.Stricter. Cosign sees every mutant that is accepted here and 120 of the others; all of them with REDOUBT_TORTURE.
func TestMutantsBesideCosign(t *testing.T) {
	l := newLab(t, nil)
	s := l.session(t)
	cosign, root := client(t, cosign3), l.in("trusted_root.json")
	content, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.New(verify.Config{Roots: []verify.Root{{Name: "root", JSON: content}}})
	if err != nil {
		t.Fatal(err)
	}
	blob := s.write(t, "blob", "what is signed\n")
	var bundles [][]byte
	for _, g := range generations {
		s.run(t, cosign, "sign-blob", "-y", "--signing-config", l.in(g.signingConfig), "--trusted-root", root, "--identity-token", l.token(t), "--bundle", s.path("bundle.json"), blob)
		bundle, err := os.ReadFile(s.path("bundle.json"))
		if err != nil {
			t.Fatal(err)
		}
		bundles = append(bundles, bundle)
	}
	ours := func(bundle []byte) error {
		_, err := v.Verify(context.Background(), verify.Request{Bundle: bundle, Artifact: verify.Artifact{Reader: strings.NewReader("what is signed\n")},
			Policy: verify.Policy{Identities: []verify.Identity{{SAN: identity, Issuer: l.urls.OIDC}}}})
		return err
	}
	code := verifytest.StartCosign(t, s.env)
	theirs := func(bundle []byte) error {
		return code.Verify(t, join([]string{"verify-blob", "--trusted-root", root, "--bundle", s.write(t, "mutant.json", string(bundle))}, l.who(), []string{blob})...)
	}
	for i, bundle := range bundles {
		t.Run(generations[i].name, func(t *testing.T) {
			if err := errors.Join(ours(bundle), theirs(bundle)); err != nil {
				t.Fatal(err)
			}
			judgeBeside(t, bundle, bundles[1-i], ours, theirs)
		})
	}
}

// TestLegacyMutantsBesideCosign does so with the bundle that cosign wrote before 3.0, which cosign 2.6 judges.
func TestLegacyMutantsBesideCosign(t *testing.T) {
	l := newLab(t, nil)
	s := l.session(t, l.legacyEnv()...)
	cosign := client(t, cosign2)
	content, err := os.ReadFile(l.in("trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.New(verify.Config{Roots: []verify.Root{{Name: "root", JSON: content}}})
	if err != nil {
		t.Fatal(err)
	}
	const signed = "signed the old way\n"
	blob := s.write(t, "blob", signed)
	var bundles [][]byte
	for range 2 {
		s.run(t, cosign, join([]string{"sign-blob", "-y"}, l.legacyServices(), []string{"--identity-token", l.token(t), "--bundle", "legacy.json", blob})...)
		bundle, err := os.ReadFile(s.path("legacy.json"))
		if err != nil {
			t.Fatal(err)
		}
		bundles = append(bundles, bundle)
	}
	ours := func(bundle []byte) error {
		apart, ok, err := detached.FromBundle(bundle)
		if err != nil || !ok {
			return fmt.Errorf("no bundle of cosign's: %w", err)
		}
		digest := sha256.Sum256([]byte(signed))
		whole, err := apart.Bundle(digest[:])
		if err != nil {
			return err
		}
		_, err = v.Verify(context.Background(), verify.Request{Bundle: whole, Artifact: verify.Artifact{Reader: strings.NewReader(signed)},
			Policy: verify.Policy{Identities: []verify.Identity{{SAN: identity, Issuer: l.urls.OIDC}}}})
		return err
	}
	theirs := func(bundle []byte) error {
		_, said, err := s.exec(cosign, join([]string{"verify-blob", "--offline", "--bundle", s.write(t, "mutant.json", string(bundle))}, l.who(), []string{blob})...)
		if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0) {
			t.Fatalf("cosign: %v\n%s", err, said)
		}
		return err
	}
	if err := errors.Join(ours(bundles[0]), theirs(bundles[0])); err != nil {
		t.Fatal(err)
	}
	judgeBeside(t, bundles[0], bundles[1], ours, theirs)
}

func judgeBeside(t *testing.T, bundle, other []byte, ours, theirs func([]byte) error) {
	t.Helper()
	every := 61
	if os.Getenv("REDOUBT_TORTURE") != "" {
		every = 1
	}
	mutants, asked, both, reasons := 0, 0, 0, map[string]int{}
	verifytest.Mutate(t, bundle, [][]byte{other}, false, 1, func(m verifytest.Mutant) bool {
		mutants++
		here := ours(m.Bundle)
		if here != nil && mutants%every != 0 {
			return true
		}
		asked++
		there := theirs(m.Bundle)
		switch {
		case here == nil && there != nil:
			t.Errorf("%s: accepted here alone: %v", m.Path, there)
		case here == nil:
			both++
		case there == nil:
			why := verifytest.Stricter(here)
			if why == "" {
				t.Errorf("%s: cosign accepts it, here without a reason in the table: %v", m.Path, here)
			}
			reasons[why]++
		}
		return true
	})
	t.Logf("%d mutants, %d shown to cosign, %d accepted by both", mutants, asked, both)
	for why, n := range reasons {
		t.Logf("%5d accepted by cosign alone: %s", n, why)
	}
	if both == 0 || asked-both < 20 {
		t.Errorf("%d accepted by both and %d refused here: too few to say anything", both, asked-both)
	}
}
