package verify

import (
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Subject pins signers by their certificates' subject as the Notary Project's trust policies do (trust-store-trust-policy.md, "Trusted
// Identities"): C, ST and O, and whatever else it names, have to be what the certificate has; what it does not name may be anything.
type Subject struct{ wanted map[string]string }

// subjectNames are the attributes that a subject may have, by their OIDs.
var subjectNames = map[string]string{"2.5.4.6": "C", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.3": "CN"}

const maxSubject = 1000 // bytes

// ParseSubject reads a distinguished name, in either order: "C=DE, ST=Berlin, O=Corp, CN=release", with RFC 4514's escapes.
func ParseSubject(text string) (s Subject, err error) {
	bad := func(format string, args ...any) (Subject, error) {
		return Subject{}, fmt.Errorf("%w: certificate subject %.200q: %w", ErrUsage, text, fmt.Errorf(format, args...))
	}
	if len(text) > maxSubject {
		return bad("more than %d bytes", maxSubject)
	}
	s.wanted = map[string]string{}
	for rest := text; ; {
		name, after, ok := strings.Cut(rest, "=")
		if name = strings.ToUpper(strings.TrimSpace(name)); !ok {
			return bad("%.60q is no NAME=VALUE", rest)
		}
		if name == "S" {
			name = "ST"
		}
		value, next, more, err := subjectValue(after)
		switch {
		case err != nil:
			return bad("%s: %w", name, err)
		case !slices.Contains([]string{"C", "ST", "O", "OU", "CN"}, name):
			return bad("%.60q is none of C, ST, O, OU, CN", name)
		case s.wanted[name] != "" || value == "":
			return bad("%s is empty, or there twice", name)
		}
		s.wanted[name] = value
		if !more {
			break
		}
		rest = next
	}
	for _, name := range []string{"C", "ST", "O"} {
		if s.wanted[name] == "" {
			return bad("%s is missing; Notation demands C, ST and O of every trusted identity", name)
		}
	}
	return s, nil
}

// subjectValue reads up to the next comma that is not escaped.
func subjectValue(in string) (value, rest string, more bool, err error) {
	var out []byte
	last := 0 // length of out that an escape protects from being trimmed
	in = strings.TrimLeft(in, " ")
	for i := 0; i < len(in); i++ {
		switch c := in[i]; {
		case c == ',':
			rest, more = in[i+1:], true
			i = len(in)
		case c == '\\' && i+2 < len(in) && isHexDigit(in[i+1]) && isHexDigit(in[i+2]):
			b, _ := hex.DecodeString(in[i+1 : i+3])
			out, i = append(out, b...), i+2
			last = len(out)
		case c == '\\' && i+1 < len(in) && strings.IndexByte(` "#+,;<=>\`, in[i+1]) >= 0:
			out, i = append(out, in[i+1]), i+1
			last = len(out)
		case strings.IndexByte(`"+;<>\`, c) >= 0 || c == '#' && len(out) == 0 || c < ' ':
			return "", "", false, fmt.Errorf("%q has to be escaped, and attributes of one RDN together are not taken", c)
		default:
			out = append(out, c)
		}
	}
	for len(out) > last && out[len(out)-1] == ' ' {
		out = out[:len(out)-1]
	}
	if !utf8.Valid(out) {
		return "", "", false, fmt.Errorf("not UTF-8")
	}
	return string(out), rest, more, nil
}

func isHexDigit(c byte) bool { return strings.IndexByte("0123456789abcdefABCDEF", c) >= 0 }

// matches tells whether a certificate's subject has everything that s names. A subject with two of one attribute matches nothing.
func (s Subject) matches(rdns pkix.RDNSequence) bool {
	has := map[string]string{}
	for _, set := range rdns {
		for _, a := range set {
			name := subjectNames[a.Type.String()]
			value, ok := a.Value.(string)
			if !ok || name == "" || has[name] != "" {
				return false
			}
			has[name] = value
		}
	}
	for name, want := range s.wanted {
		if has[name] != want {
			return false
		}
	}
	return len(s.wanted) > 0
}
