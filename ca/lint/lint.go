// Package lint says whether a certificate is one Redoubt may sign, before the
// signing key is touched. The caller signs the very same template with a
// throwaway key of the same type and hands the bytes to Check; only when Check
// returns nil does the real key sign.
//
// Two sets of rules are applied, and a finding of either refuses the
// certificate: the certificate lints of zlint 3.6.8 whose source is an RFC
// (5280, 3279, 5480, 5891, 6962, 8813), without the exclusions named in
// zlint.go, and the own rules of each Profile (profile.go), which pin what the
// Sigstore certificate profile and RFC 3161 demand and zlint does not know.
//
// It does not check signatures, chains, revocation or whether the names are
// deserved; those are the authority's. Nothing here keeps state between calls
// except the list of lints, built once, and the issuer's name parsed last; Check
// is safe for concurrent use. The one shape linted for each issuance goes a
// shorter way to the same verdict (shape.go).
package lint

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// ErrRefused is wrapped by every error of Check that is about the content of the
// certificate.
var ErrRefused = errors.New("certificate refused by lint")

// maxDER bounds what is parsed. A Sigstore leaf is under 2 KiB; 64 KiB leaves
// room for the largest token claims.
const maxDER = 64 << 10

// Profile is a kind of certificate and selects the own rules applied to it.
type Profile int

// The profiles Redoubt issues.
const (
	// Root is the self-signed anchor: CA, keyCertSign and cRLSign, no EKU.
	Root Profile = iota + 1
	// Issuing is the code-signing intermediate: pathlen 0, EKU codeSigning.
	Issuing
	// TSAIntermediate is the time-stamping intermediate: pathlen 0, EKU timeStamping.
	TSAIntermediate
	// TSALeaf signs time-stamp tokens: EKU timeStamping alone and critical (RFC 3161, 2.3).
	TSALeaf
	// Precertificate is a leaf with the RFC 6962 poison and no SCT.
	Precertificate
	// Leaf is the end-entity code-signing certificate with embedded SCTs.
	Leaf
	// Cross speaks for one root to those who know another: CA, pathlen 1, no EKU.
	Cross
	// Notation is the end-entity certificate of a signer with a subject, for the Notary Project's tools.
	Notation
)

// String names the profile as transcripts and errors show it.
func (p Profile) String() string {
	switch p {
	case Root:
		return "root"
	case Issuing:
		return "issuing"
	case TSAIntermediate:
		return "tsa-intermediate"
	case TSALeaf:
		return "tsa-leaf"
	case Precertificate:
		return "precertificate"
	case Leaf:
		return "leaf"
	case Cross:
		return "cross"
	case Notation:
		return "notation"
	}
	return fmt.Sprintf("profile(%d)", int(p))
}

// Finding is one rule a certificate breaks.
type Finding struct {
	// Lint is the rule's name: zlint's own, or "redoubt_..." for ours.
	Lint string `json:"lint"`
	// Detail says what was found, in a sentence.
	Detail string `json:"detail"`
}

// Error lists every finding of one certificate. errors.Is(err, ErrRefused).
type Error struct {
	Profile  Profile
	Findings []Finding
}

// Error names every broken rule in one line.
func (e *Error) Error() string {
	parts := make([]string, len(e.Findings))
	for i, f := range e.Findings {
		parts[i] = f.Lint + ": " + f.Detail
	}
	return fmt.Sprintf("%v (%s): %s", ErrRefused, e.Profile, strings.Join(parts, "; "))
}

// Unwrap lets errors.Is find ErrRefused.
func (e *Error) Unwrap() error { return ErrRefused }

// Check parses one DER certificate and applies every rule of profile p. It
// returns nil or an *Error listing all findings; any other error means that
// nothing could be linted (an unknown profile, too many octets).
func Check(der []byte, p Profile) error {
	if len(der) > maxDER {
		return fmt.Errorf("certificate of %d octets, limit %d", len(der), maxDER)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return &Error{Profile: p, Findings: []Finding{{"redoubt_parse", err.Error()}}}
	}
	findings, err := checkProfile(cert, p)
	if err != nil {
		return err
	}
	if p == Precertificate && len(findings) == 0 {
		if z := shaped(cert); z != nil && faultless(z) {
			return nil
		}
	}
	more, err := runZlint(der, p)
	if err != nil {
		return err
	}
	if findings = append(findings, more...); len(findings) > 0 {
		return &Error{Profile: p, Findings: findings}
	}
	return nil
}
