package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// check reads provenance of SLSA v0.2 and v1.
func (s SLSA) check() (check, error) {
	var builders [][]glob
	for i, b := range s.Builders {
		g, err := compileGlobs([]string{b.ID}, false)
		if err != nil || b.Level < 0 || b.Level > 4 {
			return nil, fmt.Errorf("builders[%d]: an id and a level from 0 to 4 are needed: %w", i, errors.Join(err, errors.New("see docs/policy.md")))
		}
		builders = append(builders, g)
	}
	if len(builders) == 0 {
		return nil, errors.New("builders are missing: provenance is worth what its builder is")
	}
	if s.Level < 0 || s.Level > 4 || !slices.ContainsFunc(s.Builders, func(b Builder) bool { return b.Level >= s.Level }) {
		return nil, fmt.Errorf("level %d: none of the builders has it", s.Level)
	}
	sources, err := compileGlobs(s.Sources, false)
	if err != nil {
		return nil, fmt.Errorf("sources: %w", err)
	}
	types, err := compileGlobs(s.BuildTypes, false)
	if err != nil {
		return nil, fmt.Errorf("build-types: %w", err)
	}
	return func(_ context.Context, q question) string {
		p := readProvenance(q)
		level := -1
		for i, b := range s.Builders {
			if matchesAny(builders[i], p.builder) {
				level = max(level, b.Level)
			}
		}
		switch {
		case level < 0:
			return fmt.Sprintf("built by %.200q, which is none of the builders asked for", p.builder)
		case level < s.Level:
			return fmt.Sprintf("built by %.200q, which is trusted to level %d, %d is asked for", p.builder, level, s.Level)
		case len(types) > 0 && !matchesAny(types, p.buildType):
			return fmt.Sprintf("build type %.200q", p.buildType)
		case len(sources) > 0 && len(p.sources) == 0:
			return "it names no source where one is looked for; ask by cel"
		}
		for _, source := range p.sources {
			if len(sources) > 0 && !matchesAny(sources, source) {
				return fmt.Sprintf("built from %.200q", source)
			}
		}
		return ""
	}, nil
}

// provenance is what SLSA's two forms have in common.
type provenance struct {
	builder, buildType string
	sources            []string // every place that says what was built; not what it was built with
}

func readProvenance(q question) (p provenance) {
	v := q.predicate
	add := func(uri string) {
		if uri != "" {
			p.sources = append(p.sources, plainSource(uri))
		}
	}
	if strings.HasSuffix(q.fact.result.PredicateType(), "/v0.2") {
		p.builder, p.buildType = text(v, "builder", "id"), text(v, "buildType")
		add(text(v, "invocation", "configSource", "uri"))
		return p
	}
	p.builder, p.buildType = text(v, "runDetails", "builder", "id"), text(v, "buildDefinition", "buildType")
	parameters := at(v, "buildDefinition", "externalParameters")
	for _, path := range [][]string{{"workflow", "repository"}, {"source"}, {"source", "uri"}, {"repository"}, {"configSource", "uri"}, {"configSource", "repository"}} {
		add(text(parameters, path...))
	}
	return p
}

// plainSource is a repository without the words around it: git+https://HOST/REPO.git@REF is https://HOST/REPO.
func plainSource(uri string) string {
	uri, _, _ = strings.Cut(strings.TrimPrefix(uri, "git+"), "@refs/")
	if i := strings.LastIndexByte(uri, '@'); i > strings.LastIndexByte(uri, '/') { // what stands before is a user
		uri = uri[:i]
	}
	return strings.TrimSuffix(uri, ".git")
}

// check reads bills of materials in SPDX and CycloneDX.
func (s SBOM) check() (check, error) {
	deny, err := compileGlobs(s.DenyPackages, false)
	if err != nil {
		return nil, fmt.Errorf("deny-packages: %w", err)
	}
	if s.MinPackages < 0 {
		return nil, errors.New("min-packages is negative")
	}
	return func(_ context.Context, q question) string {
		names, count := packages(q.predicate)
		if count < max(s.MinPackages, 1) {
			return fmt.Sprintf("it lists %d packages, at least %d are asked for", count, max(s.MinPackages, 1))
		}
		for _, n := range names {
			if matchesAny(deny, n) {
				return fmt.Sprintf("it lists the package %.200q", n)
			}
		}
		return ""
	}, nil
}

// packages are the names of the packages in a bill of materials, each as NAME@VERSION and as its purl.
func packages(v any) (names []string, count int) {
	named := func(name, version string) {
		if name != "" {
			names = append(names, name+"@"+version)
		}
	}
	for _, p := range list(v, "packages") { // SPDX
		count++
		named(text(p, "name"), text(p, "versionInfo"))
		for _, r := range list(p, "externalRefs") {
			if text(r, "referenceType") == "purl" {
				names = append(names, text(r, "referenceLocator"))
			}
		}
	}
	var walk func(components []any, depth int)
	walk = func(components []any, depth int) { // CycloneDX, where components hold components
		for _, c := range components {
			count++
			named(text(c, "name"), text(c, "version"))
			if purl := text(c, "purl"); purl != "" {
				names = append(names, purl)
			}
			if depth < 16 {
				walk(list(c, "components"), depth+1)
			}
		}
	}
	walk(list(v, "components"), 0)
	return names, count
}

// check reads OpenVEX.
func (x VEX) check() (check, error) {
	deny := x.Deny
	if len(deny) == 0 {
		deny = []string{"affected"}
	}
	for _, status := range deny {
		if err := oneOf(status, "affected", "under_investigation", "not_affected", "fixed"); err != nil {
			return nil, err
		}
	}
	return func(_ context.Context, q question) string {
		if why := q.tooOld("written", text(q.predicate, "timestamp"), x.MaxAge); why != "" {
			return why
		}
		statements := list(q.predicate, "statements")
		if len(statements) == 0 {
			return "it states nothing"
		}
		for _, s := range statements {
			status := text(s, "status")
			if oneOf(status, "affected", "under_investigation", "not_affected", "fixed") != nil || slices.Contains(deny, status) {
				name := text(s, "vulnerability", "name")
				if name == "" {
					name = text(s, "vulnerability")
				}
				return fmt.Sprintf("it says %.40q of %.100q", status, name)
			}
		}
		return ""
	}, nil
}

// check reads test results.
func (t Tests) check() (check, error) {
	results := t.Results
	if len(results) == 0 {
		results = []string{"PASSED"}
	}
	for _, r := range results {
		if err := oneOf(r, "PASSED", "WARNED", "FAILED"); err != nil {
			return nil, err
		}
	}
	return func(_ context.Context, q question) string {
		if r := text(q.predicate, "result"); !slices.Contains(results, r) {
			return fmt.Sprintf("the tests' result is %.40q", r)
		}
		passed := list(q.predicate, "passedTests")
		for _, want := range t.Passed {
			if !slices.Contains(passed, any(want)) {
				return fmt.Sprintf("the test %q is not among those that passed", want)
			}
		}
		return ""
	}, nil
}
