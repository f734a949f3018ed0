package entry

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"redoubt.internal/log/rekor"
	"redoubt.internal/log/strictjson"
)

// Errors of an Extra.
var (
	// ErrExtra: what stands beside an entry is not in its one form.
	ErrExtra = errors.New("what stands beside the entry is not in its form")
	// ErrUnvouched: the log's key did not sign what stands beside the entry.
	ErrUnvouched = errors.New("the log did not sign what stands beside the entry")
)

// MaxExtra bounds an Extra in bytes, as a tiled log bounds its entries.
const MaxExtra = 65535

// Extra is what Rekor v1 hands out with an entry and does not hash into its tree. The log signed time and index together with the entry (the
// signed entry timestamp); the attestation is bound by the digest the entry holds.
type Extra struct {
	IntegratedTime       int64  `json:"integratedTime"` // Unix seconds
	LogID                string `json:"logID"`          // SHA-256 of the log key's SPKI in hex
	LogIndex             uint64 `json:"logIndex"`       // over all shards
	SignedEntryTimestamp []byte `json:"signedEntryTimestamp"`
	Attestation          []byte `json:"attestation,omitempty"`
}

// Encode writes the one form: the members in the order of RFC 8785, nothing between them.
func (x Extra) Encode() ([]byte, error) {
	b, err := json.Marshal(struct {
		Attestation          []byte `json:"attestation,omitempty"`
		IntegratedTime       int64  `json:"integratedTime"`
		LogID                string `json:"logID"`
		LogIndex             uint64 `json:"logIndex"`
		SignedEntryTimestamp []byte `json:"signedEntryTimestamp"`
	}{x.Attestation, x.IntegratedTime, x.LogID, x.LogIndex, x.SignedEntryTimestamp})
	if err != nil {
		return nil, err
	}
	if len(b) > MaxExtra {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrExtra, len(b), MaxExtra)
	}
	return b, nil
}

// ParseExtra reads what Encode wrote, and nothing else.
func ParseExtra(b []byte) (x Extra, err error) {
	if err := strictjson.Decode(b, strictjson.Limits{Bytes: MaxExtra, Depth: 1, Values: 16}, &x); err != nil {
		return Extra{}, fmt.Errorf("%w: %w", ErrExtra, err)
	}
	again, err := x.Encode()
	if err != nil || !bytes.Equal(again, b) {
		return Extra{}, fmt.Errorf("%w: it is spelled in another way", ErrExtra)
	}
	id, err := hex.DecodeString(x.LogID)
	if err != nil || len(id) != sha256.Size || hex.EncodeToString(id) != x.LogID || x.IntegratedTime < 0 || x.LogIndex >= 1<<53 || len(x.SignedEntryTimestamp) == 0 {
		return Extra{}, fmt.Errorf("%w: a time, an index below 2^53, a log id of 64 hex digits and a signature are required", ErrExtra)
	}
	return x, nil
}

// Time is when the log says it took the entry.
func (x Extra) Time() time.Time { return time.Unix(x.IntegratedTime, 0).UTC() }

// Verify checks that the log with the given key signed x for leaf, and that the attestation is the one leaf was made of.
func (x Extra) Verify(leaf []byte, key crypto.PublicKey) error {
	public, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("%w: its key is a %T, entry timestamps are made with ECDSA", ErrUnvouched, key)
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnvouched, err)
	}
	id := sha256.Sum256(spki)
	if x.LogID != hex.EncodeToString(id[:]) {
		return fmt.Errorf("%w: log id %s, the key's is %x", ErrUnvouched, x.LogID, id)
	}
	digest := sha256.Sum256(rekor.TimestampPayload(leaf, x.IntegratedTime, id, x.LogIndex))
	if !ecdsa.VerifyASN1(public, digest[:], x.SignedEntryTimestamp) {
		return fmt.Errorf("%w: the entry timestamp does not verify", ErrUnvouched)
	}
	if len(x.Attestation) == 0 {
		return nil
	}
	f, err := Read(leaf)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(x.Attestation); !slices.Contains(f.Digests, "sha256:"+hex.EncodeToString(sum[:])) {
		return fmt.Errorf("%w: the attestation is not the one the entry names", ErrUnvouched)
	}
	return nil
}
