package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

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
