package main

import (
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestRulesReadBack: approved rules are kept as text, and read back as the same rules, whatever is in them.
func TestRulesReadBack(t *testing.T) {
	c, err := parseConfig([]byte(`domain: corp.internal
profile: production
oidc-issuers:
  https://login.corp.internal:
    issuer-url: https://login.corp.internal
    client-id: sigstore
    type: email
    jwks: {file: keys.json}
    token-uses: 3
  https://ci.corp.internal:
    client-id: sigstore
    type: ci-provider
    ci-provider: git
    subject-domain: corp.internal
meta-issuers:
  https://*.ci.corp.internal: {client-id: sigstore, type: kubernetes}
ci-issuer-metadata:
  git:
    default-template-values: {url: https://git.corp.internal}
    extension-templates: {build-signer-uri: '{{ .url }}'}
    subject-alternative-name-template: '{{ .url }}/x'
people:
  socket: /run/people.sock
  ca: ca.pem
  audience: people
  members:
  - {name: alice, roles: [operator], unix: [alice], certificates: [{subject: 'CN=a', issuer: 'CN=b'}], tokens: [{issuer: https://login.corp.internal, subject: "1"}]}
approvers:
  threshold: 2
  life: 48h
  members: [{name: bob, publicKey: AAAA, account: bob}]
log: {read: authenticated}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Config{c, {}} {
		was := rulesOf(c)
		text, err := yaml.Marshal(was)
		if err != nil {
			t.Fatal(err)
		}
		is, err := decodeYAML[rules](text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if _, changed, err := rulesText(was, is); err != nil || len(changed) != 0 {
			t.Errorf("%v differ, %v\n%s", changed, err, text)
		}
		other := *is
		other.LogRead += "x"
		if _, changed, err := rulesText(was, &other); err != nil || len(changed) != 1 || changed[0] != "log.read" {
			t.Errorf("a change of one section: %v, %v", changed, err)
		}
		if now := rulesOf(is.with(Config{Domain: "d"})); now.LogRead != was.LogRead || now.Profile != was.Profile {
			t.Errorf("under the rules: %+v", now)
		}
	}
	for name, test := range map[string]struct {
		r     rules
		alone bool
	}{
		"nobody to ask":                {rules{Profile: profileProduction, People: &People{}}, true},
		"dev without people":           {rules{Profile: profileDev, Approvers: &Approvers{}}, true},
		"dev with people":              {rules{Profile: profileDev, Approvers: &Approvers{}, People: &People{}}, false},
		"production":                   {rules{Profile: profileProduction, Approvers: &Approvers{}, People: &People{}}, false},
		"production without a section": {rules{Profile: profileProduction, Approvers: &Approvers{}}, false},
	} {
		if test.r.alone() != test.alone {
			t.Errorf("%s: %t", name, !test.alone)
		}
	}
}
