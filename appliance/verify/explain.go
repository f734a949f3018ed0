package verify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/certificate-transparency-go/x509util"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// explain names the reason of a refusal sigstore-go gave. It can only turn a
// refusal into a refusal: it runs the parts of the verification again, in the
// order in which a person would ask, and the first that fails is the reason.
func explain(cause error, sv *sgverify.Verifier, material root.TrustedMaterial, r *trustedRoot, b *decoded, a artifact, p *policy) error {
	cause = oneLine{cause}
	// sigstore-go looks at the identity last, when all else verified.
	if mismatch := (*sgverify.ErrNoMatchingCertificateIdentity)(nil); errors.As(cause, &mismatch) {
		return explainIdentity(cause, b.content.Certificate())
	}
	// Is it the right artifact, signed by the key the bundle shows?
	if err := checkSignature(material, b, a); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	// Does the log entry hold, and is it for this signature?
	var logTimes []sgverify.TimestampVerificationResult
	if !p.WithoutLog {
		var err error
		if logTimes, err = sv.VerifyTransparencyLogInclusion(b); err != nil {
			return explainLog(oneLine{err}, material, r, b)
		}
	}
	// Is there a signed time, and is every validity around it?
	times, err := sv.VerifyObserverTimestamps(b, logTimes)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTime, oneLine{err})
	}
	leaf := pathLeaf(b)
	if leaf == nil {
		for _, t := range times {
			if !b.content.ValidAtTime(t.Timestamp, material) {
				return fmt.Errorf("%w: signed %s, outside the key's validity", ErrTime, t.Timestamp.UTC().Format(time.RFC3339))
			}
		}
		return fmt.Errorf("%w: %w", ErrUntrusted, cause)
	}
	for _, t := range times {
		chains, err := sgverify.VerifyLeafCertificate(t.Timestamp, leaf, material)
		if err != nil {
			return explainChain(err, material, b, t.Timestamp)
		}
		if err := sgverify.VerifySignedCertificateTimestamp(chains, 1, material); err != nil {
			return explainSCT(err, material, leaf)
		}
	}
	return fmt.Errorf("%w: %w", ErrSignature, cause)
}

// explainSCT tells a certificate timestamp made outside the validity of its log's key from one that does not verify.
func explainSCT(cause error, material root.TrustedMaterial, leaf *x509.Certificate) error {
	stamps, err := x509util.ParseSCTsFromCertificate(leaf.Raw)
	if err != nil {
		return fmt.Errorf("%w: certificate transparency: %w", ErrLogProof, cause)
	}
	for _, sct := range stamps {
		at := time.UnixMilli(int64(sct.Timestamp)).UTC()
		l, known := material.CTLogs()[hex.EncodeToString(sct.LogID.KeyID[:])]
		if known && (at.Before(l.ValidityPeriodStart) || !l.ValidityPeriodEnd.IsZero() && at.After(l.ValidityPeriodEnd)) {
			return fmt.Errorf("%w: certificate logged %s, outside the validity of the certificate log's key: %w", ErrTime, at.Format(time.RFC3339), cause)
		}
	}
	return fmt.Errorf("%w: certificate transparency: %w", ErrLogProof, cause)
}

// oneLine shows an error of the libraries without the line breaks some have.
type oneLine struct{ err error }

func (e oneLine) Error() string { return strings.Join(strings.Fields(e.err.Error()), " ") }
func (e oneLine) Unwrap() error { return e.err }

// pathLeaf is the certificate ready for path validation: an otherName in the
// critical SAN is not Go's to understand, Fulcio's user names are such.
func pathLeaf(b *decoded) *x509.Certificate {
	c := b.content.Certificate()
	if c == nil || len(c.UnhandledCriticalExtensions) == 0 {
		return c
	}
	leaf := *c
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(c.UnhandledCriticalExtensions), cryptoutils.SANOID.Equal)
	return &leaf
}

func checkSignature(material root.TrustedMaterial, b *decoded, a artifact) error {
	content, err := b.SignatureContent()
	if err != nil {
		return err
	}
	if a.whole != nil {
		return sgverify.VerifySignatureWithArtifacts(content, b.content, material, []io.Reader{newReader(a.whole)})
	}
	// Old clients signed SHA-256 digests with P-384 and P-521 keys.
	if c := b.content.Certificate(); c != nil && b.message != "" {
		if key, ok := c.PublicKey.(*ecdsa.PublicKey); ok {
			if m := content.MessageSignatureContent(); !bytes.Equal(m.Digest(), a.digests[a.use]) {
				return errors.New("the artifact's digest is not the signed one")
			}
			if !ecdsa.VerifyASN1(key, a.digests[a.use], content.Signature()) {
				return errors.New("the signature does not verify")
			}
			return nil
		}
	}
	return sgverify.VerifySignatureWithArtifactDigests(content, b.content, material, []sgverify.ArtifactDigest{{Algorithm: a.use, Digest: a.digests[a.use]}})
}

func explainLog(err error, material root.TrustedMaterial, r *trustedRoot, b *decoded) error {
	for _, e := range b.GetVerificationMaterial().GetTlogEntries() {
		l, ok := r.RekorLogs()[hex.EncodeToString(e.GetLogId().GetKeyId())]
		if !ok {
			continue
		}
		// A promise over a time outside a validity is a matter of time, not of proof.
		if e.GetIntegratedTime() == 0 {
			continue
		}
		at := time.Unix(e.GetIntegratedTime(), 0).UTC()
		if c := b.content.Certificate(); c != nil && (at.Before(c.NotBefore) || at.After(c.NotAfter)) {
			return fmt.Errorf("%w: logged %s, certificate valid %s to %s: %w", ErrTime, at.Format(time.RFC3339), c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), err)
		}
		if at.Before(l.ValidityPeriodStart) || !l.ValidityPeriodEnd.IsZero() && at.After(l.ValidityPeriodEnd) {
			return fmt.Errorf("%w: logged %s, outside the validity of the log's key: %w", ErrTime, at.Format(time.RFC3339), err)
		}
		if !b.content.ValidAtTime(at, material) { // a certificate is, here
			return fmt.Errorf("%w: logged %s, outside the validity of the signer's key: %w", ErrTime, at.Format(time.RFC3339), err)
		}
	}
	return fmt.Errorf("%w: %w", ErrLogProof, err)
}

// explainChain tells a certificate of a foreign authority from one that the
// right authority issued for another time.
func explainChain(err error, material root.TrustedMaterial, b *decoded, at time.Time) error {
	c := pathLeaf(b)
	for _, t := range []time.Time{c.NotBefore, c.NotAfter} {
		if _, e := sgverify.VerifyLeafCertificate(t, c, material); e == nil {
			return fmt.Errorf("%w: signed %s, certificate valid %s to %s", ErrTime, at.UTC().Format(time.RFC3339), c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	return fmt.Errorf("%w: no authority of the root issued the certificate (issuer %q): %w", ErrUntrusted, c.Issuer, err)
}
