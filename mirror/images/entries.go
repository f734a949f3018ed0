package images

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/log/strictjson"
)

// Media types of what names log entries, and cosign's annotation that does.
const (
	bundleType    = "application/vnd.dev.sigstore.bundle"
	simpleSigning = "application/vnd.dev.cosign.simplesigning."
	dsseEnvelope  = "application/vnd.dsse.envelope."
	rekorBundle   = "dev.sigstore.cosign/bundle"
)

// maxNumber bounds numbers of entries: every JSON reader can repeat it.
const maxNumber = 1 << 53

// entries takes the log entries that a layer of an artifact names.
func (g *gathering) entries(layer v1.Descriptor, content []byte) error {
	var found []Entry
	switch t := string(layer.MediaType); {
	case strings.HasPrefix(t, bundleType):
		found, _ = BundleEntries(content) // what is no bundle names no entry; it travels as it is
	case strings.HasPrefix(t, simpleSigning):
		found = append(found, annotated(layer.Annotations[rekorBundle], layer.Digest.String()))
	case strings.HasPrefix(t, dsseEnvelope):
		if digest := payloadDigest(content); digest != "" {
			found = append(found, annotated(layer.Annotations[rekorBundle], digest))
		}
	}
	for _, e := range found {
		if len(g.out.Entries) == MaxEntries {
			return fmt.Errorf("%w: more than %d log entries", ErrLimit, MaxEntries)
		}
		g.out.Entries = append(g.out.Entries, e)
	}
	return nil
}

// BundleEntries reads the log entries that a Sigstore bundle names. Nothing is verified. An entry without inclusion proof, as the
// oldest bundles have it, does not say which log it is in, but by which key that log signs.
func BundleEntries(text []byte) (out []Entry, err error) {
	var b protobundle.Bundle
	if err := protojson.Unmarshal(text, &b); err != nil {
		return nil, err
	}
	digest := ""
	if m := b.GetMessageSignature().GetMessageDigest(); len(m.GetDigest()) == sha256.Size {
		digest = "sha256:" + hex.EncodeToString(m.GetDigest())
	} else if e := b.GetDsseEnvelope(); e != nil {
		digest = DigestOf(e.GetPayload())
	}
	for _, t := range b.GetVerificationMaterial().GetTlogEntries() {
		e := Entry{Digest: digest}
		p := t.GetInclusionProof()
		if origin, _, _ := strings.Cut(p.GetCheckpoint().GetEnvelope(), "\n"); isOrigin(origin) && p.GetLogIndex() >= 0 && p.GetLogIndex() < maxNumber {
			index := uint64(p.GetLogIndex())
			e.Origin, e.Index = origin, &index
		}
		if id := t.GetLogId().GetKeyId(); len(id) == sha256.Size {
			e.LogID = hex.EncodeToString(id)
		}
		if n := t.GetLogIndex(); e.Index == nil && n >= 0 && n < maxNumber {
			number := uint64(n)
			e.Number = &number
		}
		out = append(out, e)
	}
	return out, nil
}

func isOrigin(s string) bool { return s != "" && len(s) <= 255 && printable(s) }

// annotated is the entry that cosign's annotation names, or that is known by what was signed alone: {SignedEntryTimestamp, Payload: {body,
// integratedTime, logIndex, logID}}.
func annotated(annotation, digest string) Entry {
	e := Entry{Digest: digest}
	var b struct {
		Payload struct {
			LogIndex *uint64 `json:"logIndex"`
			LogID    string  `json:"logID"`
		}
	}
	text := []byte(annotation)
	if strictjson.Check(text, strictjson.Limits{Bytes: 1 << 20, Depth: 8}) != nil || json.Unmarshal(text, &b) != nil {
		return e
	}
	if raw, err := hex.DecodeString(b.Payload.LogID); err == nil && len(raw) == sha256.Size {
		e.LogID = hex.EncodeToString(raw)
	}
	if n := b.Payload.LogIndex; n != nil && *n < maxNumber {
		e.Number = n
	}
	return e
}

// payloadDigest is the digest of what a DSSE envelope signs, empty when it is none.
func payloadDigest(envelope []byte) string {
	var e struct {
		Payload string `json:"payload"`
	}
	if strictjson.Check(envelope, strictjson.Limits{Bytes: MaxBlob, Depth: 16}) != nil || json.Unmarshal(envelope, &e) != nil || e.Payload == "" {
		return ""
	}
	b, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		return ""
	}
	return DigestOf(b)
}
