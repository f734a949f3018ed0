package strictjson

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCheck(t *testing.T) {
	deep := strings.Repeat("[", 65) + strings.Repeat("]", 65)
	for _, c := range []struct {
		in   string
		want error
	}{
		{`{}`, nil}, {` [1,-0.5e+3,"a\u00e9\n",null,true,{"a":{"a":1},"b":[{"a":1}]}] `, nil},
		{`"\ud83d\ude00"`, nil}, {`0`, nil}, {`{"A":1,"a":2}`, nil},
		{`{"a":1,"a":2}`, ErrDuplicate}, {`{"a":1,"\u0061":2}`, ErrDuplicate}, {`[{"x":{"k":1,"k":1}}]`, ErrDuplicate},
		{``, ErrSyntax}, {`{`, ErrSyntax}, {`{"a"}`, ErrSyntax}, {`{"a":}`, ErrSyntax}, {`{"a":1,}`, ErrSyntax},
		{`[1,]`, ErrSyntax}, {`[,]`, ErrSyntax}, {`01`, ErrSyntax}, {`1.`, ErrSyntax}, {`1e`, ErrSyntax}, {`-`, ErrSyntax},
		{`{} {}`, ErrSyntax}, {`{}x`, ErrSyntax}, {"\"\x01\"", ErrSyntax}, {"\"\xff\"", ErrSyntax}, {`"\x"`, ErrSyntax},
		{`"\ud800"`, ErrSyntax}, {`"\udc00"`, ErrSyntax}, {`"\ud800\u0041"`, ErrSyntax}, {`"\u12g4"`, ErrSyntax}, {`"\`, ErrSyntax}, {`nul`, ErrSyntax},
		{deep, ErrLimit}, {`"` + strings.Repeat("x", 17<<20) + `"`, ErrLimit},
		{"[" + strings.Repeat("0,", 1_000_000) + "0]", ErrLimit},
	} {
		if err := Check([]byte(c.in), Limits{}); !errors.Is(err, c.want) || (err != nil) != (c.want != nil) {
			t.Errorf("Check(%.40q) = %v, want %v", c.in, err, c.want)
		}
	}
}

// Many names in one object leave the linear path; duplicates are still seen.
func TestCheckManyNames(t *testing.T) {
	var b strings.Builder
	for i := range 40 {
		b.WriteString(`"n` + strings.Repeat("x", i) + `":1,`)
	}
	ok := "{" + b.String() + `"last":1}`
	if err := Check([]byte(ok), Limits{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"n", "nx", "n" + strings.Repeat("x", 39)} {
		if err := Check([]byte("{"+b.String()+`"`+name+`":1}`), Limits{}); !errors.Is(err, ErrDuplicate) {
			t.Errorf("second %.10q...: %v", name, err)
		}
	}
}

func TestDecode(t *testing.T) {
	type doc struct {
		Name string `json:"name"`
		N    int    `json:"n,omitempty"`
	}
	var d doc
	if err := Decode([]byte(`{"name":"x","n":3}`), Limits{}, &d); err != nil || d != (doc{"x", 3}) {
		t.Fatalf("got %+v, %v", d, err)
	}
	for in, want := range map[string]error{`{"Name":"x"}`: ErrField, `{"name":"x","extra":1}`: ErrField, `{"name":1}`: ErrSyntax, `[]`: ErrSyntax, `{"n":1,"n":1}`: ErrDuplicate} {
		if err := Decode([]byte(in), Limits{}, &doc{}); !errors.Is(err, want) {
			t.Errorf("Decode(%s) = %v, want %v", in, err, want)
		}
	}
}

func TestWalkNames(t *testing.T) {
	got := map[string]string{}
	err := Walk([]byte(`{"a":"1","b":["2",["3"]],"c":{"d":"4"}}`), Limits{}, func(name string, raw []byte) error {
		got[name] += string(raw)
		return nil
	})
	if err != nil || got["a"] != "1" || got["b"] != "23" || got["d"] != "4" {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		in   string
		l    Limits
		want error
	}{
		{`{"a":1,"b":2}`, Limits{Names: 2}, nil}, {`{"a":1,"b":2,"c":3}`, Limits{Names: 2}, ErrLimit}, {`[{"a":1},{"b":2,"c":3}]`, Limits{Names: 2}, nil},
		{`{"sub":1,"Sub":2}`, Limits{}, nil}, {`{"sub":1,"Sub":2}`, Limits{Fold: true}, ErrDuplicate}, {`{"x":[{"k":1,"\u212a":2}]}`, Limits{Fold: true}, ErrDuplicate},
		{`{"ſub":1,"SUB":2}`, Limits{Fold: true}, ErrDuplicate}, {`{"é":1,"É":2}`, Limits{Fold: true}, ErrDuplicate}, {`{"e":1,"é":2}`, Limits{Fold: true}, nil},
		{`[[1]]`, Limits{Depth: 2}, nil}, {`[[[1]]]`, Limits{Depth: 2}, ErrLimit}, {`[1,2]`, Limits{Values: 3}, nil}, {`[1,2,3]`, Limits{Values: 3}, ErrLimit},
	} {
		if err := Check([]byte(c.in), c.l); !errors.Is(err, c.want) || (err != nil) != (c.want != nil) {
			t.Errorf("Check(%s, %+v) = %v, want %v", c.in, c.l, err, c.want)
		}
	}
}

func TestObject(t *testing.T) {
	got, err := Object([]byte(` {"a":[1e3,{"b":null},true],"A":{},"s":"\u00e9"} `))
	want := map[string]any{"a": []any{json.Number("1e3"), map[string]any{"b": nil}, true}, "A": map[string]any{}, "s": "é"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	nested := func(levels int) []byte {
		return []byte(strings.Repeat(`{"a":`, levels) + "1" + strings.Repeat("}", levels))
	}
	if _, err := Object(nested(32)); err != nil {
		t.Errorf("32 levels: %v", err)
	}
	for in, want := range map[string]error{
		``: ErrSyntax, `null`: ErrSyntax, `[]`: ErrSyntax, `"a"`: ErrSyntax, `{"a":1}{"b":2}`: ErrSyntax, `{"a":1} x`: ErrSyntax, `{1:2}`: ErrSyntax, `{"a":1,}`: ErrSyntax,
		`{"a":"\ud800"}`: ErrSyntax, "{\"a\":\"\xff\"}": ErrSyntax, `{"a":{"b":1,"b":1}}`: ErrDuplicate, string(nested(33)): ErrLimit, strings.Repeat(`{"a":`, 1<<20): ErrLimit,
	} {
		if got, err := Object([]byte(in)); !errors.Is(err, want) {
			t.Errorf("Object(%.60q) = %v, %v, want %v", in, got, err, want)
		}
	}
	if err := Only(map[string]any{"a": 1, "b": 2}, "a", "b", "c"); err != nil {
		t.Error(err)
	}
	if err := Only(map[string]any{"a": 1, "b": 2}, "a"); !errors.Is(err, ErrField) {
		t.Errorf("Only: %v", err)
	}
}

// FuzzFold holds fold to strings.EqualFold.
func FuzzFold(f *testing.F) {
	f.Add("Kelvin", "\u212aelvin")
	f.Add("ſ", "S")
	f.Fuzz(func(t *testing.T, a, b string) {
		if utf8.ValidString(a) && utf8.ValidString(b) && strings.EqualFold(a, b) != (fold(a) == fold(b)) {
			t.Fatalf("%q, %q: EqualFold %v, folded %q, %q", a, b, strings.EqualFold(a, b), fold(a), fold(b))
		}
	})
}

// FuzzObject holds Object to encoding/json: whatever it accepts means the same there.
func FuzzObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,2,{"b":"\u00e9"}]}`, `{"a":1,"a":2}`, `[[[[`, `{"a":"\ud800"}`, `{"a":-0.0}`, `{"a":`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Object(data)
		if err != nil {
			return
		}
		dec := json.NewDecoder(strings.NewReader(string(data)))
		dec.UseNumber()
		var want any
		if err := dec.Decode(&want); err != nil || !reflect.DeepEqual(any(got), want) {
			t.Fatalf("%q: %v, encoding/json reads %v, %v", data, got, want, err)
		}
	})
}

// FuzzCheck holds Check against encoding/json: what we accept, it accepts.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"\u00e9"],"b":null}`, `{"a":1,"a":2}`, `"\ud83d\ude00"`, "\"\xff\"", `[[[[]]]]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := Check(data, Limits{})
		if err == nil && !json.Valid(data) {
			t.Fatalf("accepted %q, which is no JSON", data)
		}
		if errors.Is(err, ErrSyntax) && json.Valid(data) && !strings.Contains(string(data), "\\") && isASCII(data) {
			t.Fatalf("refused %q: %v", data, err)
		}
	})
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}
