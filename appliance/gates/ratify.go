package gates

import (
	"regexp"
	"strings"

	"redoubt.internal/appliance/policy"
)

// ratifyKeys is the spec of KeyManagementProvider of config.ratify.deislabs.io/v1beta1 with a key in it.
type ratifyKeys struct {
	Type       string `yaml:"type"`
	Parameters struct {
		Content string `yaml:"contentType"`
		Value   string `yaml:"value"`
	} `yaml:"parameters"`
}

// ratifyStore is the spec of Store.
type ratifyStore struct {
	Name       string `yaml:"name"`
	Parameters struct {
		Cosign bool `yaml:"cosignEnabled"`
	} `yaml:"parameters"`
}

// ratifyVerifier is the spec of Verifier. A reference that no trust policy has a scope for fails.
type ratifyVerifier struct {
	Name       string `yaml:"name"`
	Types      string `yaml:"artifactTypes"`
	Parameters struct {
		Policies []ratifyTrust `yaml:"trustPolicies"`
	} `yaml:"parameters"`
}

type ratifyTrust struct {
	Name   string      `yaml:"name"`
	Scopes []string    `yaml:"scopes"`
	Keys   []ratifyKey `yaml:"keys"`
	Log    bool        `yaml:"tLogVerify"`
}

type ratifyKey struct {
	Provider string `yaml:"provider"`
}

// ratifyPolicy is the spec of Policy: every tag of signatures that is found must hold, and there must be one.
type ratifyPolicy struct {
	Type       string `yaml:"type"`
	Parameters struct {
		Verify map[string]string `yaml:"artifactVerificationPolicies"`
	} `yaml:"parameters"`
}

// gatekeeperTemplate is the spec of ConstraintTemplate of templates.gatekeeper.sh/v1.
type gatekeeperTemplate struct {
	CRD     gatekeeperCRD      `yaml:"crd"`
	Targets []gatekeeperTarget `yaml:"targets"`
}

type gatekeeperCRD struct {
	Spec struct {
		Names struct {
			Kind string `yaml:"kind"`
		} `yaml:"names"`
	} `yaml:"spec"`
}

type gatekeeperTarget struct {
	Target string `yaml:"target"`
	Rego   string `yaml:"rego"`
}

// gatekeeperConstraint is the spec of the constraint.
type gatekeeperConstraint struct {
	Action string `yaml:"enforcementAction"`
	Match  struct {
		Kinds []gatekeeperKinds `yaml:"kinds"`
	} `yaml:"match"`
}

type gatekeeperKinds struct {
	Groups []string `yaml:"apiGroups"`
	Kinds  []string `yaml:"kinds"`
}

// askRatify refuses a pod unless Ratify answers for every image of it, and says yes. Volumes of images are none that it is asked about.
const askRatify = `package redoubtverification

images[image] {
  lists := {"containers", "initContainers", "ephemeralContainers"}
  image := input.review.object.spec[lists[_]][_].image
}

answer := response {
  response := external_data({"provider": "ratify-provider", "keys": [image | images[image]]})
}

verified[image] {
  response := answer.responses[_]
  image := response[0]
  response[1].isSuccess == true
}

violation[{"msg": msg}] {
  answer.system_error != ""
  msg := sprintf("asking Ratify: %v", [answer.system_error])
}

violation[{"msg": msg}] {
  count(answer.errors) > 0
  msg := sprintf("asking Ratify: %v", [answer.errors])
}

violation[{"msg": msg}] {
  images[image]
  not verified[image]
  msg := sprintf("nobody whom the policy names signed %v", [image])
}

violation[{"msg": msg}] {
  input.review.object.spec.volumes[_].image
  msg := "volumes of images are not verified"
}
`

const ratifyGroup = "config.ratify.deislabs.io/v1beta1"

var ratifyScope = regexp.MustCompile(`^[a-z0-9.:@/-]+$`)

// gatekeeperRatify writes Ratify's objects and Gatekeeper's. Fulcio's root and the keys of logs are none of them: Ratify takes those from a TUF repository
// or its own environment.
func gatekeeperRatify(w *writing) ([]File, error) {
	if err := w.apart(); err != nil {
		return nil, err
	}
	verifier := ratifyVerifier{Name: "cosign", Types: "application/vnd.dev.cosign.artifact.sig.v1+json"}
	providers, names := map[string]string{}, named{}
	for i := range w.rules {
		r := &w.rules[i]
		scopes, err := w.ratifyScopes(r)
		if err != nil {
			return nil, err
		}
		if r.deny {
			if err := w.ratifyDenies(r); err != nil {
				return nil, err
			}
			continue
		}
		keys, err := w.ratifyKeys(r, providers)
		if err != nil {
			return nil, err
		}
		verifier.Parameters.Policies = append(verifier.Parameters.Policies, ratifyTrust{Name: names.of(r.name), Scopes: scopes, Keys: keys})
	}
	var files []File
	for _, key := range sorted(providers) {
		text, err := w.keyed("", key)
		if err != nil {
			return nil, err
		}
		spec := ratifyKeys{Type: "inline"}
		spec.Parameters.Content, spec.Parameters.Value = "key", string(text)
		files = append(files, document(providers[key], ratifyGroup, "KeyManagementProvider", spec))
	}
	store, all := ratifyStore{Name: "oras"}, ratifyPolicy{Type: "config-policy"}
	store.Parameters.Cosign, all.Parameters.Verify = true, map[string]string{"default": "all"}
	template := gatekeeperTemplate{Targets: []gatekeeperTarget{{"admission.k8s.gatekeeper.sh", askRatify}}}
	template.CRD.Spec.Names.Kind = "RedoubtVerification"
	constraint := gatekeeperConstraint{Action: "deny"}
	constraint.Match.Kinds = []gatekeeperKinds{{[]string{""}, []string{"Pod"}}}
	w.note("%s: Gatekeeper's webhook lets in what it cannot ask about unless its failurePolicy is Fail; its Provider, ratify-provider, comes with Ratify and has the certificate of its service", w.form)
	w.note("%s reads cosign's tags .sig alone, and of several signatures of an image the last decides: one that somebody else signed afterwards is refused", w.form)
	return append(files, document("store-oras", ratifyGroup, "Store", store), document("verifier-cosign", ratifyGroup, "Verifier", verifier),
		document("ratify-policy", ratifyGroup, "Policy", all), document("redoubtverification", "templates.gatekeeper.sh/v1", "ConstraintTemplate", template),
		document("redoubt", "constraints.gatekeeper.sh/v1beta1", "RedoubtVerification", constraint)), nil
}

// ratifyScopes are a rule's patterns as beginnings of references.
func (w *writing) ratifyScopes(r *rule) (all []string, err error) {
	for _, p := range r.images {
		name, below := strings.CutSuffix(p, "/**")
		switch {
		case !ratifyScope.MatchString(name):
			return nil, w.cannot(r.name, "images "+p, "patterns there are names, and names with /** at their end")
		case below:
			all = append(all, name+"/*")
		default:
			all = append(all, name+":*", name+"@*")
		}
	}
	return all, nil
}

// ratifyDenies refuses denials within what is allowed. Elsewhere nothing is allowed as it is.
func (w *writing) ratifyDenies(r *rule) error {
	for _, o := range w.rules {
		for _, a := range o.images {
			for _, b := range r.images {
				if !o.deny && policy.Overlap(a, b) {
					return w.cannot(r.name, "images "+b, "action deny within %s, which rule %q allows", a, o.name)
				}
			}
		}
	}
	return nil
}

// ratifyKeys are the keys of a rule's one demand.
func (w *writing) ratifyKeys(r *rule, providers map[string]string) (all []ratifyKey, err error) {
	if len(r.demands) != 1 || r.demands[0].types != nil {
		return nil, w.cannot(r.name, r.demands[0].what, "attestations, or several signatures; one signature is asked for there")
	}
	for _, s := range r.demands[0].signers {
		switch {
		case s.Key == "":
			return nil, w.cannot(r.name, r.demands[0].what, "identities of certificates: Ratify takes Fulcio's root from a TUF repository or its environment, and none can be written into its objects; only keys can")
		case !w.File.Keys[s.Key].WithoutLog:
			return nil, w.cannot(r.name, r.demands[0].what+", key "+s.Key, "a key whose signatures must stand in a log: Ratify takes the log's key from a TUF repository or its environment; a key with without-log: true can be written")
		}
		if _, ok := providers[s.Key]; !ok {
			taken := named{}
			for _, name := range providers {
				taken[name] = true
			}
			providers[s.Key] = taken.of("redoubt " + s.Key)
		}
		all = append(all, ratifyKey{providers[s.Key]})
	}
	return all, nil
}
