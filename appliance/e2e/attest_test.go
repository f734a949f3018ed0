//go:build e2e

package e2e

import (
	"fmt"
	"testing"
)

// TestAttestOurs: stock cosign verifies what `redoubt attest` attests and the receipt that `redoubt verify` leaves, and refuses the other type, the
// other artifact and the other identity.
func TestAttestOurs(t *testing.T) {
	l := newLab(t, nil)
	cosign := client(t, cosign3)
	s := l.session(t)
	blob, other := s.write(t, "blob", "what is attested\n"), s.write(t, "other", "something else\n")
	predicate := s.write(t, "predicate.json", `{"reviewers":["a","b"]}`)
	s.write(t, "policy.yaml", fmt.Sprintf("version: redoubt.policy/v1\nroots: {own: {file: %s}}\nsigners: {us: [{root: own, identity: %s, issuer: %q}]}\nrules: [{name: reviewed, artifacts: [blob], attestations: [{type: 'https://corp.internal/review/v1', by: [us]}]}]\n",
		l.in("trusted_root.json"), identity, l.urls.OIDC))
	const review, summary = "https://corp.internal/review/v1", "https://slsa.dev/verification_summary/v1"
	for _, generation := range []struct {
		name  string
		flags []string
	}{{"rekor v1", nil}, {"rekor v2", []string{"--rekor-v2"}}} {
		t.Run(generation.name, func(t *testing.T) {
			s.run(t, l.binary, join([]string{"attest", blob, "--predicate", predicate, "--type", review, "--setup", l.setup, "--identity-token", l.token(t), "--bundle", "review.json"}, generation.flags)...)
			s.run(t, l.binary, "verify", blob, "--bundle", "review.json", "--policy", "policy.yaml", "--receipt", "receipt.json", "--receipt-setup", l.setup, "--identity-token", l.token(t))
			for bundle, kind := range map[string]string{"review.json": review, "receipt.json": summary} {
				verify := []string{"verify-blob-attestation", "--trusted-root", l.in("trusted_root.json"), "--bundle", bundle, "--type"}
				s.run(t, cosign, join(verify, []string{kind}, l.who(), []string{blob})...)
				s.refuse(t, nil, cosign, join(verify, []string{kind + "x"}, l.who(), []string{blob})...)
				s.refuse(t, nil, cosign, join(verify, []string{kind}, l.who(), []string{other})...)
				s.refuse(t, nil, cosign, join(verify, []string{kind, "--certificate-identity", "mallory@corp.internal", "--certificate-oidc-issuer", l.urls.OIDC, blob})...)
			}
		})
	}
}
