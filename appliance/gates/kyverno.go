package gates

import (
	"fmt"
	"regexp"
	"strings"
)

// kyvernoPolicy is the spec of ClusterPolicy of kyverno.io/v1. ImageValidatingPolicies (policies.kyverno.io) fetch a TUF repository whatever trusted root
// stands in them, so they are none for a network with no way out.
type kyvernoPolicy struct {
	Webhook    kyvernoWebhook `yaml:"webhookConfiguration"`
	Background bool           `yaml:"background"`
	Rules      []kyvernoRule  `yaml:"rules"`
}

type kyvernoWebhook struct {
	FailurePolicy string `yaml:"failurePolicy"`
	Timeout       int    `yaml:"timeoutSeconds"`
}

type kyvernoRule struct {
	Name     string           `yaml:"name"`
	Match    kyvernoMatch     `yaml:"match"`
	Validate *kyvernoValidate `yaml:"validate,omitempty"`
	Verify   []kyvernoVerify  `yaml:"verifyImages,omitempty"`
}

type kyvernoValidate struct {
	Action string     `yaml:"failureAction"`
	CEL    kyvernoCEL `yaml:"cel"`
}

type kyvernoCEL struct {
	Expressions []celExpression `yaml:"expressions"`
}

type celExpression struct {
	Expression string `yaml:"expression"`
	Message    string `yaml:"message"`
}

type kyvernoMatch struct {
	Any []kyvernoResources `yaml:"any"`
}

type kyvernoResources struct {
	Resources struct {
		Kinds []string `yaml:"kinds"`
	} `yaml:"resources"`
}

type kyvernoVerify struct {
	Type         string               `yaml:"type"`
	Action       string               `yaml:"failureAction"`
	Images       []string             `yaml:"imageReferences"`
	Attestors    []kyvernoSet         `yaml:"attestors,omitempty"`
	Attestations []kyvernoAttestation `yaml:"attestations,omitempty"`
	Mutate       bool                 `yaml:"mutateDigest"`
	Verify       bool                 `yaml:"verifyDigest"`
	Required     bool                 `yaml:"required"`
	Cache        bool                 `yaml:"useCache"`
}

// kyvernoSet is met by Count of its entries.
type kyvernoSet struct {
	Count   int            `yaml:"count"`
	Entries []kyvernoEntry `yaml:"entries"`
}

type kyvernoEntry struct {
	Keys    *kyvernoKeys    `yaml:"keys,omitempty"`
	Keyless *kyvernoKeyless `yaml:"keyless,omitempty"`
}

type kyvernoKeys struct {
	Public string       `yaml:"publicKeys"`
	Hash   string       `yaml:"signatureAlgorithm"`
	Rekor  kyvernoRekor `yaml:"rekor"`
	CTLog  kyvernoCTLog `yaml:"ctlog"`
}

type kyvernoKeyless struct {
	Issuer        string       `yaml:"issuer,omitempty"`
	IssuerRegexp  string       `yaml:"issuerRegExp,omitempty"`
	Subject       string       `yaml:"subject,omitempty"`
	SubjectRegexp string       `yaml:"subjectRegExp,omitempty"`
	Roots         string       `yaml:"roots"`
	Rekor         kyvernoRekor `yaml:"rekor"`
	CTLog         kyvernoCTLog `yaml:"ctlog"`
}

type kyvernoRekor struct {
	URL    string `yaml:"url"`
	Key    string `yaml:"pubkey,omitempty"`
	Ignore bool   `yaml:"ignoreTlog,omitempty"`
}

type kyvernoCTLog struct {
	Key    string `yaml:"pubkey,omitempty"`
	Ignore bool   `yaml:"ignoreSCT,omitempty"`
}

type kyvernoAttestation struct {
	Type      string       `yaml:"type"`
	Attestors []kyvernoSet `yaml:"attestors"`
}

// kyverno writes one ClusterPolicy: a rule in CEL about which images there may be, which asks no registry, and one for every rule that allows.
func kyverno(w *writing) ([]File, error) {
	if err := w.apart(); err != nil {
		return nil, err
	}
	names := named{}
	which, err := w.whichImages()
	if err != nil {
		return nil, err
	}
	spec := kyvernoPolicy{Webhook: kyvernoWebhook{"Fail", 30}, Rules: []kyvernoRule{which}}
	names.of(which.Name)
	for _, r := range w.rules {
		if r.deny {
			continue
		}
		v := kyvernoVerify{Type: "Cosign", Action: "Enforce", Mutate: true, Verify: true, Required: true, Cache: true}
		if v.Images, err = w.references(&r); err != nil {
			return nil, err
		}
		for _, d := range r.demands {
			set, err := w.kyvernoSet(&r, d)
			if err != nil {
				return nil, err
			}
			switch len(d.types) {
			case 0:
				v.Attestors = append(v.Attestors, set)
			case 1:
				v.Attestations = append(v.Attestations, kyvernoAttestation{d.types[0], []kyvernoSet{set}})
			default:
				return nil, w.cannot(r.name, d.what, "one of several predicate types; there all that are named are asked for: write one of %s", strings.Join(d.types, ", "))
			}
		}
		spec.Rules = append(spec.Rules, kyvernoRule{Name: names.of(r.name), Match: pods(), Verify: []kyvernoVerify{v}})
	}
	w.note("%s reads cosign's tags .sig and .att alone, with an entry of Rekor v1", w.form)
	w.note("%s: images must name their registry in full, and volumes of images are refused, since it looks at none of them", w.form)
	return []File{document("redoubt", "kyverno.io/v1", "ClusterPolicy", spec)}, nil
}

func pods() (m kyvernoMatch) {
	var r kyvernoResources
	r.Resources.Kinds = []string{"Pod"}
	return kyvernoMatch{[]kyvernoResources{r}}
}

// references are a rule's patterns: a star crosses slashes there, so a pattern whose star must not is none of theirs.
func (w *writing) references(r *rule) (all []string, err error) {
	for _, p := range r.images {
		if strings.Contains(strings.ReplaceAll(p, "**", ""), "*") || strings.Contains(p, "?") {
			return nil, w.cannot(r.name, "images "+p, "a star within one part of a name, or a question mark; there a star is anything, as ** is here")
		}
		p = strings.ReplaceAll(p, "**", "*")
		all = append(all, p+":*", p+"@*")
	}
	return all, nil
}

// inFull is an image with its registry in full, as the patterns of a policy have it. Docker Hub has several names, and is not among them.
const (
	inFull    = `^(localhost(:[0-9]+)?|[a-z0-9-]+([.][a-z0-9-]+)+(:[0-9]+)?|[a-z0-9-]+:[0-9]+)(/[a-z0-9._-]+)+(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[a-f0-9]{64})?$`
	dockerHub = `^([a-z0-9-]+[.])*docker[.]io(:[0-9]+)?/`
)

// whichImages is the rule that refuses what no rule is for, and what one denies.
func (w *writing) whichImages() (kyvernoRule, error) {
	var allowed, denied []string
	for _, r := range w.rules {
		for _, p := range r.images {
			if !globbed.MatchString(p) || strings.Contains(p, "docker.io") {
				return kyvernoRule{}, w.cannot(r.name, "images "+p, "a character that no image has, or Docker Hub, which has several names")
			}
			if r.deny {
				denied = append(denied, pattern(p))
			} else {
				allowed = append(allowed, pattern(p))
			}
		}
	}
	every := func(message, condition string) celExpression {
		var lists []string
		for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
			lists = append(lists, fmt.Sprintf("(!has(object.spec.%[1]s) || object.spec.%[1]s.all(c, %[2]s))", list, condition))
		}
		return celExpression{strings.Join(lists, " && "), message}
	}
	expressions := []celExpression{
		every("an image is to be named as HOST/NAME:TAG in full, and Docker Hub is none of the registries", fmt.Sprintf("c.image.matches('%s') && !c.image.matches('%s')", inFull, dockerHub)),
		every("no rule of the policy is for an image", fmt.Sprintf("c.image.matches('%s')", anyOf(allowed))),
		{"!has(object.spec.volumes) || object.spec.volumes.all(v, !has(v.image))", "volumes of images are not verified"},
	}
	if len(denied) > 0 {
		expressions = append(expressions, every("a rule of the policy denies an image", fmt.Sprintf("!c.image.matches('%s')", anyOf(denied))))
	}
	return kyvernoRule{Name: "which-images", Match: pods(), Validate: &kyvernoValidate{"Enforce", kyvernoCEL{expressions}}}, nil
}

// pattern is a pattern of a policy as an expression, without what bounds it.
func pattern(p string) string {
	p = strings.ReplaceAll(p, ".", "[.]")
	p = strings.ReplaceAll(p, "**", "#")
	return strings.ReplaceAll(strings.ReplaceAll(p, "*", "[^/]*"), "#", ".*")
}

func anyOf(patterns []string) string {
	return "^(" + strings.Join(patterns, "|") + ")(:[^/@]*)?(@[^/@]*)?$"
}

// kyvernoSet is one of the signers of a demand.
func (w *writing) kyvernoSet(r *rule, d demand) (set kyvernoSet, err error) {
	set.Count = 1
	for _, s := range d.signers {
		var e kyvernoEntry
		if s.Key != "" {
			text, err := w.keyed(r.name, s.Key)
			if err != nil {
				return set, err
			}
			e.Keys = &kyvernoKeys{Public: string(text), Hash: "sha256", Rekor: kyvernoRekor{URL: nowhere, Ignore: true}, CTLog: kyvernoCTLog{Ignore: true}}
			if k := w.File.Keys[s.Key]; !k.WithoutLog {
				e.Keys.Rekor = w.kyvernoRekor(w.trusts[k.Root])
			}
		} else {
			t, err := w.keyless(r.name, s.Root)
			if err != nil {
				return set, err
			}
			if len(t.ctLogs) > 1 {
				w.note("%s names one certificate transparency log: of root %s the first, %s", w.form, t.name, t.ctLogs[0].url)
			}
			e.Keyless = &kyvernoKeyless{Roots: string(t.issuers()), Rekor: w.kyvernoRekor(t), CTLog: kyvernoCTLog{Key: string(t.ctLogs[0].pem)}}
			e.Keyless.Issuer, e.Keyless.IssuerRegexp = literal(s.Issuer, s.IssuerRegexp)
			e.Keyless.Subject, e.Keyless.SubjectRegexp = literal(s.Identity, s.IdentityRegexp)
		}
		set.Entries = append(set.Entries, e)
	}
	return set, nil
}

func (w *writing) kyvernoRekor(t *trust) kyvernoRekor {
	if len(t.logs) > 1 {
		w.note("%s names one log: of root %s the first in its file, %s; what stands in another alone is refused", w.form, t.name, t.logs[0].url)
	}
	return kyvernoRekor{URL: nowhere, Key: string(t.logs[0].pem)}
}

// literal is a text or an expression as Kyverno has them: in its texts * and ? are wildcards, and its expressions match anywhere.
func literal(exact, expression string) (string, string) {
	switch {
	case exact == "":
		return "", bound(expression)
	case strings.ContainsAny(exact, "*?"):
		return "", bound(regexp.QuoteMeta(exact))
	}
	return exact, ""
}
