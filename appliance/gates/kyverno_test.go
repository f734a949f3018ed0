package gates

import (
	"fmt"
	"strings"
	"testing"
)

// TestKyvernoTexts: in Kyverno's texts a star is a wildcard, and an identity has none.
func TestKyvernoTexts(t *testing.T) {
	for _, c := range []struct{ exact, expression, text, re string }{
		{"dev@corp.internal", "", "dev@corp.internal", ""},
		{"", `.*@corp\.internal`, "", `\A(?:.*@corp\.internal)\z`},
		{"https://x/?a", "", "", `\A(?:https://x/\?a)\z`},
		{"*@corp.internal", "", "", `\A(?:\*@corp\.internal)\z`},
	} {
		if text, re := literal(c.exact, c.expression); text != c.text || re != c.re {
			t.Errorf("%s%s became %q %q", c.exact, c.expression, text, re)
		}
	}
	for _, c := range []struct {
		name, policy, says string
	}{
		{"a star within one part", `images: ["registry.corp.internal/a/*"], signatures: {by: [us]}`, "a star within one part"},
		{"Docker Hub", `images: ["index.docker.io/**"], signatures: {by: [us]}`, "Docker Hub"},
		{"one of several types", images + `attestations: [{type: slsa-provenance, by: [us]}]`, "predicate types"},
	} {
		if _, err := Write("kyverno", load(t, ruled(c.policy)), options); err == nil || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
