//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Others' gates, unmodified.
const (
	containersImage  = "containers-image-v5.42.0"
	policyTester     = "policy-tester-v0.13.1"
	kyvernoTypes     = "kyverno-types-v1.19.1"
	kyvernoEngine    = "kyverno-engine-v1.19.1"
	gateCRDs         = "gate-crds-2" // the definitions by which API servers check their objects
	gatekeeperRatify = "gatekeeper-ratify-v1.4.6"
	openshiftNodes   = "openshift-nodes-4.19" // what the operator of nodes makes of the objects
)

// others is a site whose images other programs' gates decide about.
type others struct {
	*lab
	*session
	signed, unsigned, foreign string // images: by us, by nobody, by somebody else
	keyed, otherKey           string // by our key, by another
	attested                  string // by us, with an attestation and no signature
	elsewhere                 string // signed by us under a deny rule
}

const othersPolicy = `version: redoubt.policy/v1
roots: {own: {file: trusted_root.json}}
keys: {vendor: {file: cosign.pub, root: own}}
signers:
  us: [{root: own, identity: %[1]q, issuer: %[2]q}]
  vendor: [{key: vendor}]
rules:
- {name: apps, images: ["%[3]s/app", "%[3]s/app/**"], signatures: {by: [us]}}
- {name: vendor, images: ["%[3]s/vendor", "%[3]s/vendor/**"], signatures: {by: [vendor]}}
- {name: withdrawn, images: ["%[3]s/withdrawn", "%[3]s/withdrawn/**"], action: deny}
`

// attestedRule is said to gates that look at attestations.
const (
	attestedRule = `- {name: attested, images: ["%[3]s/attested/**"], attestations: [{type: "%[4]s", by: [us]}]}
`
	attestedType = "https://corp.internal/tests/v1"
)

const keysPolicy = `version: redoubt.policy/v1
roots: {own: {file: trusted_root.json}}
keys: {vendor: {file: cosign.pub, root: own, without-log: true}}
signers: {vendor: [{key: vendor}]}
rules: [{name: vendor, images: ["%[1]s/vendor/**"], signatures: {by: [vendor]}}]
`

// TestOthersGates: what `admission manifests --for` writes is decided by as the policy says by those programs' own code, with no way out of this
// machine: stock cosign signs, and each gate has images that it must refuse.
func TestOthersGates(t *testing.T) {
	l := newLab(t, nil)
	o := &others{lab: l, session: l.session(t, l.legacyEnv()...)}
	o.sign(t)
	t.Run("containers-policy.json", o.containersPolicy)
	t.Run("openshift", o.openshift)
	t.Run("policy-controller", o.policyController)
	t.Run("published definitions", o.published)
	t.Run("kyverno's types", o.kyverno)
	t.Run("gatekeeper", o.gatekeeper)
	t.Run("gatekeeper with ratify", o.ratify)
}

// TestServersKyverno: the engine of Kyverno decides about the same images by its policy.
func TestServersKyverno(t *testing.T) {
	l := newLab(t, nil)
	o := &others{lab: l, session: l.session(t, l.legacyEnv()...)}
	o.sign(t)
	gate, policy := client(t, kyvernoEngine), filepath.Join(o.manifests(t, "kyverno", "attested.yaml"), "clusterpolicy-redoubt.yaml")
	for _, image := range []string{o.signed, o.keyed, o.attested} {
		o.run(t, gate, policy, image)
	}
	for _, c := range []struct{ image, reason string }{
		{o.unsigned, "no signatures found"},
		{o.foreign, "subject mismatch"},
		{o.otherKey, "no matching signatures"},
		{o.elsewhere, "no rule of the policy is for an image"},
		{o.image(t, "vendor/unsigned"), "no signatures found"},
		{o.image(t, "attested/unsigned"), "no matching attestations"},
		{o.image(t, "none/app"), "no rule of the policy is for an image"},
	} {
		o.refuse(t, []string{c.reason}, gate, policy, c.image)
	}
}

func (o *others) image(t *testing.T, name string) string { return pushImage(t, o.registry, name) }

// sign makes the images by cosign v2: what those gates read are its tags, with an entry of Rekor v1.
func (o *others) sign(t *testing.T) {
	cosign := client(t, cosign2)
	sign := join([]string{"sign", "-y", "--allow-http-registry"}, o.legacyServices())
	by := func(image, who string) string {
		o.run(t, cosign, join(sign, []string{"--identity-token", o.token(t, "--email", who), image})...)
		return image
	}
	o.run(t, cosign, "generate-key-pair")
	o.unsigned, o.signed = o.image(t, "app/unsigned"), by(o.image(t, "app/signed"), identity)
	o.foreign, o.elsewhere = by(o.image(t, "app/foreign"), "mallory@corp.internal"), by(o.image(t, "withdrawn/app"), identity)
	o.attested = o.image(t, "attested/app")
	o.run(t, cosign, join([]string{"attest", "-y", "--allow-http-registry"}, o.legacyServices(), []string{"--predicate", o.write(t, "predicate.json", `{"tests":"green"}`), "--type", attestedType, "--identity-token", o.token(t), o.attested})...)
	o.keyed, o.otherKey = o.image(t, "vendor/app"), o.image(t, "vendor/other")
	o.run(t, cosign, "generate-key-pair", "--output-key-prefix", "other")
	o.signByKeys(t, o.keyed, "cosign.key")
	o.signByKeys(t, o.otherKey, "other.key")
	root, err := os.ReadFile(o.in("trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	o.write(t, "trusted_root.json", string(root))
	o.write(t, "policy.yaml", fmt.Sprintf(othersPolicy, identity, o.urls.OIDC, o.registry))
	o.write(t, "keys.yaml", fmt.Sprintf(keysPolicy, o.registry))
	o.write(t, "attested.yaml", fmt.Sprintf(othersPolicy+attestedRule, identity, o.urls.OIDC, o.registry, attestedType))
}

func (o *others) signByKeys(t *testing.T, image string, keys ...string) {
	for _, key := range keys {
		o.run(t, client(t, cosign2), "sign", "-y", "--allow-http-registry", "--key", key, "--rekor-url", o.urls.Rekor, image)
	}
}

// manifests writes a form and returns its folder. Nothing in it may lead outside.
func (o *others) manifests(t *testing.T, form, policy string, flags ...string) string {
	t.Helper()
	dir := o.path("manifests-" + form)
	o.run(t, o.binary, join([]string{"admission", "manifests", "--for", form, "--policy", policy, "--out", dir}, flags)...)
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, outside := range []string{"sigstore.dev/", "githubusercontent", "tuf-repo", "ghcr.io"} {
			if strings.Contains(strings.ReplaceAll(string(text), "policy.sigstore.dev/", ""), outside) {
				t.Errorf("%s leads to %s", path, outside)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func (o *others) containersPolicy(t *testing.T) {
	dir := o.manifests(t, "containers-policy.json", "policy.yaml")
	o.node(t, dir)
	// Without where signatures are looked for, none is found.
	o.refuse(t, []string{"no signature exists"}, client(t, containersImage), filepath.Join(dir, "policy.json"), t.TempDir(), o.signed)
}

// openshift has OpenShift's own operator lay onto a node what it makes of the objects.
func (o *others) openshift(t *testing.T) {
	operator, etc := client(t, openshiftNodes), o.path("etc-containers")
	lay := []string{filepath.Join(operator, "templates"), etc}
	files, err := filepath.Glob(filepath.Join(o.manifests(t, "openshift", "policy.yaml", "--allow-registry", "quay.corp.internal/openshift"), "*.yaml"))
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	o.run(t, filepath.Join(operator, "openshift"), join(lay, files)...)
	o.node(t, etc)
	image := slices.IndexFunc(files, func(f string) bool { return strings.HasSuffix(f, "image-cluster.yaml") })
	text, err := os.ReadFile(files[image])
	if err != nil {
		t.Fatal(err)
	}
	files[image] = o.write(t, "image-cluster.yaml", strings.Replace(string(text), o.registry+"/app", o.registry+"/other", 1))
	o.refuse(t, []string{"is not nested inside allowedRegistries"}, filepath.Join(operator, "openshift"), join(lay, files)...)
}

// node decides as a node does by the policy.json and the registries.d of a folder.
func (o *others) node(t *testing.T, dir string) {
	gate := client(t, containersImage)
	decide := func(image string) []string {
		return []string{filepath.Join(dir, "policy.json"), filepath.Join(dir, "registries.d"), image}
	}
	for _, image := range []string{o.signed, o.keyed} {
		o.run(t, gate, decide(image)...)
	}
	for _, c := range []struct{ image, reason string }{
		{o.unsigned, "no signature exists"},
		{o.foreign, "Required email"},
		{o.otherKey, "publicKey in Rekor SET does not match"},
		{o.elsewhere, "rejected by policy"},
		{o.image(t, "vendor/unsigned"), "no signature exists"},
		{o.image(t, "none/app"), "rejected by policy"},
	} {
		o.refuse(t, []string{c.reason}, gate, decide(c.image)...)
	}
}

// policyController asks the tester, by every ClusterImagePolicy for itself, as it knows one at a time. It begins by fetching the public trust, unless told where
// it is; here nothing can be fetched.
func (o *others) policyController(t *testing.T) {
	gate, dir := client(t, policyTester), o.manifests(t, "policy-controller", "attested.yaml")
	decide := func(policy, image string) []string {
		return []string{"-log-level", "error", "-policy", filepath.Join(dir, "clusterimagepolicy-"+policy+".yaml"), "-trustroot", filepath.Join(dir, "trustroot-redoubt-own.yaml"), "-image", image}
	}
	attested := "attested-attestation-https-corp-internal-tests-v1"
	for policy, image := range map[string]string{"apps-signatures": o.signed, "vendor-signatures": o.keyed, attested: o.attested} {
		o.run(t, gate, decide(policy, image)...)
	}
	for _, c := range []struct{ policy, image, reason string }{
		{"apps-signatures", o.unsigned, "no signatures found"},
		{"apps-signatures", o.foreign, "none of the expected identities matched"},
		{"vendor-signatures", o.image(t, "vendor/unsigned"), "no signatures found"},
		{"withdrawn", o.elsewhere, "disallowed by static policy"},
		{attested, o.image(t, "attested/unsigned"), "no matching attestations"},
		{"apps-signatures", o.elsewhere, "is uncovered by policy"},
	} {
		o.refuse(t, []string{c.reason}, gate, decide(c.policy, c.image)...)
	}
}

// published holds the objects to the definitions that those projects publish, as an API server does.
func (o *others) published(t *testing.T) {
	dir := client(t, gateCRDs)
	check := filepath.Join(dir, "crds")
	for form, policy := range map[string]string{"policy-controller": "attested.yaml", "openshift": "policy.yaml", "kyverno": "policy.yaml", "gatekeeper-ratify": "keys.yaml"} {
		var flags []string
		if form == "openshift" {
			flags = []string{"--allow-registry", "quay.corp.internal/openshift"}
		}
		files, err := filepath.Glob(filepath.Join(o.manifests(t, form, policy, flags...), "*.yaml"))
		if form == "gatekeeper-ratify" { // Gatekeeper makes the definition of the constraint itself, from the template
			files = slices.DeleteFunc(files, func(f string) bool { return strings.Contains(f, "redoubtverification-") })
		}
		if err != nil || len(files) == 0 {
			t.Fatal(form, files, err)
		}
		args := join([]string{filepath.Join(dir, form)}, files)
		if said := o.run(t, check, args...); !strings.Contains(said, fmt.Sprintf("%d objects checked", len(files))) {
			t.Errorf("%s: %s", form, said)
		}
		bent, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		o.refuse(t, []string{"unknown fields"}, check, filepath.Join(dir, form), o.write(t, "bent.yaml", strings.Replace(string(bent), "\nspec:\n", "\nspec:\n  nonsense: true\n", 1)))
	}
}

// kyverno holds the policy to what Kyverno's own types take and refuse.
func (o *others) kyverno(t *testing.T) {
	check, dir := client(t, kyvernoTypes), o.manifests(t, "kyverno", "policy.yaml")
	file := filepath.Join(dir, "clusterpolicy-redoubt.yaml")
	if said := o.run(t, check, file); !strings.Contains(said, "1 policies checked") {
		t.Error(said)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	twice := strings.Replace(string(text), "- name: apps", "- name: vendor", 1)
	o.refuse(t, []string{"Duplicate rule name"}, check, o.write(t, "twice.yaml", twice))
	o.refuse(t, []string{"unknown field"}, check, o.write(t, "unknown.yaml", strings.Replace(string(text), "\nspec:\n", "\nspec:\n  nonsense: true\n", 1)))
}

// regoCases say what Ratify answers and what becomes of the pod.
const regoCases = `package redoubtverification

yes(_) := {"responses": [["r/a", {"isSuccess": true}]], "errors": [], "system_error": ""}
no(_) := {"responses": [["r/a", {"isSuccess": false}]], "errors": [], "system_error": ""}
silent(_) := {"responses": [], "errors": [], "system_error": ""}
broken(_) := {"responses": [["r/a", {"isSuccess": true}]], "errors": [], "system_error": "down"}
failed(_) := {"responses": [["r/a", {"isSuccess": true}]], "errors": [["r/a", "down"]], "system_error": ""}
pod(list) := {"review": {"object": {"spec": {list: [{"image": "r/a"}]}}}}
mounted := {"review": {"object": {"spec": {"containers": [{"image": "r/a"}], "volumes": [{"image": {"reference": "r/b"}}]}}}}

test_yes { count(violation) == 0 with input as pod("containers") with external_data as yes }
test_no { count(violation) == 1 with input as pod("containers") with external_data as no }
test_init { count(violation) == 1 with input as pod("initContainers") with external_data as no }
test_ephemeral { count(violation) == 1 with input as pod("ephemeralContainers") with external_data as no }
test_silent { count(violation) == 1 with input as pod("containers") with external_data as silent }
test_broken { count(violation) == 1 with input as pod("containers") with external_data as broken }
test_failed { count(violation) == 1 with input as pod("containers") with external_data as failed }
test_volume { count(violation) == 1 with input as mounted with external_data as yes }
`

// gatekeeper has OPA read the constraint's Rego, with an answer of Ratify in place of the one built-in function that Gatekeeper adds.
func (o *others) gatekeeper(t *testing.T) {
	opa, dir := client(t, "opa-v1.21.4"), o.manifests(t, "gatekeeper-ratify", "keys.yaml")
	text, err := os.ReadFile(filepath.Join(dir, "constrainttemplate-redoubtverification.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var template struct {
		Spec struct{ Targets []struct{ Rego string } }
	}
	if err := yaml.Unmarshal(text, &template); err != nil || len(template.Spec.Targets) != 1 {
		t.Fatal(template, err)
	}
	known := o.output(t, opa, "capabilities", "--current")
	added := strings.Replace(known, `"builtins": [`, `"builtins": [{"name": "external_data", "decl": {"type": "function", "args": [{"type": "any"}], "result": {"type": "any"}}},`, 1)
	args := []string{"test", "--v0-compatible", "--capabilities", o.write(t, "capabilities.json", added), o.write(t, "cases_test.rego", regoCases)}
	if said := o.run(t, opa, append(args, o.write(t, "template.rego", template.Spec.Targets[0].Rego))...); !strings.Contains(said, "PASS: 8/8") {
		t.Error(said)
	}
	blind := strings.Replace(template.Spec.Targets[0].Rego, "not verified[image]", "verified[image]", 1)
	o.refuse(t, []string{"FAIL"}, opa, append(args, o.write(t, "template.rego", blind))...)
}

// ratify has Gatekeeper ask Ratify about pods, over a registry without TLS.
func (o *others) ratify(t *testing.T) {
	gate, dir := client(t, gatekeeperRatify), o.manifests(t, "gatekeeper-ratify", "keys.yaml")
	bend := func(file, old, text string) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || !strings.Contains(string(data), old) {
			t.Fatal(file, err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strings.Replace(string(data), old, text, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bend("store-store-oras.yaml", "cosignEnabled: true", "cosignEnabled: true\n    useHttp: true")
	o.run(t, gate, dir, o.keyed)
	// Of several signatures the last decides, and another's can but take away.
	oursLast, othersLast := o.image(t, "vendor/ours-last"), o.image(t, "vendor/others-last")
	o.signByKeys(t, oursLast, "other.key", "cosign.key")
	o.signByKeys(t, othersLast, "cosign.key", "other.key")
	o.run(t, gate, dir, oursLast)
	for _, image := range []string{o.image(t, "vendor/unsigned"), o.otherKey, othersLast, o.signed, o.elsewhere, o.image(t, "none/app")} {
		o.refuse(t, []string{"denied: nobody whom the policy names signed " + image}, gate, dir, image)
	}
	bend("store-store-oras.yaml", "cosignEnabled: true", "cosignEnabled: false")
	o.refuse(t, []string{"denied: nobody whom the policy names signed " + o.keyed}, gate, dir, o.keyed)
	bend("redoubtverification-redoubt.yaml", "enforcementAction: deny", "enforcementAction: warn")
	o.run(t, gate, dir, o.keyed)
}
