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
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
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

// walker is a recursive-descent reader; depth is bounded by limits.Depth.
type walker struct {
	data   []byte
	pos    int
	values int
	limits Limits
	visit  func(string, []byte) error
}

func (w *walker) space() {
	for w.pos < len(w.data) {
		switch w.data[w.pos] {
		case ' ', '\t', '\r', '\n':
			w.pos++
		default:
			return
		}
	}
}

func (w *walker) peek() byte {
	if w.pos < len(w.data) {
		return w.data[w.pos]
	}
	return 0
}

func (w *walker) value(name string, depth int) error {
	if w.values++; w.values > w.limits.Values {
		return fmt.Errorf("%w: more than %d values", ErrLimit, w.limits.Values)
	}
	if c := w.peek(); (c == '{' || c == '[') && depth >= w.limits.Depth {
		return fmt.Errorf("%w: nested deeper than %d", ErrLimit, w.limits.Depth)
	}
	switch c := w.peek(); {
	case c == '{':
		return w.object(depth)
	case c == '[':
		return w.array(name, depth)
	case c == '"':
		raw, err := w.str()
		if err == nil && w.visit != nil {
			err = w.visit(name, raw)
		}
		return err
	case c == '-' || '0' <= c && c <= '9':
		return w.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(w.data[w.pos:], []byte(word)) {
			w.pos += len(word)
			return nil
		}
	}
	if w.pos == len(w.data) {
		return fmt.Errorf("%w: %w", ErrSyntax, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%w: unexpected %q", ErrSyntax, w.peek())
}

func (w *walker) object(depth int) error {
	w.pos++ // {
	var few [16]string
	seen := few[:0]
	var many map[string]bool
	count := 0
	for first := true; ; first = false {
		w.space()
		if w.peek() == '}' && first {
			w.pos++
			return nil
		}
		if w.peek() != '"' {
			return fmt.Errorf("%w: expected a name", ErrSyntax)
		}
		raw, err := w.str()
		if err != nil {
			return err
		}
		name, err := unquote(raw)
		if err != nil {
			return err
		}
		key := name
		if w.limits.Fold {
			key = fold(name)
		}
		if count++; count > w.limits.Names {
			return fmt.Errorf("%w: more than %d names in one object", ErrLimit, w.limits.Names)
		}
		if many == nil && len(seen) == cap(seen) {
			many = map[string]bool{}
			for _, s := range seen {
				many[s] = true
			}
		}
		dup := many[key]
		for _, s := range seen {
			dup = dup || many == nil && s == key
		}
		if dup {
			return fmt.Errorf("%w %.100q", ErrDuplicate, name)
		}
		if many != nil {
			many[key] = true
		} else {
			seen = append(seen, key)
		}
		w.space()
		if w.peek() != ':' {
			return fmt.Errorf("%w: expected a colon", ErrSyntax)
		}
		w.pos++
		w.space()
		if err := w.value(name, depth+1); err != nil {
			return err
		}
		w.space()
		switch w.peek() {
		case ',':
			w.pos++
		case '}':
			w.pos++
			return nil
		default:
			return fmt.Errorf("%w: expected a comma or the object's end", ErrSyntax)
		}
	}
}

func (w *walker) array(name string, depth int) error {
	w.pos++ // [
	w.space()
	if w.peek() == ']' {
		w.pos++
		return nil
	}
	for {
		w.space()
		if err := w.value(name, depth+1); err != nil {
			return err
		}
		w.space()
		switch w.peek() {
		case ',':
			w.pos++
		case ']':
			w.pos++
			return nil
		default:
			return fmt.Errorf("%w: expected a comma or the array's end", ErrSyntax)
		}
	}
}

// str reads a string and returns the raw text between its quotes.
func (w *walker) str() ([]byte, error) {
	w.pos++ // opening quote
	start := w.pos
	ascii := true
	for w.pos < len(w.data) {
		switch c := w.data[w.pos]; {
		case c == '"':
			raw := w.data[start:w.pos]
			w.pos++
			if !ascii && !utf8.Valid(raw) {
				return nil, fmt.Errorf("%w: invalid UTF-8", ErrSyntax)
			}
			return raw, nil
		case c == '\\':
			if err := w.escape(); err != nil {
				return nil, err
			}
		case c < 0x20:
			return nil, fmt.Errorf("%w: control character in a string", ErrSyntax)
		default:
			ascii = ascii && c < utf8.RuneSelf
			w.pos++
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrSyntax, io.ErrUnexpectedEOF)
}

// escape reads one escape sequence, a surrogate pair as one.
func (w *walker) escape() error {
	if w.pos+1 >= len(w.data) {
		return fmt.Errorf("%w: %w", ErrSyntax, io.ErrUnexpectedEOF)
	}
	switch w.data[w.pos+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		w.pos += 2
		return nil
	case 'u':
		hi, ok := w.hex4(w.pos)
		switch {
		case !ok || 0xDC00 <= hi && hi <= 0xDFFF:
			return fmt.Errorf("%w: bad escape", ErrSyntax)
		case 0xD800 <= hi && hi <= 0xDBFF:
			lo, ok := w.hex4(w.pos + 6)
			if !ok || lo < 0xDC00 || lo > 0xDFFF {
				return fmt.Errorf("%w: unpaired surrogate", ErrSyntax)
			}
			w.pos += 6
		}
		w.pos += 6
		return nil
	}
	return fmt.Errorf("%w: bad escape", ErrSyntax)
}

// hex4 reads the \uXXXX that starts at p.
func (w *walker) hex4(p int) (rune, bool) {
	if p+6 > len(w.data) || w.data[p] != '\\' || w.data[p+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range w.data[p+2 : p+6] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

func (w *walker) digits() bool {
	start := w.pos
	for c := w.peek(); '0' <= c && c <= '9'; c = w.peek() {
		w.pos++
	}
	return w.pos > start
}

func (w *walker) number() error {
	bad := fmt.Errorf("%w: bad number", ErrSyntax)
	if w.peek() == '-' {
		w.pos++
	}
	if w.peek() == '0' {
		w.pos++
	} else if !w.digits() {
		return bad
	}
	if w.peek() == '.' {
		w.pos++
		if !w.digits() {
			return bad
		}
	}
	if c := w.peek(); c == 'e' || c == 'E' {
		w.pos++
		if c := w.peek(); c == '+' || c == '-' {
			w.pos++
		}
		if !w.digits() {
			return bad
		}
	}
	return nil
}

// unquote resolves the escapes of a raw string that the walker accepted.
func unquote(raw []byte) (string, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw), nil
	}
	var s string
	if err := json.Unmarshal(append(append([]byte{'"'}, raw...), '"'), &s); err != nil {
		return "", fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	return s, nil
}

// fold maps a string to one that all strings equal to it under Unicode case
// folding (strings.EqualFold) share: each rune to the least of its kin.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}
