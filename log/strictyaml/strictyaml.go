// Package strictyaml reads YAML that people write, one way only: a slip of the hand is an error that names its line, never a setting that does nothing.
//
// Decode guarantees, for what it accepts: one document and nothing after it; no key that the Go type does not know, none twice; at most MaxBytes
// bytes that unfold, aliases followed, to at most 100,000 values. Schema describes the same types to editors.
//
// It does not interpret anything: whether a value makes sense is the caller's question.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxBytes is the longest document.
const MaxBytes = 1 << 20

// Decode decodes one strict YAML document: unknown keys, duplicate keys and further documents are errors.
func Decode[T any](data []byte) (*T, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("larger than %d bytes", MaxBytes)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty")
	} else if err != nil {
		return nil, err
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	if len(doc.Content) != 1 {
		return nil, errors.New("the file is empty")
	}
	var keys keyChecker
	if keys.check(doc.Content[0], reflect.TypeFor[T](), ""); len(keys.problems) > 0 {
		return nil, errors.New(strings.Join(keys.problems, "; "))
	}
	var out T
	if err := doc.Decode(&out); err != nil {
		return nil, err
	}
	return &out, nil
}

// keyChecker walks YAML beside the type it will be decoded into and collects one line per unknown or duplicate key.
type keyChecker struct {
	problems []string
	visited  int // nodes seen, aliases followed: bounds what a small file can unfold to
}

const maxNodes = 100_000

func (k *keyChecker) check(node *yaml.Node, t reflect.Type, path string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if k.visited++; k.visited > maxNodes {
		if k.visited == maxNodes+1 {
			k.problems = append(k.problems, fmt.Sprintf("more than %d values", maxNodes))
		}
		return
	}
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]()):
		return // reads its own keys
	case node.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, item := range node.Content {
			k.check(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i))
		}
	case node.Kind == yaml.MappingNode && (t.Kind() == reflect.Struct || t.Kind() == reflect.Map):
		k.checkMapping(node, t, path)
	}
}

func (k *keyChecker) checkMapping(node *yaml.Node, t reflect.Type, path string) {
	fields, seen := Fields(t), map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		name := strings.TrimPrefix(path+"."+key.Value, ".")
		first, twice := seen[key.Value]
		seen[key.Value] = key.Line
		field, known := fields[key.Value]
		switch {
		case twice:
			k.problems = append(k.problems, fmt.Sprintf("line %d: %s stands twice (first on line %d)", key.Line, name, first))
		case key.Tag == "!!merge":
			k.check(value, t, path)
		case t.Kind() == reflect.Map:
			k.check(value, t.Elem(), name)
		case known:
			k.check(value, field, name)
		default:
			k.problems = append(k.problems, fmt.Sprintf("line %d: unknown key %s%s", key.Line, name, Nearest(key.Value, maps.Keys(fields))))
		}
	}
}

// Fields maps the YAML names of a struct's fields, inlined ones included, to their types; nil for a map.
func Fields(t reflect.Type) map[string]reflect.Type {
	if t.Kind() != reflect.Struct {
		return nil
	}
	fields := make(map[string]reflect.Type, t.NumField())
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case strings.Contains(options, "inline"):
			maps.Copy(fields, Fields(f.Type))
		case name == "" && f.IsExported():
			fields[strings.ToLower(f.Name)] = f.Type // how the decoder names a field without a tag
		case name != "" && name != "-":
			fields[name] = f.Type
		}
	}
	return fields
}

// Nearest suggests the known key with the smallest edit distance, when that is small enough to be a slip.
func Nearest(key string, names iter.Seq[string]) string {
	best, at := "", 4
	for name := range names {
		if d := distance(key, name); d < at || (d == at && name < best) {
			best, at = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

// distance is the Levenshtein distance of two short names, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
