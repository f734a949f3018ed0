package approval

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sync"

	"go.yaml.in/yaml/v3"

	"redoubt.internal/hsm"
)

// ErrOperator: an operator or a group of them is not one that could approve anything.
var ErrOperator = errors.New("this is no valid operator")

// MaxOperators bounds a group.
const MaxOperators = 32

const maxFile = 16 << 10

// Operators are the people whose approval an act needs.
type Operators struct {
	// Threshold is how many different members must approve.
	Threshold int `yaml:"threshold" json:"threshold"`
	// Members are the people.
	Members []Operator `yaml:"members" json:"members"`
}

// Operator is one person with one key.
type Operator struct {
	// Name as the others call them; lower-case letters, digits, dot and hyphen.
	Name string `yaml:"name" json:"name"`
	// PublicKey is the DER SubjectPublicKeyInfo in base64: ECDSA P-256 or Ed25519.
	PublicKey string `yaml:"publicKey" json:"publicKey"`
}

// Expressions with large counts take milliseconds to compile: none is, before it is asked.
var operatorName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,38}[a-z0-9])?$`) })

// NewOperator names the holder of a public key.
func NewOperator(name string, pub crypto.PublicKey) (Operator, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Operator{}, fmt.Errorf("encoding public key: %w", err)
	}
	return Operator{name, base64.StdEncoding.EncodeToString(der)}.valid()
}

func (o Operator) valid() (Operator, error) {
	if bad := o.Problems("operator"); len(bad) > 0 {
		return Operator{}, fmt.Errorf("%w: %s", ErrOperator, bad[0])
	}
	return o, nil
}

// YAML writes the operator as ParseOperator and a list of members read it.
func (o Operator) YAML() string {
	_, fingerprint, _ := o.Key()
	return fmt.Sprintf("# SHA-256 of the key: %s\nname: '%s'\npublicKey: '%s'\n", fingerprint, o.Name, o.PublicKey)
}

// ParseOperator reads one operator strictly.
func ParseOperator(data []byte) (o Operator, err error) {
	if len(data) > maxFile {
		return o, fmt.Errorf("%w: %d octets, limit %d", ErrOperator, len(data), maxFile)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&o); err != nil {
		return Operator{}, fmt.Errorf("%w: reading it: %w", ErrOperator, err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Operator{}, fmt.Errorf("%w: more than one operator", ErrOperator)
	}
	return o.valid()
}

// Key parses the public key, fingerprint is its SHA-256 in hex.
func (o Operator) Key() (pub crypto.PublicKey, fingerprint string, err error) {
	der, err := base64.StdEncoding.Strict().DecodeString(o.PublicKey)
	if err != nil || base64.StdEncoding.EncodeToString(der) != o.PublicKey {
		return nil, "", errors.New("its publicKey is not base64")
	}
	if pub, err = x509.ParsePKIXPublicKey(der); err != nil {
		return nil, "", fmt.Errorf("parsing its publicKey: %w", err)
	}
	if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || string(again) != string(der) {
		return nil, "", errors.New("its publicKey is not spelt as DER")
	}
	if alg, err := hsm.AlgorithmOf(pub); err != nil || alg != hsm.ECDSAP256 && alg != hsm.Ed25519 {
		return nil, "", fmt.Errorf("its key is %T, expected ecdsa-p256 or ed25519", pub)
	}
	return pub, hexSum(der), nil
}

// Problems says what is wrong with one operator; field begins each sentence.
func (o Operator) Problems(field string) (bad []string) {
	if !operatorName().MatchString(o.Name) {
		bad = append(bad, fmt.Sprintf("%s: name %q; expected up to 40 of a-z, 0-9, dot and hyphen", field, o.Name))
	}
	if _, _, err := o.Key(); err != nil {
		bad = append(bad, fmt.Sprintf("%s: %s: %v", field, o.Name, err))
	}
	return bad
}

// Problems says what is wrong with a group: a name or a key that is there twice would let one person count as two.
func (o Operators) Problems(field string) (bad []string) {
	want := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	want(len(o.Members) >= 1 && len(o.Members) <= MaxOperators, "%s has %d members, allowed are 1 to %d", field, len(o.Members), MaxOperators)
	want(o.Threshold >= 1, "%s.threshold is %d, expected at least 1", field, o.Threshold)
	want(o.Threshold <= len(o.Members), "%s.threshold is %d and there are only %d members", field, o.Threshold, len(o.Members))
	names, keys := map[string]bool{}, map[string]string{}
	for _, m := range o.Members {
		bad = append(bad, m.Problems(field)...)
		want(!names[m.Name], "%s: %s is there twice", field, m.Name)
		names[m.Name] = true
		if _, fingerprint, err := m.Key(); err == nil {
			other, dup := keys[fingerprint]
			want(!dup, "%s: %s and %s have one key", field, other, m.Name)
			keys[fingerprint] = m.Name
		}
	}
	return bad
}

// Member finds an operator by name.
func (o Operators) Member(name string) (Operator, bool) {
	for _, m := range o.Members {
		if m.Name == name {
			return m, true
		}
	}
	return Operator{}, false
}

// Holder finds the operator who has a key.
func (o Operators) Holder(pub crypto.PublicKey) (Operator, bool) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Operator{}, false
	}
	for _, m := range o.Members {
		if _, fingerprint, err := m.Key(); err == nil && fingerprint == hexSum(der) {
			return m, true
		}
	}
	return Operator{}, false
}
