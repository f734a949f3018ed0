package policy_test

import (
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	"go.yaml.in/yaml/v3"

	"redoubt.internal/appliance/gates"
	"redoubt.internal/appliance/policy"
)

const kyvernoPolicy = `version: redoubt.policy/v1
roots: {own: {file: trusted_root.json}}
signers:
  us: [{root: own, identity: dev@corp.internal, issuer: "https://sso.corp.internal"}]
rules:
- {name: denied, images: ["registry.corp.internal/a/b", "registry.corp.internal/a/b/**", "**/withdrawn"], action: deny}
- {name: apps, images: ["registry.corp.internal/a", "registry.corp.internal/a/**", "other.corp.internal:5000/**"], signatures: {by: [us]}}
`

// TestKyvernoImages: the rule in CEL lets in the images that a rule here allows, and no others, under every name that an image can have.
func TestKyvernoImages(t *testing.T) {
	p, err := policy.Parse([]byte(kyvernoPolicy), "../gates/testdata", policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	written, err := gates.Write("kyverno", p.Parts(), gates.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Spec struct {
			Rules []struct {
				Validate struct {
					CEL struct {
						Expressions []struct{ Expression string }
					}
				}
			}
		}
	}
	if err := yaml.Unmarshal(written.Files[0].Data, &rules); err != nil {
		t.Fatal(err)
	}
	expressions := rules.Spec.Rules[0].Validate.CEL.Expressions
	if len(expressions) != 4 {
		t.Fatal("the rule about which images there may be is another one:", expressions)
	}
	env, err := cel.NewEnv(cel.Variable("object", cel.DynType))
	if err != nil {
		t.Fatal(err)
	}
	var programs []cel.Program
	for _, e := range expressions {
		ast, issues := env.Compile(e.Expression)
		if issues.Err() != nil {
			t.Fatalf("%v\n%s", issues.Err(), e.Expression)
		}
		program, err := env.Program(ast)
		if err != nil {
			t.Fatal(err)
		}
		programs = append(programs, program)
	}
	passes := func(spec map[string]any) bool {
		for _, program := range programs {
			out, _, err := program.Eval(map[string]any{"object": map[string]any{"spec": spec}})
			if err != nil || out.Value() != true {
				return false
			}
		}
		return true
	}
	image := func(name string) []any { return []any{map[string]any{"image": name}} }
	digest, checked := "@sha256:"+strings.Repeat("5e", 32), 0
	for _, host := range []string{"registry.corp.internal", "other.corp.internal:5000", "other.corp.internal", "xregistry.corp.internal", "registry_corp.internal"} {
		for _, path := range []string{"a", "a/x", "a/b", "a/b/c", "a/bc", "ab", "withdrawn", "x/withdrawn", "x/y"} {
			name, want := host+"/"+path, false
			for _, e := range p.Explain(policy.Artifact{Kind: policy.Image, Name: name}) {
				want = want || e.Decides && e.Action == "allow"
			}
			for _, version := range []string{"", ":latest", ":v1.2", digest, ":v1" + digest} {
				for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
					spec := map[string]any{"containers": image("registry.corp.internal/a/known")}
					if spec[list] = image(name + version); passes(spec) != want {
						t.Errorf("%s %s: %v, want %v", list, name+version, !want, want)
					}
					checked++
				}
			}
		}
	}
	t.Logf("%d images", checked)
	for _, odd := range []string{"a", "a/x", "docker.io/a", "index.docker.io/a/x", "REGISTRY.corp.internal/a", "registry.corp.internal/A", "registry.corp.internal/a ", "registry.corp.internal/a@sha256:5e", "registry.corp.internal//a", ""} {
		if passes(map[string]any{"containers": image(odd)}) {
			t.Errorf("%q is let in", odd)
		}
	}
	volume := map[string]any{"containers": image("registry.corp.internal/a"), "volumes": []any{map[string]any{"name": "v", "image": map[string]any{"reference": "registry.corp.internal/a"}}}}
	if passes(volume) {
		t.Error("a volume of an image is let in")
	}
	volume["volumes"] = []any{map[string]any{"name": "v"}}
	if !passes(volume) {
		t.Error("another volume is not let in")
	}
}
