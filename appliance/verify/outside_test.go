package verify_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"redoubt.internal/appliance/verify"
)

// TestResultIsTheVerifiers: outside this package nothing but a Verifier makes a Result that says yes. It has no field a caller could set and none
// that JSON fills, and no method takes anything to change it with.
func TestResultIsTheVerifiers(t *testing.T) {
	of := reflect.TypeFor[verify.Result]()
	for f := range of.Fields() {
		if f.IsExported() {
			t.Errorf("a caller can set %s", f.Name)
		}
	}
	if _, ok := reflect.TypeFor[*verify.Result]().MethodByName("UnmarshalJSON"); ok {
		t.Error("a Result can be read from JSON")
	}
	var r verify.Result
	if err := fill(`{"schema":"redoubt.verify/v1","verified":true,"report":{"verified":true},"Report":{"Verified":true}}`, &r); err != nil || r.Verified() {
		t.Errorf("JSON makes a Result that says yes: %v", err)
	}
	copied := r
	if copied.Verified() || (&verify.Result{}).Verified() {
		t.Error("a zero Result says yes")
	}
	for m := range reflect.TypeFor[*verify.Result]().Methods() {
		for i := range m.Type.NumIn() {
			if i > 0 {
				t.Errorf("the method %s takes something", m.Name)
			}
		}
	}
}

func fill(text string, v any) error { return json.Unmarshal([]byte(text), v) }
