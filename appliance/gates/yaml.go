package gates

import (
	"bytes"
	"encoding/base64"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// yamlOf is v in YAML.
func yamlOf(v any) ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	err := errors.Join(e.Encode(v), e.Close())
	return out.Bytes(), err
}

// object is a Kubernetes object.
type object struct {
	APIVersion string         `yaml:"apiVersion"`
	Kind       string         `yaml:"kind"`
	Metadata   metadata       `yaml:"metadata"`
	Spec       any            `yaml:"spec,omitempty"`
	Data       map[string]any `yaml:"data,omitempty"`
}

type metadata struct {
	Name        string            `yaml:"name"`
	Namespace   string            `yaml:"namespace,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// named makes names of Kubernetes objects out of others; it gives none twice.
type named map[string]bool

func (n named) of(text string) string {
	base := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(text), "-"), "-")
	base = strings.Trim(base[:min(len(base), 50)], "-")
	if base == "" {
		base = "unnamed"
	}
	for name := base; ; name += "-x" {
		if !n[name] {
			n[name] = true
			return name
		}
	}
}

// document is a file with one object.
func document(name, version, kind string, spec any) File {
	text, err := yamlOf(object{APIVersion: version, Kind: kind, Metadata: metadata{Name: name}, Spec: spec})
	if err != nil {
		panic(err) // structs of strings
	}
	return File{strings.ToLower(kind) + "-" + name + ".yaml", text}
}

// sorted are the keys of m in order.
func sorted(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func inBase64(data []byte) string { return base64.StdEncoding.EncodeToString(data) }
