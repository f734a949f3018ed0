package verify

import (
	"encoding/json"
	"errors"
	"fmt"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	intoto1 "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"google.golang.org/protobuf/proto"

	"redoubt.internal/log/strictjson"
)

// TlogEntries are the bundle's. sigstore-go knows no entries of intoto 0.0.1, which Tekton Chains logs: it is shown each as the dsse entry of the same
// envelope, once it is certain that it is one. What it proves to be in the log is the entry itself.
func (b *decoded) TlogEntries() ([]*tlog.Entry, error) {
	entries, err := b.Bundle.TlogEntries()
	if err != nil {
		return nil, err
	}
	for i, e := range entries {
		own := e.TransparencyLogEntry()
		if kv := own.GetKindVersion(); kv.GetKind() != "intoto" || kv.GetVersion() != intoto1.APIVERSION {
			continue
		}
		if entries[i], err = b.asDSSE(own); err != nil {
			return nil, fmt.Errorf("entry of intoto %s: %w", intoto1.APIVERSION, err)
		}
	}
	return entries, nil
}

type digestOf struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"value"`
}

// asDSSE makes of an entry that is of the digest of the bundle's envelope, in the spelling that Go's encoder gives it, what that envelope's entry of kind
// dsse would say.
func (b *decoded) asDSSE(own *protorekor.TransparencyLogEntry) (*tlog.Entry, error) {
	var body struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       struct {
			Content struct {
				Hash        digestOf  `json:"hash"`
				PayloadHash *digestOf `json:"payloadHash"`
			} `json:"content"`
			PublicKey []byte `json:"publicKey"`
		} `json:"spec"`
	}
	if err := strictjson.Decode(own.GetCanonicalizedBody(), strictjson.Limits{Bytes: maxBody, Depth: 8, Values: 100}, &body); err != nil {
		return nil, err
	}
	envelope := b.GetDsseEnvelope()
	if body.Kind != "intoto" || body.APIVersion != intoto1.APIVERSION || len(envelope.GetSignatures()) != 1 {
		return nil, errors.New("it is none, or what was signed is no attestation")
	}
	text, err := spelt(envelope.GetPayloadType(), envelope.GetPayload(), envelope.GetSignatures()[0].GetKeyid(), envelope.GetSignatures()[0].GetSig())
	if err != nil {
		return nil, err
	}
	payload := digestOf{"sha256", hexSum(envelope.GetPayload())}
	if body.Spec.Content.Hash != (digestOf{"sha256", hexSum(text)}) || body.Spec.Content.PayloadHash != nil && *body.Spec.Content.PayloadHash != payload {
		return nil, errors.New("it is of another envelope, or of this one in a spelling that no signer's library writes")
	}
	as, err := json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{"envelopeHash": body.Spec.Content.Hash, "payloadHash": payload,
		"signatures": []any{map[string]any{"signature": envelope.GetSignatures()[0].GetSig(), "verifier": body.Spec.PublicKey}}}})
	if err != nil {
		return nil, err
	}
	shown := proto.Clone(own).(*protorekor.TransparencyLogEntry)
	shown.CanonicalizedBody, shown.KindVersion.Kind = as, "dsse"
	entry, err := tlog.NewTlogEntry(shown)
	if err != nil {
		return nil, err
	}
	// The entry keeps shown for what is proven, and what was read of it for what is compared.
	if shown.CanonicalizedBody = own.GetCanonicalizedBody(); entry.TransparencyLogEntry() != shown {
		return nil, errors.New("sigstore-go would prove something else")
	}
	return entry, nil
}

// spelt is an envelope as signers in Go write it (go-securesystemslib, dsse.Envelope).
func spelt(payloadType string, payload []byte, keyID string, sig []byte) ([]byte, error) {
	type signature struct {
		KeyID string `json:"keyid"`
		Sig   []byte `json:"sig"`
	}
	return json.Marshal(struct {
		PayloadType string      `json:"payloadType"`
		Payload     []byte      `json:"payload"`
		Signatures  []signature `json:"signatures"`
	}{payloadType, payload, []signature{{keyID, sig}}})
}
