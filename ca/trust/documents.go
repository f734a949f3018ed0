package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	prototrust "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Media types. sigstore-go and sigstore-python take exactly these.
const (
	TrustedRootMediaType   = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
	SigningConfigMediaType = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
)

// TrustedRoot returns trusted_root.json. Its names are the canonical ones under
// Domain: clients take the origin of a log from the host of its baseUrl.
func (m Material) TrustedRoot() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	root := &prototrust.TrustedRoot{MediaType: TrustedRootMediaType}
	for _, l := range m.Rekor {
		p, err := m.logInstance(l, "rekor")
		if err != nil {
			return nil, err
		}
		root.Tlogs = append(root.Tlogs, p)
	}
	for _, l := range m.CTLogs {
		p, err := m.logInstance(l, "ct")
		if err != nil {
			return nil, err
		}
		root.Ctlogs = append(root.Ctlogs, p)
	}
	for _, a := range m.CAs {
		root.CertificateAuthorities = append(root.CertificateAuthorities, a.proto("https://fulcio."+m.Domain))
	}
	for _, a := range m.TSAs {
		root.TimestampAuthorities = append(root.TimestampAuthorities, a.proto("https://tsa."+m.Domain+"/api/v1/timestamp"))
	}
	return stableJSON(root)
}

func (m Material) logInstance(l Log, label string) (*prototrust.TransparencyLogInstance, error) {
	spki, err := x509.MarshalPKIXPublicKey(l.Key)
	if err != nil {
		return nil, fmt.Errorf("encoding log key: %w", err)
	}
	id, err := l.ID()
	if err != nil {
		return nil, fmt.Errorf("encoding log key: %w", err)
	}
	return &prototrust.TransparencyLogInstance{
		BaseUrl:       "https://" + m.host(l, label),
		HashAlgorithm: protocommon.HashAlgorithm_SHA2_256,
		PublicKey: &protocommon.PublicKey{
			RawBytes:   spki,
			KeyDetails: protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
			ValidFor:   timeRange(l.Start, l.End),
		},
		LogId: &protocommon.LogId{KeyId: id[:]},
	}, nil
}

// proto names the authority by its root's subject, as the public roots do.
func (a Authority) proto(uri string) *prototrust.CertificateAuthority {
	root := a.Chain[len(a.Chain)-1]
	org := ""
	if len(root.Subject.Organization) > 0 {
		org = root.Subject.Organization[0]
	}
	chain := &protocommon.X509CertificateChain{}
	for _, c := range a.Chain {
		chain.Certificates = append(chain.Certificates, &protocommon.X509Certificate{RawBytes: c.Raw})
	}
	return &prototrust.CertificateAuthority{
		Subject:   &protocommon.DistinguishedName{Organization: org, CommonName: root.Subject.CommonName},
		Uri:       uri,
		CertChain: chain,
		ValidFor:  timeRange(a.start(), a.End),
	}
}

// SigningConfig returns a signing config v0.2 that names the dialled URLs, with
// Rekor at API version major, 1 or 2. The two are separate documents because
// clients take the highest version listed, which older ones cannot speak.
// Fulcio is version 1 by definition of the format. Keyless signing into Rekor
// v2 needs a TSA, so version 2 without one is refused.
func (m Material) SigningConfig(major uint32) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if major != 1 && major != 2 {
		return nil, fmt.Errorf("%w: Rekor API version %d", ErrMaterial, major)
	}
	if major == 2 && len(m.TSAs) == 0 {
		return nil, fmt.Errorf("%w: Rekor v2 entries bear no time, a TSA is required", ErrMaterial)
	}
	service := func(url string, version uint32, start time.Time) []*prototrust.Service {
		return []*prototrust.Service{{Url: url, MajorApiVersion: version, ValidFor: timeRange(start, time.Time{}), Operator: m.Domain}}
	}
	caStart := latest(inUse(m.CAs, Authority.next), Authority.start)
	rekorURL, logs := m.URLs.Rekor, inUse(v1Logs(m.Rekor), Log.next)
	if major == 2 {
		if m.URLs.RekorV2 != "" {
			rekorURL = m.URLs.RekorV2
		}
		if separate := inUse(v2Logs(m.Rekor), Log.next); len(separate) > 0 {
			logs = separate
		}
	}
	c := &prototrust.SigningConfig{
		MediaType:       SigningConfigMediaType,
		CaUrls:          service(m.URLs.Fulcio, 1, caStart),
		RekorTlogUrls:   service(rekorURL, major, latest(logs, func(l Log) time.Time { return l.Start })),
		RekorTlogConfig: &prototrust.ServiceConfiguration{Selector: prototrust.ServiceSelector_ANY},
	}
	if m.URLs.OIDC != "" {
		c.OidcUrls = service(m.URLs.OIDC, 1, caStart)
	}
	if len(m.TSAs) > 0 {
		c.TsaUrls = service(m.URLs.TSA, 1, latest(inUse(m.TSAs, Authority.next), Authority.start))
		c.TsaConfig = &prototrust.ServiceConfiguration{Selector: prototrust.ServiceSelector_ANY}
	}
	return stableJSON(c)
}

func latest[T any](all []T, start func(T) time.Time) time.Time {
	return start(slices.MaxFunc(all, func(a, b T) int { return start(a).Compare(start(b)) }))
}

func timeRange(start, end time.Time) *protocommon.TimeRange {
	r := &protocommon.TimeRange{Start: timestamppb.New(start.UTC().Truncate(time.Second))}
	if !end.IsZero() {
		r.End = timestamppb.New(end.UTC().Truncate(time.Second))
	}
	return r
}

// stableJSON is proto3 JSON with fixed white space; protojson varies it on purpose.
func stableJSON(msg proto.Message) ([]byte, error) {
	raw, err := protojson.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	var flat, out bytes.Buffer
	if err := json.Compact(&flat, raw); err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	if err := json.Indent(&out, flat.Bytes(), "", "  "); err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
