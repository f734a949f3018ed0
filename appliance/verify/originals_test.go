package verify

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

// An original is a valid bundle and others to take parts from.
type original struct {
	name   string
	sample sample
	others [][]byte
	// Of a signature in parts: what is changed in place of the bundle, and how a bundle is made of it.
	parts []byte
	apart func(parts []byte) ([]byte, error)
}

// source is what is changed.
func (o original) source() []byte {
	if o.apart != nil {
		return o.parts
	}
	return o.sample.bundle
}

// bundle is what is judged of a source that was changed.
func (o original) bundle(source []byte) ([]byte, error) {
	if o.apart != nil {
		return o.apart(source)
	}
	return source, nil
}

// originals are bundles of every form: made here, where anything can be arranged, and published by real deployments.
func originals(t testing.TB) (all []original) {
	t.Helper()
	d := verifytest.New(t, "corp.internal")
	v01 := d.SignMessage(1, "artifact")
	v01.MediaType = verifytest.MediaV01
	stamped := d.SignMessage(1, "artifact") // promise and timestamp
	stamped.Stamps = []any{map[string]any{"signedTimestamp": b64(d.Token(stamped.Signature, d.Now.Add(2*time.Minute), true))}}
	proven := d.SignMessage(2, "artifact") // Rekor v1 without a promise, timestamped
	digest := sha256.Sum256(proven.Artifact)
	proven.Entries = []any{d.Entry(verifytest.BodyV1(proven.Signer, digest[:], proven.Signature), time.Time{}, true)}
	var others [][]byte
	for _, p := range []verifytest.Parts{d.SignMessage(1, "other"), d.SignMessage(2, "other"), d.Attest("other", verifytest.CustomPredicate)} {
		others = append(others, p.Bundle(t))
	}
	for name, s := range map[string]sample{
		"v1 chain": sampleOf(d, v01), "v1 stamped": sampleOf(d, stamped), "v2 message": sampleOf(d, d.SignMessage(2, "artifact")),
		"v2 attestation": sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate)), "v1 proven": sampleOf(d, proven), "key": keySample(d, d.SignMessage(1, "artifact")),
	} {
		all = append(all, original{name: name, sample: s, others: others})
	}
	return append(append(all, apart(t, d)...), published(t)...)
}

// published are one real bundle of each form, beside others under the same root.
func published(t testing.TB) (all []original) {
	t.Helper()
	if os.Getenv("REDOUBT_PUBLIC_LOG_DATA") == "" {
		return nil
	}
	data := dataDir(t)
	samples, modes := realSamples(t, data)
	for _, dir := range conformanceDirs(t, data) {
		if s := conformanceCase(t, data, dir); !strings.HasSuffix(s.name, "_fail") {
			samples, modes = append(samples, s), append(modes, "tlog+obsTS+SCT")
		}
	}
	forms := map[string]bool{}
	for i, s := range samples {
		if f := form(t, s.bundle); modes[i] == "tlog+obsTS+SCT" && !forms[f] && upstream(t, s) == nil {
			forms[f] = true
			o := original{name: f + ": " + s.name, sample: s}
			for j, other := range samples {
				if j != i && bytes.Equal(other.root, s.root) && len(o.others) < 3 {
					o.others = append(o.others, other.bundle)
				}
			}
			all = append(all, o)
		}
	}
	return all
}

// form names what a bundle is made of: its media type, and which of the parts that may be there are.
func form(t testing.TB, bundle []byte) string {
	t.Helper()
	tree := parseTree(t, bundle)
	parts := []string{fmt.Sprint(tree["mediaType"])}
	for _, path := range [][]any{
		{"dsseEnvelope"}, {"verificationMaterial", "publicKey"}, {"verificationMaterial", "x509CertificateChain"}, {"verificationMaterial", "timestampVerificationData"},
		in(entryPath, "inclusionPromise"), in(entryPath, "inclusionProof"), in(entryPath, "kindVersion", "kind"), in(entryPath, "kindVersion", "version"),
	} {
		v, ok := find(tree, path)
		if s, text := v.(string); text {
			parts = append(parts, s)
		} else if ok && v != nil {
			parts = append(parts, fmt.Sprint(path[len(path)-1]))
		}
	}
	return strings.Join(parts, " ")
}
