package ceremony

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cloudflare/cfssl/certinfo"
	"github.com/cloudflare/cfssl/config"
	"github.com/cloudflare/cfssl/csr"
	cfssllog "github.com/cloudflare/cfssl/log"

	"redoubt.internal/ca/lint"
)

// silence stops cfssl's own logger, a process-wide variable, before its first use.
var silence = sync.OnceFunc(func() { cfssllog.Level = cfssllog.LevelFatal + 1 })

// usages are cfssl's names for the key usages of each profile.
var usages = map[lint.Profile][]string{
	lint.Root:            {"cert sign", "crl sign"},
	lint.Cross:           {"cert sign", "crl sign"},
	lint.Issuing:         {"cert sign", "crl sign", "code signing"},
	lint.TSAIntermediate: {"cert sign", "crl sign", "timestamping"},
	lint.TSALeaf:         {"digital signature", "timestamping"},
}

// signingProfile builds the cfssl signing profile of a certificate and has
// cfssl read and validate it, as the same JSON would be by cfssl's own tools.
func signingProfile(c certificate) (*config.SigningProfile, error) {
	silence()
	p := map[string]any{"usages": usages[c.profile], "expiry": (time.Duration(c.Days) * 24 * time.Hour).String()}
	switch c.profile {
	case lint.Root:
		p["ca_constraint"] = config.CAConstraint{IsCA: true, MaxPathLen: 2} // a cross-signed root and its issuing authority
	case lint.Cross:
		p["ca_constraint"] = config.CAConstraint{IsCA: true, MaxPathLen: 1}
	case lint.Issuing, lint.TSAIntermediate:
		p["ca_constraint"] = config.CAConstraint{IsCA: true, MaxPathLenZero: true}
	}
	text, err := json.Marshal(map[string]any{"signing": map[string]any{"default": p}})
	if err != nil {
		return nil, fmt.Errorf("encoding signing profile: %w", err)
	}
	loaded, err := config.LoadConfig(text)
	if err != nil {
		return nil, fmt.Errorf("reading signing profile of %s: %w", c.role, err)
	}
	return loaded.Signing.Default, nil
}

// makeRequest has cfssl make a certificate request signed by the key, which
// proves possession and fixes the subject's encoding, and reads it back.
func makeRequest(key crypto.Signer, c certificate, plan Plan) (string, error) {
	silence()
	req := &csr.CertificateRequest{CN: c.CommonName, Names: []csr.Name{{O: plan.Organization}}}
	text, err := csr.Generate(key, req)
	if err != nil {
		return "", fmt.Errorf("making certificate request: %w", err)
	}
	parsed, err := parseRequest(text)
	if err != nil {
		return "", err
	}
	if !samePublic(key.Public(), parsed.PublicKey) {
		return "", errors.New("certificate request is for another key")
	}
	return string(text), nil
}

// parseRequest reads one PEM certificate request and checks its signature.
func parseRequest(text []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return nil, errors.New("certificate request is not one PEM block")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing certificate request: %w", err)
	}
	if err := parsed.CheckSignature(); err != nil {
		return nil, fmt.Errorf("verifying certificate request: %w", err)
	}
	return parsed, nil
}

// describe is cfssl's readable form of a certificate, without its PEM, which
// the transcript has beside it.
func describe(cert *x509.Certificate) *certinfo.Certificate {
	silence()
	d := certinfo.ParseCertificate(cert)
	d.RawPEM = ""
	return d
}

// parseName reads an encoded subject.
func parseName(raw []byte) (name pkix.Name, err error) {
	var rdns pkix.RDNSequence
	rest, err := asn1.Unmarshal(raw, &rdns)
	if err != nil || len(rest) > 0 {
		return name, errors.New("its subject is malformed")
	}
	name.FillFromRDNSequence(&rdns)
	return name, nil
}
