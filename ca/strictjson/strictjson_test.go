package strictjson

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
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
