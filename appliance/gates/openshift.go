package gates

import (
	"slices"
	"strings"
)

// nodePolicy is the spec of ClusterImagePolicy of config.openshift.io/v1, which becomes containers-policy.json of every node.
type nodePolicy struct {
	Scopes []string `yaml:"scopes"`
	Policy struct {
		Root   rootOfTrust `yaml:"rootOfTrust"`
		Signed matchPolicy `yaml:"signedIdentity"`
	} `yaml:"policy"`
}

type rootOfTrust struct {
	Type   string       `yaml:"policyType"`
	Fulcio *nodeFulcio  `yaml:"fulcioCAWithRekor,omitempty"`
	Key    *nodeKeyData `yaml:"publicKey,omitempty"`
}

type nodeFulcio struct {
	CA      string      `yaml:"fulcioCAData"`
	Rekor   string      `yaml:"rekorKeyData"`
	Subject nodeSubject `yaml:"fulcioSubject"`
}

type nodeSubject struct {
	Issuer string `yaml:"oidcIssuer"`
	Email  string `yaml:"signedEmail"`
}

type nodeKeyData struct {
	Key   string `yaml:"keyData"`
	Rekor string `yaml:"rekorKeyData,omitempty"`
}

type matchPolicy struct {
	Policy string `yaml:"matchPolicy"`
}

// nodeImages is the spec of Image of config.openshift.io/v1, of which there is one, named cluster.
type nodeImages struct {
	Sources struct {
		Allowed []string `yaml:"allowedRegistries"`
	} `yaml:"registrySources"`
}

// maxScopes of one ClusterImagePolicy, and the longest data it takes.
const maxScopes, maxNodeData = 256, 8192

// openshift writes a ClusterImagePolicy for every demand: what several demand of one scope must all hold. What no scope is for is refused by the list of
// registries that images may come from, which names the cluster's own as well.
func openshift(w *writing) ([]File, error) {
	scopes, err := w.scopes()
	if err != nil {
		return nil, err
	}
	if len(w.Allow) == 0 {
		return nil, w.cannot("", "what no rule is for is refused", "nodes take it unless every registry is named, with those of the cluster's own images: name them by --allow-registry, as the repositories of the release payload and the internal registry")
	}
	allowed := slices.Clone(w.Allow)
	of := map[*rule][]string{}
	for _, s := range scopes {
		if err := w.nodeScope(s, scopes); err != nil {
			return nil, err
		}
		if !s.rule.deny {
			of[s.rule], allowed = append(of[s.rule], s.name), append(allowed, s.name)
		}
	}
	slices.Sort(allowed)
	names := named{}
	var files []File
	for i := range w.rules {
		more, err := w.nodePolicies(&w.rules[i], of[&w.rules[i]], names)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	var images nodeImages
	images.Sources.Allowed = slices.Compact(allowed)
	w.note("%s: image.config.openshift.io/cluster names the registries that images may come from, and replaces a list that is there", w.form)
	w.note("%s does not check certificate timestamps (SCT), reads cosign's tags .sig alone, with an entry of Rekor v1, and wants an image's signature to name its repository", w.form)
	return append(files, document("cluster", "config.openshift.io/v1", "Image", images)), nil
}

// nodeScope refuses scopes that nodes are not told, or that --allow-registry would open.
func (w *writing) nodeScope(s scope, all []scope) error {
	if s.name == "" {
		return w.cannot(s.rule.name, "images **", "a scope names a registry there")
	}
	for _, a := range w.Allow {
		if a != "" && within(a, s.name) {
			return w.cannot(s.rule.name, "--allow-registry "+a, "it lies in what the rule is for, and would pass unverified")
		}
		if s.rule.deny && within(s.name, a) {
			return w.cannot(s.rule.name, "images "+s.name, "they lie in %s, which --allow-registry opens", a)
		}
	}
	for _, o := range all {
		if s.rule.deny && !o.rule.deny && within(s.name, o.name) {
			return w.cannot(s.rule.name, "images "+s.name, "action deny within %s, which rule %q allows: nodes are told of registries to take from, or of those not to, and never of both", o.name, o.rule.name)
		}
	}
	host, _, _ := strings.Cut(s.name, "/")
	if host, _, _ := strings.Cut(host, ":"); host != "localhost" && !strings.Contains(host, ".") {
		return w.cannot(s.rule.name, "images "+s.name, "a registry there is a domain name, or localhost")
	}
	return nil
}

// nodePolicies are the ClusterImagePolicies of a rule.
func (w *writing) nodePolicies(r *rule, scopes []string, names named) (files []File, err error) {
	required, err := w.requirements(r)
	if err != nil {
		return nil, err
	}
	for i, q := range required {
		var spec nodePolicy
		spec.Policy.Signed.Policy = "MatchRepository"
		what := r.demands[i].what
		if len(q.Keys) > 0 {
			return nil, w.cannot(r.name, what, "one of several keys; one key is named there")
		}
		if len(q.RekorKeys) > 0 {
			q.RekorKey = q.RekorKeys[0]
			w.note("%s names one log: of root %s the first in its file, %s; what stands in another alone is refused", w.form, w.rootOf(r.demands[i]).name, w.rootOf(r.demands[i]).logs[0].url)
		}
		if f := q.Fulcio; f != nil {
			spec.Policy.Root = rootOfTrust{Type: "FulcioCAWithRekor", Fulcio: &nodeFulcio{inBase64(f.CA), inBase64(q.RekorKey), nodeSubject{f.Issuer, f.Email}}}
			if len(f.CA) > maxNodeData {
				return nil, w.cannot(r.name, what, "authorities of more than %d bytes", maxNodeData)
			}
		} else {
			spec.Policy.Root = rootOfTrust{Type: "PublicKey", Key: &nodeKeyData{inBase64(q.Key), inBase64(q.RekorKey)}}
		}
		for part := range slices.Chunk(scopes, maxScopes) {
			spec.Scopes = part
			files = append(files, document(names.of(r.name+" "+what), "config.openshift.io/v1", "ClusterImagePolicy", spec))
		}
	}
	return files, nil
}

// rootOf is the root whose log counts for the first signer of a demand.
func (w *writing) rootOf(d demand) *trust {
	s := d.signers[0]
	if s.Key != "" {
		return w.trusts[w.File.Keys[s.Key].Root]
	}
	return w.trusts[s.Root]
}
