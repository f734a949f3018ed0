// Package entry reads what an entry of a transparency log says: which artefact, signed by whom, with which key, when.
//
// Contract:
//   - Read takes the bytes of a leaf and nothing else. It fetches nothing, keeps nothing, and believes no signature: whether the leaf stands in a
//     log is for the tree to prove, whether its signature holds was for the log to check. Facts are what the leaf claims.
//   - Understood are the bodies of Rekor: hashedrekord 0.0.1 and 0.0.2, dsse 0.0.1 and 0.0.2, intoto 0.0.1 and 0.0.2, rekord 0.0.1. Any other kind or
//     version gives its name alone, with Opaque set. Anything that is not one JSON object with a kind is ErrEntry.
//   - One reading only: a name twice, a member that does not belong, a value of the wrong type is ErrEntry. Time and memory are linear
//     in the leaf, which is at most MaxLeaf bytes.
//   - A key or certificate that cannot be parsed hides nobody silently: the entry keeps its digests and the hash of the key, and Opaque says
//     that names may be missing.
//
// Start at Read.
package entry

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"redoubt.internal/log/strictjson"
)

// ErrEntry: the leaf is not an entry as Rekor writes them.
var ErrEntry = errors.New("not an entry of a Rekor log")

// Limits of a leaf.
const (
	MaxLeaf    = 1 << 20 // bytes; a tiled log holds at most 65,535
	maxSigners = 64      // signatures of one envelope
	maxDigests = 4096    // digests of one statement
)

// Facts is what an entry says. Its JSON form is stable.
type Facts struct {
	Kind       string `json:"kind"`       // "hashedrekord"
	APIVersion string `json:"apiVersion"` // "0.0.1"
	// Digests are "sha256:<hex>" and the like, in lower case: of the artefact, or of payload, envelope and, where the payload is at hand, its
	// subjects and materials.
	Digests []string `json:"digests,omitempty"`
	// Keys, Identities and Issuer are those of all signers; which belongs to which is in Signers. Issuer is the first one's.
	Keys       []string `json:"keys,omitempty"`       // SHA-256 of the key's or certificate's PEM in hex, as Rekor indexes keys
	Identities []string `json:"identities,omitempty"` // names in the certificate: e-mail, URI, DNS, IP, Fulcio's otherName; as written
	Issuer     string   `json:"issuer,omitempty"`     // of the identity token, as Fulcio's certificate names it
	Signers    []Signer `json:"signers,omitempty"`
	// Opaque: a kind that is not understood, or a key that could not be parsed, so there may be more than is said here.
	Opaque bool `json:"opaque,omitempty"`
}

// Signer is one signature's key or certificate.
type Signer struct {
	Key        string    `json:"key"`
	Identities []string  `json:"identities,omitempty"`
	Issuer     string    `json:"issuer,omitempty"`
	NotBefore  time.Time `json:"not_before,omitzero"` // the signature was made in this window, if it was made with a certificate
	NotAfter   time.Time `json:"not_after,omitzero"`
}

// Read returns what leaf, the canonical body of a Rekor entry, says. Every error is ErrEntry.
func Read(leaf []byte) (Facts, error) {
	if len(leaf) > MaxLeaf {
		return Facts{}, fmt.Errorf("%w: %d bytes, at most %d", ErrEntry, len(leaf), MaxLeaf)
	}
	o, err := strictjson.Object(leaf)
	if err != nil {
		return Facts{}, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	var f Facts
	var ok bool
	if f.Kind, ok = o["kind"].(string); !ok || f.Kind == "" {
		return Facts{}, fmt.Errorf("%w: it names no kind", ErrEntry)
	}
	if f.APIVersion, ok = o["apiVersion"].(string); !ok {
		return Facts{}, fmt.Errorf("%w: it names no apiVersion", ErrEntry)
	}
	read := readers[f.Kind+" "+f.APIVersion]
	if read == nil {
		f.Opaque = true
		return f, nil
	}
	top := &object{path: "entry", of: o}
	top.only("apiVersion", "kind", "spec")
	read(&f, top.object("spec"))
	if top.err != nil {
		return Facts{}, top.err
	}
	return f, nil
}

// addKey takes in a key or certificate as Rekor v1 keeps it, in PEM or, for the other formats of rekord, in their own text.
func (f *Facts) addKey(text []byte, s Signer) {
	s.Key = digestOf(text)
	f.Signers = append(f.Signers, s)
	f.Keys = appendNew(f.Keys, s.Key)
	f.Identities = appendNew(f.Identities, s.Identities...)
	if f.Issuer == "" {
		f.Issuer = s.Issuer
	}
}

// addDigest takes in a digest; what is not hexadecimal is kept as it is written, it matches nothing.
func (f *Facts) addDigest(algorithm, value string) {
	f.Digests = appendNew(f.Digests, strings.ToLower(algorithm+":"+value))
}

// fulcio's extensions that hold the token's issuer: as raw text, and as a DER string (the newer one).
var (
	oidIssuer   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
	oidIssuerV2 = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
)

// readCertificate returns what a certificate says of its holder.
func readCertificate(der []byte) (Signer, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Signer{}, err
	}
	s := Signer{Identities: cryptoutils.GetSubjectAlternateNames(cert), NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC()}
	for _, e := range cert.Extensions {
		switch {
		case e.Id.Equal(oidIssuerV2):
			var text string
			if rest, err := asn1.UnmarshalWithParams(e.Value, &text, "utf8"); err != nil || len(rest) > 0 {
				return Signer{}, errors.New("the issuer extension is not one UTF-8 string")
			}
			s.Issuer = text
		case e.Id.Equal(oidIssuer) && s.Issuer == "":
			s.Issuer = string(e.Value)
		}
	}
	return s, nil
}

// Subjects returns the digests a statement of in-toto is about: of its subjects, and of the materials of a provenance. A payload that is none
// has no subjects.
func Subjects(statement []byte) []string {
	if strictjson.Check(statement, strictjson.Limits{Bytes: 16 << 20}) != nil {
		return nil
	}
	type digests []struct {
		Digest map[string]string `json:"digest"`
	}
	var s struct {
		Subject   digests `json:"subject"`
		Predicate json.RawMessage
	}
	if json.Unmarshal(statement, &s) != nil {
		return nil
	}
	var p struct {
		Materials digests `json:"materials"`
	}
	if json.Unmarshal(s.Predicate, &p) != nil {
		p.Materials = nil
	}
	var out []string
	for _, d := range slices.Concat(s.Subject, p.Materials) {
		for algorithm, value := range d.Digest {
			out = append(out, strings.ToLower(algorithm+":"+value))
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), maxDigests)]
}

func appendNew(list []string, values ...string) []string {
	for _, v := range values {
		if !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}
