package main

import (
	"bytes"
	_ "embed" // a schema
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verifying"
)

//go:embed testdata/sarif-2.1.0-subset.schema.json
var sarifSubset []byte

// strictSchema compiles a schema that refuses what it does not name: outside of tests members may be added to a verdict.
func strictSchema(data []byte) (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	closeObjects(document)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("strict.json", document); err != nil {
		return nil, err
	}
	return c.Compile("strict.json")
}

func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, said := v["additionalProperties"]; v["type"] == "object" && !said {
			v["additionalProperties"] = false
		}
		for _, member := range v {
			closeObjects(member)
		}
	case []any:
		for _, member := range v {
			closeObjects(member)
		}
	}
}

// checked is main for scripts: what verify prints under -o json and -o sarif is held to its schema, in every script. The exit code 99 says that
// it does not follow it.
func checked() {
	schema := verifying.Schema
	switch format := formatOf(os.Args); {
	case len(os.Args) < 2 || !slices.Contains(os.Args, verifying.Verb) || slices.Contains(os.Args, "--help"):
		main()
		return
	case format == "sarif":
		schema = sarifSubset
	case format != "json" || os.Args[1] != verifying.Verb:
		main()
		return
	}
	var out bytes.Buffer
	code := run(os.Args, io.MultiWriter(os.Stdout, &out), os.Stderr)
	if err := follows(schema, out.Bytes()); err != nil && out.Len() > 0 {
		fmt.Fprintf(os.Stderr, "this is no verdict: %v\n", err)
		code = 99
	}
	os.Exit(code)
}

func formatOf(args []string) string {
	for i, a := range args[:len(args)-1] {
		if a == "-o" || a == "--output" {
			return args[i+1]
		}
	}
	return ""
}

func follows(schema, document []byte) error {
	compiled, err := strictSchema(schema)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return err
	}
	return compiled.Validate(v)
}

// TestVerdictSchema: the schema and the types have the same members, so that neither can fall behind the other.
func TestVerdictSchema(t *testing.T) {
	if _, err := strictSchema(verifying.Schema); err != nil {
		t.Fatal(err)
	}
	var s struct {
		Defs map[string]map[string]any `json:"$defs"`
	}
	if err := json.Unmarshal(verifying.Schema, &s); err != nil {
		t.Fatal(err)
	}
	for name, of := range map[string]reflect.Type{"verified": verify.ResultShape(), "refused": reflect.TypeFor[verify.Failure](), "decided": reflect.TypeFor[policy.Decision]()} {
		sameMembers(t, s.Defs, name, s.Defs[name], of)
	}
	var known []string
	for _, r := range verify.ReasonIDs() {
		known = append(known, r.ID)
	}
	listed := fmt.Sprint(s.Defs["reason"]["properties"].(map[string]any)["id"].(map[string]any)["enum"])
	if listed != fmt.Sprint(known) {
		t.Errorf("reasons in the schema %s, in the verifier %v", listed, known)
	}
}

func sameMembers(t *testing.T, defs map[string]map[string]any, at string, schema map[string]any, of reflect.Type) {
	t.Helper()
	for {
		if ref, ok := schema["$ref"].(string); ok {
			schema = defs[strings.TrimPrefix(ref, "#/$defs/")]
		} else if items, ok := schema["items"].(map[string]any); ok {
			schema = items
		} else {
			break
		}
	}
	if of = innermost(of); of == reflect.TypeFor[verify.Result]() {
		of = verify.ResultShape()
	}
	if of.Kind() != reflect.Struct || isScalar(of) {
		return
	}
	properties, _ := schema["properties"].(map[string]any)
	var required, have []string
	for f := range of.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			continue
		}
		have = append(have, name)
		if !strings.Contains(options, "omit") {
			required = append(required, name)
		}
		if p, ok := properties[name].(map[string]any); ok {
			sameMembers(t, defs, at+"."+name, p, f.Type)
		}
	}
	slices.Sort(have)
	if want := slices.Sorted(maps.Keys(properties)); !slices.Equal(have, want) {
		t.Errorf("%s: members %v, in the schema %v", at, have, want)
	}
	if want := fmt.Sprint(schema["required"]); want != fmt.Sprint(required) {
		t.Errorf("%s: always there are %v, in the schema %s", at, required, want)
	}
}

// TestFollowsRefuses: the schemas refuse documents that are none.
func TestFollowsRefuses(t *testing.T) {
	failure, err := json.Marshal(verify.NewFailure(verify.ErrTime))
	if err != nil {
		t.Fatal(err)
	}
	if err := follows(verifying.Schema, failure); err != nil {
		t.Error(err)
	}
	for _, change := range [][2]string{{`"code":24`, `"code":27`}, {`"verified":false`, `"verified":true`}, {`"verified":false`, `"verified":false,"more":1`}, {`"id":"time"`, `"id":"clock"`}, {`"reasons":`, `"reason2":`}, {`redoubt.verify/v1`, `redoubt.verify/v2`}} {
		changed := bytes.Replace(failure, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(changed, failure) || follows(verifying.Schema, changed) == nil {
			t.Errorf("%s in place of %s is taken", change[1], change[0])
		}
	}
	var stdout, stderr bytes.Buffer
	run([]string{"redoubt", "verify", "-o", "sarif", "a file"}, &stdout, &stderr)
	for change, want := range map[string]bool{"": true, "version": false, "level": false, "uri": false, "index": false} {
		var log map[string]any
		if err := json.Unmarshal(stdout.Bytes(), &log); err != nil {
			t.Fatal(err)
		}
		of := log["runs"].([]any)[0].(map[string]any)
		result := of["results"].([]any)[0].(map[string]any)
		switch change {
		case "version":
			log["version"] = "2.1"
		case "level":
			result["level"] = "fatal"
		case "uri":
			of["artifacts"] = []any{map[string]any{"location": map[string]any{"uri": "a file"}}}
		case "index":
			result["ruleIndex"] = -2
		}
		raw, err := json.Marshal(log)
		if err != nil {
			t.Fatal(err)
		}
		if err := follows(sarifSubset, raw); (err == nil) != want {
			t.Errorf("%q: %v", change, err)
		}
	}
}
