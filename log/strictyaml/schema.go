package strictyaml

import (
	"encoding"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Schema describes t as JSON Schema; docs maps "Type.Field" to its comment.
func Schema(t reflect.Type, docs map[string]string) map[string]any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Interface || reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]()):
		return map[string]any{}
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()), t.Kind() == reflect.String:
		return map[string]any{"type": "string"}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Slice:
		return map[string]any{"type": "array", "items": Schema(t.Elem(), docs)}
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": Schema(t.Elem(), docs)}
	case t.Kind() != reflect.Struct:
		return map[string]any{"type": "integer"}
	}
	properties, required := map[string]any{}, []string{}
	for name, fieldType := range Fields(t) {
		properties[name] = Schema(fieldType, docs)
	}
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if doc := docs[t.Name()+"."+f.Name]; doc != "" {
			properties[name].(map[string]any)["description"] = doc
		}
		if name != "" && name != "-" && options == "" {
			required = append(required, name)
		}
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties, "required": required}
}

// Docs reads the comments of the types in the Go files of source: the structs are the manual, and this is how it reaches the operator.
func Docs(source fs.ReadDirFS) (map[string]string, error) {
	docs := map[string]string{}
	files, err := source.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("reading the embedded manual: %w", err)
	}
	for _, f := range files {
		text, err := fs.ReadFile(source, f.Name())
		if err != nil {
			return nil, fmt.Errorf("reading the embedded manual: %w", err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), f.Name(), text, parser.ParseComments)
		if err != nil {
			return nil, fmt.Errorf("reading the embedded manual: %w", err)
		}
		for _, declaration := range file.Decls {
			if general, ok := declaration.(*ast.GenDecl); ok {
				comments(general, docs)
			}
		}
	}
	return docs, nil
}

// comments adds the comments of a declaration's types and of their fields to docs.
func comments(general *ast.GenDecl, docs map[string]string) {
	for _, spec := range general.Specs {
		t, ok := spec.(*ast.TypeSpec)
		if !ok {
			continue
		}
		docs[t.Name.Name] = oneLine(general.Doc)
		if fields, ok := t.Type.(*ast.StructType); ok {
			for _, f := range fields.Fields.List {
				for _, name := range f.Names {
					docs[t.Name.Name+"."+name.Name] = oneLine(f.Doc)
				}
			}
		}
	}
}

func oneLine(doc *ast.CommentGroup) string {
	return strings.Join(strings.Fields(doc.Text()), " ")
}
