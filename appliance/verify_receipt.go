package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verifying"
)

const (
	summaryType = "https://slsa.dev/verification_summary/v1"
	// verifierID names the program that judged. Who ran it is in the certificate over the receipt.
	verifierID = "https://redoubt.internal/verify"
	topLevel   = 3 // the highest level of the build track of SLSA 1.0
)

// summary is a Verification Summary Attestation's predicate (SLSA 1.0, verification_summary/v1).
type summary struct {
	Verifier struct {
		ID      string            `json:"id"`
		Version map[string]string `json:"version"`
	} `json:"verifier"`
	TimeVerified time.Time     `json:"timeVerified"`
	ResourceURI  string        `json:"resourceUri"`
	Policy       descriptor    `json:"policy"`
	Inputs       []descriptor  `json:"inputAttestations"`
	Result       string        `json:"verificationResult"` // PASSED: for what is refused there is no receipt
	Levels       []string      `json:"verifiedLevels"`
	SLSAVersion  string        `json:"slsaVersion"`
	Rule         *receiptRules `json:"redoubt_decision,omitempty"`
}

// descriptor is an in-toto ResourceDescriptor.
type descriptor struct {
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

// receiptRules is what a decision says that the standard has no member for.
type receiptRules struct {
	Rule    string   `json:"rule"`
	Reasons []string `json:"reasons"`
}

// leaveReceipt signs and writes the receipt of what was allowed.
func leaveReceipt(c *cli.Context, p *policy.Policy, a policy.Artifact, d policy.Decision) error {
	predicate, err := json.Marshal(summarize(p, a, d, filepath.Base(c.String("policy")), clock()))
	if err != nil {
		return fmt.Errorf("encoding the receipt: %w", err)
	}
	content, err := statement{Subject: about(a.Name, d.Artifact), PredicateType: summaryType, Predicate: predicate}.content()
	if err != nil {
		return err
	}
	if _, err := signTo(c, c.String("receipt"), serviceFiles{setup: c.String("receipt-setup")}, content); err != nil {
		return fmt.Errorf("verified, but the receipt could not be made: %w", err)
	}
	fmt.Fprintf(c.App.ErrWriter, "receipt written to %s\n", c.String("receipt"))
	return nil
}

// summarize says what was verified, by which policy and what of.
func summarize(p *policy.Policy, a policy.Artifact, d policy.Decision, policyName string, now time.Time) summary {
	hex := func(digest string) map[string]string {
		algorithm, hex, _ := strings.Cut(digest, ":")
		return map[string]string{algorithm: hex}
	}
	s := summary{TimeVerified: now.UTC().Truncate(time.Second), Result: "PASSED", SLSAVersion: "1.0", Policy: descriptor{policyName, hex(d.Version)},
		Inputs: []descriptor{}, Levels: []string{"SLSA_BUILD_LEVEL_UNEVALUATED"}, Rule: &receiptRules{d.Rule, d.Reasons}}
	s.Verifier.ID, s.Verifier.Version = verifierID, map[string]string{"redoubt": version}
	if a.Kind == policy.Image {
		s.ResourceURI = "oci://" + a.Name + "@" + d.Artifact
	} else {
		s.ResourceURI = verifying.URIOf(a.Name)
	}
	if level := p.SLSALevel(d.Rule); level > 0 {
		s.Levels = []string{fmt.Sprintf("SLSA_BUILD_LEVEL_%d", min(level, topLevel))}
	}
	seen := map[string]bool{}
	for _, r := range d.Results {
		if !seen[r.BundleSHA256()] {
			seen[r.BundleSHA256()] = true
			s.Inputs = append(s.Inputs, descriptor{Digest: hex("sha256:" + r.BundleSHA256())})
		}
	}
	return s
}
