package images

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"redoubt.internal/mirror/detached"
)

// Voucher is a signature or an attestation of one manifest, in the form of a Sigstore bundle. Nothing in it was verified.
type Voucher struct {
	// Source is where it stands: its digest, and the tag it was found under if it was.
	Source string
	// Bundle is the bundle in JSON: as it was found, or with the parts that cosign keeps in annotations put in their places.
	Bundle []byte
	// Payload is what the bundle signs where that is not the manifest itself: cosign's simple signing.
	Payload []byte
	// Notation, when set, is the media type of the Notary Project's envelope that Bundle holds in place of a bundle.
	Notation string
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
		if d.artifactType == notationSignature || d.config != nil && string(d.config.MediaType) == notationSignature {
			form = notarized
		}
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

// notationSignature is the artifact type of the Notary Project's signatures (signature-specification.md, "Storage").
const notationSignature = "application/vnd.cncf.notary.signature"

// notarized is an envelope of the Notary Project as it stands.
func notarized(layer v1.Descriptor, content []byte) (Voucher, error) {
	return Voucher{Bundle: content, Notation: string(layer.MediaType)}, nil
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

// simpleSigned is the bundle of a simple-signing layer.
func simpleSigned(layer v1.Descriptor, content []byte) (Voucher, error) {
	digest, err := hex.DecodeString(strings.TrimPrefix(DigestOf(content), "sha256:"))
	if err != nil {
		return Voucher{}, err
	}
	bundle, err := parts(layer).Bundle(digest)
	return Voucher{Bundle: bundle, Payload: content}, err
}

// enveloped is the bundle of a DSSE layer.
func enveloped(layer v1.Descriptor, content []byte) (Voucher, error) {
	signed := parts(layer)
	signed.Signature, signed.Envelope = nil, content
	bundle, err := signed.Bundle(nil)
	return Voucher{Bundle: bundle}, err
}

// parts are a signature and what cosign's annotations say of it. The chain that cosign adds to the certificate says nothing that a trusted root
// does not say; it is left out.
func parts(layer v1.Descriptor) detached.Signature {
	a := layer.Annotations
	return detached.Signature{Signature: []byte(a[cosignSignature]), Certificate: []byte(a[cosignCertificate]), Entry: []byte(a[rekorBundle]), Timestamp: []byte(a[cosignTimestamp])}
}
