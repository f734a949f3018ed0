package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

const maxConfigBytes = 1 << 20

var errConfig = errors.New("the configuration is not valid")

// loadConfig reads, decodes and checks the file at path. The error names the file, and the line where there is one.
func loadConfig(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, hinted(fmt.Errorf("reading the configuration: %w", err), "`redoubt init --dir DIR --domain D` writes one; --config or $REDOUBT_CONFIG names another")
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	cfg, err := parseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if cfg.Dir == "" {
		// /etc/redoubt/redoubt.yaml may be a link into the state directory.
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
		if cfg.Dir, err = filepath.Abs(filepath.Dir(real)); err != nil {
			return nil, err
		}
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

func parseConfig(data []byte) (*Config, error) { return decodeYAML[Config](data) }

// decodeYAML decodes one strict YAML document: unknown keys, duplicate keys and further documents are errors.
func decodeYAML[T any](data []byte) (*T, error) {
	if len(data) > maxConfigBytes {
		return nil, fmt.Errorf("%w: larger than %d bytes", errConfig, maxConfigBytes)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: the file is empty", errConfig)
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", errConfig, err)
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more than one YAML document", errConfig)
	}
	if len(doc.Content) != 1 {
		return nil, fmt.Errorf("%w: the file is empty", errConfig)
	}
	var keys keyChecker
	if keys.check(doc.Content[0], reflect.TypeFor[T](), ""); len(keys.problems) > 0 {
		return nil, fmt.Errorf("%w: %s", errConfig, strings.Join(keys.problems, "; "))
	}
	var out T
	if err := doc.Decode(&out); err != nil {
		return nil, fmt.Errorf("%w: %w", errConfig, err)
	}
	return &out, nil
}

// keyChecker walks YAML beside the type it will be decoded into and collects one line per unknown or duplicate key.
type keyChecker struct {
	problems []string
	visited  int // nodes seen, aliases followed: bounds what a small file can unfold to
}

const maxConfigNodes = 100_000

func (k *keyChecker) check(node *yaml.Node, t reflect.Type, path string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if k.visited++; k.visited > maxConfigNodes {
		if k.visited == maxConfigNodes+1 {
			k.problems = append(k.problems, fmt.Sprintf("more than %d values", maxConfigNodes))
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
	fields, seen := yamlFields(t), map[string]int{}
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
			k.problems = append(k.problems, fmt.Sprintf("line %d: unknown key %s%s", key.Line, name, nearest(key.Value, fields)))
		}
	}
}

// yamlFields maps the YAML names of a struct's fields, inlined ones included, to their types; nil for a map.
func yamlFields(t reflect.Type) map[string]reflect.Type {
	if t.Kind() != reflect.Struct {
		return nil
	}
	fields := make(map[string]reflect.Type, t.NumField())
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case strings.Contains(options, "inline"):
			maps.Copy(fields, yamlFields(f.Type))
		case name == "" && f.IsExported():
			fields[strings.ToLower(f.Name)] = f.Type // how the decoder names a field without a tag
		case name != "" && name != "-":
			fields[name] = f.Type
		}
	}
	return fields
}

// nearest suggests the known key with the smallest edit distance, when that is small enough to be a slip.
func nearest(key string, fields map[string]reflect.Type) string {
	best, at := "", 4
	for name := range fields {
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
