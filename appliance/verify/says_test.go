package verify

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

// TestSays: a refusal tells causes apart that share an exit code, where what helps against them differs.
func TestSays(t *testing.T) {
	d, foreign := verifytest.New(t, "corp.internal"), verifytest.New(t, "elsewhere.example")
	stamped := func(by *verifytest.Deployment) func(p *verifytest.Parts) {
		return func(p *verifytest.Parts) {
			p.Stamps = []any{map[string]any{"signedTimestamp": b64(by.Token(p.Signature, d.Now.Add(time.Minute), false))}}
		}
	}
	for name, c := range map[string]struct {
		edit func(*verifytest.Parts)
		want string
		code int
	}{
		"no time":                         {func(p *verifytest.Parts) { p.Stamps = nil }, "bears no signed time", 24},
		"the time of a strange authority": {stamped(foreign), "timestamp is of an authority the root does not know", 24},
		"two times, one of another signature": {func(p *verifytest.Parts) {
			p.Stamps = append(p.Stamps, map[string]any{"signedTimestamp": b64(d.Token([]byte("other"), d.Now.Add(time.Minute), false))})
		}, "timestamp 1 of a known authority does not verify", 24},
		"two times": {func(p *verifytest.Parts) {
			p.Stamps = append(p.Stamps, map[string]any{"signedTimestamp": b64(d.Token(p.Signature, d.Now.Add(2*time.Minute), false))})
		}, "", 0},
		"the time of the root's own": {stamped(d), "", 0},
	} {
		p := d.SignMessage(2, "artifact")
		c.edit(&p)
		if _, err := sampleOf(d, p).verify(t); ExitCode(err) != c.code || c.want != "" && !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestVerdictOfAKind: the verdict over an attestation says its type and bears the statement as it was signed, that over a message has none; and each
// says who vouches for the time and for the signer.
func TestVerdictOfAKind(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.com/x", "predicate":{},"subject":[{"digest":{"sha256":"%x"}}]}`, sha256.Sum256([]byte("artifact")))
	for kind, c := range map[string]struct {
		parts                     verifytest.Parts
		statement, said, timeFrom string
	}{
		"attestation": {d.AttestPayload("artifact", statement), string(statement), `"signature":{"kind":"attestation","statementType":"https://in-toto.io/Statement/v1","predicateType":"https://example.com/x","subjects":1}`, "timestampAuthority"},
		"message":     {d.SignMessage(1, "artifact"), "", `"signature":{"kind":"message"}`, "log"},
	} {
		r, err := sampleOf(d, c.parts).verify(t)
		if err != nil {
			t.Fatal(err)
		}
		text, err := r.MarshalJSON()
		if err != nil || string(r.Statement()) != c.statement || !strings.Contains(string(text), c.said) || len(r.Times()) != 1 || r.Times()[0].Source != c.timeFrom || r.Extensions()["issuer"] != d.Issuer {
			t.Errorf("%s: %s, %s, %v", kind, r.Statement(), text, err)
		}
	}
}

// TestChecked: a verdict lists what was checked, and nothing that was not.
func TestChecked(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	logged := sampleOf(d, d.SignMessage(2, "artifact"))
	unlogged := logged
	unlogged.policy.WithoutLog = true
	root := parseTree(t, logged.root)
	delete(root, "tlogs")
	delete(root, "ctlogs")
	logless := logged
	logless.root = verifytest.Encode(t, root)
	logless.policy.Identities = []Identity{{Root: "root", SAN: d.Identity, Issuer: d.Issuer, WithoutLog: true}}
	key := keySample(d, d.SignMessage(1, "artifact"))
	bare := key
	bare.policy.WithoutLog = true
	for _, c := range []struct {
		sample
		want string
	}{
		{logged, "signature, artifact, certificate path, identity, certificate transparency, log entry, signed time"},
		{unlogged, "signature, artifact, certificate path, identity, certificate transparency, signed time"},
		{logless, "signature, artifact, certificate path, identity, signed time"},
		{key, "signature, artifact, log entry, signed time"},
		{bare, "signature, artifact"},
	} {
		r, err := c.verify(t)
		if err != nil {
			t.Fatalf("%s: %v", c.want, err)
		}
		if got := strings.Join(r.report.Checked, ", "); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}
