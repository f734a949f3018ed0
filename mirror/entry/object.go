package entry

import (
	"encoding/base64"
	"fmt"
	"slices"

	"redoubt.internal/log/strictjson"
)

// object reads the members of one JSON object. What is missing reads as empty and is kept as the error of the topmost object, the first of
// all: a reader reads straight on and asks once at the end.
type object struct {
	path string
	of   map[string]any
	up   *object // nil at the top
	err  error   // at the top alone
}

func (o *object) keep(err error) {
	for o.up != nil {
		o = o.up
	}
	if o.err == nil {
		o.err = err
	}
}

func (o *object) fail(member, want string) {
	o.keep(fmt.Errorf("%w: %s.%s: %s is required", ErrEntry, o.path, member, want))
}

// only refuses members other than the named ones.
func (o *object) only(names ...string) {
	if err := strictjson.Only(o.of, names...); err != nil {
		o.keep(fmt.Errorf("%w: %s: %w", ErrEntry, o.path, err))
	}
}

func (o *object) has(member string) bool {
	_, ok := o.of[member]
	return ok
}

func (o *object) object(member string) *object {
	inner, ok := o.of[member].(map[string]any)
	if !ok {
		o.fail(member, "an object")
	}
	return &object{path: o.path + "." + member, of: inner, up: o}
}

func (o *object) objects(member string) (out []*object) {
	list, ok := o.of[member].([]any)
	if !ok || len(list) == 0 || len(list) > maxSigners {
		o.fail(member, fmt.Sprintf("a list of 1 to %d objects", maxSigners))
		return nil
	}
	for i, v := range list {
		inner, ok := v.(map[string]any)
		if !ok {
			o.fail(member, "a list of objects")
		}
		out = append(out, &object{path: fmt.Sprintf("%s.%s.%d", o.path, member, i), of: inner, up: o})
	}
	return slices.Clip(out)
}

func (o *object) text(member string) string {
	s, ok := o.of[member].(string)
	if !ok {
		o.fail(member, "a string")
	}
	return s
}

func (o *object) bytes(member string) []byte {
	s, ok := o.of[member].(string)
	if !ok {
		o.fail(member, "a string in base64")
		return nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) == 0 {
		o.fail(member, "base64 of at least one byte")
	}
	return b
}
