package verify

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"redoubt.internal/appliance/verify/verifytest"
)

// chained is an attestation whose only log entry is of intoto 0.0.1: of the envelope's digest, as Tekton Chains logs it, with the fingerprint of the
// signer's key where it is named. edit may change the body before it is logged.
func chained(d *verifytest.Deployment, named bool, edit func(body []byte) []byte) verifytest.Parts {
	p := d.Attest("artifact", verifytest.CustomPredicate)
	if named {
		key, err := ssh.NewPublicKey(p.Signer.Cert.PublicKey)
		if err != nil {
			d.T.Fatal(err)
		}
		p.KeyID = ssh.FingerprintSHA256(key)
	}
	text, err := spelt(inTotoType, p.Statement, p.KeyID, p.Signature)
	if err != nil {
		d.T.Fatal(err)
	}
	body := fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"intoto","spec":{"content":{"hash":{"algorithm":"sha256","value":"%s"},"payloadHash":{"algorithm":"sha256","value":"%s"}},"publicKey":"%s"}}`,
		hexSum(text), hexSum(p.Statement), p.Signer.PEM())
	if edit != nil {
		body = edit(body)
	}
	p.Entries, p.Stamps = []any{d.Entry(body, d.Now.Add(time.Minute), true)}, nil
	return p
}

func replaced(from, to string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(from), []byte(to)) }
}

// withoutPayload is the body as the first versions of Rekor made it.
func withoutPayload(body []byte) []byte {
	before, rest, _ := bytes.Cut(body, []byte(`,"payloadHash"`))
	_, after, _ := bytes.Cut(rest, []byte(`},"publicKey"`))
	return fmt.Appendf(nil, `%s},"publicKey"%s`, before, after)
}

// TestIntoto1: an entry of an envelope's digest proves that envelope logged, and no other.
func TestIntoto1(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	v, err := New(Config{Roots: []Root{{Name: "root", JSON: d.Root()}}})
	if err != nil {
		t.Fatal(err)
	}
	other := d.Attest("other", verifytest.CustomPredicate)
	mixed := func(change func(p *verifytest.Parts)) verifytest.Parts {
		p := chained(d, false, nil)
		change(&p)
		return p
	}
	altered := func(p verifytest.Parts, value any, path ...any) func() []byte {
		b := p.Tree()
		set(b, value, path...)
		return func() []byte { return verifytest.Encode(t, b) }
	}
	unnamed := chained(d, true, nil)
	unnamed.KeyID = ""
	for name, test := range map[string]struct {
		parts  verifytest.Parts
		bundle func() []byte // in place of that of parts
		want   int
	}{
		"as it was logged":          {parts: chained(d, false, nil)},
		"without the payload's":     {parts: chained(d, false, withoutPayload)},
		"beside another entry":      {parts: mixed(func(p *verifytest.Parts) { p.Entries = append(p.Entries, dsseEntry(d, *p)) })},
		"of another's envelope":     {parts: mixed(func(p *verifytest.Parts) { p.Entries = chained(d, false, nil).Entries }), want: 22},
		"of another's certificate":  {bundle: func() []byte { return swapKey(d, other) }, want: 22},
		"of another payload's hash": {parts: chained(d, false, replaced(`"payloadHash":{"algorithm":"sha256","value":"`, `"payloadHash":{"algorithm":"sha256","value":"0`)), want: 22},
		"of a hash of another kind": {parts: chained(d, false, replaced(`"hash":{"algorithm":"sha256"`, `"hash":{"algorithm":"sha512"`)), want: 26},
		"with more than it has":     {parts: chained(d, false, replaced(`"kind":"intoto"`, `"kind":"intoto","more":1`)), want: 22},
		"over a plain signature":    {parts: mixed(func(p *verifytest.Parts) { m := d.SignMessage(1, "artifact"); m.Entries = p.Entries; *p = m }), want: 22},
		"called a dsse entry":       {bundle: altered(chained(d, false, nil), "dsse", in(entryPath, "kindVersion", "kind")...), want: 22},
		"of a key's name":           {parts: chained(d, true, nil)},
		"without the key's name":    {parts: unnamed, want: 22},
		"of a time before":          {bundle: altered(chained(d, false, nil), fmt.Sprint(d.Now.Add(-time.Hour).Unix()), in(entryPath, "integratedTime")...), want: 24},
		"of another time":           {bundle: altered(chained(d, false, nil), fmt.Sprint(d.Now.Add(2*time.Minute).Unix()), in(entryPath, "integratedTime")...), want: 22},
		"of another index":          {bundle: altered(chained(d, false, nil), "0", in(proofPath, "logIndex")...), want: 22},
		"without a promise":         {bundle: altered(chained(d, false, nil), nil, in(entryPath, "inclusionPromise")...), want: 24},
	} {
		t.Run(name, func(t *testing.T) {
			s := sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate))
			if s.bundle = nil; test.bundle != nil {
				s.bundle = test.bundle()
			} else {
				s.bundle = test.parts.Bundle(t)
			}
			res, err := v.Verify(context.Background(), s.request())
			if test.want == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if logs := res.Log(); len(logs) == 0 || logs[0].Kind != "intoto" || logs[0].IntegratedTime == nil {
					t.Fatalf("%+v", logs)
				}
				return
			}
			if code := ExitCode(err); err == nil || code != test.want {
				t.Fatalf("%v: code %d, want %d", err, code, test.want)
			}
		})
	}
}

// dsseEntry logs what p signs in Rekor v1 as a dsse entry as well.
func dsseEntry(d *verifytest.Deployment, p verifytest.Parts) any {
	return d.Entry(fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"dsse","spec":{"envelopeHash":{"algorithm":"sha256","value":"%s"},"payloadHash":{"algorithm":"sha256","value":"%s"},"signatures":[{"signature":"%s","verifier":"%s"}]}}`,
		hexSum(nil), hexSum(p.Statement), base64.StdEncoding.EncodeToString(p.Signature), p.Signer.PEM()), d.Now.Add(time.Minute), true)
}

// swapKey is a bundle whose entry is of its envelope, and of the certificate of somebody else.
func swapKey(d *verifytest.Deployment, other verifytest.Parts) []byte {
	p := chained(d, false, func(b []byte) []byte {
		before, _, _ := bytes.Cut(b, []byte(`"publicKey":"`))
		return fmt.Appendf(nil, `%s"publicKey":"%s"}}`, before, other.Signer.PEM())
	})
	return p.Bundle(d.T)
}
