package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"redoubt.internal/appliance/verify"
)

// kyvernoPolicy is a policy of Kyverno (kyverno.io) with verifyImages, as far as it can be carried over: decoding refuses any other field.
type kyvernoPolicy struct {
	APIVersion string         `yaml:"apiVersion"`
	Kind       string         `yaml:"kind"`
	Metadata   metadata       `yaml:"metadata"`
	Status     map[string]any `yaml:"status"`
	Spec       struct {
		ValidationFailureAction string         `yaml:"validationFailureAction"`
		FailurePolicy           string         `yaml:"failurePolicy"`
		WebhookTimeoutSeconds   int            `yaml:"webhookTimeoutSeconds"`
		Background              bool           `yaml:"background"`
		WebhookConfiguration    map[string]any `yaml:"webhookConfiguration"`
		Rules                   []kyvernoRule  `yaml:"rules"`
	} `yaml:"spec"`
}

type kyvernoRule struct {
	Name         string          `yaml:"name"`
	Match        kyvernoMatch    `yaml:"match"`
	VerifyImages []kyvernoImages `yaml:"verifyImages"`
}

type kyvernoMatch struct {
	Any       []kyvernoFilter  `yaml:"any"`
	All       []kyvernoFilter  `yaml:"all"`
	Resources kyvernoResources `yaml:"resources"`
}

type kyvernoFilter struct {
	Resources kyvernoResources `yaml:"resources"`
}

type kyvernoResources struct {
	Kinds []string `yaml:"kinds"`
}

type kyvernoImages struct {
	Type            string               `yaml:"type"`
	ImageReferences []string             `yaml:"imageReferences"`
	FailureAction   string               `yaml:"failureAction"`
	Attestors       []kyvernoAttestors   `yaml:"attestors"`
	Attestations    []kyvernoAttestation `yaml:"attestations"`
	MutateDigest    *bool                `yaml:"mutateDigest"`
	VerifyDigest    *bool                `yaml:"verifyDigest"`
	Required        *bool                `yaml:"required"`
	UseCache        *bool                `yaml:"useCache"`
}

type kyvernoAttestors struct {
	Count   int             `yaml:"count"`
	Entries []kyvernoSigner `yaml:"entries"`
}

type kyvernoSigner struct {
	Keys *struct {
		PublicKeys         string       `yaml:"publicKeys"`
		SignatureAlgorithm string       `yaml:"signatureAlgorithm"`
		Rekor              kyvernoRekor `yaml:"rekor"`
	} `yaml:"keys"`
	Keyless *struct {
		Issuer               string            `yaml:"issuer"`
		IssuerRegExp         string            `yaml:"issuerRegExp"`
		Subject              string            `yaml:"subject"`
		SubjectRegExp        string            `yaml:"subjectRegExp"`
		Rekor                kyvernoRekor      `yaml:"rekor"`
		AdditionalExtensions map[string]string `yaml:"additionalExtensions"`
	} `yaml:"keyless"`
}

type kyvernoRekor struct {
	URL        string `yaml:"url"`
	IgnoreTlog bool   `yaml:"ignoreTlog"`
}

type kyvernoAttestation struct {
	Type          string             `yaml:"type"`
	PredicateType string             `yaml:"predicateType"`
	Attestors     []kyvernoAttestors `yaml:"attestors"`
}

func (i *importing) kyverno(p *kyvernoPolicy) error {
	if a := p.Spec.ValidationFailureAction; a != "" && !strings.EqualFold(a, "enforce") {
		return fmt.Errorf("Kyverno policy %s: validationFailureAction %q: a policy here enforces; the gate warns by namespace", p.Metadata.name(), a)
	}
	if a := p.Spec.FailurePolicy; a != "" && a != "Fail" {
		return fmt.Errorf("Kyverno policy %s: failurePolicy %q: the gate here fails closed", p.Metadata.name(), a)
	}
	for _, rule := range p.Spec.Rules {
		for k, v := range rule.VerifyImages {
			name := fmt.Sprintf("%s/%s", p.Metadata.name(), rule.Name)
			if len(rule.VerifyImages) > 1 {
				name = fmt.Sprintf("%s/%d", name, k)
			}
			if err := i.verifyImages(name, rule, v); err != nil {
				return fmt.Errorf("Kyverno rule %s: %w", name, err)
			}
		}
	}
	return nil
}

func (i *importing) verifyImages(name string, rule kyvernoRule, v kyvernoImages) error {
	kinds := rule.Match.Resources.Kinds
	for _, f := range append(rule.Match.Any, rule.Match.All...) {
		kinds = append(kinds, f.Resources.Kinds...)
	}
	for _, k := range kinds {
		if k != "Pod" && k != "*" {
			return fmt.Errorf("it matches %s alone: a policy here is for images, wherever they run", k)
		}
	}
	switch {
	case v.Type != "" && v.Type != "Cosign" && v.Type != "SigstoreBundle":
		return fmt.Errorf("signatures of type %q", v.Type)
	case v.FailureAction != "" && !strings.EqualFold(v.FailureAction, "enforce"):
		return fmt.Errorf("failureAction %q: a policy here enforces", v.FailureAction)
	case v.VerifyDigest != nil && !*v.VerifyDigest || v.Required != nil && !*v.Required || v.MutateDigest != nil && !*v.MutateDigest:
		return errors.New("mutateDigest, verifyDigest or required is false: the gate here always resolves, pins and asks")
	}
	r := Rule{Name: name}
	for _, ref := range v.ImageReferences {
		g, err := repositoryGlob(strings.ReplaceAll(ref, "*", "**")) // Kyverno's star crosses slashes
		if err != nil {
			return err
		}
		if strings.Contains(ref, "?") {
			return fmt.Errorf("the pattern %q has a question mark", ref)
		}
		r.Images = append(r.Images, g)
	}
	if len(v.Attestors) > 0 {
		s, err := i.attestors(name, v.Attestors)
		if err != nil {
			return err
		}
		r.Signatures = &s
	}
	for k, a := range v.Attestations {
		s, err := i.attestors(fmt.Sprintf("%s attestation %d", name, k), a.Attestors)
		if err != nil {
			return fmt.Errorf("attestation %d: %w", k, err)
		}
		if a.Type == "" {
			a.Type = a.PredicateType
		}
		r.Attestations = append(r.Attestations, Attestation{Type: a.Type, By: s.By, Threshold: s.Threshold})
	}
	i.out.File.Rules = append(i.out.File.Rules, r)
	return nil
}

// attestors are the signers of one set. Several sets must all be satisfied there.
func (i *importing) attestors(name string, sets []kyvernoAttestors) (Signatures, error) {
	if len(sets) != 1 {
		return Signatures{}, fmt.Errorf("%d sets of attestors; one is carried over", len(sets))
	}
	set := sets[0]
	exact := true
	for k, e := range set.Entries {
		signers, err := i.entry(e, fmt.Sprintf("%s-%d", strings.ReplaceAll(name, "/", "-"), k))
		if err != nil {
			return Signatures{}, fmt.Errorf("entry %d: %w", k, err)
		}
		for _, s := range signers {
			exact = exact && (s.Key != "" || s.IdentityRegexp == "" && s.IssuerRegexp == "")
		}
		exact = exact && len(signers) == 1
		i.out.File.Signers[name] = append(i.out.File.Signers[name], signers...)
	}
	count := set.Count
	if count == 0 {
		count = len(set.Entries)
	}
	if count > 1 && !exact {
		return Signatures{}, errors.New("several entries must match there, and one is an expression or several keys: here signers are counted by who they are, and two could match the same entry")
	}
	return Signatures{By: []string{name}, Threshold: count}, nil
}

func (i *importing) entry(e kyvernoSigner, name string) (signers []Signer, err error) {
	if (e.Keys == nil) == (e.Keyless == nil) {
		return nil, errors.New("keys or keyless is needed, and not both")
	}
	if e.Keys != nil {
		if a := e.Keys.SignatureAlgorithm; a != "" && a != "sha256" {
			return nil, fmt.Errorf("signature algorithm %q", a)
		}
		for _, pem := range strings.SplitAfter(strings.TrimSpace(e.Keys.PublicKeys), "-----END PUBLIC KEY-----") {
			if strings.TrimSpace(pem) == "" {
				continue
			}
			s, err := i.keyed(name, pem, "", e.Keys.Rekor.IgnoreTlog)
			if err != nil {
				return nil, err
			}
			signers = append(signers, s)
		}
		if len(signers) == 0 {
			return nil, errors.New("no public key")
		}
		return signers, nil
	}
	k := e.Keyless
	if k.Rekor.IgnoreTlog {
		return nil, errors.New("keyless without a log")
	}
	s := Signer{Root: i.useRoot(""), IdentityRegexp: anywhere(k.SubjectRegExp), IssuerRegexp: anywhere(k.IssuerRegExp), Issuer: k.Issuer, Identity: k.Subject}
	if strings.ContainsAny(s.Identity, "*?") && s.IdentityRegexp == "" {
		s.Identity, s.IdentityRegexp = "", wildcards(s.Identity)
	}
	if strings.ContainsAny(s.Issuer, "*?") && s.IssuerRegexp == "" {
		s.Issuer, s.IssuerRegexp = "", wildcards(s.Issuer)
	}
	if s.Identity != "" && s.IdentityRegexp != "" || s.Issuer != "" && s.IssuerRegexp != "" || s.Identity+s.IdentityRegexp == "" || s.Issuer+s.IssuerRegexp == "" {
		return nil, errors.New("a subject and an issuer are needed, each exactly or as an expression: without one there, anybody's counts")
	}
	for name := range k.AdditionalExtensions {
		if !slices.Contains(verify.ExtensionNames(), name) {
			return nil, fmt.Errorf("the extension %q", name)
		}
	}
	s.Extensions = k.AdditionalExtensions
	return []Signer{s}, nil
}

// wildcards is a text with Kyverno's wildcards as an expression: a star is anything, a question mark one character.
func wildcards(s string) string {
	return `(?s)` + strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(s))
}
