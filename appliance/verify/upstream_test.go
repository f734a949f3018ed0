package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
)

// upstream judges a sample with sigstore-go alone, set up as its conformance
// client is (its test/conformance/main.go): the yardstick of the differential
// tests and of the benchmark.
func upstream(t testing.TB, s sample) error {
	t.Helper()
	tr, err := root.NewTrustedRootFromJSON(s.root)
	if err != nil {
		return err
	}
	return upstreamUnder(tr, s)
}

func upstreamUnder(tr *root.TrustedRoot, s sample) error {
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(s.bundle); err != nil {
		return err
	}
	material := root.TrustedMaterial(tr)
	var options []sgverify.VerifierOption
	var policy []sgverify.PolicyOption
	if k := s.policy.Key; k != nil {
		v, err := signature.LoadDefaultVerifier(k.Public)
		if err != nil {
			return err
		}
		key := root.NewExpiringKey(v, time.Time{}, time.Time{})
		material = root.TrustedMaterialCollection{root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil }), tr}
		policy = append(policy, sgverify.WithKey())
	} else {
		i := s.policy.Identities[0]
		id, err := sgverify.NewShortCertificateIdentity(i.Issuer, i.IssuerRegexp, i.SAN, i.SANRegexp)
		if err != nil {
			return err
		}
		policy = append(policy, sgverify.WithCertificateIdentity(id))
		options = append(options, sgverify.WithSignedCertificateTimestamps(1))
	}
	options = append(options, sgverify.WithTransparencyLog(1), sgverify.WithObserverTimestamps(1))
	v, err := sgverify.NewVerifier(material, options...)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(s.artifact)
	name, sum := "sha256", digest[:]
	if s.digest != "" {
		var digits string
		name, digits, _ = strings.Cut(s.digest, ":")
		if sum, err = hex.DecodeString(digits); err != nil {
			return err
		}
	}
	_, err = v.Verify(b, sgverify.NewPolicy(sgverify.WithArtifactDigest(name, sum), policy...))
	return err
}
