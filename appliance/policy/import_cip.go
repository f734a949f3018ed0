package policy

import (
	"errors"
	"fmt"
)

// clusterImagePolicy is policy-controller's policy (policy.sigstore.dev, v1alpha1 and v1beta1), as far as it can be carried over: decoding refuses any
// other field.
type clusterImagePolicy struct {
	APIVersion string         `yaml:"apiVersion"`
	Kind       string         `yaml:"kind"`
	Metadata   metadata       `yaml:"metadata"`
	Status     map[string]any `yaml:"status"`
	Spec       struct {
		Mode        string         `yaml:"mode"`
		Images      []cipImage     `yaml:"images"`
		Authorities []cipAuthority `yaml:"authorities"`
	} `yaml:"spec"`
}

// metadata is Kubernetes'. What describes a policy decides nothing.
type metadata map[string]any

func (m metadata) name() string {
	name, _ := m["name"].(string)
	return name
}

type cipImage struct {
	Glob string `yaml:"glob"`
}

type cipAuthority struct {
	Name string `yaml:"name"`
	Key  *struct {
		Data          string `yaml:"data"`
		HashAlgorithm string `yaml:"hashAlgorithm"`
	} `yaml:"key"`
	Keyless *struct {
		URL          string        `yaml:"url"`
		TrustRootRef string        `yaml:"trustRootRef"`
		Identities   []cipIdentity `yaml:"identities"`
	} `yaml:"keyless"`
	Static *struct {
		Action  string `yaml:"action"`
		Message string `yaml:"message"`
	} `yaml:"static"`
	CTLog *struct {
		URL          string `yaml:"url"`
		TrustRootRef string `yaml:"trustRootRef"`
	} `yaml:"ctlog"`
	Attestations []cipAttestation `yaml:"attestations"`
}

type cipIdentity struct {
	Issuer        string `yaml:"issuer"`
	IssuerRegExp  string `yaml:"issuerRegExp"`
	Subject       string `yaml:"subject"`
	SubjectRegExp string `yaml:"subjectRegExp"`
}

type cipAttestation struct {
	Name          string `yaml:"name"`
	PredicateType string `yaml:"predicateType"`
}

// cipTypes are the short names that cosign has for predicate types.
var cipTypes = map[string]string{
	"slsaprovenance": "https://slsa.dev/provenance/v0.2", "slsaprovenance02": "https://slsa.dev/provenance/v0.2", "slsaprovenance1": "https://slsa.dev/provenance/v1",
	"spdx": "https://spdx.dev/Document", "spdxjson": "https://spdx.dev/Document", "cyclonedx": "https://cyclonedx.org/bom", "vuln": "https://cosign.sigstore.dev/attestation/vuln/v1",
	"openvex": "https://openvex.dev/ns", "custom": "https://cosign.sigstore.dev/attestation/v1", "link": "https://in-toto.io/Link/v1",
}

func (i *importing) clusterImagePolicy(p *clusterImagePolicy) error {
	r := Rule{Name: p.Metadata.name()}
	at := func(err error) error { return fmt.Errorf("ClusterImagePolicy %s: %w", r.Name, err) }
	if p.Spec.Mode != "" && p.Spec.Mode != "enforce" {
		return at(fmt.Errorf("mode %q: a policy here enforces; the gate warns by namespace", p.Spec.Mode))
	}
	for _, image := range p.Spec.Images {
		g, err := repositoryGlob(image.Glob)
		if err != nil {
			return at(err)
		}
		r.Images = append(r.Images, g)
	}
	attesting := 0
	for k, a := range p.Spec.Authorities {
		if a.Static != nil {
			if a.Static.Action != "fail" || len(p.Spec.Authorities) > 1 || a.Key != nil || a.Keyless != nil {
				return at(errors.New("a static authority that passes, or stands beside others: every rule here asks for something"))
			}
			r.Action = "deny"
			continue
		}
		signers, err := i.authority(a, fmt.Sprintf("%s-%d", r.Name, k))
		if err != nil {
			return at(fmt.Errorf("authority %d: %w", k, err))
		}
		i.out.File.Signers[r.Name] = append(i.out.File.Signers[r.Name], signers...)
		for _, t := range a.Attestations {
			if long := cipTypes[t.PredicateType]; long != "" {
				t.PredicateType = long
			}
			r.Attestations = append(r.Attestations, Attestation{Type: t.PredicateType, By: []string{r.Name}})
		}
		attesting += min(len(a.Attestations), 1)
	}
	switch {
	case len(p.Spec.Authorities) == 0:
		return at(errors.New("it has no authority"))
	case attesting > 0 && len(p.Spec.Authorities) > 1:
		return at(errors.New("one of several authorities suffices there, and one asks for attestations: an alternative of demands has no equal here"))
	case attesting == 0 && r.Action == "":
		r.Signatures = &Signatures{By: []string{r.Name}}
	}
	i.out.File.Rules = append(i.out.File.Rules, r)
	return nil
}

func (i *importing) authority(a cipAuthority, name string) (signers []Signer, err error) {
	if (a.Key == nil) == (a.Keyless == nil) {
		return nil, errors.New("a key or keyless is needed, and not both")
	}
	log := ""
	if a.CTLog != nil {
		log = a.CTLog.TrustRootRef
	}
	if a.Key != nil {
		if a.Key.HashAlgorithm != "" && a.Key.HashAlgorithm != "sha256" {
			return nil, fmt.Errorf("hash algorithm %q", a.Key.HashAlgorithm)
		}
		s, err := i.keyed(name, a.Key.Data, log, a.CTLog == nil)
		return []Signer{s}, err
	}
	if log != "" && log != a.Keyless.TrustRootRef {
		return nil, errors.New("keyless and ctlog name two trust roots: a certificate of one is never combined with a log of another here")
	}
	if len(a.Keyless.Identities) == 0 {
		return nil, errors.New("keyless without identities accepts everybody")
	}
	root := i.useRoot(a.Keyless.TrustRootRef)
	for _, id := range a.Keyless.Identities {
		s := Signer{Root: root, Identity: id.Subject, IdentityRegexp: anywhere(id.SubjectRegExp), Issuer: id.Issuer, IssuerRegexp: anywhere(id.IssuerRegExp)}
		if s.Identity != "" && s.IdentityRegexp != "" || s.Issuer != "" && s.IssuerRegexp != "" || s.Identity+s.IdentityRegexp == "" || s.Issuer+s.IssuerRegexp == "" {
			return nil, errors.New("an identity needs a subject and an issuer, each exactly or as an expression")
		}
		signers = append(signers, s)
	}
	return signers, nil
}
