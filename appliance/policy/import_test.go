package policy

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/ca/denied"
	"redoubt.internal/log/strictyaml"
)

const cipKeyless = `apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata:
  name: team
  annotations: {team: us}
spec:
  mode: enforce
  images:
    - glob: "registry.corp.internal/team/**"
  authorities:
    - name: ours
      keyless:
        url: https://fulcio.corp.internal
        identities:
          - issuer: https://oidc.corp.internal
            subjectRegExp: "@corp.internal$"
      ctlog: {url: https://rekor.corp.internal}
`

const kyvernoKeyless = `apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: check-images}
spec:
  validationFailureAction: Enforce
  webhookTimeoutSeconds: 30
  rules:
    - name: team
      match: {any: [{resources: {kinds: [Pod]}}]}
      verifyImages:
        - imageReferences: ["registry.corp.internal/team/*:*"]
          attestors:
            - entries:
                - keyless: {issuer: "https://oidc.corp.internal", subject: "*@corp.internal", rekor: {url: https://rekor.corp.internal}}
`

// imported loads what an import made.
func imported(t *testing.T, b *bench, text string) *Policy {
	t.Helper()
	in, err := Import([]byte(text), "own")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range in.Keys {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name := range in.File.Roots {
		if err := os.WriteFile(filepath.Join(dir, name+".json"), b.own.Root(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, err := in.YAML()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(data, dir, Config{Now: func() time.Time { return verifytest.Epoch.Add(time.Hour) }})
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return p
}

// TestImport: what was carried over decides as it did: the same signer is accepted, another is not.
func TestImport(t *testing.T) {
	b := newBench(t)
	der, err := x509.MarshalPKIXPublicKey(&verifytest.ECKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	indented := func(n int) string {
		return strings.ReplaceAll(strings.TrimSpace(key), "\n", "\n"+strings.Repeat(" ", n))
	}
	policies := map[string]string{
		"ClusterImagePolicy": cipKeyless, "v1alpha1": strings.Replace(cipKeyless, "v1beta1", "v1alpha1", 1), "Kyverno": kyvernoKeyless,
		"trust root by name": strings.Replace(cipKeyless, "url: https://fulcio.corp.internal", "trustRootRef: own", 1),
		"with a key":         cipKeyless + "    - key:\n        data: |\n          " + indented(10) + "\n",
		"two documents":      cipKeyless + "---\n" + strings.NewReplacer("name: team", "name: other", "/team/", "/other/").Replace(cipKeyless),
	}
	for name, text := range policies {
		t.Run(name, func(t *testing.T) {
			p := imported(t, b, text)
			ours := evidence("ours", b.own.SignMessage(2, "artifact"), t)
			theirs := evidence("theirs", b.them.SignMessage(2, "artifact"), t)
			if d := p.Decide(context.Background(), theImage(), ours); !d.Allow {
				t.Error(d.explain())
			}
			if d := p.Decide(context.Background(), theImage(), theirs); d.Allow {
				t.Error("another root's people are accepted")
			}
			if d := p.Decide(context.Background(), Artifact{Kind: Image, Name: "elsewhere.internal/x", Digest: digestOf("artifact")}, ours); d.Allow {
				t.Error("an image that no pattern matches is accepted")
			}
		})
	}
}

// TestImportRefuses: what has no equal is an error that says what, and never left out.
func TestImportRefuses(t *testing.T) {
	change := func(text, old, new string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("%q is not in it", old)
		}
		return strings.Replace(text, old, new, 1)
	}
	tests := []struct{ name, text, want string }{
		{"another kind", "apiVersion: v1\nkind: Pod\n", `kind "Pod"`},
		{"nothing", "", "there is no ClusterImagePolicy"},
		{"warns", change(cipKeyless, "mode: enforce", "mode: warn"), `mode "warn"`},
		{"a selector", change(cipKeyless, "  images:", "  match: [{version: v1, resource: pods}]\n  images:"), "line 8: unknown key spec.match"},
		{"CUE", cipKeyless + "      attestations: [{name: a, predicateType: spdx, policy: {type: cue, data: 'x: 1'}}]\n", "unknown key spec.authorities[0].attestations[0].policy"},
		{"no SCT", change(cipKeyless, "        identities:", "        insecureIgnoreSCT: true\n        identities:"), "unknown key spec.authorities[0].keyless.insecureIgnoreSCT"},
		{"a CA beside", change(cipKeyless, "        identities:", "        ca-cert: {data: x}\n        identities:"), "unknown key spec.authorities[0].keyless.ca-cert"},
		{"a key in a secret", change(cipKeyless, "    - name: ours\n", "    - key: {secretRef: {name: k}}\n    - name: ours\n"), "unknown key spec.authorities[0].key.secretRef"},
		{"a key in a KMS", change(cipKeyless, "    - name: ours\n", "    - key: {kms: 'awskms:///x'}\n    - name: ours\n"), "unknown key spec.authorities[0].key.kms"},
		{"passes everything", "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: a}\nspec: {images: [{glob: 'h.io/**'}], authorities: [{static: {action: pass}}]}\n", "a static authority that passes"},
		{"everybody", change(cipKeyless, "        identities:\n          - issuer: https://oidc.corp.internal\n            subjectRegExp: \"@corp.internal$\"\n", "        identities: []\n"), "accepts everybody"},
		{"two trust roots", change(change(cipKeyless, "url: https://fulcio.corp.internal", "trustRootRef: a"), "ctlog: {url: https://rekor.corp.internal}", "ctlog: {trustRootRef: b}"), "two trust roots"},
		{"an alternative of attestations", cipKeyless + "      attestations: [{name: a, predicateType: spdx}]\n    - keyless: {identities: [{issuer: a, subject: b}]}\n", "an alternative of demands"},
		{"a digest in a pattern", change(cipKeyless, "/team/**", "/team/a@sha256:abc"), "names a tag or digest"},
		{"a pattern of no registry", change(cipKeyless, "registry.corp.internal/team/**", "*"), "begins with no registry"},
		{"overlapping", cipKeyless + "---\n" + change(cipKeyless, "name: team", "name: other"), "must satisfy both there"},
		{"audit", change(kyvernoKeyless, "Enforce", "Audit"), `validationFailureAction "Audit"`},
		{"excludes", change(kyvernoKeyless, "      verifyImages:", "      exclude: {any: [{resources: {namespaces: [x]}}]}\n      verifyImages:"), "line 10: unknown key spec.rules[0].exclude"},
		{"namespaces", change(kyvernoKeyless, "kinds: [Pod]", "kinds: [Pod], namespaces: [x]"), "namespaces"},
		{"Deployments alone", change(kyvernoKeyless, "kinds: [Pod]", "kinds: [Deployment]"), "it matches Deployment alone"},
		{"another rule", change(kyvernoKeyless, "      verifyImages:", "      validate: {message: x}\n      verifyImages:"), "unknown key spec.rules[0].validate"},
		{"Notary", change(kyvernoKeyless, "        - imageReferences:", "        - type: Notary\n          imageReferences:"), `type "Notary"`},
		{"not required", change(kyvernoKeyless, "        - imageReferences:", "        - required: false\n          imageReferences:"), "required is false"},
		{"skips images", change(kyvernoKeyless, "        - imageReferences:", "        - skipImageReferences: [x]\n          imageReferences:"), "skipImageReferences"},
		{"no log", change(kyvernoKeyless, "rekor: {url: https://rekor.corp.internal}", "rekor: {ignoreTlog: true}"), "keyless without a log"},
		{"any issuer", change(kyvernoKeyless, "issuer: \"https://oidc.corp.internal\", ", ""), "anybody's counts"},
		{"two sets", change(kyvernoKeyless, "          attestors:\n", "          attestors:\n            - entries: [{keyless: {issuer: a, subject: b}}]\n"), "2 sets of attestors"},
		{"several expressions", change(kyvernoKeyless, "            - entries:\n", "            - entries:\n                - keyless: {issuer: a, subject: b}\n"), "two could match the same entry"},
		{"conditions", kyvernoKeyless + "          attestations: [{type: 'https://x/y', conditions: [{all: []}], attestors: [{entries: [{keyless: {issuer: a, subject: b}}]}]}]\n", "attestations[0].conditions"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Import([]byte(test.text), "own"); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%v, want %q", err, test.want)
			}
		})
	}
}

// TestTemplates: each is a policy, once its files are there, and allows nothing unsigned.
func TestTemplates(t *testing.T) {
	b := newBench(t)
	der, err := x509.MarshalPKIXPublicKey(&verifytest.ECKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	b.file("trusted_root.json", b.own.Root())
	b.file("public-good.json", b.them.Root())
	b.file("vendor.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	names, err := Templates()
	if err != nil || len(names) != 4 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		text, err := Template(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(text, b.dir, Config{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, e := range p.Explain(Artifact{}) {
			if len(e.Asks) == 0 && e.Action == "allow" {
				t.Errorf("%s: rule %q asks for nothing", name, e.Rule)
			}
		}
		if d := p.Decide(context.Background(), Artifact{Kind: Image, Name: "REGISTRY/own/app", Digest: digestOf("x")}); d.Allow || d.Rule == "" {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// TestSchema: every key of a policy is described to editors.
func TestSchema(t *testing.T) {
	schema, err := JSONSchema()
	if err != nil {
		t.Fatal(err)
	}
	text := string(verifytest.Encode(t, schema))
	for _, part := range []string{`"max-severity"`, `"identity-regexp"`, `"without-log"`, `"additionalProperties":false`, "Threshold is how many different signers"} {
		if !strings.Contains(text, part) {
			t.Errorf("%s is not in the schema", part)
		}
	}
}

// TestManual: the policy and the cases that the manual shows are such.
func TestManual(t *testing.T) {
	b := newBench(t)
	der, err := x509.MarshalPKIXPublicKey(&verifytest.ECKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	b.file("trusted_root.json", b.own.Root())
	b.file("public-good.json", b.them.Root())
	list, err := denied.New("corp.internal").Dated(verifytest.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	b.file("denied.json", list)
	b.file("vendor.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```yaml\n")
	if len(blocks) != 3 {
		t.Fatalf("%d blocks", len(blocks)-1)
	}
	example, _, _ := strings.Cut(blocks[1], "```")
	if _, err := Parse([]byte(example), b.dir, Config{}); err != nil {
		t.Error(err)
	}
	cases, _, _ := strings.Cut(blocks[2], "```")
	if _, err := strictyaml.Decode[Cases]([]byte(cases)); err != nil {
		t.Error(err)
	}
}
