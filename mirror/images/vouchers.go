package images

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"redoubt.internal/log/strictjson"
)

// Voucher is a signature or an attestation of one manifest, in the form of a Sigstore bundle. Nothing in it was verified.
type Voucher struct {
	// Source is where it stands: its digest, and the tag it was found under if it was.
	Source string
	// Bundle is the bundle in JSON: as it was found, or with the parts that cosign keeps in annotations put in their places.
	Bundle []byte
	// Payload is what the bundle signs where that is not the manifest itself: cosign's simple signing.
	Payload []byte
}

// Vouching is what is said to vouch for one manifest.
type Vouching struct {
	Digest   string // of the manifest
	Vouchers []Voucher
	Left     []Left // what could not be taken; a registry lists what it likes
}

// cosign's annotations of a layer that is signed.
const (
	cosignSignature   = "dev.cosignproject.cosign/signature"
	cosignCertificate = "dev.sigstore.cosign/certificate"
	cosignTimestamp   = "dev.sigstore.cosign/rfc3161timestamp"
)

// Vouchers finds the signatures and attestations of one manifest, which ref names: those under cosign's tags, and those that name the manifest as
// their subject. What vouches for the platforms of an index is not asked for. The number of requests and of bytes is bounded whatever the registry
// answers; more than MaxVouchers is ErrLimit.
func (s *Source) Vouchers(ctx context.Context, ref Reference) (Vouching, error) {
	shelf := Shelf{Held: func(string) []byte { return nil }, Keep: func(string, []byte) error { return nil }}
	g := gathering{s: s, ref: ref, shelf: shelf, seen: make(map[string]bool), files: make(map[string]bool), flat: true}
	at := ref.digest
	if at == "" {
		at = ref.tag
	}
	if err := g.image(ctx, at, "", 0); err != nil {
		return Vouching{}, fmt.Errorf("gathering what vouches for %s: %w", ref, answered(err))
	}
	return Vouching{g.out.Digest, g.vouching, g.out.Left}, nil
}

// voucher takes the layers of an artifact that are signed.
func (g *gathering) voucher(ctx context.Context, a Artifact, d document, manifest []byte) error {
	for _, layer := range d.layers {
		form := layerForm(string(layer.MediaType))
		if form == nil {
			continue
		}
		content, err := g.blob(ctx, layer)
		if err != nil {
			return fmt.Errorf("%s: %w", a.Digest, err)
		}
		v, err := form(layer, content)
		if err != nil {
			if err := g.leave(layer.Digest.String(), err.Error()); err != nil {
				return err
			}
			continue
		}
		if v.Source = layer.Digest.String(); a.Tag != "" {
			v.Source += " under " + a.Tag
		}
		if g.vouching = append(g.vouching, v); len(g.vouching) > MaxVouchers {
			return fmt.Errorf("%w: more than %d signatures and attestations", ErrLimit, MaxVouchers)
		}
	}
	return g.add(a, manifest)
}

// layerForm is how a layer of that media type becomes a bundle; nil where it is not signed.
func layerForm(mediaType string) func(v1.Descriptor, []byte) (Voucher, error) {
	switch {
	case strings.HasPrefix(mediaType, bundleType):
		return func(_ v1.Descriptor, content []byte) (Voucher, error) { return Voucher{Bundle: content}, nil }
	case strings.HasPrefix(mediaType, simpleSigning):
		return simpleSigned
	case strings.HasPrefix(mediaType, dsseEnvelope):
		return enveloped
	}
	return nil
}

// errAnnotations says that a layer does not bear what cosign writes beside it.
var errAnnotations = errors.New("its annotations are not those of a signature")

// simpleSigned is the bundle of a simple-signing layer.
func simpleSigned(layer v1.Descriptor, content []byte) (Voucher, error) {
	signature, err := base64.StdEncoding.DecodeString(layer.Annotations[cosignSignature])
	if err != nil || len(signature) == 0 {
		return Voucher{}, errAnnotations
	}
	digest, err := hex.DecodeString(strings.TrimPrefix(DigestOf(content), "sha256:"))
	if err != nil {
		return Voucher{}, err
	}
	bundle, err := annotatedBundle(layer.Annotations, "messageSignature", map[string]any{
		"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": digest}, "signature": signature,
	})
	return Voucher{Bundle: bundle, Payload: content}, err
}

// enveloped is the bundle of a DSSE layer.
func enveloped(layer v1.Descriptor, content []byte) (Voucher, error) {
	var e struct {
		Type       string `json:"payloadType"`
		Payload    []byte `json:"payload"`
		Signatures []struct {
			KeyID string `json:"keyid,omitempty"`
			Sig   []byte `json:"sig"`
		} `json:"signatures"`
	}
	if err := strictjson.Check(content, strictjson.Limits{Bytes: MaxBlob, Depth: 16, Fold: true}); err != nil {
		return Voucher{}, fmt.Errorf("an envelope: %w", err)
	}
	if err := json.Unmarshal(content, &e); err != nil {
		return Voucher{}, fmt.Errorf("an envelope: %w", err)
	}
	bundle, err := annotatedBundle(layer.Annotations, "dsseEnvelope", e)
	return Voucher{Bundle: bundle}, err
}

// annotatedBundle puts a signature and what cosign's annotations say of it into a bundle of version 0.1, the one that needs no inclusion proof.
// The chain that cosign adds to the certificate says nothing that a trusted root does not say; it is left out.
func annotatedBundle(annotations map[string]string, kind string, content any) ([]byte, error) {
	material := map[string]any{}
	if text := annotations[cosignCertificate]; text != "" {
		block, rest := pem.Decode([]byte(text))
		if block == nil || len(strings.TrimSpace(string(rest))) > 0 || block.Type != "CERTIFICATE" {
			return nil, errAnnotations
		}
		material["x509CertificateChain"] = map[string]any{"certificates": []any{map[string]any{"rawBytes": block.Bytes}}}
	} else {
		material["publicKey"] = map[string]any{"hint": ""}
	}
	if text := annotations[rekorBundle]; text != "" {
		entry, err := annotatedEntry([]byte(text))
		if err != nil {
			return nil, err
		}
		material["tlogEntries"] = []any{entry}
	}
	if text := annotations[cosignTimestamp]; text != "" {
		var stamp struct{ SignedRFC3161Timestamp []byte }
		if err := strictjson.Check([]byte(text), strictjson.Limits{Bytes: 1 << 20, Depth: 8, Fold: true}); err != nil {
			return nil, fmt.Errorf("a timestamp: %w", err)
		}
		if err := json.Unmarshal([]byte(text), &stamp); err != nil {
			return nil, fmt.Errorf("a timestamp: %w", err)
		}
		if len(stamp.SignedRFC3161Timestamp) > 0 {
			material["timestampVerificationData"] = map[string]any{"rfc3161Timestamps": []any{map[string]any{"signedTimestamp": stamp.SignedRFC3161Timestamp}}}
		}
	}
	return json.Marshal(map[string]any{"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1", "verificationMaterial": material, kind: content})
}

// annotatedEntry is the log entry in cosign's annotation, with the log's promise.
func annotatedEntry(text []byte) (map[string]any, error) {
	var b struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	limits := strictjson.Limits{Bytes: 1 << 20, Depth: 32, Fold: true}
	if err := strictjson.Check(text, limits); err != nil {
		return nil, fmt.Errorf("a log entry: %w", err)
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, fmt.Errorf("a log entry: %w", err)
	}
	if err := strictjson.Check(b.Payload.Body, limits); err != nil {
		return nil, fmt.Errorf("the body of a log entry: %w", err)
	}
	if err := json.Unmarshal(b.Payload.Body, &head); err != nil {
		return nil, fmt.Errorf("the body of a log entry: %w", err)
	}
	id, err := hex.DecodeString(b.Payload.LogID)
	if err != nil {
		return nil, errAnnotations
	}
	return map[string]any{
		"logIndex": fmt.Sprint(b.Payload.LogIndex), "logId": map[string]any{"keyId": id}, "kindVersion": map[string]any{"kind": head.Kind, "version": head.APIVersion},
		"integratedTime": fmt.Sprint(b.Payload.IntegratedTime), "inclusionPromise": map[string]any{"signedEntryTimestamp": b.SignedEntryTimestamp},
		"canonicalizedBody": b.Payload.Body,
	}, nil
}
