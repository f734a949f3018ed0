package verify

import (
	"bytes"
	"encoding/json"
	"fmt"

	"redoubt.internal/log/strictjson"
)

// pep740 is an attestation object of the Python Package Index (PEP 740), which holds the parts of a bundle in an order of its own: the files that
// stand beside a distribution as NAME.publish.attestation, and each of the attestations in the index's provenance.
type pep740 struct {
	Version  int `json:"version"`
	Material struct {
		Certificate []byte            `json:"certificate"` // DER
		Entries     []json.RawMessage `json:"transparency_entries"`
	} `json:"verification_material"`
	Envelope struct {
		Statement []byte `json:"statement"`
		Signature []byte `json:"signature"`
	} `json:"envelope"`
}

// fromPEP740 returns the bundle an attestation object says the same as; data itself where it is none. No bundle has a member "envelope". Nothing
// is left out: a member that is not known here is refused, as in a bundle.
func fromPEP740(data []byte) ([]byte, error) {
	if !bytes.Contains(data, []byte(`"verification_material"`)) { // spares every other bundle a second reading
		return data, nil
	}
	limits := strictjson.Limits{Bytes: maxBundle, Depth: 16, Values: 100_000, Fold: true}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil || members["envelope"] == nil {
		return data, nil
	}
	err := strictjson.Walk(data, limits, func(name string, raw []byte) error {
		if name == "certificate" || name == "statement" {
			return canonicalBase64(name, raw)
		}
		return nil
	})
	var a pep740
	if err == nil {
		err = strictjson.Decode(data, limits, &a)
	}
	switch {
	case err != nil:
		return nil, err
	case a.Version != 1:
		return nil, fmt.Errorf("attestation object of version %d, want 1", a.Version)
	case len(a.Material.Entries) == 0:
		return nil, fmt.Errorf("an attestation object without a transparency entry")
	}
	return json.Marshal(map[string]any{
		"mediaType": mediaTypes[3],
		"verificationMaterial": map[string]any{
			"certificate": map[string]any{"rawBytes": a.Material.Certificate}, "tlogEntries": a.Material.Entries,
		},
		"dsseEnvelope": map[string]any{
			"payload": a.Envelope.Statement, "payloadType": inTotoType, "signatures": []any{map[string]any{"sig": a.Envelope.Signature}},
		},
	})
}
