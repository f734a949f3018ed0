// Package strictjson reads JSON one way only. Two programs that read the same
// document must see the same meaning, and encoding/json alone does not give
// that: it lets a later duplicate of a name win, folds the case of names, and
// replaces invalid UTF-8 silently.
//
// Check guarantees, for the bytes it accepts: one JSON value (RFC 8259) with
// nothing after it but white space; valid UTF-8 and no unpaired surrogate
// escapes; no object with the same name twice (after unescaping, RFC 8259
// section 4); nesting, size and the number of values within Limits. Decode and
// Only add: no unknown field and no field matched by folded case. Time and memory
// are linear in the input.
//
// It does not interpret anything: numbers keep their text, and whether a value
// makes sense is the caller's question. A document with a Go type is for Decode,
// one whose shape depends on its content for Object.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Errors of this package, to be tested with errors.Is; each is wrapped with the byte offset.
var (
	// ErrSyntax: the bytes are not one JSON value in UTF-8.
	ErrSyntax = errors.New("not one JSON value")
	// ErrDuplicate: an object holds a name twice.
	ErrDuplicate = errors.New("duplicate name")
	// ErrLimit: the document is larger or deeper than allowed.
	ErrLimit = errors.New("JSON document beyond its limit")
	// ErrField: the document holds a field its schema does not know.
	ErrField = errors.New("unknown field")
)

// Limits bound a document. A zero field means the default.
type Limits struct {
	Bytes  int // size of the document; default 16 MiB
	Depth  int // nesting of arrays and objects; default 64
	Values int // number of values; default 1,000,000
	Names  int // names of one object; default as Values
	// Fold also refuses names of one object that differ only in case, for readers
	// behind us that do not tell them apart.
	Fold bool
}

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = 16 << 20
	}
	if l.Depth == 0 {
		l.Depth = 64
	}
	if l.Values == 0 {
		l.Values = 1_000_000
	}
	if l.Names == 0 {
		l.Names = l.Values
	}
	return l
}

// Check reports whether data is acceptable JSON under l.
func Check(data []byte, l Limits) error { return Walk(data, l, nil) }

// Walk is Check that also shows every string value to visit: the name of the
// innermost object member that holds it (values of arrays belong to the member
// that holds the array; "" outside any object) and the raw text between its
// quotes. An error of visit ends the walk and is returned.
func Walk(data []byte, l Limits, visit func(name string, raw []byte) error) error {
	l = l.withDefaults()
	if len(data) > l.Bytes {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrLimit, len(data), l.Bytes)
	}
	w := walker{data: data, limits: l, visit: visit}
	w.space()
	if err := w.value("", 0); err != nil {
		return fmt.Errorf("at byte %d: %w", w.pos, err)
	}
	w.space()
	if w.pos != len(data) {
		return fmt.Errorf("at byte %d: %w: data after the value", w.pos, ErrSyntax)
	}
	return nil
}

// Decode checks data and decodes it into v, a pointer to a struct. Names must
// match the struct's JSON names exactly; unknown names are ErrField.
func Decode(data []byte, l Limits, v any) error {
	if err := Check(data, l); err != nil {
		return err
	}
	if err := exactNames(data, reflect.TypeOf(v)); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	return nil
}

// Object checks data, which the caller bounds, at most 32 levels deep, and
// returns its one object: nil, bool, json.Number, string, []any and
// map[string]any.
func Object(data []byte) (map[string]any, error) {
	if err := Check(data, Limits{Bytes: len(data) + 1, Depth: 32, Values: len(data) + 1}); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var o map[string]any
	if err := d.Decode(&o); err != nil || o == nil { // null is no object
		return nil, fmt.Errorf("%w: not an object", ErrSyntax)
	}
	return o, nil
}

// Only refuses an object that has members other than the named ones.
func Only(o map[string]any, names ...string) error {
	for k := range o {
		if !slices.Contains(names, k) {
			return fmt.Errorf("%w %.100q", ErrField, k)
		}
	}
	return nil
}

// exactNames refuses the names of a top-level object that t, a pointer to a
// struct, does not spell exactly so.
func exactNames(data []byte, t reflect.Type) error {
	if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return errors.New("strictjson: target is not a pointer to a struct")
	}
	var names map[string]json.RawMessage
	if err := json.Unmarshal(data, &names); err != nil {
		return fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	known := map[string]bool{}
	for f := range t.Elem().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		known[name] = true
	}
	for name := range names {
		if !known[name] {
			return fmt.Errorf("%w %.100q", ErrField, name)
		}
	}
	return nil
}
