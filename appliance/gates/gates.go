// Package gates writes one policy down in the forms of other programs that decide what may run: policy-controller, Kyverno, Ratify with Gatekeeper,
// OpenShift's nodes, and everything that reads containers-policy.json (podman, CRI-O, skopeo).
//
// What it guarantees:
//   - What is written accepts no signer, and no image, that the policy refuses. What a form cannot say is ErrCannot, with the rule and the feature;
//     nothing is left out instead.
//   - Keys and certificates stand in the files themselves. No address of a service outside is in them.
//   - The same policy gives the same bytes.
//
// What it does not: make those programs check what they never check. Notes say what that is.
//
// Start at Write.
package gates

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"redoubt.internal/appliance/policy"
)

// ErrCannot says that a policy asks for what a form has no words for.
var ErrCannot = errors.New("this gate cannot be told")

// File is one file of a form.
type File struct {
	Name string
	Data []byte
}

// Written is a policy in another program's form.
type Written struct {
	Files []File   // in the order in which they are applied
	Notes []string // what that program does not check, and what was left out because it ended
}

// Options are what a policy does not say and a form needs.
type Options struct {
	// Allow names, for OpenShift, the registries and namespaces that the cluster's own images come from: they pass unverified.
	Allow []string
}

// writers are the forms by name.
var writers = map[string]func(*writing) ([]File, error){
	"containers-policy.json": containersPolicy,
	"policy-controller":      policyController,
	"openshift":              openshift,
	"kyverno":                kyverno,
	"gatekeeper-ratify":      gatekeeperRatify,
}

// Forms are the names of the forms.
func Forms() (names []string) {
	for name := range writers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Write writes a policy in a form. Rules for files that are no images are not part of it.
func Write(form string, parts policy.Parts, o Options) (*Written, error) {
	write, ok := writers[form]
	if !ok {
		return nil, fmt.Errorf("there is no form %.60q; one of %s", form, strings.Join(Forms(), ", "))
	}
	w := &writing{Parts: parts, Options: o, form: form, trusts: map[string]*trust{}}
	if err := w.read(); err != nil {
		return nil, err
	}
	files, err := write(w)
	if err != nil {
		return nil, err
	}
	return &Written{files, w.notes}, nil
}

// writing is a policy on its way into a form.
type writing struct {
	policy.Parts
	Options
	form   string
	rules  []rule // those that deny first
	trusts map[string]*trust
	notes  []string
}

// rule is a rule for images as every form needs it: all demands must be met, each by one of its signers.
type rule struct {
	name    string
	images  []string
	deny    bool
	demands []demand
}

// demand is one signature or attestation.
type demand struct {
	what    string   // where it stands in the rule
	types   []string // predicate types, one of which it must have; none for a signature
	signers []policy.Signer
}

func (w *writing) cannot(rule, feature, format string, args ...any) error {
	where := ""
	if rule != "" {
		where = fmt.Sprintf("rule %q: ", rule)
	}
	return fmt.Errorf("%w: %s: %s%s: %s", ErrCannot, w.form, where, feature, fmt.Sprintf(format, args...))
}

func (w *writing) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(w.notes, text) {
		w.notes = append(w.notes, text)
	}
}

// read takes the rules apart, and refuses what no form can say.
func (w *writing) read() error {
	if len(w.File.Deny) > 0 {
		return w.cannot("", "deny", "no signer can be denied there whatever else vouches; take the signer out of the groups that rules name, or deny the images by a rule")
	}
	for _, deny := range []bool{true, false} {
		for _, in := range w.File.Rules {
			if len(in.Images) == 0 || (in.Action == "deny") != deny {
				continue
			}
			demands, err := w.demands(in)
			if err != nil {
				return err
			}
			w.rules = append(w.rules, rule{in.Name, in.Images, deny, demands})
		}
	}
	if !slices.ContainsFunc(w.rules, func(r rule) bool { return !r.deny }) {
		return w.cannot("", "rules", "none allows an image, so there is nothing to write: let the gate refuse everything")
	}
	return nil
}
