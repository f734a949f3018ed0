// Package strictjson reads the JSON that clients send to the logs, the way two readers can never disagree about it.
//
// Contract: Parse accepts one RFC 8259 value in valid UTF-8 and nothing after it, at most maxDepth levels deep, in which no object names
// a member twice. Names keep their case: "Kind" is not "kind". Numbers stay json.Number. Everything else is ErrInvalid with the reason.
// Time and memory are linear in the input, which the caller bounds.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// ErrInvalid: the bytes are not one strict JSON value; the text after it says why.
var ErrInvalid = errors.New("invalid JSON")

const maxDepth = 32

// Parse returns the one JSON value in data as nil, bool, json.Number, string, []any or map[string]any.
func Parse(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%w: not UTF-8", ErrInvalid)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := value(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows the value", ErrInvalid)
	}
	return v, nil
}

// Object is Parse for a value that must be an object.
func Object(data []byte) (map[string]any, error) {
	v, err := Parse(data)
	if err != nil {
		return nil, err
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: not an object", ErrInvalid)
	}
	return o, nil
}

// Only refuses an object that has members other than the named ones.
func Only(o map[string]any, names ...string) error {
next:
	for k := range o {
		for _, n := range names {
			if k == n {
				continue next
			}
		}
		return fmt.Errorf("%w: unknown field %q", ErrInvalid, k)
	}
	return nil
}

func value(dec *json.Decoder, depth int) (any, error) {
	t, err := token(dec)
	if err != nil {
		return nil, err
	}
	d, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("%w: nested more than %d levels deep", ErrInvalid, maxDepth)
	}
	if d == '{' {
		return object(dec, depth+1)
	}
	list := []any{}
	for dec.More() {
		v, err := value(dec, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err = token(dec)
	return list, err
}

func object(dec *json.Decoder, depth int) (any, error) {
	o := make(map[string]any)
	for dec.More() {
		t, err := token(dec)
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, fmt.Errorf("%w: a member without a name", ErrInvalid)
		}
		if _, dup := o[name]; dup {
			return nil, fmt.Errorf("%w: field %q is given twice", ErrInvalid, name)
		}
		if o[name], err = value(dec, depth); err != nil {
			return nil, err
		}
	}
	_, err := token(dec)
	return o, err
}

func token(dec *json.Decoder) (json.Token, error) {
	t, err := dec.Token()
	if err == io.EOF {
		return nil, fmt.Errorf("%w: it ends early", ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return t, nil
}
