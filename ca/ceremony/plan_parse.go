package ceremony

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ParsePlan reads a plan strictly: one YAML document, no unknown or repeated
// keys. Errors name the line.
func ParsePlan(data []byte) (Plan, error) {
	var p Plan
	if len(data) > maxPlan {
		return p, fmt.Errorf("%w: %d octets, limit %d", ErrPlan, len(data), maxPlan)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil {
		return Plan{}, fmt.Errorf("%w: %s", ErrPlan, explain(err))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Plan{}, fmt.Errorf("%w: more than one YAML document", ErrPlan)
	}
	p.text = bytes.Clone(data)
	return p, p.Validate()
}

// source is the text that goes into the transcript: the reviewed file, octet by
// octet, when the plan was read from one and still says the same; else YAML.
func (p *Plan) source() []byte {
	if p.text != nil {
		read, err := ParsePlan(p.text)
		if err == nil && reflect.DeepEqual(read, *p) {
			return p.text
		}
	}
	return p.YAML()
}

// Digest is the SHA-256 of the plan's text in hex: what sha256sum shows of the
// file, what operators approve and read aloud (see Aloud).
func (p *Plan) Digest() string { return hexSum(p.source()) }

var unknownField = regexp.MustCompile(`field (\S+) not found in type ceremony\.(\w+)`)

// explain turns the YAML library's words into the operator's.
func explain(err error) string {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		return strings.TrimPrefix(err.Error(), "yaml: ")
	}
	var out []string
	for _, e := range te.Errors {
		out = append(out, unknownField.ReplaceAllStringFunc(e, func(m string) string {
			part := unknownField.FindStringSubmatch(m)
			return fmt.Sprintf("unknown key %q, known here are %s", part[1], strings.Join(knownKeys(part[2]), ", "))
		}))
	}
	return strings.Join(out, "; ")
}

// knownKeys lists the YAML keys of one of the plan's types.
func knownKeys(name string) []string {
	for _, v := range []any{Plan{}, KeyPlan{}, Authority{}, Subject{}, Certificates{}, CertificatePlan{}, CrossPlan{}, Backup{}, Operators{}, Operator{}, Change{}} {
		if t := reflect.TypeOf(v); t.Name() == name {
			var keys []string
			for i := range t.NumField() {
				if key, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); key != "" {
					keys = append(keys, key)
				}
			}
			return keys
		}
	}
	return nil
}
