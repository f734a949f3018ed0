package rekor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-openapi/strfmt"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	dsse "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	hashedrekord "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	intoto1 "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	intoto2 "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	rekord "github.com/sigstore/rekor/pkg/types/rekord/v0.0.1"

	"redoubt.internal/log/strictjson"
)

// maxSigners bounds signatures and verification keys of one envelope: verifying is quadratic in them.
const maxSigners = 16

// parseV1 makes an entry of a v1 proposed entry {kind, apiVersion, spec}: fields validated, keys strong, every signature verified once.
// Every error is ErrEntry.
func parseV1(ctx context.Context, body []byte) (*Entry, error) {
	o, err := strictjson.Object(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	return proposedV1(ctx, o)
}

func proposedV1(ctx context.Context, o map[string]any) (e *Entry, err error) {
	if err := strictjson.Only(o, "kind", "apiVersion", "spec"); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	kind, _ := o["kind"].(string)
	version, _ := o["apiVersion"].(string)
	spec, ok := o["spec"].(map[string]any)
	if kind == "" || version == "" || !ok {
		return nil, fmt.Errorf("%w: kind, apiVersion and spec are required", ErrEntry)
	}
	if at := findURL(spec, "spec"); at != "" {
		return nil, fmt.Errorf("%w: %s: nothing is fetched, send the content itself", ErrEntry, at)
	}
	// The type packages are other people's parsers of hostile input. A panic in one is this input's fault and nobody else's.
	defer func() {
		if r := recover(); r != nil {
			e, err = nil, fmt.Errorf("%w: the %s %s parser gave up: %v", ErrEntry, kind, version, r)
		}
	}()
	switch kind + " " + version {
	case "hashedrekord 0.0.1":
		e, err = parseHashedrekord(ctx, spec)
	case "dsse 0.0.1":
		e, err = parseDSSE(ctx, version, spec)
	case "intoto 0.0.1":
		e, err = parseIntoto1(ctx, version, spec)
	case "intoto 0.0.2":
		e, err = parseIntoto2(ctx, version, spec)
	case "rekord 0.0.1":
		e, err = parseRekord(ctx, version, spec)
	default:
		return nil, fmt.Errorf("%w: entries of kind %.40q version %.20q are not taken: use hashedrekord 0.0.1, dsse 0.0.1, intoto 0.0.1 or 0.0.2, or rekord 0.0.1",
			ErrEntry, kind, version)
	}
	if err != nil {
		if !errors.Is(err, ErrEntry) {
			err = fmt.Errorf("%w: %w", ErrEntry, err)
		}
		return nil, err
	}
	e.Kind, e.Version = kind, version
	return e, nil
}

// findURL returns the path of the first member called url, at any depth.
func findURL(v any, path string) string {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			if strings.EqualFold(k, "url") {
				return path + "." + k
			}
			if at := findURL(inner, path+"."+k); at != "" {
				return at
			}
		}
	case []any:
		for _, inner := range v {
			if at := findURL(inner, path); at != "" {
				return at
			}
		}
	}
	return ""
}

// parseHashedrekord decodes and validates the fields but leaves the signature to Canonicalize: the type's own Unmarshal would verify it a
// second time.
func parseHashedrekord(ctx context.Context, spec map[string]any) (*Entry, error) {
	var v hashedrekord.V001Entry
	if err := hashedrekord.DecodeEntry(spec, &v.HashedRekordObj); err != nil {
		return nil, err
	}
	if err := v.HashedRekordObj.Validate(strfmt.Default); err != nil {
		return nil, err
	}
	if _, err := v.Insertable(); err != nil {
		return nil, err
	}
	key, err := parsePEM(v.HashedRekordObj.Signature.PublicKey.Content)
	if err != nil {
		return nil, err
	}
	body, err := types.CanonicalizeEntry(ctx, &v)
	if err != nil {
		return nil, err
	}
	hash := v.HashedRekordObj.Data.Hash
	keys := append([]string{digestOf(v.HashedRekordObj.Signature.PublicKey.Content)}, key.subjects...)
	return &Entry{Body: body, Keys: append(keys, *hash.Algorithm+":"+*hash.Value)}, nil
}

func parseDSSE(ctx context.Context, version string, spec map[string]any) (*Entry, error) {
	content, _ := spec["proposedContent"].(map[string]any)
	if err := atMost("spec.proposedContent.verifiers", content["verifiers"]); err != nil {
		return nil, err
	}
	envelope, err := envelopeIn("spec.proposedContent", content)
	if err != nil {
		return nil, err
	}
	if err := atMost("signatures of the envelope", envelope["signatures"]); err != nil {
		return nil, err
	}
	var v dsse.V001Entry
	if err := v.Unmarshal(&models.DSSE{APIVersion: &version, Spec: spec}); err != nil {
		return nil, err
	}
	return finish(ctx, &v)
}

// envelopeIn reads the DSSE envelope that content has as a text.
func envelopeIn(name string, content map[string]any) (map[string]any, error) {
	text, _ := content["envelope"].(string)
	if text == "" {
		return nil, fmt.Errorf("%s.envelope is missing", name)
	}
	envelope, err := strictjson.Object([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%s.envelope: %w", name, err)
	}
	return envelope, nil
}

// parseIntoto1 reads what Tekton Chains logs: an entry of the digest of the envelope's text, with one key. A signature beside the first would not have
// been verified.
func parseIntoto1(ctx context.Context, version string, spec map[string]any) (*Entry, error) {
	content, _ := spec["content"].(map[string]any)
	envelope, err := envelopeIn("spec.content", content)
	if err != nil {
		return nil, err
	}
	if err := strictjson.Only(envelope, "payload", "payloadType", "signatures"); err != nil {
		return nil, fmt.Errorf("spec.content.envelope: %w", err)
	}
	if list, _ := envelope["signatures"].([]any); len(list) != 1 {
		return nil, fmt.Errorf("spec.content.envelope: %d signatures, an entry of this version has one", len(list))
	}
	var v intoto1.V001Entry
	if err := v.Unmarshal(&models.Intoto{APIVersion: &version, Spec: spec}); err != nil {
		return nil, err
	}
	return finish(ctx, &v)
}

func parseIntoto2(ctx context.Context, version string, spec map[string]any) (*Entry, error) {
	content, _ := spec["content"].(map[string]any)
	envelope, _ := content["envelope"].(map[string]any)
	if err := atMost("spec.content.envelope.signatures", envelope["signatures"]); err != nil {
		return nil, err
	}
	// The digest of the envelope is the client's word: the envelope as it was signed isn't here. It is held to its form.
	hash, _ := content["hash"].(map[string]any)
	if value, _ := hash["value"].(string); len(value) != 64 || strings.Trim(value, "0123456789abcdefABCDEF") != "" {
		return nil, errors.New("spec.content.hash.value: 64 hexadecimal digits are required")
	}
	var v intoto2.V002Entry
	if err := v.Unmarshal(&models.Intoto{APIVersion: &version, Spec: spec}); err != nil {
		return nil, err
	}
	return finish(ctx, &v)
}

func parseRekord(ctx context.Context, version string, spec map[string]any) (*Entry, error) {
	var v rekord.V001Entry
	if err := v.Unmarshal(&models.Rekord{APIVersion: &version, Spec: spec}); err != nil {
		return nil, err
	}
	if *v.RekordObj.Signature.Format == models.RekordV001SchemaSignatureFormatPgp {
		if err := checkPGP(*v.RekordObj.Signature.PublicKey.Content); err != nil {
			return nil, err
		}
	}
	return finish(ctx, &v)
}

// atMost refuses a list that is absent, empty or longer than maxSigners, or that holds something missing.
func atMost(name string, v any) error {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return fmt.Errorf("%s: missing", name)
	}
	if len(list) > maxSigners {
		return fmt.Errorf("%s: %d of them, at most %d", name, len(list), maxSigners)
	}
	for i, item := range list {
		if item == nil || item == "" {
			return fmt.Errorf("%s[%d]: missing", name, i)
		}
	}
	return nil
}

// finish canonicalises an entry that the type package has unmarshalled, after checking that it is complete and its keys are strong.
func finish(ctx context.Context, v types.EntryImpl) (*Entry, error) {
	if ok, err := v.Insertable(); !ok {
		return nil, err
	}
	verifiers, err := v.Verifiers()
	if err != nil {
		return nil, err
	}
	for _, p := range verifiers {
		identities, err := p.Identities()
		if err != nil {
			return nil, err
		}
		for _, id := range identities {
			if err := checkIdentity(id); err != nil {
				return nil, err
			}
		}
	}
	body, err := types.CanonicalizeEntry(ctx, v)
	if err != nil {
		return nil, err
	}
	keys, err := v.IndexKeys()
	if err != nil {
		return nil, err
	}
	// dsse and intoto name a key "sha256:<hash>", searches by key ask for the bare hash: index both.
	var bare []string
	for i := range verifiers {
		if pem, err := verifiers[i].CanonicalValue(); err == nil {
			bare = append(bare, digestOf(pem))
		}
	}
	e := &Entry{Body: body, Keys: append(bare, keys...)}
	if attested, ok := v.(types.EntryWithAttestationImpl); ok {
		_, e.Attestation = attested.AttestationKeyValue()
	}
	return e, nil
}
