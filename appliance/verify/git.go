package verify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/sha1" //nolint:gosec // git's own name of an object
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// GitObject is a commit or a tag with the signature that gitsign put into it: CMS over the rest of the object (RFC 5652), with the log entry beside
// it as gitsign writes it in offline mode.
type GitObject struct {
	Kind string // "commit" or "tag"
	Body []byte // as `git cat-file` gives it
	// SHA256 says that the repository names its objects by SHA-256 in place of SHA-1.
	SHA256 bool
}

const (
	maxGitObject = 4 << 20 // bytes
	gitMediaType = "application/pkcs7-signature"
	armorType    = "SIGNED MESSAGE"
	armorBegin   = "-----BEGIN "
)

// ID is the object's name in its repository, in hex.
func (o GitObject) ID() (id string) {
	object := fmt.Appendf(nil, "%s %d\x00", o.Kind, len(o.Body))
	object = append(object, o.Body...)
	if o.SHA256 {
		return hexSum(object)
	}
	// It is a name here: what was signed is digested with SHA-256.
	fips140.WithoutEnforcement(func() { sum := sha1.Sum(object); id = hex.EncodeToString(sum[:]) }) //nolint:gosec // as above
	return id
}

// digestName is what in-toto calls the object's name among digests.
func (o GitObject) digestName() string {
	if o.Kind == "tag" {
		return "gitTag"
	}
	return "gitCommit"
}

// Digest is the object's name as Result.Artifact has it.
func (o GitObject) Digest() string { return o.digestName() + ":" + o.ID() }

// split parts an object into what was signed and the signature, in its armor.
func (o GitObject) split() (payload, armor []byte, err error) {
	if len(o.Body) > maxGitObject {
		return nil, nil, fmt.Errorf("%w: a %.20s of %d bytes, at most %d", ErrMalformed, o.Kind, len(o.Body), maxGitObject)
	}
	switch o.Kind {
	case "commit":
		payload, armor, err = splitCommit(o.Body)
	case "tag":
		payload, armor, err = splitTag(o.Body)
	default:
		return nil, nil, fmt.Errorf("%w: a git object of kind %.20q, commits and annotated tags are signed", ErrUsage, o.Kind)
	}
	if err == nil && len(armor) == 0 {
		err = fmt.Errorf("%w: the %s is not signed", ErrNoSignature, o.Kind)
	}
	return payload, armor, err
}

// splitCommit takes the header with the signature out of a commit. Its lines after the first begin with a space.
func splitCommit(body []byte) (payload, armor []byte, err error) {
	headers, message, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok {
		return nil, nil, fmt.Errorf("%w: a commit without a message", ErrMalformed)
	}
	signature, seen := false, false
	for line := range bytes.Lines(append(headers, '\n')) {
		if rest, more := bytes.CutPrefix(line, []byte(" ")); more && signature {
			armor = append(armor, rest...)
			continue
		}
		name, rest, _ := bytes.Cut(line, []byte(" "))
		signature = string(name) == "gpgsig" || string(name) == "gpgsig-sha256"
		switch {
		case signature && seen:
			return nil, nil, fmt.Errorf("%w: a commit with two signatures", ErrMalformed)
		case signature:
			seen, armor = true, bytes.Clone(rest)
		default:
			payload = append(payload, line...)
		}
	}
	payload = append(payload, '\n')
	return append(payload, message...), armor, nil
}

// splitTag parts a tag where the armor of its signature begins.
func splitTag(body []byte) (payload, armor []byte, err error) {
	at := bytes.Index(body, []byte("\n"+armorBegin)) + 1
	if at == 0 {
		return body, nil, nil
	}
	return body[:at], body[at:], nil
}

// readGit reads a signed object as the bundle that its signature amounts to. What that signs are the signature's signed attributes, which bear the
// digest of the object.
func readGit(o GitObject) (*decoded, artifact, error) {
	payload, armor, err := o.split()
	if err != nil {
		return nil, artifact{}, err
	}
	block, rest := pem.Decode(armor)
	switch {
	case block == nil || len(bytes.TrimSpace(rest)) > 0 || !bytes.HasPrefix(armor, []byte(armorBegin)):
		return nil, artifact{}, fmt.Errorf("%w: the signature of the %s is not one PEM block", ErrMalformed, o.Kind)
	case block.Type != armorType:
		return nil, artifact{}, fmt.Errorf("%w: the %s bears a %.40s, gitsign's is a %s", ErrNoSignature, o.Kind, block.Type, armorType)
	case len(block.Headers) > 0:
		return nil, artifact{}, fmt.Errorf("%w: the signature's PEM block has headers", ErrMalformed)
	}
	s, err := parseCMS(block.Bytes)
	if err != nil {
		return nil, artifact{}, fmt.Errorf("%w: the signature of the %s: %w", ErrMalformed, o.Kind, err)
	}
	if sum := sha256.Sum256(payload); !bytes.Equal(sum[:], s.messageDigest) {
		return nil, artifact{}, fmt.Errorf("%w: the signature is over another %s", ErrSignature, o.Kind)
	}
	signer, err := x509.ParseCertificate(s.certificate)
	if err != nil {
		return nil, artifact{}, fmt.Errorf("%w: the signer's certificate: %w", ErrMalformed, err)
	}
	// sigstore-go checks it again; here it tells a wrong signature from a log entry that is none, whose body is made of it.
	if err := signer.CheckSignature(x509.ECDSAWithSHA256, s.attributes, s.signature); err != nil {
		return nil, artifact{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	text, err := s.bundle()
	if err != nil {
		return nil, artifact{}, fmt.Errorf("%w: the signature of the %s: %w", ErrMalformed, o.Kind, err)
	}
	b, err := decode(text)
	if err != nil {
		return nil, artifact{}, err
	}
	if len(s.entry) == 0 && len(s.token) == 0 {
		return nil, artifact{}, fmt.Errorf("%w: no log entry is in the signature: gitsign keeps it there with GITSIGN_REKOR_MODE=offline", ErrLogProof)
	}
	b.source, b.sourceType = block.Bytes, gitMediaType
	sum := sha256.Sum256(s.attributes)
	return b, artifact{digests: map[string][]byte{"sha256": sum[:]}, use: "sha256", gitName: o.digestName(), gitID: o.ID()}, nil
}

// bundle is the signature as a Sigstore bundle in JSON.
func (s cms) bundle() ([]byte, error) {
	sum := sha256.Sum256(s.attributes)
	chain := &protocommon.X509CertificateChain{Certificates: []*protocommon.X509Certificate{{RawBytes: s.certificate}}}
	material := &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: chain}}
	mediaType := mediaTypes[1]
	if len(s.entry) > 0 {
		e, known := &protorekor.TransparencyLogEntry{}, &protorekor.TransparencyLogEntry{}
		err := proto.Unmarshal(s.entry, e)
		if err == nil {
			err = proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(s.entry, known)
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("log entry: %w", err)
		case !proto.Equal(e, known):
			return nil, errors.New("log entry with unknown fields")
		}
		if len(e.GetCanonicalizedBody()) == 0 { // gitsign leaves out what stands elsewhere
			if err := s.restore(e, sum[:]); err != nil {
				return nil, err
			}
		}
		if e.GetInclusionProof() == nil { // then the form demands a promise
			mediaType = mediaTypes[0]
		}
		material.TlogEntries = []*protorekor.TransparencyLogEntry{e}
	}
	if len(s.token) > 0 {
		material.TimestampVerificationData = &protobundle.TimestampVerificationData{Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: s.token}}}
	}
	return protojson.Marshal(&protobundle.Bundle{MediaType: mediaType, VerificationMaterial: material, Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
		MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]}, Signature: s.signature,
	}}})
}

// restore puts the canonical body of the log entry back, which is made of the signature (RFC 8785). The log's proof says whether it is right. gitsign
// calls every entry hashedrekord 0.0.1. One of Rekor v2 has a proof and bears neither a time nor a promise, which no entry of v1 lacks.
func (s cms) restore(e *protorekor.TransparencyLogEntry, digest []byte) (err error) {
	if version := e.GetKindVersion().GetVersion(); version != bodyV1 && version != bodyV2 {
		return fmt.Errorf("log entry of version %.20q without its body", version)
	}
	promised := e.GetIntegratedTime() != 0 || len(e.GetInclusionPromise().GetSignedEntryTimestamp()) > 0
	if e.GetKindVersion().GetVersion() == bodyV1 && (promised || e.GetInclusionProof() == nil) {
		e.CanonicalizedBody, err = s.bodyV1(digest)
		return err
	}
	if promised {
		return errors.New("log entry of Rekor v2 with a time or a promise, which that does not give")
	}
	e.KindVersion.Version, e.InclusionPromise = bodyV2, nil
	e.CanonicalizedBody, err = s.bodyV2(digest)
	return err
}

// Versions of hashedrekord.
const (
	bodyV1 = "0.0.1" // Rekor v1
	bodyV2 = "0.0.2" // Rekor v2
)

type object = map[string]any

// bodyV1 is the body as Rekor v1 makes it.
func (s cms) bodyV1(digest []byte) ([]byte, error) {
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certificate})
	return json.Marshal(object{"apiVersion": bodyV1, "kind": "hashedrekord", "spec": object{
		"data":      object{"hash": object{"algorithm": "sha256", "value": hex.EncodeToString(digest)}},
		"signature": object{"content": s.signature, "publicKey": object{"content": certificate}},
	}})
}

// bodyV2 is the body as Rekor v2 makes it (rekor-tiles, hashedrekord.proto), which names what kind of key signed.
func (s cms) bodyV2(digest []byte) ([]byte, error) {
	c, err := x509.ParseCertificate(s.certificate)
	if err != nil {
		return nil, fmt.Errorf("the signer's certificate: %w", err)
	}
	if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("log entry of Rekor v2 without its body, and not by a key on P-256, which is what signs with SHA-256 there")
	}
	return json.Marshal(object{"apiVersion": bodyV2, "kind": "hashedrekord", "spec": object{"hashedRekordV002": object{
		"data": object{"algorithm": protocommon.HashAlgorithm_SHA2_256.String(), "digest": digest},
		"signature": object{"content": s.signature, "verifier": object{
			"keyDetails": protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256.String(), "x509Certificate": object{"rawBytes": s.certificate},
		}},
	}}})
}
