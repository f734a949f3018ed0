package verify

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"time"

	prototrust "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/log/strictjson"
)

const maxRoot = 4 << 20 // bytes of trusted_root.json

// trustedRoot is a parsed trusted root with what the checks of bind.go need.
type trustedRoot struct {
	*root.TrustedRoot
	name     string
	sum      [32]byte
	asOf     time.Time
	caCerts  [][]byte // DER of every CA certificate
	tsaCerts [][]byte // DER of every TSA certificate, leaves included
	// Signers of known TSAs: their leaves, and for those listed without a leaf
	// (first certificate a CA) that CA's name.
	tsaLeaves  map[signerID]bool
	tsaIssuers map[string]bool
}

func parseRoot(in Root) (trustedRoot, error) {
	bad := func(err error) (trustedRoot, error) { return trustedRoot{}, fmt.Errorf("%w: %w", ErrMalformed, err) }
	if err := strictjson.Check(in.JSON, strictjson.Limits{Bytes: maxRoot, Depth: 16, Values: 100_000}); err != nil {
		return bad(err)
	}
	p := &prototrust.TrustedRoot{}
	if err := protojson.Unmarshal(in.JSON, p); err != nil {
		return bad(err)
	}
	// Two instances under one id would silently become one.
	for kind, logs := range map[string][]*prototrust.TransparencyLogInstance{"tlogs": p.GetTlogs(), "ctlogs": p.GetCtlogs()} {
		seen := map[string]bool{}
		for _, l := range logs {
			id := hex.EncodeToString(l.GetLogId().GetKeyId())
			if seen[id] {
				return bad(fmt.Errorf("%s lists log id %s twice", kind, id))
			}
			seen[id] = true
		}
	}
	if len(p.GetCertificateAuthorities())+len(p.GetTlogs())+len(p.GetTimestampAuthorities()) == 0 {
		return bad(fmt.Errorf("it trusts nothing"))
	}
	tr, err := root.NewTrustedRootFromProtobuf(p)
	if err != nil {
		return bad(err)
	}
	t := trustedRoot{TrustedRoot: tr, name: in.Name, sum: sha256.Sum256(in.JSON), asOf: in.AsOf}
	for _, ca := range p.GetCertificateAuthorities() {
		for _, c := range ca.GetCertChain().GetCertificates() {
			t.caCerts = append(t.caCerts, c.GetRawBytes())
		}
	}
	t.tsaLeaves, t.tsaIssuers = map[signerID]bool{}, map[string]bool{}
	for _, ca := range p.GetTimestampAuthorities() {
		for i, c := range ca.GetCertChain().GetCertificates() {
			t.tsaCerts = append(t.tsaCerts, c.GetRawBytes())
			if i > 0 {
				continue
			}
			cert, err := x509.ParseCertificate(c.GetRawBytes())
			if err != nil {
				return bad(err)
			}
			if cert.IsCA {
				t.tsaIssuers[string(cert.RawSubject)] = true
				continue
			}
			serial, err := asn1.Marshal(cert.SerialNumber)
			if err != nil {
				return bad(err)
			}
			t.tsaLeaves[signerID{string(cert.RawIssuer), string(serial[2:])}] = true
		}
	}
	return t, nil
}
