package verify

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	in_toto "github.com/in-toto/attestation/go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/log/strictjson"
)

// Limits of a bundle. Those on entries, timestamps, subjects and digests are
// sigstore-go's, checked here before anything is decoded.
const (
	maxBundle     = 32 << 20 // bytes of JSON
	maxEntries    = 32
	maxTimestamps = 32
	maxSubjects   = 1024
	maxDigests    = 32
	maxBody       = 128 << 10 // bytes of a log entry
	maxCheckpoint = 64 << 10
	maxToken      = 64 << 10 // bytes of an RFC 3161 token
	maxProof      = 64       // hashes
)

// mediaTypes are the four that the bundle's specification names.
var mediaTypes = []string{
	"application/vnd.dev.sigstore.bundle+json;version=0.1", "application/vnd.dev.sigstore.bundle+json;version=0.2",
	"application/vnd.dev.sigstore.bundle+json;version=0.3", "application/vnd.dev.sigstore.bundle.v0.3+json",
}

const inTotoType = "application/vnd.in-toto+json"

// decoded is a bundle that was read strictly. Nothing in it is verified.
type decoded struct {
	*bundle.Bundle
	content      sgverify.VerificationContent
	message      string // hash name of a message signature, "" for an attestation
	wholeMessage bool   // the signature needs the message itself (Ed25519)
	source       []byte // what it was read from
	sourceType   string // the media type of that
	// Of an attestation:
	statement *in_toto.Statement // without its predicate
	subjects  []map[string]string
}

// VerificationContent is the bundle's certificate or key as it was parsed once: sigstore-go asks for it at every step, and its own bundle parses it
// anew each time.
func (b *decoded) VerificationContent() (sgverify.VerificationContent, error) { return b.content, nil }

// byteFields are the bundle's fields of type bytes. Base64 has several
// spellings for the same bytes; only the canonical one is taken.
var byteFields = map[string]bool{
	"rawBytes": true, "signature": true, "sig": true, "payload": true, "digest": true, "keyId": true, "signedEntryTimestamp": true,
	"rootHash": true, "hashes": true, "canonicalizedBody": true, "signedTimestamp": true,
	// proto3 JSON takes the original names too
	"raw_bytes": true, "key_id": true, "signed_entry_timestamp": true, "root_hash": true, "canonicalized_body": true, "signed_timestamp": true,
}

func decode(data []byte) (*decoded, error) {
	err := strictjson.Walk(data, strictjson.Limits{Bytes: maxBundle, Depth: 16, Values: 100_000}, func(name string, raw []byte) error {
		if byteFields[name] {
			return canonicalBase64(name, raw)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: bundle: %w", ErrMalformed, err)
	}
	source := data
	if data, err = fromPEP740(data); err != nil {
		return nil, fmt.Errorf("%w: PEP 740 attestation: %w", ErrMalformed, err)
	}
	p := &protobundle.Bundle{}
	if err := protojson.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("%w: bundle: %w", ErrMalformed, err)
	}
	if !slices.Contains(mediaTypes, p.GetMediaType()) {
		return nil, fmt.Errorf("%w: bundle: media type %.100q", ErrMalformed, p.GetMediaType())
	}
	if err := checkLimits(p); err != nil {
		return nil, fmt.Errorf("%w: bundle: %w", ErrMalformed, err)
	}
	b := &decoded{source: source, sourceType: p.GetMediaType()}
	if b.Bundle, err = bundle.NewBundle(p); err != nil {
		return nil, fmt.Errorf("%w: bundle: %w", ErrMalformed, err)
	}
	if b.content, err = b.Bundle.VerificationContent(); err != nil {
		return nil, fmt.Errorf("%w: bundle: %w", ErrMalformed, err)
	}
	if m := p.GetMessageSignature(); m != nil {
		err = b.readMessage(m)
	} else {
		err = b.readEnvelope()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: bundle: %w", ErrMalformed, err)
	}
	return b, nil
}

// canonicalBase64 checks RFC 4648 section 4 with padding and zero trailing bits.
func canonicalBase64(name string, raw []byte) error {
	if bytes.IndexByte(raw, '\\') >= 0 { // some encoders escape the slash
		var s string
		if err := json.Unmarshal(slices.Concat([]byte{'"'}, raw, []byte{'"'}), &s); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		raw = []byte(s)
	}
	if len(raw)%4 != 0 {
		return fmt.Errorf("%s is not padded base64", name)
	}
	n := base64.StdEncoding.DecodedLen(len(raw))
	var small [4096]byte
	buf := small[:]
	if n > len(buf) {
		buf = make([]byte, n)
	}
	if bytes.ContainsAny(raw, "\r\n") { // the decoder would skip them
		return fmt.Errorf("%s: line break in base64", name)
	}
	if _, err := base64.StdEncoding.Strict().Decode(buf, raw); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func checkLimits(p *protobundle.Bundle) error {
	m := p.GetVerificationMaterial()
	if n := len(m.GetTlogEntries()); n > maxEntries {
		return fmt.Errorf("%d log entries, at most %d", n, maxEntries)
	}
	for _, e := range m.GetTlogEntries() {
		proof := e.GetInclusionProof()
		if len(e.GetCanonicalizedBody()) > maxBody || len(proof.GetHashes()) > maxProof || len(proof.GetCheckpoint().GetEnvelope()) > maxCheckpoint {
			return errors.New("log entry too large")
		}
	}
	stamps := m.GetTimestampVerificationData().GetRfc3161Timestamps()
	if len(stamps) > maxTimestamps {
		return fmt.Errorf("%d timestamps, at most %d", len(stamps), maxTimestamps)
	}
	for _, s := range stamps {
		if len(s.GetSignedTimestamp()) > maxToken {
			return errors.New("timestamp too large")
		}
	}
	if n := len(m.GetX509CertificateChain().GetCertificates()); n > 8 {
		return fmt.Errorf("chain of %d certificates", n)
	}
	if d := p.GetDsseEnvelope(); d != nil && len(d.GetSignatures()) != 1 {
		return fmt.Errorf("envelope with %d signatures, exactly one is required", len(d.GetSignatures()))
	}
	return nil
}

func (b *decoded) readMessage(m *protocommon.MessageSignature) error {
	names := map[protocommon.HashAlgorithm]string{protocommon.HashAlgorithm_SHA2_256: "sha256", protocommon.HashAlgorithm_SHA2_384: "sha384", protocommon.HashAlgorithm_SHA2_512: "sha512"}
	name, ok := names[m.GetMessageDigest().GetAlgorithm()]
	if !ok || len(m.GetMessageDigest().GetDigest()) != hashNames[name].Size() {
		return errors.New("message digest missing or of an unknown hash")
	}
	b.message = name
	if c := b.content.Certificate(); c != nil {
		_, b.wholeMessage = c.PublicKey.(ed25519.PublicKey)
	}
	return nil
}

// readEnvelope reads the in-toto statement the way its schema says: exact
// names, no duplicates. The predicate is checked as JSON and left unread.
func (b *decoded) readEnvelope() error {
	d := b.GetDsseEnvelope()
	if d.GetPayloadType() != inTotoType {
		return fmt.Errorf("payload type %.100q is not %s", d.GetPayloadType(), inTotoType)
	}
	payload := d.GetPayload()
	if err := strictjson.Check(payload, strictjson.Limits{Bytes: maxBundle, Depth: 200, Values: 4_000_000}); err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(payload, &parts); err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	delete(parts, "predicate")
	rest, err := json.Marshal(parts)
	if err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	b.statement = &in_toto.Statement{}
	if err := protojson.Unmarshal(rest, b.statement); err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	if n := len(b.statement.GetSubject()); n == 0 || n > maxSubjects {
		return fmt.Errorf("statement with %d subjects, 1 to %d are allowed", n, maxSubjects)
	}
	for _, s := range b.statement.GetSubject() {
		if n := len(s.GetDigest()); n > maxDigests {
			return fmt.Errorf("subject with %d digests, at most %d", n, maxDigests)
		}
		b.subjects = append(b.subjects, s.GetDigest())
	}
	return nil
}

func newReader(data []byte) io.Reader { return bytes.NewReader(slices.Clip(data)) }
