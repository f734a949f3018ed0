package gates

import (
	"bytes"
	"encoding/json"
	"strings"
)

// requirement is one of containers-policy.json(5).
type requirement struct {
	Type       string    `json:"type"`
	Key        []byte    `json:"keyData,omitempty"`
	Keys       [][]byte  `json:"keyDatas,omitempty"` // in place of Key, which older programs know alone
	Fulcio     *fulcio   `json:"fulcio,omitempty"`
	RekorKey   []byte    `json:"rekorPublicKeyData,omitempty"`
	RekorKeys  [][]byte  `json:"rekorPublicKeyDatas,omitempty"` // in place of RekorKey
	SignedName *signedAs `json:"signedIdentity,omitempty"`
}

type fulcio struct {
	CA     []byte `json:"caData"`
	Issuer string `json:"oidcIssuer"`
	Email  string `json:"subjectEmail"`
}

type signedAs struct {
	Type string `json:"type"`
}

var reject = []requirement{{Type: "reject"}}

// containersPolicy writes /etc/containers/policy.json, and where signatures are looked for.
func containersPolicy(w *writing) ([]File, error) {
	scopes, err := w.scopes()
	if err != nil {
		return nil, err
	}
	docker, attached := map[string][]requirement{}, map[string]any{}
	for _, s := range scopes {
		if docker[s.name] = reject; s.rule.deny {
			continue
		}
		if docker[s.name], err = w.requirements(s.rule); err != nil {
			return nil, err
		}
		attached[s.name] = map[string]bool{"use-sigstore-attachments": true}
	}
	for _, r := range w.rules {
		if _, err := w.requirements(&r); err != nil { // also of a rule that another one covers
			return nil, err
		}
	}
	w.note("%s does not check certificate timestamps (SCT), reads cosign's tags .sig alone, with an entry of Rekor v1, and wants an image's signature to name its repository", w.form)
	out, err := indented(map[string]any{"default": reject, "transports": map[string]any{"docker": docker}})
	if err != nil {
		return nil, err
	}
	registries := map[string]any{"docker": attached}
	if all, ok := attached[""]; ok {
		delete(attached, "")
		registries["default-docker"] = all
	}
	where, err := yamlOf(registries)
	return []File{{"policy.json", out}, {"registries.d/redoubt.yaml", where}}, err
}

func indented(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return out.Bytes(), err
}

// requirements are those of a rule; all must hold.
func (w *writing) requirements(r *rule) (all []requirement, err error) {
	for _, d := range r.demands {
		if d.types != nil {
			return nil, w.cannot(r.name, d.what, "attestations are not looked at")
		}
		q := requirement{Type: "sigstoreSigned", SignedName: &signedAs{"matchRepository"}}
		root := ""
		if d.signers[0].Key != "" {
			root, q.Keys, err = w.onlyKeys(r.name, d)
		} else {
			root, q.Fulcio, err = w.onlyPerson(r.name, d)
		}
		if err != nil {
			return nil, err
		}
		if root != "" {
			for _, l := range w.trusts[root].logs {
				q.RekorKeys = append(q.RekorKeys, l.pem)
			}
		}
		if len(q.Keys) == 1 {
			q.Key, q.Keys = q.Keys[0], nil
		}
		if len(q.RekorKeys) == 1 {
			q.RekorKey, q.RekorKeys = q.RekorKeys[0], nil
		}
		all = append(all, q)
	}
	return all, nil
}

// onlyKeys are the keys of a demand, and the root whose log they must stand in, empty for none.
func (w *writing) onlyKeys(rule string, d demand) (root string, keys [][]byte, err error) {
	for i, s := range d.signers {
		logged := w.File.Keys[s.Key].Root
		if w.File.Keys[s.Key].WithoutLog {
			logged = ""
		}
		if s.Key == "" || i > 0 && logged != root {
			return "", nil, w.cannot(rule, d.what, "one of several signers that are not keys under one root; give each its own images, or let one sign all")
		}
		text, err := w.keyed(rule, s.Key)
		if err != nil {
			return "", nil, err
		}
		root, keys = logged, append(keys, text)
	}
	return root, keys, nil
}

// onlyPerson is the one person of a demand.
func (w *writing) onlyPerson(rule string, d demand) (root string, f *fulcio, err error) {
	s := d.signers[0]
	switch {
	case len(d.signers) > 1:
		return "", nil, w.cannot(rule, d.what, "one of several signers that are not keys under one root; give each its own images, or let one sign all")
	case s.Identity == "" || s.Issuer == "":
		return "", nil, w.cannot(rule, d.what, "identity-regexp or issuer-regexp; identity and issuer are exact there")
	case !email(s.Identity):
		return "", nil, w.cannot(rule, d.what+", identity "+s.Identity, "only e-mail addresses are matched there, no URI of a workflow")
	}
	t, err := w.keyless(rule, s.Root)
	if err != nil {
		return "", nil, err
	}
	return s.Root, &fulcio{t.issuers(), s.Issuer, s.Identity}, nil
}

func email(identity string) bool {
	return strings.Contains(identity, "@") && !strings.ContainsAny(identity, "/ \t\n")
}
