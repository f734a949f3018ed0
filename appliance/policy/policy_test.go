package policy

import (
	"context"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

const image = "registry.corp.internal/team/app"

// bench is a folder with the roots of two deployments, and policies that name them.
type bench struct {
	t         testing.TB
	dir       string
	own, them *verifytest.Deployment
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t, t.TempDir(), verifytest.New(t, "corp.internal"), verifytest.New(t, "vendor.internal")}
	b.file("own.json", b.own.Root())
	b.file("them.json", b.them.Root())
	return b
}

func (b *bench) file(name string, data []byte) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), data, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// header begins every policy of the bench: two roots, and a signer of each.
const header = `version: redoubt.policy/v1
roots:
  own: {file: own.json}
  them: {file: them.json}
signers:
  us:
    - {root: own, identity: dev@corp.internal, issuer: https://oidc.corp.internal}
  everyone:
    - {root: own, identity-regexp: '.*', issuer: https://oidc.corp.internal}
  vendor:
    - {root: them, identity: dev@vendor.internal, issuer: https://oidc.vendor.internal}
`

func (b *bench) parse(rules string) (*Policy, error) {
	return Parse([]byte(header+rules), b.dir, Config{Now: func() time.Time { return verifytest.Epoch.Add(time.Hour) }})
}

func (b *bench) policy(rules string) *Policy {
	b.t.Helper()
	p, err := b.parse(rules)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func digestOf(artifact string) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(artifact)))
}

func evidence(source string, p verifytest.Parts, t testing.TB) Evidence {
	return Evidence{Source: source, Bundle: p.Bundle(t)}
}

func theImage() Artifact { return Artifact{Kind: Image, Name: image, Digest: digestOf("artifact")} }

// TestDecide: who may sign what, pinned to roots; what nobody allows is denied.
func TestDecide(t *testing.T) {
	b := newBench(t)
	p := b.policy(`
rules:
  - {name: ours, images: ["registry.corp.internal/team/*"], signatures: {by: [us]}}
  - {name: theirs, images: ["registry.corp.internal/vendor/**"], signatures: {by: [vendor]}}
  - {name: banned, images: ["registry.corp.internal/vendor/miner"], action: deny}
`)
	ours, theirs := evidence("ours", b.own.SignMessage(2, "artifact"), t), evidence("theirs", b.them.SignMessage(1, "artifact"), t)
	b.them.Identity, b.them.Issuer = "dev@corp.internal", "https://oidc.corp.internal"
	posing := evidence("posing", b.them.SignMessage(1, "artifact"), t)
	bad := Evidence{Source: "bad", Bundle: []byte("{}")}
	tests := []struct {
		name, image string
		evidence    []Evidence
		rule, says  string // says: of a denial
	}{
		{"signed", image, []Evidence{ours}, "ours", ""},
		{"one bad beside it", image, []Evidence{bad, ours, bad}, "ours", ""},
		{"unsigned", image, nil, "ours", "0 of 1 needed from us"},
		{"signed by others", image, []Evidence{theirs}, "ours", "not one of the signers asked for"},
		{"a root that poses as another's people", image, []Evidence{posing}, "ours", "not one of the signers asked for"},
		{"only bad", image, []Evidence{bad}, "ours", "0 of 1 needed"},
		{"the vendor's", "registry.corp.internal/vendor/a/b", []Evidence{theirs}, "theirs", ""},
		{"ours as the vendor's", "registry.corp.internal/vendor/a/b", []Evidence{ours}, "theirs", "not one of the signers"},
		{"denied by name, though signed", "registry.corp.internal/vendor/miner", []Evidence{theirs}, "banned", "denies"},
		{"no rule", "registry.corp.internal/other", []Evidence{ours}, "", "no rule is for"},
		{"a part deeper than the star", image + "/x", []Evidence{ours}, "", "no rule is for"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := theImage()
			a.Name = test.image
			d := p.Decide(context.Background(), a, test.evidence...)
			if d.Allow != (test.says == "") || d.Rule != test.rule || !strings.Contains(strings.Join(d.Reasons, "; "), test.says) {
				t.Fatalf("%+v", d)
			}
			if d.Allow != (d.Err() == nil) || d.Allow != (d.Code == 0) {
				t.Errorf("error %v, code %d", d.Err(), d.Code)
			}
		})
	}
	if d := p.Decide(context.Background(), Artifact{Kind: Image, Name: image, Digest: digestOf("another")}, ours); d.Allow || !strings.Contains(d.Err().Error(), "signature or digest mismatch") {
		t.Errorf("the signature of another artifact: %+v", d)
	}
	if (Decision{}).Allow || (Decision{}).Err() == nil {
		t.Error("a decision that nobody made allows")
	}
}

func sum(s string) []byte {
	digest := sha256.Sum256([]byte(s))
	return digest[:]
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// uriName is a subject alternative name of one URI (RFC 5280 4.2.1.6).
func uriName(t testing.TB, uri string) []byte {
	return verifytest.MustDER(t, []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)}})
}
