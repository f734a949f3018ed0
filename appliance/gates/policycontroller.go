package gates

import (
	"fmt"
	"regexp"
	"strings"

	"redoubt.internal/appliance/policy"
)

// nowhere stands where policy-controller wants the address of a service. What it would ask there is in the signature already; what is not is refused
// by a connection that leads nowhere, in place of a service outside.
const nowhere = "https://127.0.0.1:9"

// trustRoot is TrustRoot of policy.sigstore.dev/v1alpha1 with inline keys. Certificates and keys are PEM, in base64.
type trustRoot struct {
	Keys struct {
		CAs    []trustRootCA  `yaml:"certificateAuthorities"`
		TLogs  []trustRootLog `yaml:"tLogs,omitempty"`
		CTLogs []trustRootLog `yaml:"ctLogs,omitempty"`
		TSAs   []trustRootCA  `yaml:"timestampAuthorities,omitempty"`
	} `yaml:"sigstoreKeys"`
}

type trustRootCA struct {
	Subject struct {
		Organization string `yaml:"organization"`
		CommonName   string `yaml:"commonName"`
	} `yaml:"subject"`
	URI   string `yaml:"uri"`
	Chain string `yaml:"certChain"`
}

type trustRootLog struct {
	URL  string `yaml:"baseURL"`
	Hash string `yaml:"hashAlgorithm"`
	Key  string `yaml:"publicKey"`
}

// clusterImagePolicy is the spec of ClusterImagePolicy of policy.sigstore.dev/v1beta1. One authority that is satisfied suffices.
type clusterImagePolicy struct {
	Mode        string           `yaml:"mode"`
	Images      []cipGlob        `yaml:"images"`
	Authorities []imageAuthority `yaml:"authorities"`
}

type cipGlob struct {
	Glob string `yaml:"glob"`
}

// imageAuthority is one authority of a ClusterImagePolicy.
type imageAuthority struct {
	Name         string           `yaml:"name"`
	Static       *cipStatic       `yaml:"static,omitempty"`
	Key          *cipKey          `yaml:"key,omitempty"`
	Keyless      *cipKeyless      `yaml:"keyless,omitempty"`
	CTLog        *cipLog          `yaml:"ctlog,omitempty"`
	Attestations []cipAttestation `yaml:"attestations,omitempty"`
}

type cipStatic struct {
	Action  string `yaml:"action"`
	Message string `yaml:"message"`
}

type cipKey struct {
	Data string `yaml:"data"`
	Hash string `yaml:"hashAlgorithm"`
}

type cipKeyless struct {
	URL        string        `yaml:"url"`
	TrustRoot  string        `yaml:"trustRootRef"`
	Identities []cipIdentity `yaml:"identities"`
}

type cipIdentity struct {
	Issuer        string `yaml:"issuer,omitempty"`
	IssuerRegexp  string `yaml:"issuerRegExp,omitempty"`
	Subject       string `yaml:"subject,omitempty"`
	SubjectRegexp string `yaml:"subjectRegExp,omitempty"`
}

type cipLog struct {
	URL       string `yaml:"url"`
	TrustRoot string `yaml:"trustRootRef"`
}

type cipAttestation struct {
	Name string `yaml:"name"`
	Type string `yaml:"predicateType"`
}

// policyController writes the TrustRoots first, then a ClusterImagePolicy for every demand: an image must satisfy all that match it.
func policyController(w *writing) ([]File, error) {
	if err := w.apart(); err != nil {
		return nil, err
	}
	names, roots := named{}, map[string]string{}
	var policies []File
	for _, r := range w.rules {
		globs, err := w.globs(&r)
		if err != nil {
			return nil, err
		}
		if r.deny {
			name := names.of(r.name)
			static := imageAuthority{Name: "denied", Static: &cipStatic{"fail", "the policy denies these images: " + r.name}}
			policies = append(policies, document(name, "policy.sigstore.dev/v1beta1", "ClusterImagePolicy", clusterImagePolicy{"enforce", globs, []imageAuthority{static}}))
			continue
		}
		for _, d := range r.demands {
			spec := clusterImagePolicy{Mode: "enforce", Images: globs}
			if spec.Authorities, err = w.authorities(&r, d, roots); err != nil {
				return nil, err
			}
			name := names.of(r.name + " " + d.what)
			policies = append(policies, document(name, "policy.sigstore.dev/v1beta1", "ClusterImagePolicy", spec))
		}
	}
	var files []File
	for _, root := range sorted(roots) {
		files = append(files, document(roots[root], "policy.sigstore.dev/v1alpha1", "TrustRoot", inlineRoot(w.trusts[root])))
	}
	files = append(files, File{"config-policy-controller.yaml", []byte(noMatch)})
	w.note("%s reads cosign's tags .sig and .att alone, with an entry of Rekor v1: of bundles it cannot check one by keys that stand in a TrustRoot", w.form)
	w.note("%s asks only in namespaces with the label policy.sigstore.dev/include=true", w.form)
	return append(files, policies...), nil
}

// noMatch refuses images that no policy is for.
const noMatch = `apiVersion: v1
kind: ConfigMap
metadata:
  name: config-policy-controller
  namespace: cosign-system
data:
  no-match-policy: deny
`

// authorities are the alternatives of a demand.
func (w *writing) authorities(r *rule, d demand, roots map[string]string) (all []imageAuthority, err error) {
	types := d.types
	if types == nil {
		types = []string{""}
	}
	for _, root := range w.rootsOf(d) {
		t, err := w.keyless(r.name, root)
		if err != nil {
			return nil, err
		}
		ref := w.reference(t, roots)
		keyless := &cipKeyless{nowhere, ref, identities(d, root)}
		for _, of := range types {
			a := imageAuthority{Keyless: keyless, CTLog: &cipLog{nowhere, ref}}
			if of != "" {
				a.Attestations = []cipAttestation{{"wanted", of}}
			}
			all = append(all, a)
		}
	}
	for _, s := range d.signers {
		if s.Key == "" {
			continue
		}
		text, err := w.keyed(r.name, s.Key)
		if err != nil {
			return nil, err
		}
		for _, of := range types {
			a := imageAuthority{Key: &cipKey{string(text), "sha256"}}
			if !w.File.Keys[s.Key].WithoutLog {
				a.CTLog = &cipLog{nowhere, w.reference(w.trusts[w.File.Keys[s.Key].Root], roots)}
			}
			if of != "" {
				a.Attestations = []cipAttestation{{"wanted", of}}
			}
			all = append(all, a)
		}
	}
	for i := range all {
		all[i].Name = fmt.Sprintf("authority-%d", i)
	}
	return all, nil
}

// reference is the name of a TrustRoot.
func (w *writing) reference(t *trust, roots map[string]string) string {
	if _, ok := roots[t.name]; !ok {
		taken := named{}
		for _, name := range roots {
			taken[name] = true
		}
		roots[t.name] = taken.of("redoubt " + t.name)
	}
	return roots[t.name]
}

// identities are those of a demand under one root. Expressions there match anywhere, so they are bound to both ends.
func identities(d demand, root string) (all []cipIdentity) {
	for _, s := range d.signers {
		if s.Key != "" || s.Root != root {
			continue
		}
		all = append(all, cipIdentity{s.Issuer, bound(s.IssuerRegexp), s.Identity, bound(s.IdentityRegexp)})
	}
	return all
}

func bound(expression string) string {
	if expression == "" {
		return ""
	}
	return `\A(?:` + expression + `)\z`
}

// rootsOf are the roots of the people of a demand, in order.
func (w *writing) rootsOf(d demand) (all []string) {
	people := map[string]string{}
	for _, s := range d.signers {
		if s.Key == "" {
			people[s.Root] = ""
		}
	}
	return sorted(people)
}

var globbed = regexp.MustCompile(`^[a-zA-Z0-9_:/*.-]+$`)

// globs are a rule's patterns with every tag and digest.
func (w *writing) globs(r *rule) (all []cipGlob, err error) {
	for _, p := range r.images {
		if !globbed.MatchString(p) {
			return nil, w.cannot(r.name, "images "+p, "a character that its globs do not have")
		}
		all = append(all, cipGlob{p + ":*"}, cipGlob{p + "@sha256:*"})
	}
	return all, nil
}

// apart refuses rules of which the first decides here, where all that match an image must be satisfied there. A rule that denies wins in both.
func (w *writing) apart() error {
	for i, later := range w.rules {
		for _, earlier := range w.rules[:i] {
			if earlier.deny {
				continue
			}
			for _, a := range earlier.images {
				for _, b := range later.images {
					if policy.Overlap(a, b) {
						return w.cannot(later.name, "images "+b, "rule %q decides about some of them first, by %s; there both rules would have to hold: make the patterns disjoint", earlier.name, a)
					}
				}
			}
		}
	}
	return nil
}

func inlineRoot(t *trust) (out trustRoot) {
	for _, a := range t.cas {
		out.Keys.CAs = append(out.Keys.CAs, inlineCA(t, a))
	}
	for _, a := range t.tsas {
		out.Keys.TSAs = append(out.Keys.TSAs, inlineCA(t, a))
	}
	for _, l := range t.logs {
		out.Keys.TLogs = append(out.Keys.TLogs, inlineLog(l))
	}
	for _, l := range t.ctLogs {
		out.Keys.CTLogs = append(out.Keys.CTLogs, inlineLog(l))
	}
	return out
}

func inlineLog(l logKey) trustRootLog {
	return trustRootLog{nowhere, "sha-256", inBase64(l.pem)}
}

// inlineCA names an authority by its root's subject, where both parts must be something.
func inlineCA(t *trust, a authority) (out trustRootCA) {
	subject := a.chain[len(a.chain)-1].Subject
	out.Subject.Organization, out.Subject.CommonName = strings.Join(subject.Organization, ", "), subject.CommonName
	if out.Subject.Organization == "" {
		out.Subject.Organization = t.name
	}
	if out.Subject.CommonName == "" {
		out.Subject.CommonName = t.name
	}
	out.URI, out.Chain = nowhere, inBase64(a.pem())
	return out
}
