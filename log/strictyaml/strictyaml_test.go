package strictyaml

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"go.yaml.in/yaml/v3"
)

// house has a field of each kind that Decode walks.
type house struct {
	Name    string           `yaml:"name"`
	Floors  int              `yaml:"floors,omitempty"`
	Rooms   []room           `yaml:"rooms,omitempty"`
	Owners  map[string]*room `yaml:"owners,omitempty"`
	Address `yaml:",inline"`
	Raw     free       `yaml:"raw,omitempty"`
	Hidden  int        `yaml:"-"`
	Bare    bool       // no tag
	Notes   []any      `yaml:"notes,omitempty"`
	Blocks  [][][]room `yaml:"blocks,omitempty"`
}

type room struct {
	Size int    `yaml:"size"`
	Door string `yaml:"door,omitempty"`
}

type Address struct {
	Street string `yaml:"street,omitempty"`
}

// free reads its own keys.
type free map[string]string

func (f *free) UnmarshalYAML(n *yaml.Node) error { return n.Decode((*map[string]string)(f)) }

func TestDecode(t *testing.T) {
	got, err := Decode[house]([]byte("name: n\nfloors: 2\nrooms: [{size: 3}]\nowners: {o: {size: 4}}\nstreet: s\nraw: {any: key}\nbare: true\nnotes: [1, {x: y}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := &house{Name: "n", Floors: 2, Rooms: []room{{Size: 3}}, Owners: map[string]*room{"o": {Size: 4}}, Address: Address{"s"}, Raw: free{"any": "key"}, Bare: true,
		Notes: []any{1, map[string]any{"x": "y"}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got, err := Decode[house]([]byte("rooms:\n- &r {size: 1}\n- *r\n- {<<: *r, door: d}\n")); err != nil || len(got.Rooms) != 3 || got.Rooms[2] != (room{1, "d"}) {
		t.Errorf("aliases: %+v %v", got, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "the file is empty"},
		{"a comment alone", "# nothing\n", "the file is empty"},
		{"a second document", "name: a\n---\nname: b\n", "more than one YAML document"},
		{"what is no YAML after it", "name: a\n---\n\t{", "yaml: line 3"},
		{"an unknown key", "name: a\nfoors: 2\n", "line 2: unknown key foors (did you mean floors?)"},
		{"an unknown key, nothing like it", "nonsense-all-of-it: 2\n", "line 1: unknown key nonsense-all-of-it"},
		{"an unknown key in a list", "rooms:\n- size: 1\n- sise: 1\n", "line 3: unknown key rooms[1].sise (did you mean size?)"},
		{"an unknown key in a map", "owners: {o: {x: 1}}\n", "line 1: unknown key owners.o.x"},
		{"an unknown key by way of a merge", "rooms: [{<<: {wall: 1}}]\n", "unknown key rooms[0].wall"},
		{"an unknown key by way of an alias", "notes: [&n {wall: 1}]\nrooms: [*n]\n", "unknown key rooms[0].wall"},
		{"a field kept out", "hidden: 1\n", "unknown key hidden"},
		{"a key in other letters", "Name: a\n", "unknown key Name"},
		{"a key twice", "name: a\nname: b\n", "line 2: name stands twice (first on line 1)"},
		{"two slips", "name: a\nname: b\nfloor: 1\n", "stands twice (first on line 1); line 3: unknown key floor"},
		{"another type", "floors: many\n", "cannot unmarshal"},
		{"an anchor within itself", "notes: &a [*a]\n", "contains itself"},
		{"what is no YAML", "name: [\n", "yaml: "},
		{"what unfolds", unfolds(), "more than 100000 values"},
		{"too long", "name: " + strings.Repeat("a", MaxBytes), "larger than 1048576 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Decode[house]([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, %v; want %s", got, err, c.want)
			}
		})
	}
}

// unfolds is a million rooms in some hundred bytes.
func unfolds() string {
	rooms := "&a [" + strings.Repeat("{size: 1},", 100) + "]"
	return "blocks:\n- &b [" + rooms + strings.Repeat(",*a", 99) + "]\n" + strings.Repeat("- *b\n", 99)
}

func TestSchemaKnowsEveryField(t *testing.T) {
	docs, err := Docs(fstest.MapFS{"h.go": {Data: []byte("package h\n// house is\n// one.\ntype house struct {\n\t// Name of it.\n\tName string\n}\n")}})
	if err != nil {
		t.Fatal(err)
	}
	s := Schema(reflect.TypeFor[*house](), docs)
	properties := s["properties"].(map[string]any)
	if got := slices.Sorted(maps.Keys(properties)); !slices.Equal(got, slices.Sorted(maps.Keys(Fields(reflect.TypeFor[house]())))) {
		t.Errorf("properties %v", got)
	}
	if properties["name"].(map[string]any)["description"] != "Name of it." || !slices.Equal(s["required"].([]string), []string{"name"}) || s["additionalProperties"] != false {
		t.Errorf("%v", s)
	}
	if _, err := json.Marshal(s); err != nil {
		t.Error(err)
	}
	if _, err := Docs(fstest.MapFS{"h.go": {Data: []byte("no Go")}}); err == nil {
		t.Error("what is no Go was read")
	}
}

// FuzzDecode: nothing crashes, and what is accepted is accepted again, as the same, after it was written.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"name: n\nrooms: [{size: 3}]\nraw: {a: b}\n", "rooms:\n- &r {size: 1}\n- {<<: *r, door: d}\n", "notes: &a [*a]\n", "a: &x [*x]\n<<: *x\n", "owners: {? [1] : {}}\n", "---\n...\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Decode[house](data)
		if err != nil {
			return
		}
		text, err := yaml.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode[house](text)
		if err != nil {
			t.Fatalf("written as\n%s\nand refused: %v", text, err)
		}
		if second, err := yaml.Marshal(again); err != nil || string(second) != string(text) {
			t.Errorf("%s became %s (%v)", text, second, err)
		}
	})
}
