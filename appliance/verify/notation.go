package verify

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/sigstore/sigstore-go/pkg/root"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/subject"
	"redoubt.internal/log/strictjson"
)

// Envelope is a signature of the Notary Project over an image's manifest. Nothing in it is believed.
type Envelope struct {
	// MediaType is MediaTypeJWS or MediaTypeCOSE.
	MediaType string
	// Bytes is the envelope as it is stored.
	Bytes []byte
}

// Media types of an Envelope (the Notary Project's signature-specification.md, "Signature Envelope").
const (
	MediaTypeJWS  = jws.MediaTypeEnvelope
	MediaTypeCOSE = cose.MediaTypeEnvelope
)

const (
	maxEnvelope       = 1 << 20 // bytes
	notationPayload   = "application/vnd.cncf.notary.payload.v1+json"
	maxNotationTarget = 256 << 10 // bytes of the payload
)

// notarized is a Notation signature that was read, whose own signature holds. Whether anybody vouches for it is not said.
type notarized struct {
	source  Envelope
	content *signature.EnvelopeContent
	leaf    *x509.Certificate
	subject pkix.RDNSequence
	stamp   []byte // TimeStampResp around the countersignature
}

// eachNotation is each for signatures of the Notary Project: under one root a signer's certificate of the profile notation, pinned by its subject,
// signed this manifest at a time that an authority of the same root signed. No log is asked for: Notation has none.
func (v *Verifier) eachNotation(req Request, yield func(*Result) bool) error {
	switch {
	case req.Notation == nil:
		return fmt.Errorf("%w: a subject was given, this is no Notation signature", ErrNoSignature)
	case len(req.Policy.Subjects) == 0:
		return fmt.Errorf("%w: it is a Notation signature, which names a subject: --certificate-subject asks for it", ErrNoSignature)
	case len(req.Bundle) > 0 || req.Artifact.Reader != nil || req.Artifact.Git != nil:
		return fmt.Errorf("%w: a Notation signature is over an image, by its digest", ErrUsage)
	}
	// 1. Read the envelope and verify its signature by the key of the certificate in it.
	n, err := readNotation(*req.Notation)
	if err != nil {
		return err
	}
	// 2. Is it over this manifest, and does it say anything that is not understood or is over?
	digest, err := imageDigest(req.Artifact.Digest)
	if err != nil {
		return err
	}
	unfit := n.unfit(digest, v.now())
	if len(unfit) > 0 && !v.everyReason {
		return unfit[0]
	}
	// 3. Each root alone.
	refused := &refusal{bundle: hexSum(n.source.Bytes), artifact: &artifactReport{Algorithm: "sha256", Digest: digest}}
	found := false
	for i := range v.roots {
		r := &v.roots[i]
		out, refusals := v.notarizedUnder(r, n, unfit, req.Policy)
		if len(refusals) == 0 {
			out.Artifact = *refused.artifact
			if found = true; !yield(&Result{report: *out}) {
				return nil
			}
			continue
		}
		refused.roots = append(refused.roots, v.rootReport(r))
		for _, e := range refusals {
			refused.all = append(refused.all, newReason(r.name, e))
		}
		err := refusals[0]
		if len(v.roots) > 1 {
			err = fmt.Errorf("under root %s: %w", r.name, err)
		}
		if refused.error == nil || rank(err) > rank(refused.error) {
			refused.error = err
		}
	}
	if found {
		return nil
	}
	return refused
}

// readNotation reads an envelope strictly and verifies that the key of its first certificate signed it.
func readNotation(in Envelope) (*notarized, error) {
	bad := func(err error) (*notarized, error) {
		return nil, fmt.Errorf("%w: Notation signature: %w", ErrMalformed, err)
	}
	if len(in.Bytes) > maxEnvelope {
		return bad(fmt.Errorf("%d bytes, at most %d", len(in.Bytes), maxEnvelope))
	}
	var env signature.Envelope
	var err error
	switch in.MediaType {
	case MediaTypeJWS:
		if err = strictjson.Check(in.Bytes, strictjson.Limits{Bytes: maxEnvelope, Depth: 4, Values: 100}); err == nil {
			env, err = jws.ParseEnvelope(in.Bytes)
		}
	case MediaTypeCOSE:
		env, err = cose.ParseEnvelope(in.Bytes)
	default:
		err = fmt.Errorf("media type %.100q is neither %s nor %s", in.MediaType, MediaTypeJWS, MediaTypeCOSE)
	}
	if err != nil {
		return bad(err)
	}
	n := &notarized{source: in}
	if n.content, err = env.Verify(); err != nil {
		var broken *signature.SignatureIntegrityError
		if errors.As(err, &broken) {
			return nil, fmt.Errorf("%w: Notation signature: %w", ErrSignature, err)
		}
		return bad(err)
	}
	n.leaf = n.content.SignerInfo.CertificateChain[0]
	if _, err := asn1.Unmarshal(n.leaf.RawSubject, &n.subject); err != nil {
		return bad(fmt.Errorf("the subject: %w", err))
	}
	if token := n.content.SignerInfo.UnsignedAttributes.TimestampSignature; len(token) > 0 {
		n.stamp, err = wrapToken(func(b *cryptobyte.Builder) { b.AddBytes(token) })
	}
	return n, err
}

// wrapToken is a granted TimeStampResp (RFC 3161 2.4.2) around the TimeStampToken that token adds.
func wrapToken(token func(*cryptobyte.Builder)) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1Int64(0) })
		token(b)
	})
	out, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("%w: timestamp: %w", ErrMalformed, err)
	}
	return out, nil
}

// imageDigest is the hex of sha256:HEX.
func imageDigest(text string) (string, error) {
	a, err := readArtifact(context.Background(), Artifact{Digest: text}, &decoded{})
	if err != nil {
		return "", err
	}
	if a.use != "sha256" {
		return "", fmt.Errorf("%w: images are named by sha256:HEX", ErrUsage)
	}
	return hex.EncodeToString(a.digests[a.use]), nil
}

// unfit is what keeps what was signed from vouching for the manifest of that digest now, whoever signed it.
func (n *notarized) unfit(digest string, now time.Time) (all []error) {
	switch target, err := readTarget(n.content.Payload); {
	case err != nil:
		all = append(all, fmt.Errorf("%w: Notation signature: %w", ErrMalformed, err))
	case target != "sha256:"+digest:
		all = append(all, fmt.Errorf("%w: the Notation signature is over %.100s, not over sha256:%s", ErrSignature, target, digest))
	}
	signed := n.content.SignerInfo.SignedAttributes
	if signed.SigningScheme != signature.SigningSchemeX509 {
		all = append(all, fmt.Errorf("%w: signing scheme %.60q: its time is the signer's own word", ErrTime, signed.SigningScheme))
	}
	for _, a := range signed.ExtendedAttributes {
		if a.Critical {
			all = append(all, fmt.Errorf("%w: Notation signature: the critical attribute %.100v is not understood", ErrMalformed, a.Key))
		}
	}
	if !signed.Expiry.IsZero() && now.After(signed.Expiry) {
		all = append(all, fmt.Errorf("%w: the signer let the signature expire on %s", ErrTime, signed.Expiry.UTC().Format(time.RFC3339)))
	}
	return all
}

// readTarget is the digest in a payload (signature-specification.md, "Payload").
func readTarget(p signature.Payload) (digest string, err error) {
	if p.ContentType != notationPayload {
		return "", fmt.Errorf("payload of type %.100q, want %s", p.ContentType, notationPayload)
	}
	var payload struct {
		Target struct {
			MediaType   string            `json:"mediaType"`
			Digest      string            `json:"digest"`
			Size        int64             `json:"size"`
			Annotations map[string]string `json:"annotations"`
		} `json:"targetArtifact"`
	}
	err = strictjson.Decode(p.Content, strictjson.Limits{Bytes: maxNotationTarget, Depth: 4, Values: 1000}, &payload)
	if err == nil && payload.Target.Digest == "" {
		err = errors.New("the payload names no artifact")
	}
	return payload.Target.Digest, err
}

// notarizedUnder judges what was read under one root. The first of the refusals is the one that is given; more are looked for with EveryReason alone, one of
// a kind.
func (v *Verifier) notarizedUnder(r *trustedRoot, n *notarized, unfit []error, p Policy) (*report, []error) {
	found := slices.Clone(unfit)
	ends := func(err error) bool {
		if err != nil && !slices.ContainsFunc(found, func(have error) bool { return kindOf(have) == kindOf(err) }) {
			found = append(found, err)
		}
		return err != nil && !v.everyReason
	}
	// 4. Does the root name the authorities of the chain, and is the certificate of the profile?
	if ends(v.checkAge(r, &policy{Policy: p})) || ends(n.authorities(r)) || ends(n.profile()) {
		return nil, found
	}
	// 5. When was it signed, by an authority of the same root? Was the certificate valid then?
	at, untimed := n.time(r)
	if ends(untimed) || untimed == nil && ends(n.path(r, at.Time)) {
		return nil, found
	}
	// 6. Who signed?
	subject := n.leaf.Subject.String()
	if untimed == nil && ends(p.deniedSubject(subject, at.Time)) || ends(p.acceptedSubject(subject, n.subject)) || len(found) > 0 {
		return nil, found
	}
	from, to := n.leaf.NotBefore.UTC(), n.leaf.NotAfter.UTC()
	return &report{
		Schema: SchemaID, Verified: true, Root: v.rootReport(r), BundleSHA256: hexSum(n.source.Bytes), MediaType: n.source.MediaType,
		Signature: signatureInfo{Kind: "notation"}, Times: []SignedTime{at}, Log: logProofs{Proven: []LogProof{}},
		Signer:  signerReport{Kind: "certificate", Identity: subject, Certificate: hexSum(n.leaf.Raw), NotBefore: &from, NotAfter: &to},
		Checked: []string{"signature", "artifact", "certificate path", "identity", "signed time"},
	}, nil
}

func (p Policy) deniedSubject(subject string, at time.Time) error {
	if e := p.Denied.Match(denied.Notation, subject, at); e != nil {
		return fmt.Errorf("%w: %s", ErrDenied, e)
	}
	return nil
}

func (p Policy) acceptedSubject(subject string, rdns pkix.RDNSequence) error {
	if !slices.ContainsFunc(p.Subjects, func(s Subject) bool { return s.matches(rdns) }) {
		return fmt.Errorf("%w: signed by %q", ErrIdentity, subject)
	}
	return nil
}

// authorities holds those that the envelope brings to the root.
func (n *notarized) authorities(r *trustedRoot) error {
	chain := n.content.SignerInfo.CertificateChain
	for _, c := range chain[1:] {
		if !containsRaw(r.caCerts, c.Raw) {
			return fmt.Errorf("%w: the root does not name the authority %.200q", ErrUntrusted, c.Subject)
		}
	}
	if len(chain) < 2 {
		return fmt.Errorf("%w: the certificate is of nobody but itself", ErrUntrusted)
	}
	return nil
}

// profile holds the certificate to the profile notation; a keyless leaf of the same authority is none.
func (n *notarized) profile() error {
	if why := n.notOfProfile(); why != "" {
		return fmt.Errorf("%w: the certificate is not of the profile notation: %s", ErrIdentity, why)
	}
	return nil
}

func (n *notarized) notOfProfile() string {
	for _, e := range n.leaf.Extensions {
		switch id := e.Id.String(); {
		case id == "2.5.29.17":
			return "it bears an alternative name"
		case id == "1.3.6.1.4.1.11129.2.4.2", id == "1.3.6.1.4.1.11129.2.4.3", strings.HasPrefix(id, "1.3.6.1.4.1.57264.1."):
			return "it is a keyless signer's"
		}
	}
	if why := subject.Check(n.subject); why != "" {
		return "its subject: " + why
	}
	return ""
}

// time is the one signed time, of an authority of the root.
func (n *notarized) time(r *trustedRoot) (at SignedTime, err error) {
	if n.stamp == nil {
		return at, fmt.Errorf("%w: the Notation signature bears no timestamp; `notation sign --timestamp-url` adds one", ErrTime)
	}
	t, err := parseToken(n.stamp)
	switch {
	case err == nil && !r.knowsTSA(t):
		return at, fmt.Errorf("%w: the timestamp is of an authority that the root does not name", ErrTime)
	case err != nil:
		return at, fmt.Errorf("%w: timestamp: %w", ErrMalformed, err)
	}
	for _, c := range t.certs {
		if !containsRaw(r.tsaCerts, c) {
			return at, fmt.Errorf("%w: timestamp: embedded certificate is not in the trusted root", ErrUntrusted)
		}
	}
	for _, tsa := range r.TimestampingAuthorities() {
		var stamp *root.Timestamp
		if stamp, err = tsa.Verify(n.stamp, n.content.SignerInfo.Signature); err == nil {
			return SignedTime{stamp.Time.UTC(), "timestampAuthority", stamp.URI}, nil
		}
	}
	return at, fmt.Errorf("%w: the timestamp does not verify: %w", ErrTime, oneLine{err})
}

// path verifies the certificate under an authority of the root, as of that time.
func (n *notarized) path(r *trustedRoot, at time.Time) error {
	var last error
	for _, ca := range r.FulcioCertificateAuthorities() {
		if _, last = ca.Verify(n.leaf, at); last == nil {
			return nil
		}
	}
	untrusted := n.authorities(r)
	switch {
	case at.Before(n.leaf.NotBefore) || at.After(n.leaf.NotAfter):
		return fmt.Errorf("%w: signed %s, the certificate is valid from %s to %s", ErrTime, at.UTC().Format(time.RFC3339), n.leaf.NotBefore.UTC().Format(time.RFC3339), n.leaf.NotAfter.UTC().Format(time.RFC3339))
	case untrusted != nil:
		return untrusted
	}
	// The chain is the root's, and each link of it verified with the envelope.
	return fmt.Errorf("%w: signed %s, when the authority %q was not valid: %w", ErrTime, at.UTC().Format(time.RFC3339), n.leaf.Issuer, oneLine{last})
}
