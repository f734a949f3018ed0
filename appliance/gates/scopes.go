package gates

import (
	"slices"
	"strings"
)

// scope is a name, and everything below it, as containers-policy.json(5) has them: HOST, HOST/NAMESPACE, HOST/REPOSITORY or *.DOMAIN. The most
// specific scope decides, whatever its order.
type scope struct {
	name string
	rule *rule
}

// scopes are those of all rules. One that an earlier rule covers is left out: it never decides.
func (w *writing) scopes() (all []scope, err error) {
	for i := range w.rules {
		r := &w.rules[i]
		names, err := w.scopesOf(r)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if !slices.ContainsFunc(all, func(s scope) bool { return within(name, s.name) }) {
				all = append(all, scope{name, r})
			}
		}
	}
	slices.SortFunc(all, func(a, b scope) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// scopesOf are the scopes that match exactly what a rule's patterns match together.
func (w *writing) scopesOf(r *rule) (names []string, err error) {
	has := func(pattern string) bool { return slices.Contains(r.images, pattern) }
	for _, p := range r.images {
		name, below := strings.CutSuffix(p, "/**")
		host, path, deep := strings.Cut(name, "/")
		switch {
		case p == "**":
			name = ""
		case strings.HasPrefix(name, "*.") && below && !deep && !strings.ContainsAny(name[2:], "*:"):
			if ported := name + ":*/**"; !has(ported) {
				return nil, w.cannot(r.name, "images "+p, "a domain stands for its hosts at every port there; name %q as well", ported)
			}
		case strings.HasPrefix(name, "*.") && below && !deep && strings.HasSuffix(name, ":*") && has(strings.TrimSuffix(name, ":*")+"/**"):
			continue // with the one above
		case strings.Contains(name, "*"):
			return nil, w.cannot(r.name, "images "+p, "patterns there are HOST/**, *.DOMAIN/** with *.DOMAIN:*/**, ** alone, and a name with everything below it")
		case deep && !has(name):
			return nil, w.cannot(r.name, "images "+p, "what is named there is the name with everything below it; name %q as well", name)
		case deep && !has(name+"/**"):
			return nil, w.cannot(r.name, "images "+p, "what is named there is the name with everything below it; name %q as well", name+"/**")
		case !deep && !below:
			return nil, w.cannot(r.name, "images "+p, "a registry without a repository matches nothing")
		}
		if host == "index.docker.io" {
			name = strings.TrimSuffix("docker.io/"+path, "/")
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// within tells whether scope a is b or in it.
func within(a, b string) bool {
	if b == "" || a == b || strings.HasPrefix(a, b+"/") {
		return true
	}
	host, _, _ := strings.Cut(a, "/")
	host, _, _ = strings.Cut(host, ":")
	return strings.HasPrefix(b, "*.") && strings.HasSuffix(host, b[1:])
}
