package policy

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/log/strictyaml"
)

// cip is a ClusterImagePolicy of these images and authorities, in YAML's flow style.
func cip(images, authorities string) string {
	return "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: p}\nspec: {images: [" + images + "], authorities: [" + authorities + "]}\n"
}

// kyverno is a Kyverno policy of one rule.
func kyverno(verifyImages string) string {
	return "apiVersion: kyverno.io/v2beta1\nkind: Policy\nmetadata: {name: p}\nspec: {rules: [{name: r, match: {any: [{resources: {kinds: [Pod]}}]}, verifyImages: [" + verifyImages + "]}]}\n"
}

const anyone = "{keyless: {identities: [{issuer: i, subject: s}]}}"

// somePEM is a public key as one line of YAML.
func somePEM(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&verifytest.ECKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%q", strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))))
}

// TestImportWrites holds the file that an import writes to what the other program's policy said.
func TestImportWrites(t *testing.T) {
	one, two := somePEM(t), somePEM(t)
	both := strings.TrimSuffix(one, `"`) + `\n` + strings.TrimPrefix(two, `"`)
	refs := "imageReferences: ['h.io/*']"
	attestors := func(entries string) string { return kyverno("{" + refs + ", attestors: [{" + entries + "}]}") }
	images := "{glob: h.io/a}"
	for _, test := range []struct{ name, text, want string }{
		{"a signer exactly", cip(images, anyone), "signers: p: - root: own identity: s issuer: i rules: - name: p images: - h.io/a signatures: by: - p"},
		{"a signer by expressions, which match anywhere there", cip(images, "{keyless: {identities: [{issuerRegExp: i, subjectRegExp: '^s$'}]}}"), "identity-regexp: (?s:.*)(?:^s$)(?s:.*) issuer-regexp: (?s:.*)(?:i)(?s:.*)"},
		{"a root by name, its log too", cip(images, "{keyless: {trustRootRef: theirs, identities: [{issuer: i, subject: s}]}, ctlog: {trustRootRef: theirs}}"), "roots: theirs: file: theirs.json signers:"},
		{"a root of the import", cip(images, anyone), "roots: own: file: own.json signers:"},
		{"two authorities, one of which suffices", cip(images, anyone+", {keyless: {identities: [{issuer: j, subject: t}]}}"), "- root: own identity: s issuer: i - root: own identity: t issuer: j"},
		{"a key without a log", cip(images, "{key: {data: "+one+"}}"), "keys: p-0: file: p-0.pub root: own without-log: true"},
		{"a key with a log", cip(images, "{key: {data: "+one+", hashAlgorithm: sha256}, ctlog: {trustRootRef: theirs}}"), "keys: p-0: file: p-0.pub root: theirs signers: p: - key: p-0"},
		{"two keys", cip(images, "{key: {data: "+one+"}}, {key: {data: "+two+"}}"), "signers: p: - key: p-0 - key: p-1"},
		{"denied", cip(images, "{static: {action: fail, message: no}}"), "- name: p images: - h.io/a action: deny"},
		{"attestations", cip(images, "{keyless: {identities: [{issuer: i, subject: s}]}, attestations: [{name: a, predicateType: slsaprovenance1}, {name: b, predicateType: 'https://x/y'}]}"),
			"- name: p images: - h.io/a attestations: - type: https://slsa.dev/provenance/v1 by: - p - type: https://x/y by: - p"},
		{"Kyverno's signer", attestors("entries: [{keyless: {issuer: i, subject: s}}]"), "signers: p/r: - root: own identity: s issuer: i rules: - name: p/r images: - h.io/** signatures: by: - p/r threshold: 1"},
		{"Kyverno's wildcards", attestors("entries: [{keyless: {issuer: 'https://*.i', subject: 's?.t'}}]"), `identity-regexp: (?s)s.\.t issuer-regexp: (?s)https://.*\.i`},
		{"Kyverno's expressions", attestors("entries: [{keyless: {issuerRegExp: i, subjectRegExp: s}}]"), "identity-regexp: (?s:.*)(?:s)(?s:.*) issuer-regexp: (?s:.*)(?:i)(?s:.*)"},
		{"Kyverno's extensions", attestors("entries: [{keyless: {issuer: i, subject: s, additionalExtensions: {runnerEnvironment: self-hosted}}}]"), "issuer: i extensions: runnerEnvironment: self-hosted"},
		{"every one of Kyverno's entries", attestors("entries: [{keyless: {issuer: i, subject: s}}, {keys: {publicKeys: " + one + "}}]"), "threshold: 2"},
		{"one of Kyverno's entries", attestors("count: 1, entries: [{keyless: {issuer: i, subject: s*}}, {keys: {publicKeys: " + one + "}}]"), "threshold: 1"},
		{"several keys, of which one suffices", attestors("entries: [{keys: {publicKeys: " + both + ", signatureAlgorithm: sha256}}]"), "signers: p/r: - key: p-r-0 - key: p-r-0-2"},
		{"three keys, of which one suffices", attestors("entries: [{keys: {publicKeys: " + strings.TrimSuffix(both, `"`) + `\n` + strings.TrimPrefix(somePEM(t), `"`) + "}}]"), "- key: p-r-0 - key: p-r-0-2 - key: p-r-0-3 rules:"},
		{"Kyverno's key with a log", attestors("entries: [{keys: {publicKeys: " + one + "}}]"), "keys: p-r-0: file: p-r-0.pub root: own signers:"},
		{"Kyverno's key without a log", attestors("entries: [{keys: {publicKeys: " + one + ", rekor: {ignoreTlog: true}}}]"), "keys: p-r-0: file: p-r-0.pub root: own without-log: true signers:"},
		{"one key with a log and without", attestors("count: 1, entries: [{keys: {publicKeys: " + one + ", rekor: {ignoreTlog: true}}}, {keys: {publicKeys: " + one + "}}]"), "p-r-0: file: p-r-0.pub root: own without-log: true p-r-1: file: p-r-1.pub root: own signers:"},
		{"one key, twice given, is one", attestors("entries: [{keys: {publicKeys: " + strings.TrimSuffix(one, `"`) + `\n` + strings.TrimPrefix(one, `"`) + "}}]"), "keys: p-r-0: file: p-r-0.pub root: own signers:"},
		{"two of Kyverno's sets of images", kyverno("{imageReferences: [h.io/a], attestors: [{entries: [{keyless: {issuer: i, subject: s}}]}]}, {type: SigstoreBundle, imageReferences: [h.io/b], failureAction: enforce, required: true, verifyDigest: true, mutateDigest: true, attestors: [{entries: [{keyless: {issuer: i, subject: t}}]}]}"),
			"- name: p/r/0 images: - h.io/a signatures: by: - p/r/0 threshold: 1 - name: p/r/1 images: - h.io/b"},
		{"Kyverno's attestations", kyverno("{type: Cosign, " + refs + ", attestations: [{type: 'https://x/y', attestors: [{entries: [{keyless: {issuer: i, subject: s}}]}]}, {predicateType: 'https://x/z', attestors: [{entries: [{keyless: {issuer: i, subject: s}}]}]}]}"),
			"attestations: - type: https://x/y by: - p/r attestation 0 threshold: 1 - type: https://x/z by: - p/r attestation 1 threshold: 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in, err := Import([]byte(test.text), "own")
			if err != nil {
				t.Fatal(err)
			}
			text, err := in.YAML()
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(oneLine(string(text)), test.want) {
				t.Errorf("there is no %q in\n%s", test.want, text)
			}
		})
	}
}

// TestImportPatterns: an image's pattern there is one of the same repositories here, or refused.
func TestImportPatterns(t *testing.T) {
	for _, test := range []struct{ there, here, refusal string }{
		{"ghcr.io/team/app", "ghcr.io/team/app", ""},
		{"ghcr.io/team/app:*", "ghcr.io/team/app", ""},
		{"ghcr.io/team/app@sha256:*", "ghcr.io/team/app", ""},
		{"ghcr.io/team/app:**", "ghcr.io/team/app", ""},
		{"localhost/app", "localhost/app", ""},
		{"localhost:5000/app", "localhost:5000/app", ""},
		{"nginx", "index.docker.io/library/nginx", ""},
		{"nginx:*", "index.docker.io/library/nginx", ""},
		{"team/app", "index.docker.io/team/app", ""},
		{"docker.io/team/app", "index.docker.io/team/app", ""},
		{"**", "**", ""}, {"**/app", "**/app", ""}, {"*/app", "*/app", ""}, {"*.corp.internal/app", "*.corp.internal/app", ""},
		{"ghcr.io/team/app:v1", "", "names a tag or digest"},
		{"ghcr.io/team/app:v*", "", "names a tag or digest"},
		{"ghcr.io/team/app@sha256:*a", "", "names a tag or digest"},
		{"app*", "", "begins with no registry"},
		{":*", "", "begins with no registry"},
		{"ghcr.io/team app", "", "HOST/REPOSITORY"},
	} {
		in, err := Import([]byte(cip(fmt.Sprintf("{glob: %q}", test.there), anyone)), "own")
		switch {
		case test.refusal != "":
			if !errors.Is(err, ErrImport) || !strings.Contains(err.Error(), test.refusal) {
				t.Errorf("%q: %v, want %q", test.there, err, test.refusal)
			}
		case err != nil:
			t.Errorf("%q: %v", test.there, err)
		case in.File.Rules[0].Images[0] != test.here:
			t.Errorf("%q became %q, want %q", test.there, in.File.Rules[0].Images[0], test.here)
		}
	}
}

// TestImportRefusesMore: what the other program would accept by something that has no equal here is an error, never an easier policy.
func TestImportRefusesMore(t *testing.T) {
	key := somePEM(t)
	images := "{glob: h.io/a}"
	id := func(id string) string { return cip(images, "{keyless: {identities: [{"+id+"}]}}") }
	ky := func(more string) string {
		return kyverno("{imageReferences: [h.io/a], attestors: [{entries: [{keyless: {issuer: i, subject: s}}]}], " + more + "}")
	}
	entry := func(entry string) string {
		return kyverno("{imageReferences: [h.io/a], attestors: [{entries: [{" + entry + "}]}]}")
	}
	kyvernoSpec := func(more string) string {
		return strings.Replace(ky("required: true"), "spec: {", "spec: {"+more+", ", 1)
	}
	kyvernoMatching := func(match string) string {
		return strings.Replace(ky("required: true"), "{any: [{resources: {kinds: [Pod]}}]}", match, 1)
	}
	for _, test := range []struct{ name, text, want string }{
		{"another version", strings.Replace(cip(images, anyone), "v1beta1", "v1", 1), `"policy.sigstore.dev/v1"`},
		{"another group of a ClusterImagePolicy", strings.Replace(cip(images, anyone), "policy.sigstore.dev", "x.io", 1), `"x.io/v1beta1"`},
		{"a Policy of another group", strings.Replace(ky("required: true"), "kyverno.io/", "x.io/", 1), `kind "Policy"`},
		{"another kind of Kyverno's", strings.Replace(ky("required: true"), "kind: Policy", "kind: CleanupPolicy", 1), `kind "CleanupPolicy"`},
		{"no authority", cip(images, ""), "it has no authority"},
		{"a denial beside a signer", cip(images, anyone+", {static: {action: fail}}"), "stands beside others"},
		{"a denial that has a key", cip(images, "{static: {action: fail}, key: {data: "+key+"}}"), "stands beside others"},
		{"a denial that has a signer", cip(images, "{static: {action: fail}, keyless: {identities: [{issuer: i, subject: s}]}}"), "stands beside others"},
		{"a key and keyless", cip(images, "{key: {data: "+key+"}, keyless: {identities: [{issuer: i, subject: s}]}}"), "and not both"},
		{"neither key nor keyless", cip(images, "{name: a}"), "a key or keyless is needed"},
		{"another hash", cip(images, "{key: {data: "+key+", hashAlgorithm: sha512}}"), `hash algorithm "sha512"`},
		{"two keys in one", cip(images, "{key: {data: "+strings.TrimSuffix(key, `"`)+`\n`+strings.TrimPrefix(key, `"`)+"}}"), "not one public key"},
		{"a certificate for a key", cip(images, "{key: {data: "+strings.ReplaceAll(key, "PUBLIC KEY", "CERTIFICATE")+"}}"), "not one public key"},
		{"a log of another root", cip(images, "{keyless: {identities: [{issuer: i, subject: s}]}, ctlog: {trustRootRef: b}}"), "two trust roots"},
		{"no subject", id("issuer: i"), "needs a subject and an issuer"},
		{"no issuer", id("subject: s"), "needs a subject and an issuer"},
		{"two subjects", id("issuer: i, subject: s, subjectRegExp: s"), "needs a subject and an issuer"},
		{"two issuers", id("issuer: i, issuerRegExp: i, subject: s"), "needs a subject and an issuer"},
		{"Kyverno fails open", kyvernoSpec("failurePolicy: Ignore"), `failurePolicy "Ignore"`},
		{"a rule that audits", ky("failureAction: Audit"), `failureAction "Audit"`},
		{"a digest that is not verified", ky("verifyDigest: false"), "verifyDigest"},
		{"a digest that is not pinned", ky("mutateDigest: false"), "mutateDigest"},
		{"a question mark", kyverno("{imageReferences: ['h.io/?'], attestors: [{entries: [{keyless: {issuer: i, subject: s}}]}]}"), "question mark"},
		{"a tag", kyverno("{imageReferences: ['h.io/a:v1'], attestors: [{entries: [{keyless: {issuer: i, subject: s}}]}]}"), "names a tag"},
		{"Jobs among all", kyvernoMatching("{all: [{resources: {kinds: [Job]}}]}"), "it matches Job alone"},
		{"Jobs, the old way", kyvernoMatching("{resources: {kinds: [Pod, Job]}}"), "it matches Job alone"},
		{"keys and keyless", entry("keys: {publicKeys: " + key + "}, keyless: {issuer: i, subject: s}"), "and not both"},
		{"neither keys nor keyless", entry(""), "keys or keyless is needed"},
		{"another algorithm", entry("keys: {publicKeys: " + key + ", signatureAlgorithm: sha512}"), `signature algorithm "sha512"`},
		{"no key", entry("keys: {publicKeys: ''}"), "no public key"},
		{"a key somewhere else", entry("keys: {publicKeys: 'k8s://ns/name'}"), "not one public key"},
		{"Kyverno's subject twice", entry("keyless: {issuer: i, subject: s, subjectRegExp: s}"), "anybody's counts"},
		{"Kyverno's subject twice, a wildcard", entry("keyless: {issuer: i, subject: 's*', subjectRegExp: s}"), "anybody's counts"},
		{"Kyverno's issuer twice", entry("keyless: {issuer: i, issuerRegExp: i, subject: s}"), "anybody's counts"},
		{"Kyverno's issuer twice, a wildcard", entry("keyless: {issuer: 'i*', issuerRegExp: i, subject: s}"), "anybody's counts"},
		{"no subject of Kyverno's", entry("keyless: {issuer: i}"), "anybody's counts"},
		{"an extension nobody knows", entry("keyless: {issuer: i, subject: s, additionalExtensions: {githubWorkflowMood: x}}"), `the extension "githubWorkflowMood"`},
		{"two keys that must both sign", kyverno("{imageReferences: [h.io/a], attestors: [{count: 2, entries: [{keys: {publicKeys: " + strings.TrimSuffix(key, `"`) + `\n` + strings.TrimPrefix(somePEM(t), `"`) + "}}, {keyless: {issuer: i, subject: s}}]}]}"), "several entries must match"},
		{"attestations by two sets", kyverno("{imageReferences: [h.io/a], attestations: [{type: 'https://x/y', attestors: [{entries: [{keyless: {issuer: i, subject: s}}]}, {entries: [{keyless: {issuer: i, subject: s}}]}]}]}"), "2 sets of attestors"},
		{"larger than is read", strings.Repeat("#", strictyaml.MaxBytes+1), "larger than"},
		{"no YAML", "\x00", "this cannot be carried over"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if in, err := Import([]byte(test.text), "own"); !errors.Is(err, ErrImport) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%+v, %v, want %q", in, err, test.want)
			}
		})
	}
	for name, match := range map[string]string{"Kyverno's star": "{any: [{resources: {kinds: ['*']}}]}", "all": "{all: [{resources: {kinds: [Pod]}}]}", "the old way": "{resources: {kinds: [Pod]}}"} {
		if _, err := Import([]byte(kyvernoMatching(match)), "own"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, more := range map[string]string{"fails closed": "failurePolicy: Fail", "enforces": "validationFailureAction: enforce", "runs in the background": "background: true"} {
		if _, err := Import([]byte(kyvernoSpec(more)), "own"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Import([]byte(strings.Repeat("#", strictyaml.MaxBytes-len(cip(images, anyone))-1)+"\n"+cip(images, anyone)), "own"); err != nil {
		t.Errorf("as large as is read: %v", err)
	}
}

// TestImportDocuments: documents are parted as YAML parts them, and an error names the line in the whole file.
func TestImportDocuments(t *testing.T) {
	first, second := cip("{glob: h.io/a}", anyone), strings.Replace(cip("{glob: h.io/b}", anyone), "name: p", "name: q", 1)
	for name, text := range map[string]string{"between": first + "---\n" + second, "with spaces": first + "--- \n" + second, "of Windows": "---\r\n" + strings.ReplaceAll(first+"---\n"+second, "\n", "\r\n"), "at both ends": "---\n---\n" + first + "---\n" + second + "---\n"} {
		in, err := Import([]byte(text), "own")
		if err != nil || len(in.File.Rules) != 2 || in.File.Rules[0].Name != "p" || in.File.Rules[1].Name != "q" {
			t.Errorf("%s: %+v, %v", name, in, err)
		}
	}
	bad := strings.Replace(second, "metadata:", "mood: bad\nmetadata:", 1)
	if _, err := Import([]byte(first+"---\n"+bad), "own"); err == nil || !strings.Contains(err.Error(), "line 8: unknown key mood") {
		t.Errorf("%v", err)
	}
	for _, pair := range [][2]string{{"h.io/**", "h.io/a"}, {"h.io/*/b", "h.io/a/*"}, {"**", "h.io/a"}, {"*.io/a", "h.*/a"}, {"h.io/a*", "h.io/*b"}} {
		text := cip(fmt.Sprintf("{glob: %q}", pair[0]), anyone) + "---\n" + strings.Replace(cip(fmt.Sprintf("{glob: %q}", pair[1]), anyone), "name: p", "name: q", 1)
		if _, err := Import([]byte(text), "own"); !errors.Is(err, ErrImport) {
			t.Errorf("%q and %q match the same: %v", pair[0], pair[1], err)
		}
	}
	for _, pair := range [][2]string{{"h.io/a/*", "h.io/b/*"}, {"h.io/*", "h.io/a/*"}, {"*/a", "h.io/a/b"}, {"h.io/a*c", "h.io/ab"}, {"h.io/ab", "h.io/a"}} {
		text := cip(fmt.Sprintf("{glob: %q}", pair[0]), anyone) + "---\n" + strings.Replace(cip(fmt.Sprintf("{glob: %q}", pair[1]), anyone), "name: p", "name: q", 1)
		if _, err := Import([]byte(text), "own"); err != nil {
			t.Errorf("%q and %q have nothing in common: %v", pair[0], pair[1], err)
		}
	}
}

// TestImportedAge: a policy's ages are written so that they are read as the same.
func TestImportedAge(t *testing.T) {
	for text, want := range map[string]time.Duration{"30d": 720 * time.Hour, "0d": 0, "65535d": 65535 * 24 * time.Hour, "90m": 90 * time.Minute} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %s, %v", text, time.Duration(d), err)
		}
		again, err := d.MarshalText()
		var e Duration
		if err := errors.Join(err, e.UnmarshalText(again)); err != nil || e != d {
			t.Errorf("%s became %s: %v", text, again, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "65536d", "-1s", "3"} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %s", text, time.Duration(d))
		}
	}
}
