package strictjson

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	good := map[string]any{
		`null`:                        nil,
		` "a" `:                       "a",
		`1e3`:                         json.Number("1e3"),
		`{"a":[1,{"b":null}],"A":{}}`: map[string]any{"a": []any{json.Number("1"), map[string]any{"b": nil}}, "A": map[string]any{}},
		`[]`:                          []any{},
	}
	for in, want := range good {
		got, err := Parse([]byte(in))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%s) = %v, %v", in, got, err)
		}
	}
	bad := []string{
		``, ` `, `{`, `[`, `{"a":1,"a":2}`, `{"a":{"b":1,"b":1}}`, `[{"x":1,"x":1}]`, `{"a":1}{"b":2}`, `{"a":1} x`, `[1,]`, `{"a":}`, `{a:1}`,
		`{"a" 1}`, `[1 2]`, `]`, `}`, `tru`, "\"\xff\"", `{"a":1,}`, `{1:2}`, `01`, `"` + "\n" + `"`,
		strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1),
		strings.Repeat(`{"a":`, 1<<20),
	}
	for _, in := range bad {
		if got, err := Parse([]byte(in)); !errors.Is(err, ErrInvalid) {
			t.Errorf("Parse(%.60q) = %v, %v; want ErrInvalid", in, got, err)
		}
	}
	if _, err := Parse([]byte(strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth))); err != nil {
		t.Errorf("%d levels: %v", maxDepth, err)
	}
	if _, err := Object([]byte(`[]`)); !errors.Is(err, ErrInvalid) {
		t.Errorf("Object of a list: %v", err)
	}
	if err := Only(map[string]any{"a": 1, "b": 2}, "a", "b", "c"); err != nil {
		t.Error(err)
	}
	if err := Only(map[string]any{"a": 1, "b": 2}, "a"); !errors.Is(err, ErrInvalid) {
		t.Errorf("Only: %v", err)
	}
}

// FuzzParse holds Parse to encoding/json: whatever it accepts is valid there and means the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,2,{"b":"\u00e9"}]}`, `{"a":1,"a":2}`, `[[[[`, `"\ud800"`, `-0.0`, `{"a":`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Parse(data)
		if err != nil {
			return
		}
		dec := json.NewDecoder(strings.NewReader(string(data)))
		dec.UseNumber()
		var want any
		if err := dec.Decode(&want); err != nil {
			t.Fatalf("accepted %q, which encoding/json refuses: %v", data, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %v, encoding/json reads %v", data, got, want)
		}
	})
}
