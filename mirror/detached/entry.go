package detached

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/log/strictjson"
)

var entryLimits = strictjson.Limits{Bytes: maxPart, Depth: 32, Fold: true}

// apiEntry is a LogEntry of Rekor's API v1 (openapi.yaml, LogEntry), by whatever UUID it is called.
type apiEntry struct {
	Body           exact           `json:"body"`
	IntegratedTime int64           `json:"integratedTime"`
	LogID          string          `json:"logID"`
	LogIndex       int64           `json:"logIndex"`
	Attestation    json.RawMessage `json:"attestation"` // what an entry is about, which the bundle has itself
	Verification   struct {
		Proof struct {
			Checkpoint string   `json:"checkpoint"`
			Hashes     []string `json:"hashes"`
			LogIndex   int64    `json:"logIndex"`
			RootHash   string   `json:"rootHash"`
			TreeSize   int64    `json:"treeSize"`
		} `json:"inclusionProof"`
		Promise exact `json:"signedEntryTimestamp"`
	} `json:"verification"`
}

// logEntry is a log entry as a bundle has it, and whether it has an inclusion proof. It is read as cosign keeps it, {"SignedEntryTimestamp", "Payload":
// {"body", "integratedTime", "logIndex", "logID"}}; as Rekor's API gives it, {UUID: {"body", ..., "verification"}}; and as a TransparencyLogEntry
// (protobuf-specs, sigstore_rekor.proto).
func logEntry(text []byte) (entry any, proven bool, err error) {
	if err := strictjson.Check(text, entryLimits); err != nil {
		return nil, false, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, false, err
	}
	has := func(name string) bool { _, ok := members[name]; return ok }
	switch {
	case has("SignedEntryTimestamp"), has("Payload"):
		entry, err = cosignEntry(text)
		return entry, false, err
	case has("logId"), has("kindVersion"), has("canonicalizedBody"):
		return protoEntry(text)
	case has("UUID") && has("Body"):
		return nil, false, errors.New("rekor-cli's json leaves out what the log signed: `rekor-cli get --format tle` has it, and so has GET /api/v1/log/entries/UUID")
	case len(members) != 1:
		return nil, false, fmt.Errorf("%d members, an answer of Rekor's API has one entry", len(members))
	}
	for _, only := range members {
		entry, proven, err = fromAPI(only)
	}
	return entry, proven, err
}

// protoEntry takes the entry as it is: the bundle's members are the same.
func protoEntry(text []byte) (any, bool, error) {
	var e protorekor.TransparencyLogEntry
	if err := protojson.Unmarshal(text, &e); err != nil {
		return nil, false, errors.New("not a TransparencyLogEntry")
	}
	if len(e.GetCanonicalizedBody()) == 0 {
		return nil, false, errors.New("its canonicalizedBody is missing")
	}
	proven := e.GetInclusionProof().GetCheckpoint().GetEnvelope() != ""
	if !proven && len(e.GetInclusionPromise().GetSignedEntryTimestamp()) == 0 {
		return nil, false, errNoProof
	}
	return json.RawMessage(text), proven, nil
}

var errNoProof = errors.New("it has neither the log's promise (signedEntryTimestamp) nor an inclusion proof with its checkpoint")

func fromAPI(text []byte) (any, bool, error) {
	var e apiEntry
	if err := strictjson.Decode(text, entryLimits, &e); err != nil {
		return nil, false, err
	}
	entry, err := commonEntry(e.Body, e.LogID, e.LogIndex, e.IntegratedTime)
	if err != nil {
		return nil, false, err
	}
	if len(e.Verification.Promise) > 0 {
		entry["inclusionPromise"] = map[string]any{"signedEntryTimestamp": e.Verification.Promise}
	}
	p := e.Verification.Proof
	if p.Checkpoint == "" { // which the first versions of Rekor did not give; without it a proof proves nothing
		if len(e.Verification.Promise) == 0 {
			return nil, false, errNoProof
		}
		return entry, false, nil
	}
	hashes := make([][]byte, len(p.Hashes))
	for i, h := range p.Hashes {
		if hashes[i], err = hex.DecodeString(h); err != nil {
			return nil, false, fmt.Errorf("hash %d of its proof: %w", i, err)
		}
	}
	root, err := hex.DecodeString(p.RootHash)
	if err != nil {
		return nil, false, fmt.Errorf("root hash of its proof: %w", err)
	}
	entry["inclusionProof"] = map[string]any{"logIndex": fmt.Sprint(p.LogIndex), "treeSize": fmt.Sprint(p.TreeSize), "rootHash": root, "hashes": hashes, "checkpoint": map[string]any{"envelope": p.Checkpoint}}
	return entry, true, nil
}

// cosignEntry is the entry with the log's promise alone.
func cosignEntry(text []byte) (any, error) {
	var b struct {
		SignedEntryTimestamp exact
		Payload              struct {
			Body           exact  `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, err
	}
	entry, err := commonEntry(b.Payload.Body, b.Payload.LogID, b.Payload.LogIndex, b.Payload.IntegratedTime)
	if err != nil {
		return nil, err
	}
	entry["inclusionPromise"] = map[string]any{"signedEntryTimestamp": b.SignedEntryTimestamp}
	return entry, nil
}

// commonEntry is what every entry has. Its kind and version stand in its body.
func commonEntry(body []byte, logID string, index, integrated int64) (map[string]any, error) {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := strictjson.Check(body, entryLimits); err != nil {
		return nil, fmt.Errorf("its body: %w", err)
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return nil, fmt.Errorf("its body: %w", err)
	}
	id, err := hex.DecodeString(logID)
	if err != nil {
		return nil, fmt.Errorf("its log: %w", err)
	}
	if logID != hex.EncodeToString(id) { // the log signed this text, and cosign finds the key by it
		return nil, errors.New("its log: capitals in hexadecimal")
	}
	return map[string]any{
		"logIndex": fmt.Sprint(index), "logId": map[string]any{"keyId": id}, "kindVersion": map[string]any{"kind": head.Kind, "version": head.APIVersion},
		"integratedTime": fmt.Sprint(integrated), "canonicalizedBody": body,
	}, nil
}
