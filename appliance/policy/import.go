package policy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"redoubt.internal/log/strictyaml"
)

// ErrImport says that a policy of another program asks for something that cannot be carried over.
var ErrImport = errors.New("this cannot be carried over")

// Imported is a policy made of those of another program, and the keys that stood in them.
type Imported struct {
	File File
	Keys map[string][]byte // PEM by file name
}

// YAML is the policy as a file.
func (i *Imported) YAML() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("# Imported. `redoubt policy explain` says in words what it asks.\n")
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(i.File), e.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// importing is an import on its way.
type importing struct {
	out  Imported
	root string // for signers whose policy names no root
}

// Import makes a policy of ClusterImagePolicies (policy-controller, v1alpha1 and v1beta1) or of Kyverno's policies with verifyImages, one YAML document
// each. root names the trusted root for signers whose policy does not name one. Nothing is left out: what has no equal here is ErrImport, with the
// line where it stands.
func Import(data []byte, root string) (*Imported, error) {
	i := importing{root: root, out: Imported{File: File{Version: Schema, Roots: map[string]Root{}, Keys: map[string]Key{}, Signers: map[string][]Signer{}}, Keys: map[string][]byte{}}}
	if len(data) > strictyaml.MaxBytes {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrImport, strictyaml.MaxBytes)
	}
	for _, doc := range documents(data) {
		if err := i.document(doc); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrImport, err)
		}
	}
	if len(i.out.File.Rules) == 0 {
		return nil, fmt.Errorf("%w: there is no ClusterImagePolicy and no verifyImages in it", ErrImport)
	}
	return &i.out, i.disjoint()
}

// documents splits a file at its separators. Each keeps the lines before it, empty, so that errors name the right one.
func documents(data []byte) (docs [][]byte) {
	var doc bytes.Buffer
	lines := 0
	end := func() {
		if len(bytes.TrimSpace(doc.Bytes())) > 0 {
			docs = append(docs, bytes.Clone(doc.Bytes()))
		}
		doc.Reset()
		doc.Write(bytes.Repeat([]byte{'\n'}, lines))
	}
	for line := range bytes.Lines(data) {
		lines++
		if bytes.Equal(bytes.TrimRight(line, " \r\n"), []byte("---")) {
			end()
			continue
		}
		doc.Write(line)
	}
	end()
	return docs
}

func (i *importing) document(doc []byte) error {
	var head struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
	}
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return err
	}
	switch group, _, _ := strings.Cut(head.APIVersion, "/"); {
	case head.Kind == "ClusterImagePolicy" && slices.Contains([]string{"policy.sigstore.dev/v1alpha1", "policy.sigstore.dev/v1beta1"}, head.APIVersion):
		p, err := strictyaml.Decode[clusterImagePolicy](doc)
		if err != nil {
			return err
		}
		return i.clusterImagePolicy(p)
	case (head.Kind == "ClusterPolicy" || head.Kind == "Policy") && group == "kyverno.io":
		p, err := strictyaml.Decode[kyvernoPolicy](doc)
		if err != nil {
			return err
		}
		return i.kyverno(p)
	}
	return fmt.Errorf("a document of kind %.100q, %.100q", head.Kind, head.APIVersion)
}

// disjoint refuses rules that match the same image: where several policies match, both programs ask for all of them, and here the first decides.
func (i *importing) disjoint() error {
	rules := i.out.File.Rules
	for k := range rules {
		for _, o := range rules[:k] {
			for _, a := range rules[k].Images {
				for _, b := range o.Images {
					if x, err := compileGlob(a); err == nil {
						if y, err := compileGlob(b); err == nil && overlap(x, y) {
							return fmt.Errorf("%w: %q of %s and %q of %s match the same images, which must satisfy both there; write one policy that asks for both", ErrImport, b, o.Name, a, rules[k].Name)
						}
					}
				}
			}
		}
	}
	return nil
}

// overlap tells whether some name is matched by both.
func overlap(a, b glob) bool {
	type pair struct{ a, b int }
	seen, queue := map[pair]bool{}, []pair{{0, 0}}
	for len(queue) > 0 {
		p := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if seen[p] {
			continue
		}
		seen[p] = true
		if p.a == len(a.atoms) && p.b == len(b.atoms) {
			return true
		}
		if p.a < len(a.atoms) && a.atoms[p.a].star {
			queue = append(queue, pair{p.a + 1, p.b})
		}
		if p.b < len(b.atoms) && b.atoms[p.b].star {
			queue = append(queue, pair{p.a, p.b + 1})
		}
		if p.a == len(a.atoms) || p.b == len(b.atoms) {
			continue
		}
		for _, c := range letters([]glob{a, b}) {
			if x, y := a.atoms[p.a], b.atoms[p.b]; x.takes(c) && y.takes(c) {
				next := pair{p.a + 1, p.b + 1}
				if x.star {
					next.a--
				}
				if y.star {
					next.b--
				}
				queue = append(queue, next)
			}
		}
	}
	return false
}

// useRoot notes that a root is needed. Its file is the operator's to bring.
func (i *importing) useRoot(name string) string {
	if name == "" {
		name = i.root
	}
	i.out.File.Roots[name] = Root{File: name + ".json"}
	return name
}

// keyed adds a public key that stood in a policy, and returns its signer.
func (i *importing) keyed(name, pem, root string, withoutLog bool) (Signer, error) {
	pem = strings.TrimSpace(pem) + "\n"
	if strings.Count(pem, "-----BEGIN") != 1 || !strings.HasPrefix(pem, "-----BEGIN PUBLIC KEY-----") {
		return Signer{}, errors.New("a key that is not one public key in PEM")
	}
	for n := 2; ; n++ {
		if held, ok := i.out.Keys[name+".pub"]; !ok || string(held) == pem && i.out.File.Keys[name].WithoutLog == withoutLog {
			break
		}
		name = fmt.Sprintf("%s-%d", strings.TrimSuffix(name, fmt.Sprintf("-%d", n-1)), n)
	}
	i.out.Keys[name+".pub"] = []byte(pem)
	i.out.File.Keys[name] = Key{File: name + ".pub", Root: i.useRoot(root), WithoutLog: withoutLog}
	return Signer{Key: name}, nil
}

// anywhere is an expression that matches anywhere, as one that matches the whole.
func anywhere(expression string) string {
	if expression == "" {
		return ""
	}
	return `(?s:.*)(?:` + expression + `)(?s:.*)`
}

// repositoryGlob is a pattern of whole references as one of repositories. A tag or digest that is not a wildcard has no equal.
func repositoryGlob(pattern string) (string, error) {
	base, digest, _ := strings.Cut(pattern, "@")
	last := base[strings.LastIndexByte(base, '/')+1:]
	name, tag, _ := strings.Cut(last, ":")
	for _, rest := range []string{strings.TrimPrefix(digest, "sha256:"), tag} {
		if strings.Trim(rest, "*") != "" {
			return "", fmt.Errorf("the pattern %.200q names a tag or digest: rules here are for repositories, and what is in them is judged by what vouches for it", pattern)
		}
	}
	base = base[:len(base)-len(last)] + name
	host, rest, ok := strings.Cut(base, "/")
	switch {
	case strings.HasPrefix(base, "**"):
	case !ok || !strings.ContainsAny(host, ".:*") && host != "localhost":
		if strings.Contains(host, "*") || base == "" {
			return "", fmt.Errorf("the pattern %.200q begins with no registry; write HOST/%s", pattern, base)
		}
		if base = "index.docker.io/" + base; !ok {
			base = "index.docker.io/library/" + host + rest
		}
	case host == "docker.io":
		base = "index.docker.io/" + rest
	}
	g, err := compileGlobs([]string{base}, true)
	if err != nil {
		return "", err
	}
	return g[0].text, nil
}
