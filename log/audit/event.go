package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
	"unicode/utf8"
)

// Event is one thing that was done, or refused.
type Event struct {
	Time    time.Time         `json:"time"`             // kept in UTC to the nanosecond
	Actor   string            `json:"actor"`            // who: "uid:0", "dev@corp.example", "service:mirror"
	Action  string            `json:"action"`           // what: "issue", "parcel.import", "tuf.publish"
	Object  string            `json:"object,omitempty"` // to what: a serial number, a parcel, a key URI
	Outcome string            `json:"outcome"`          // Intent, Success, Refused, Failed
	Detail  map[string]string `json:"detail,omitempty"` // the rest, named; never a secret
}

// Limits of an event. They keep a leaf under 32 KiB, far below what a log entry holds, whatever a client put into a name.
const (
	maxName    = 128
	maxActor   = 1024
	maxObject  = 4096
	maxDetails = 64
	maxDetail  = 4096
	maxLeaf    = 32 << 10
)

// wire is the leaf: these members and no others, time as RFC 3339 in UTC with the fraction trimmed of zeros.
type wire struct {
	Action  string            `json:"action"`
	Actor   string            `json:"actor"`
	Detail  map[string]string `json:"detail,omitempty"`
	Object  string            `json:"object,omitempty"`
	Outcome string            `json:"outcome"`
	Time    string            `json:"time"`
}

// Encode returns the leaf of e: JCS JSON (RFC 8785), at most 32 KiB. It writes the canonical form directly, for an event holds nothing but
// names and strings; a test holds it to a canonicalizer of any JSON.
func Encode(e Event) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	leaf := append(make([]byte, 0, 512), `{"action":`...)
	leaf = appendString(leaf, e.Action)
	leaf = appendString(append(leaf, `,"actor":`...), e.Actor)
	if len(e.Detail) > 0 {
		leaf = append(leaf, `,"detail":{`...)
		for i, name := range slices.SortedFunc(maps.Keys(e.Detail), compareNames) {
			if i > 0 {
				leaf = append(leaf, ',')
			}
			leaf = appendString(leaf, name)
			leaf = appendString(append(leaf, ':'), e.Detail[name])
		}
		leaf = append(leaf, '}')
	}
	if e.Object != "" {
		leaf = appendString(append(leaf, `,"object":`...), e.Object)
	}
	leaf = appendString(append(leaf, `,"outcome":`...), e.Outcome)
	leaf = append(leaf, `,"time":"`...)
	leaf = e.Time.UTC().AppendFormat(leaf, time.RFC3339Nano)
	leaf = append(leaf, `"}`...)
	if len(leaf) > maxLeaf {
		return nil, fmt.Errorf("%w: %d bytes encoded, at most %d fit", ErrInvalidEvent, len(leaf), maxLeaf)
	}
	return leaf, nil
}

// appendString adds a valid UTF-8 string in quotes, escaped as little as JSON allows (RFC 8785 3.2.2.2).
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, `\b`...)
		case '\t':
			b = append(b, `\t`...)
		case '\n':
			b = append(b, `\n`...)
		case '\f':
			b = append(b, `\f`...)
		case '\r':
			b = append(b, `\r`...)
		default:
			if c < 0x20 {
				b = fmt.Appendf(b, `\u%04x`, c)
			} else {
				b = append(b, c)
			}
		}
	}
	return append(b, '"')
}

// compareNames orders names by their UTF-16 code units (RFC 8785 3.2.3). That is the order of their octets but for one case: beyond U+FFFF
// (octets from 0xf0) a name begins with a surrogate, which comes before U+E000 to U+FFFF (octets 0xee and 0xef).
func compareNames(a, b string) int {
	for i := range min(len(a), len(b)) {
		if x, y := a[i], b[i]; x != y {
			if x >= 0xee && y >= 0xee && (x >= 0xf0) != (y >= 0xf0) {
				return cmp.Compare(y, x)
			}
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}

// Parse is the inverse of Encode. It refuses every other spelling of an event: unknown, repeated or reordered members, another time
// zone, trailing bytes.
func Parse(leaf []byte) (Event, error) {
	if len(leaf) > maxLeaf {
		return Event{}, fmt.Errorf("%w: %d bytes, at most %d", ErrInvalidEvent, len(leaf), maxLeaf)
	}
	dec := json.NewDecoder(bytes.NewReader(leaf))
	dec.DisallowUnknownFields()
	var w wire
	if err := dec.Decode(&w); err != nil {
		return Event{}, fmt.Errorf("%w: %v", ErrInvalidEvent, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Event{}, fmt.Errorf("%w: bytes after the event", ErrInvalidEvent)
	}
	t, err := time.Parse(time.RFC3339Nano, w.Time)
	if err != nil {
		return Event{}, fmt.Errorf("%w: time %q: not RFC 3339", ErrInvalidEvent, w.Time)
	}
	e := Event{Time: t.UTC(), Actor: w.Actor, Action: w.Action, Object: w.Object, Outcome: w.Outcome, Detail: w.Detail}
	again, err := Encode(e)
	if err != nil {
		return Event{}, err
	}
	if !bytes.Equal(again, leaf) {
		return Event{}, fmt.Errorf("%w: not in canonical form", ErrInvalidEvent)
	}
	return e, nil
}

func (e Event) check() error {
	if e.Time.IsZero() {
		return fmt.Errorf("%w: no time", ErrInvalidEvent)
	}
	if y := e.Time.UTC().Year(); y < 1 || y > 9999 {
		return fmt.Errorf("%w: year %d", ErrInvalidEvent, y)
	}
	for _, f := range []struct {
		name, value string
		max         int
		required    bool
	}{
		{"actor", e.Actor, maxActor, true},
		{"action", e.Action, maxName, true},
		{"object", e.Object, maxObject, false},
		{"outcome", e.Outcome, maxName, true},
	} {
		if f.required && f.value == "" {
			return fmt.Errorf("%w: no %s", ErrInvalidEvent, f.name)
		}
		if err := checkText(f.name, f.value, f.max); err != nil {
			return err
		}
	}
	if len(e.Detail) > maxDetails {
		return fmt.Errorf("%w: %d details, at most %d", ErrInvalidEvent, len(e.Detail), maxDetails)
	}
	for k, v := range e.Detail {
		if k == "" {
			return fmt.Errorf("%w: a detail without a name", ErrInvalidEvent)
		}
		if err := checkText("detail name", k, maxName); err != nil {
			return err
		}
		if err := checkText("detail "+k, v, maxDetail); err != nil {
			return err
		}
	}
	return nil
}

func checkText(name, value string, limit int) error {
	if len(value) > limit {
		return fmt.Errorf("%w: %s is %d bytes, at most %d", ErrInvalidEvent, name, len(value), limit)
	}
	if !utf8.ValidString(value) {
		return fmt.Errorf("%w: %s is not UTF-8", ErrInvalidEvent, name)
	}
	return nil
}
