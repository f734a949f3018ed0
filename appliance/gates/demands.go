package gates

import (
	"redoubt.internal/appliance/policy"
)

// namedTypes are the predicate types behind those names of a policy that stand for a fixed list. The other names stand for any version to come.
var namedTypes = map[string][]string{
	"slsa-provenance":      {"https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1"},
	"verification-summary": {"https://slsa.dev/verification_summary/v0.2", "https://slsa.dev/verification_summary/v1"},
	"vulnerabilities":      {"https://cosign.sigstore.dev/attestation/vuln/v1", "https://in-toto.io/attestation/vulns/v0.1", "https://in-toto.io/attestation/vulns/v0.2"},
	"test-result":          {"https://in-toto.io/attestation/test-result/v0.1"},
}

// versionless are the names that stand for any version of a type.
var versionless = map[string]string{
	"spdx": "https://spdx.dev/Document", "cyclonedx": "https://cyclonedx.org/bom", "sbom": "https://spdx.dev/Document", "openvex": "https://openvex.dev/ns",
}

// demands are what a rule asks for, each to be met.
func (w *writing) demands(in policy.Rule) (all []demand, err error) {
	if in.Signatures != nil {
		if all, err = w.split(in.Name, "signatures", *in.Signatures, nil); err != nil {
			return nil, err
		}
	}
	for i, a := range in.Attestations {
		what := in.Attestations[i].Type
		types, err := w.types(in.Name, a)
		if err != nil {
			return nil, err
		}
		more, err := w.split(in.Name, "attestation "+what, policy.Signatures{By: a.By, Threshold: a.Threshold, Logs: a.Logs, MaxAge: a.MaxAge}, types)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// types are the predicate types of an attestation about whose predicate nothing is asked.
func (w *writing) types(rule string, a policy.Attestation) ([]string, error) {
	for _, asked := range []struct {
		name string
		is   bool
	}{
		{"slsa", a.SLSA != nil}, {"sbom", a.SBOM != nil}, {"vex", a.VEX != nil}, {"vulnerabilities", a.Vulnerabilities != nil}, {"tests", a.Tests != nil},
		{"cel", len(a.CEL) > 0}, {"newest", a.Newest},
	} {
		if asked.is {
			return nil, w.cannot(rule, "attestation "+a.Type+", "+asked.name, "what the predicate must say; only that there is one, by whom and of which type, is carried over")
		}
	}
	if example, ok := versionless[a.Type]; ok {
		return nil, w.cannot(rule, "attestation "+a.Type, "the name stands for any version of the type; write the predicate type itself, as %s", example)
	}
	if types, ok := namedTypes[a.Type]; ok {
		return types, nil
	}
	return []string{a.Type}, nil
}

// split makes demands for one signer out of a demand for all of several; a threshold below their number has no equal.
func (w *writing) split(rule, what string, in policy.Signatures, types []string) ([]demand, error) {
	var signers []policy.Signer
	for _, name := range in.By {
		signers = append(signers, w.File.Signers[name]...)
	}
	if in.MaxAge != 0 {
		return nil, w.cannot(rule, what+", max-age", "no age of a signature is looked at there")
	}
	if in.Logs > 1 {
		return nil, w.cannot(rule, what+", logs", "one log suffices there")
	}
	for _, s := range signers {
		if err := w.signer(rule, what, s); err != nil {
			return nil, err
		}
		if in.Logs > 0 && s.Key != "" && w.File.Keys[s.Key].WithoutLog {
			return nil, w.cannot(rule, what+", logs", "the key %s is taken without a log", s.Key)
		}
	}
	if in.Threshold < 2 {
		return []demand{{what, types, signers}}, nil
	}
	different := map[string]bool{}
	var all []demand
	for _, s := range signers {
		if s.Key == "" && (s.Identity == "" || s.Issuer == "") {
			return nil, w.cannot(rule, what+", threshold", "%d signers, and an expression of which several may match; name each exactly", in.Threshold)
		}
		who := policy.SameSigner(s.Identity, s.Issuer)
		if s.Key != "" {
			who = "key " + s.Key
		}
		different[who] = true
		all = append(all, demand{what, types, []policy.Signer{s}})
	}
	if len(different) != len(all) || len(all) != in.Threshold {
		return nil, w.cannot(rule, what+", threshold", "%d of %d signers; there all of them are asked for, or one", in.Threshold, len(different))
	}
	return all, nil
}

// signer refuses signers of whom more is asked than who they are, and roots that are bound to something beside their file.
func (w *writing) signer(rule, what string, s policy.Signer) error {
	root := s.Root
	if s.Key != "" {
		k := w.File.Keys[s.Key]
		root = k.Root
		if !k.NotBefore.IsZero() || !k.NotAfter.IsZero() {
			return w.cannot(rule, what+", key "+s.Key, "not-before and not-after; a key holds for ever there")
		}
	}
	if len(s.Extensions)+len(s.ExtensionsRegexp) > 0 {
		return w.cannot(rule, what+", extensions", "certificates are told by identity and issuer alone")
	}
	switch r := w.File.Roots[root]; {
	case r.MaxAge != 0:
		return w.cannot(rule, "root "+root+", max-age", "what is written there does not grow old by itself; leave it out of the policy for this gate, and write its files anew with every renewal of trust")
	case r.Denied != nil:
		return w.cannot(rule, "root "+root+", denied", "no list of denied identities is read there; leave it out of the policy for this gate, and take who is denied out of the signers")
	case r.WithoutLog:
		return w.cannot(rule, "root "+root+", without-log", "signatures without a log entry")
	}
	_, err := w.trust(rule, root)
	return err
}
