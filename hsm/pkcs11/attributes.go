//go:build cgo

package pkcs11

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// boolAttributes are read back from every private key.
var boolAttributes = map[uint]string{
	pkcs11.CKA_TOKEN:               "token",
	pkcs11.CKA_PRIVATE:             "private",
	pkcs11.CKA_SENSITIVE:           "sensitive",
	pkcs11.CKA_EXTRACTABLE:         "extractable",
	pkcs11.CKA_ALWAYS_SENSITIVE:    "always-sensitive",
	pkcs11.CKA_NEVER_EXTRACTABLE:   "never-extractable",
	pkcs11.CKA_LOCAL:               "local",
	pkcs11.CKA_SIGN:                "sign",
	pkcs11.CKA_DECRYPT:             "decrypt",
	pkcs11.CKA_UNWRAP:              "unwrap",
	pkcs11.CKA_DERIVE:              "derive",
	pkcs11.CKA_MODIFIABLE:          "modifiable",
	pkcs11.CKA_COPYABLE:            "copyable",
	pkcs11.CKA_DESTROYABLE:         "destroyable",
	pkcs11.CKA_WRAP_WITH_TRUSTED:   "wrap-with-trusted",
	pkcs11.CKA_ALWAYS_AUTHENTICATE: "always-authenticate",
}

// attributes is what a token says of a private key. A boolean that is absent
// was not reported.
type attributes struct {
	id      []byte
	label   string
	keyType uint
	bools   map[string]bool
	genMech *uint // CKA_KEY_GEN_MECHANISM
}

// readAttributes asks one by one: a module fails the whole list for one
// attribute it does not know. The key's type, which every module knows, is asked
// last: when it cannot be read, the session is gone and the rest means nothing.
func readAttributes(c *pkcs11.Ctx, s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (attributes, error) {
	var failed error
	get := func(typ uint) ([]byte, bool) {
		v, err := c.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(typ, nil)})
		if failed = err; err != nil || len(v) != 1 {
			return nil, false
		}
		return v[0].Value, true
	}
	a := attributes{bools: map[string]bool{}, keyType: ^uint(0)}
	for typ, name := range boolAttributes {
		if v, ok := get(typ); ok && len(v) == 1 {
			a.bools[name] = v[0] != 0
		}
	}
	a.id, _ = get(pkcs11.CKA_ID)
	if v, ok := get(pkcs11.CKA_LABEL); ok {
		a.label = string(v)
	}
	if v, ok := get(pkcs11.CKA_KEY_GEN_MECHANISM); ok {
		if n, ok := ulong(v); ok {
			a.genMech = &n
		}
	}
	v, _ := get(pkcs11.CKA_KEY_TYPE)
	if failed != nil {
		return a, fmt.Errorf("reading the key's type: %w", failed)
	}
	if n, ok := ulong(v); ok {
		a.keyType = n
	}
	return a, nil
}

// ulong reads a CK_ULONG in the byte order of the machine.
func ulong(v []byte) (uint, bool) {
	switch len(v) {
	case 8:
		return uint(binary.NativeEndian.Uint64(v)), true
	case 4:
		return uint(binary.NativeEndian.Uint32(v)), true
	}
	return 0, false
}

// acceptable refuses a private key that is not protected as required: it must
// be said to be sensitive, not extractable and able to sign. A key that was not
// made in the token, or was once extractable, may exist elsewhere and is
// accepted only when imported keys are.
func (a attributes) acceptable(imported bool) error {
	var bad []string
	must := func(name string, want bool) {
		if got, ok := a.bools[name]; !ok {
			bad = append(bad, name+" is not reported")
		} else if got != want {
			bad = append(bad, fmt.Sprintf("%s is %t", name, got))
		}
	}
	must("sensitive", true)
	must("extractable", false)
	must("sign", true)
	must("private", true)
	if !imported {
		for _, name := range []string{"always-sensitive", "never-extractable", "local"} {
			if got, ok := a.bools[name]; ok && !got {
				bad = append(bad, name+" is false (set AllowImported for keys imported on purpose)")
			}
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("private key with label %q and id %x: %s: %w", a.label, a.id, strings.Join(bad, ", "), hsm.ErrInsecureKey)
	}
	if a.bools["always-authenticate"] {
		return fmt.Errorf("private key with label %q and id %x wants the PIN for every signature: %w", a.label, a.id, hsm.ErrUnsupported)
	}
	return nil
}

// show renders the attributes for Info.
func (a attributes) show() map[string]string {
	m := map[string]string{}
	for name, v := range a.bools {
		m[name] = fmt.Sprint(v)
	}
	if a.genMech != nil {
		m["key-gen-mechanism"] = fmt.Sprintf("0x%x", *a.genMech)
	}
	return m
}

// evidence states what the token claims of the key's origin.
func (a attributes) evidence() []string {
	claims := map[string][2]string{
		"local":             {"CKA_LOCAL: the token says it generated the key itself.", "CKA_LOCAL is false: the key was made elsewhere and imported."},
		"always-sensitive":  {"CKA_ALWAYS_SENSITIVE: the token says the key never was readable in the clear.", "CKA_ALWAYS_SENSITIVE is false: the key once was readable in the clear."},
		"never-extractable": {"CKA_NEVER_EXTRACTABLE: the token says the key never could be extracted.", "CKA_NEVER_EXTRACTABLE is false: the key once could be extracted."},
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		switch v, ok := a.bools[name]; {
		case !ok:
			out = append(out, fmt.Sprintf("CKA_%s is not reported by the token.", strings.ToUpper(strings.ReplaceAll(name, "-", "_"))))
		case v:
			out = append(out, claims[name][0])
		default:
			out = append(out, claims[name][1])
		}
	}
	if a.genMech != nil {
		out = append(out, fmt.Sprintf("CKA_KEY_GEN_MECHANISM: 0x%x.", *a.genMech))
	}
	return append(out, "These are claims of the PKCS#11 provider, not attestations.")
}
