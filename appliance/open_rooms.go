package main

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"redoubt.internal/ca/identity"
	"redoubt.internal/ca/trust"
	"redoubt.internal/ca/tsa"
	"redoubt.internal/log/audit"
)

// openAuthorities wires the rooms that stand on the logs.
func (in *instance) openAuthorities(context.Context) (err error) {
	for _, room := range []struct {
		part string
		open func() error
	}{{partCA, in.openAudit}, {partLog, in.openArtifacts}, {partCA, in.openCertificateLogs}, {partTSA, in.openTimestamps}, {partTrust, in.openTrust}} {
		if !in.parts.runs(room.part) {
			continue
		}
		if err := room.open(); err != nil {
			return err
		}
	}
	if err := in.holdRules(); err != nil {
		return err
	}
	if in.cfg.Issuer.Enabled && (in.parts.runs(partOIDC) || in.parts.runs(partCA)) { // the CA knows the issuer's key without asking for it
		if err := in.openIssuer(); err != nil {
			return err
		}
	}
	if err := in.openDenied(); err != nil {
		return err
	}
	l, err := in.readLaw(in.cfg)
	if err != nil {
		return err
	}
	in.inForce.Store(l)
	issuing, err := in.readIssuers(in.cfg)
	in.issuance.Store(issuing)
	return err
}

func (in *instance) openAudit() error {
	in.audit = audit.New(in.auditLog)
	return nil
}

func (in *instance) openTimestamps() error {
	policy, err := parseOID(in.cfg.TSA.Policy)
	if err != nil {
		return fmt.Errorf("tsa.policy: %w", err)
	}
	in.tsa, err = tsa.New(tsa.Config{Signer: in.active(roleTSA), Chain: in.tsaChain, Policy: policy, DB: in.floorDB, Now: in.now, Logger: in.logger})
	return err
}

func (in *instance) openTrust() (err error) {
	if in.tuf, err = trust.Open(in.tufConfig()); err != nil {
		return fmt.Errorf("opening the trust repository: %w", err)
	}
	return nil
}

// openIssuer opens the built-in issuer under its two names. Without the oidc role's key it says who it is and makes no tokens.
func (in *instance) openIssuer() error {
	former, err := in.formerIssuerKeys()
	if err != nil {
		return err
	}
	c := identity.IssuerConfig{URL: in.cfg.Services.OIDC.URL, Signer: in.signer(in.history.active(roleOIDC)), Former: former, Audience: in.cfg.Issuer.Audience, Now: in.now}
	if in.issuer, err = identity.NewIssuer(c); err != nil {
		return err
	}
	c.URL = in.issuer.URL() + workloadPath
	in.workloads, err = identity.NewIssuer(c)
	return err
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// readChain reads a PEM file of certificates.
func readChain(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a certificate chain: %w", err)
	}
	chain, err := parseChain(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return chain, nil
}

func parseChain(data []byte) (chain []*x509.Certificate, err error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, certificate)
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return chain, nil
}

// parseOID reads a dotted object identifier; "" is nil, which rooms take as their default.
func parseOID(text string) (oid asn1.ObjectIdentifier, err error) {
	if text == "" {
		return nil, nil
	}
	for arc := range strings.SplitSeq(text, ".") {
		n, err := strconv.ParseUint(arc, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%q is not an object identifier", text)
		}
		oid = append(oid, int(n))
	}
	if len(oid) < 2 {
		return nil, fmt.Errorf("%q is not an object identifier", text)
	}
	return oid, nil
}
