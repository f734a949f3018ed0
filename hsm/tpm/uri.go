package tpm

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"redoubt.internal/hsm"
)

// Scheme begins every URI of this package.
const Scheme = "tpm:"

// maxURI bounds a URI.
const maxURI = 4 << 10

// uri is a parsed TPM URI: tpm:ATTRIBUTE=VALUE;... with the attributes device
// (path), file (path of a key file), handle (of a persistent key) and nv (index of
// a counter). Values may hold % escapes (RFC 3986), and must for ';' and '%'.
type uri struct {
	device, file string
	handle, nv   uint32
	path         string // of file, resolved; not part of the text
}

// parseURI reads a URI. Unknown attributes, a second of a kind and more than one
// name of an object are refused.
func parseURI(s string) (*uri, error) {
	rest, ok := strings.CutPrefix(s, Scheme)
	if !ok || len(s) > maxURI {
		return nil, fmt.Errorf("%.40q is not a TPM URI (tpm:file=NAME.pem, tpm:handle=0x81......): %w", s, hsm.ErrUnsupported)
	}
	u, seen := &uri{}, map[string]bool{}
	for attribute := range strings.SplitSeq(rest, ";") {
		if attribute == "" {
			continue
		}
		name, value, _ := strings.Cut(attribute, "=")
		if seen[name] {
			return nil, fmt.Errorf("TPM URI has %q twice: %w", name, hsm.ErrUnsupported)
		}
		seen[name] = true
		if err := u.set(name, value); err != nil {
			return nil, fmt.Errorf("TPM URI: %w: %w", err, hsm.ErrUnsupported)
		}
	}
	named := 0
	for _, set := range []bool{u.file != "", u.handle != 0, u.nv != 0} {
		if set {
			named++
		}
	}
	if named > 1 {
		return nil, fmt.Errorf("TPM URI names more than one object: %w", hsm.ErrUnsupported)
	}
	return u, nil
}

func (u *uri) set(name, value string) (err error) {
	value, err = url.PathUnescape(value)
	if err != nil || value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("attribute %.20q has a bad value", name)
	}
	switch name {
	case "device":
		u.device = value
	case "file":
		u.file = value
	case "handle":
		u.handle, err = parseHandle(value, 0x81)
	case "nv":
		u.nv, err = parseHandle(value, 0x01)
	default:
		return fmt.Errorf("attribute %.20q is not one of device, file, handle, nv", name)
	}
	return err
}

// parseHandle reads a handle of the range kind (its top octet) in 0x notation.
func parseHandle(s string, kind uint32) (uint32, error) {
	digits, ok := strings.CutPrefix(s, "0x")
	v, err := strconv.ParseUint(digits, 16, 32)
	if !ok || err != nil || len(digits) != 8 || uint32(v)>>24 != kind {
		return 0, fmt.Errorf("%.20q is not a handle of the form 0x%02x......", s, kind)
	}
	return uint32(v), nil
}

// String gives the URI back in its shortest form; it holds no secret.
func (u *uri) String() string {
	var parts []string
	if u.file != "" {
		parts = append(parts, "file="+escape(u.file))
	}
	if u.handle != 0 {
		parts = append(parts, fmt.Sprintf("handle=0x%08x", u.handle))
	}
	if u.nv != 0 {
		parts = append(parts, fmt.Sprintf("nv=0x%08x", u.nv))
	}
	if u.device != "" {
		parts = append(parts, "device="+escape(u.device))
	}
	return Scheme + strings.Join(parts, ";")
}

// escape escapes what would end a value or begin an escape.
func escape(s string) string {
	return strings.NewReplacer("%", "%25", ";", "%3B", "?", "%3F", " ", "%20").Replace(s)
}

// TokenURI cuts a URI of this package down to the TPM: "tpm:device=PATH", or "tpm:"
// where it names no device. What does not parse is returned as it is.
func TokenURI(s string) string {
	u, err := parseURI(s)
	if err != nil {
		return s
	}
	return (&uri{device: u.device}).String()
}

// KeyURI names the key file NAME.tpm.pem in the TPM a URI names.
func KeyURI(token, name string) string {
	u, err := parseURI(token)
	if err != nil {
		return token
	}
	return (&uri{device: u.device, file: name + ".tpm.pem"}).String()
}

// Device is the device a URI names, "" when it names none.
func Device(s string) string {
	u, err := parseURI(s)
	if err != nil {
		return ""
	}
	return u.device
}

// NV is the index of the counter a URI names, as 0x01......; "" when it names none.
func NV(s string) string {
	u, err := parseURI(s)
	if err != nil || u.nv == 0 {
		return ""
	}
	return fmt.Sprintf("0x%08x", u.nv)
}
