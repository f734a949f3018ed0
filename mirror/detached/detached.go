// Package detached makes Sigstore bundles of signatures whose parts lie apart: in files of their own, in the bundle that cosign wrote before 3.0,
// or in the annotations of a layer in a registry. It checks form alone: nothing it returns was verified, and whatever the parts claim has to stand
// up in the bundle.
package detached

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"redoubt.internal/log/strictjson"
)

// ErrForm says that a part cannot be read.
var ErrForm = errors.New("not a part of a signature")

const (
	maxEnvelope = 32 << 20 // bytes of a DSSE envelope
	maxPart     = 1 << 20  // bytes of any other part

	promised  = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	withProof = "application/vnd.dev.sigstore.bundle+json;version=0.2"
)

// Signature is a signature in parts.
type Signature struct {
	// Signature is over the artifact, raw or in base64.
	Signature []byte
	// Envelope is a DSSE envelope in JSON, in place of Signature.
	Envelope []byte
	// Certificate is the signer's: PEM, PEM in base64, or DER. Where a key signed it is empty or the public key in PEM, which says nothing that
	// whoever verifies does not know.
	Certificate []byte
	// Entry is the log's, in one of the forms that logEntry reads. Empty is none.
	Entry []byte
	// Timestamp is an RFC 3161 response in DER, or in cosign's {"SignedRFC3161Timestamp"}. Empty is none.
	Timestamp []byte
}

// exact is bytes in base64 of which only the one spelling is taken that an encoder writes (RFC 4648 3.5): cosign compares some of them as texts.
type exact []byte

// UnmarshalText reads base64.
func (e *exact) UnmarshalText(text []byte) error {
	raw, err := base64.StdEncoding.DecodeString(string(text))
	if err == nil && base64.StdEncoding.EncodeToString(raw) != string(text) {
		err = errors.New("base64 with stray bits or line breaks")
	}
	*e = raw
	return err
}

// FromBundle reads the bundle of cosign before 3.0, {"base64Signature", "cert", "rekorBundle"}. ok is false where text is something else.
func FromBundle(text []byte) (s Signature, ok bool, err error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(text, &members) != nil || members["base64Signature"] == nil {
		return s, false, nil
	}
	var b struct {
		Signature exact           `json:"base64Signature"`
		Cert      exact           `json:"cert"`
		Entry     json.RawMessage `json:"rekorBundle"`
	}
	if err := strictjson.Decode(text, strictjson.Limits{Bytes: maxEnvelope, Depth: 16, Fold: true}, &b); err != nil {
		return s, true, fmt.Errorf("%w: cosign's bundle: %w", ErrForm, err)
	}
	if string(b.Entry) == "null" {
		b.Entry = nil
	}
	s = Signature{Certificate: b.Cert, Entry: b.Entry}
	s.Set(b.Signature)
	return s, true, nil
}

// Set takes what stands in a file of a signature: Envelope where it is JSON, else Signature.
func (s *Signature) Set(text []byte) {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		s.Envelope = text
		return
	}
	s.Signature = text
}

// Bundle is the signature over something of that SHA-256 as a bundle in JSON: of version 0.2 where its log entry has an inclusion proof, else of
// 0.1, which needs none.
func (s Signature) Bundle(digest []byte) ([]byte, error) {
	material := map[string]any{"publicKey": map[string]any{"hint": ""}}
	certificate, err := der(s.Certificate)
	if err != nil {
		return nil, err
	}
	if certificate != nil {
		material = map[string]any{"x509CertificateChain": map[string]any{"certificates": []any{map[string]any{"rawBytes": certificate}}}}
	}
	mediaType := promised
	if len(s.Entry) > 0 {
		entry, proven, err := logEntry(s.Entry)
		if err != nil {
			return nil, fmt.Errorf("%w: log entry: %w", ErrForm, err)
		}
		if proven {
			mediaType = withProof
		}
		material["tlogEntries"] = []any{entry}
	}
	if len(s.Timestamp) > 0 {
		token, err := timestamp(s.Timestamp)
		if err != nil {
			return nil, fmt.Errorf("%w: timestamp: %w", ErrForm, err)
		}
		material["timestampVerificationData"] = map[string]any{"rfc3161Timestamps": []any{map[string]any{"signedTimestamp": token}}}
	}
	kind, content, err := s.content(digest)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"mediaType": mediaType, "verificationMaterial": material, kind: content})
}

// content is what is signed and the signature.
func (s Signature) content(digest []byte) (kind string, content any, err error) {
	if len(s.Envelope) > 0 {
		content, err := envelope(s.Envelope)
		return "dsseEnvelope", content, err
	}
	raw := unwrap(s.Signature)
	if len(raw) == 0 || len(raw) > maxPart {
		return "", nil, fmt.Errorf("%w: a signature of %d bytes", ErrForm, len(raw))
	}
	return "messageSignature", map[string]any{"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": digest}, "signature": raw}, nil
}

// unwrap is what text is the base64 of, or text itself.
func unwrap(text []byte) []byte {
	if decoded, err := base64.StdEncoding.Strict().DecodeString(string(bytes.TrimSpace(text))); err == nil {
		return decoded
	}
	return text
}

// envelope reads a DSSE envelope.
func envelope(text []byte) (any, error) {
	var e struct {
		Type       string `json:"payloadType"`
		Payload    exact  `json:"payload"`
		Signatures []struct {
			KeyID string `json:"keyid,omitempty"`
			Sig   exact  `json:"sig"`
		} `json:"signatures"`
	}
	if err := strictjson.Check(text, strictjson.Limits{Bytes: maxEnvelope, Depth: 16, Fold: true}); err != nil {
		return nil, fmt.Errorf("%w: an envelope: %w", ErrForm, err)
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fmt.Errorf("%w: an envelope: %w", ErrForm, err)
	}
	return e, nil
}

// der is the certificate in DER, nil where there is none.
func der(text []byte) ([]byte, error) {
	text = unwrap(text)
	switch block, rest := pem.Decode(text); {
	case len(text) == 0:
		return nil, nil
	case len(text) > maxPart:
		return nil, fmt.Errorf("%w: a certificate of %d bytes", ErrForm, len(text))
	case block == nil && text[0] == 0x30: // SEQUENCE
		return text, nil
	case block == nil || len(bytes.TrimSpace(rest)) > 0:
		return nil, fmt.Errorf("%w: the certificate is not one PEM block", ErrForm)
	case block.Type == "PUBLIC KEY":
		return nil, nil
	case block.Type != "CERTIFICATE":
		return nil, fmt.Errorf("%w: the certificate is a PEM block %.40q", ErrForm, block.Type)
	default:
		return block.Bytes, nil
	}
}

// timestamp is the response in DER.
func timestamp(text []byte) ([]byte, error) {
	if text[0] == 0x30 { // SEQUENCE
		return text, nil
	}
	var stamp struct{ SignedRFC3161Timestamp exact }
	if err := strictjson.Check(text, strictjson.Limits{Bytes: maxPart, Depth: 8, Fold: true}); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &stamp); err != nil {
		return nil, err
	}
	if len(stamp.SignedRFC3161Timestamp) == 0 {
		return nil, errors.New("it is empty")
	}
	return stamp.SignedRFC3161Timestamp, nil
}
