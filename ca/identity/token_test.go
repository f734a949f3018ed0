package identity

import (
	"bytes"
	"encoding/json"
	"testing"
)

// sameMembers holds the cutting of an object to encoding/json's.
func sameMembers(t *testing.T, doc []byte) {
	got, err := strictObject(doc)
	if strictJSON(doc) != nil {
		if err == nil {
			t.Fatalf("%q: accepted", doc)
		}
		return
	}
	var want map[string]json.RawMessage
	if jsonErr := json.Unmarshal(doc, &want); (jsonErr == nil && want != nil) != (err == nil) {
		t.Fatalf("%q: %v, encoding/json %v", doc, err, jsonErr)
	}
	if len(got) != len(want) {
		t.Fatalf("%q: %q, encoding/json %q", doc, got, want)
	}
	for name, value := range want {
		if !bytes.Equal(got[name], value) {
			t.Fatalf("%q: %q is %q, encoding/json %q", doc, name, got[name], value)
		}
	}
}

var objects = []string{
	"{}", " { } ", `{"a":1}`, `{"a":"b,c:d}","e":{"f":[1,2,{"g":"]"}]},"h":[]}`, "\n{ \"a\" : \t[ 1 , 2 ] , \"b\" : null }\r\n", `{"a\"b":"c\\"}`, `{"\u0061":"\u00e9"}`,
	`{"":""}`, `{"a":{}}`, `[]`, `"{"`, "null", "1", `{"a":-1.5e3,"b":true,"c":{"d":{}}}`, `{"a":"\\\"}"}`,
}

func TestMembers(t *testing.T) {
	for _, doc := range objects {
		sameMembers(t, []byte(doc))
	}
}

func FuzzMembers(f *testing.F) {
	for _, doc := range objects {
		f.Add([]byte(doc))
	}
	f.Fuzz(sameMembers)
}
