package ceremony

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"redoubt.internal/hsm"
)

// namedKey is a role and its key, nil where the plan makes none.
type namedKey struct {
	role string
	key  *KeyPlan
}

// fields pairs the roles with their fields, in the order of generation.
func (k *Keys) fields() []struct {
	role string
	key  **KeyPlan
} {
	return []struct {
		role string
		key  **KeyPlan
	}{
		{RoleRoot, &k.Root}, {RoleSuccessor, &k.Successor}, {RoleIssuing, &k.Issuing}, {RoleTSAIntermediate, &k.TSAIntermediate}, {RoleTSA, &k.TSA},
		{RoleRekor, &k.Rekor}, {RoleRekor2, &k.Rekor2}, {RoleCT, &k.CT}, {RoleAudit, &k.Audit}, {RoleTUF, &k.TUF}, {RoleOIDC, &k.OIDC}, {RoleExporter, &k.Exporter},
	}
}

// all lists the roles in the order of generation, further keys last and by name.
func (k *Keys) all() (out []namedKey) {
	for _, f := range k.fields() {
		out = append(out, namedKey{f.role, *f.key})
	}
	for _, role := range slices.Sorted(maps.Keys(k.Further)) {
		out = append(out, namedKey{role, k.Further[role]})
	}
	return out
}

// set stores the key of a role, under Further when the role has no field.
func (k *Keys) set(role string, key *KeyPlan) {
	for _, f := range k.fields() {
		if f.role == role {
			*f.key = key
			return
		}
	}
	if k.Further == nil {
		k.Further = map[string]*KeyPlan{}
	}
	k.Further[role] = key
}

// Names of roles with a number: rekor-3 is a further key of rekor.
var furtherRole = regexp.MustCompile(`^(rekor|ct|audit|tuf|oidc|exporter)-([2-9]|[1-9][0-9]{1,3})$`)

// baseRole is the role whose rules a key follows.
func baseRole(role string) string {
	if m := furtherRole.FindStringSubmatch(role); m != nil {
		return m[1]
	}
	return role
}

// AllowedAlgorithms are the key types a role may have. The roles whose
// signatures unmodified clients verify are held to what every one of them
// verifies.
func AllowedAlgorithms(role string) []hsm.Algorithm {
	switch baseRole(role) {
	case RoleRekor, RoleCT, RoleTSA:
		return []hsm.Algorithm{hsm.ECDSAP256}
	case RoleOIDC:
		return []hsm.Algorithm{hsm.ECDSAP256, hsm.ECDSAP384, hsm.RSA3072, hsm.RSA4096}
	}
	return hsm.Algorithms()
}

// roleRules says which roles a kind must and may have.
func (p *Plan) roleRules() (must, may []string) {
	online := []string{RoleIssuing, RoleTSA, RoleRekor, RoleCT, RoleAudit, RoleTUF, RoleOIDC, RoleExporter}
	switch p.Kind {
	case Found, OfflineRoot:
		return append([]string{RoleRoot}, online...), []string{RoleSuccessor, RoleTSAIntermediate, RoleRekor2}
	case RotateRoot:
		return []string{RoleRoot}, []string{RoleSuccessor, RoleIssuing, RoleTSAIntermediate, RoleTSA}
	case Rotate:
		return nil, append(online, RoleTSAIntermediate, RoleRekor2)
	}
	return nil, nil
}

// KeyURIs says where each role's key is.
func (p *Plan) KeyURIs() map[string]string {
	uris := map[string]string{}
	for _, k := range p.roles() {
		uris[k.role] = k.URI
	}
	return uris
}

// checkRoles says which keys are missing, out of place or unknown.
func (p *Plan) checkRoles(want wanting) {
	must, may := p.roleRules()
	var known []string
	for _, f := range p.Keys.fields() {
		known = append(known, f.role)
	}
	count := 0
	for _, k := range p.Keys.all() {
		further := p.Kind == Rotate && furtherRole.MatchString(k.role)
		switch {
		case !slices.Contains(known, k.role) && !furtherRole.MatchString(k.role):
			want(false, "keys: unknown key %q, known here are %s", k.role, strings.Join(known, ", "))
			continue
		case k.key == nil:
			want(!slices.Contains(must, k.role) && slices.Contains(known, k.role), "keys.%s is missing", k.role)
			continue
		}
		count++
		want(further || slices.Contains(must, k.role) || slices.Contains(may, k.role), "keys.%s has no place in a plan of kind %s", k.role, p.Kind)
		p.checkKey(k, want)
	}
	want(p.Kind != Rotate || count > 0, "keys names no role to rotate")
}

// checkKey says what is wrong with one key.
func (p *Plan) checkKey(k namedKey, want wanting) {
	checkURI("keys."+k.role+".uri", k.key.URI, want)
	allowed := AllowedAlgorithms(k.role)
	switch {
	case !slices.Contains(hsm.Algorithms(), k.key.Algorithm):
		want(false, "keys.%s.algorithm is %q, known are %v", k.role, k.key.Algorithm, hsm.Algorithms())
	case len(allowed) == 1:
		want(slices.Contains(allowed, k.key.Algorithm), "keys.%s.algorithm is %s; clients verify only %s there", k.role, k.key.Algorithm, allowed[0])
	default:
		want(slices.Contains(allowed, k.key.Algorithm), "keys.%s.algorithm is %s; the role allows %v", k.role, k.key.Algorithm, allowed)
	}
}

// checkURI refuses what cannot stand in a plan; whether the token exists is seen later.
func checkURI(field, uri string, want wanting) {
	want(uri != "" && len(uri) <= 4096, "%s is empty or too long", field)
	want(!strings.Contains(strings.ToLower(uri), "pin-value"), "%s holds a pin-value; expected pin-source, the plan goes into the transcript", field)
	want(!strings.ContainsFunc(uri, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '�' }), "%s holds control characters", field)
}

// wanting collects what is wrong: it takes note of the sentence when ok is false.
type wanting func(ok bool, format string, args ...any)

// collect returns a wanting and the list it fills.
func collect() (wanting, *[]string) {
	var bad []string
	return func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}, &bad
}
