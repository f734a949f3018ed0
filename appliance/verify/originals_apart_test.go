package verify

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/mirror/detached"
)

// looseParts are the files of a signature in parts: --signature, --certificate, --log-entry and --rfc3161-timestamp.
type looseParts struct {
	Signature   []byte          `json:"signature"`
	Certificate []byte          `json:"certificate"`
	Entry       json.RawMessage `json:"entry"`
	Timestamp   []byte          `json:"timestamp"`
}

func (p looseParts) bundle(digest []byte) ([]byte, error) {
	s := detached.Signature{Certificate: p.Certificate, Entry: p.Entry, Timestamp: p.Timestamp}
	s.Set(p.Signature)
	return s.Bundle(digest)
}

// apart are originals whose parts lie apart: cosign's bundle before 3.0, and files, with an entry as cosign has it and as Rekor's API gives it.
func apart(t testing.TB, d *verifytest.Deployment) (all []original) {
	t.Helper()
	digest := sha256.Sum256([]byte("artifact"))
	fromBundle := func(text []byte) ([]byte, error) {
		s, ok, err := detached.FromBundle(text)
		if err != nil || !ok {
			return nil, fmt.Errorf("no bundle of cosign's: %w", err)
		}
		return s.Bundle(digest[:])
	}
	fromFiles := func(text []byte) ([]byte, error) {
		var p looseParts
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, err
		}
		return p.bundle(digest[:])
	}
	makers := map[string]struct {
		make  func(artifact string) any
		apart func([]byte) ([]byte, error)
	}{
		"cosign's bundle": {func(artifact string) any { return cosignBundle(t, d.SignMessage(1, artifact)) }, fromBundle},
		"files, Rekor's answer": {func(artifact string) any {
			p := d.SignMessage(1, artifact)
			return looseParts{p.Signature, []byte(p.Signer.PEM()), apiEntry(t, p.Entries[0]), nil}
		}, fromFiles},
		"files, stamped": {func(artifact string) any {
			p := d.SignMessage(2, artifact)
			return looseParts{p.Signature, p.Signer.Cert.Raw, verifytest.Encode(t, p.Entries[0]), d.Token(p.Signature, d.Now.Add(time.Minute), true)}
		}, fromFiles},
	}
	for name, m := range makers {
		o := original{name: name, apart: m.apart, parts: verifytest.Encode(t, m.make("artifact")), others: [][]byte{verifytest.Encode(t, m.make("other")), verifytest.Encode(t, m.make("artifact"))}}
		bundle, err := m.apart(o.parts)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		o.sample = sampleOf(d, d.SignMessage(1, "artifact"))
		o.sample.bundle = bundle
		all = append(all, o)
	}
	return all
}

// entryParts is an entry of a Sigstore bundle, as far as older forms have its parts.
type entryParts struct {
	LogIndex       json.Number `json:",string"`
	LogID          struct{ KeyID []byte }
	IntegratedTime json.Number                           `json:",string"`
	Promise        struct{ SignedEntryTimestamp []byte } `json:"inclusionPromise"`
	Body           []byte                                `json:"canonicalizedBody"`
	Proof          struct {
		LogIndex, TreeSize json.Number `json:",string"`
		RootHash           []byte
		Hashes             [][]byte
		Checkpoint         struct{ Envelope string }
	} `json:"inclusionProof"`
}

func entryOf(t testing.TB, entry any) (e entryParts) {
	t.Helper()
	if err := json.Unmarshal(verifytest.Encode(t, entry), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// cosignBundle is what cosign 2 writes to --bundle.
func cosignBundle(t testing.TB, p verifytest.Parts) map[string]any {
	e := entryOf(t, p.Entries[0])
	return map[string]any{"base64Signature": b64(p.Signature), "cert": p.Signer.PEM(), "rekorBundle": map[string]any{"SignedEntryTimestamp": e.Promise.SignedEntryTimestamp,
		"Payload": map[string]any{"body": e.Body, "integratedTime": e.IntegratedTime, "logIndex": e.LogIndex, "logID": fmt.Sprintf("%x", e.LogID.KeyID)}}}
}

// apiEntry is the entry as GET /api/v1/log/entries/UUID gives it.
func apiEntry(t testing.TB, entry any) []byte {
	e := entryOf(t, entry)
	hashes := []string{}
	for _, h := range e.Proof.Hashes {
		hashes = append(hashes, fmt.Sprintf("%x", h))
	}
	return verifytest.Encode(t, map[string]any{"2462616161": map[string]any{"body": e.Body, "integratedTime": e.IntegratedTime, "logIndex": e.LogIndex, "logID": fmt.Sprintf("%x", e.LogID.KeyID),
		"verification": map[string]any{"signedEntryTimestamp": e.Promise.SignedEntryTimestamp, "inclusionProof": map[string]any{"checkpoint": e.Proof.Checkpoint.Envelope, "hashes": hashes,
			"logIndex": e.Proof.LogIndex, "rootHash": fmt.Sprintf("%x", e.Proof.RootHash), "treeSize": e.Proof.TreeSize}}}})
}
