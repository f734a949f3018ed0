// Command crds checks Kubernetes objects against published CustomResourceDefinitions as an API server does: structure, values, unknown fields and the
// rules in CEL.
//
//	crds FOLDER-OF-CRDS FILE...
//
// It prints what is wrong, and exits 1; what has no definition in the folder is wrong too, but for ConfigMaps.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

type definition struct {
	validator  validation.SchemaValidator
	structural *structural.Structural
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: crds FOLDER-OF-CRDS FILE...")
		os.Exit(2)
	}
	all, err := definitions(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	failed, checked := false, 0
	for _, file := range os.Args[2:] {
		err := documents(file, func(object map[string]any) error {
			checked++
			return check(all, object)
		})
		if err != nil {
			fmt.Printf("%s: %v\n", file, err)
			failed = true
		}
	}
	fmt.Printf("%d objects checked by %d definitions\n", checked, len(all))
	if failed {
		os.Exit(1)
	}
}

// documents hands every YAML document of a file to f.
func documents(file string, f func(map[string]any) error) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var object map[string]any
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(object) == 0 {
			continue
		}
		if err := f(object); err != nil {
			return err
		}
	}
}

func definitions(dir string) (map[schema.GroupVersionKind]definition, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no definitions in %s: %w", dir, errors.Join(err, os.ErrNotExist))
	}
	all := map[schema.GroupVersionKind]definition{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
		for {
			var crd v1.CustomResourceDefinition
			if err := decoder.Decode(&crd); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			if crd.Kind != "CustomResourceDefinition" {
				continue
			}
			for _, version := range crd.Spec.Versions {
				d, err := compile(version)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", file, version.Name, err)
				}
				all[schema.GroupVersionKind{Group: crd.Spec.Group, Version: version.Name, Kind: crd.Spec.Names.Kind}] = d
			}
		}
	}
	return all, nil
}

func compile(version v1.CustomResourceDefinitionVersion) (d definition, err error) {
	if version.Schema == nil {
		return d, errors.New("it has no schema")
	}
	var internal apiextensions.CustomResourceValidation
	if err := v1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(version.Schema, &internal, nil); err != nil {
		return d, err
	}
	if d.structural, err = structural.NewStructural(internal.OpenAPIV3Schema); err != nil {
		return d, err
	}
	d.validator, _, err = validation.NewSchemaValidator(internal.OpenAPIV3Schema)
	return d, err
}

func check(all map[schema.GroupVersionKind]definition, object map[string]any) error {
	version, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	if version == "v1" && kind == "ConfigMap" {
		return nil
	}
	group, err := schema.ParseGroupVersion(version)
	if err != nil {
		return err
	}
	d, ok := all[group.WithKind(kind)]
	if !ok {
		return fmt.Errorf("there is no definition of %s %s", version, kind)
	}
	problems := validation.ValidateCustomResource(nil, object, d.validator)
	more, _ := cel.NewValidator(d.structural, true, celconfig.PerCallLimit).Validate(context.Background(), field.NewPath(kind), d.structural, object, nil, celconfig.RuntimeCELCostBudget)
	problems = append(problems, more...)
	if err := problems.ToAggregate(); err != nil {
		return err
	}
	unknown := pruning.PruneWithOptions(object, d.structural, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	if len(unknown) > 0 {
		return fmt.Errorf("unknown fields %v", unknown)
	}
	return nil
}
