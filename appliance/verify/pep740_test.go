package verify

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"

	"redoubt.internal/appliance/verify/verifytest"
)

// TestPEP740 verifies the real attestation objects of the Python Package Index that are at hand, and refuses each with something changed.
func TestPEP740(t *testing.T) {
	data := dataDir(t)
	var entries []struct {
		File, Kind, Path string
		Root             string `json:"trusted_root"`
	}
	if err := json.Unmarshal(read(t, data, "entries_manifest.json"), &entries); err != nil {
		t.Fatal(err)
	}
	predicates := map[string]int{}
	n := 0
	for _, e := range entries {
		if e.Kind != "pep740" {
			continue
		}
		s := sample{name: e.File, root: rootOf(t, data, manifestEntry{Root: e.Root}), bundle: read(t, data, e.File)}
		b, err := decode(s.bundle)
		if strings.Contains(e.File, ".90826c7b.") { // its base64 is broken into lines, as an early draft had it
			if ExitCode(err) != 26 || !strings.Contains(err.Error(), "not padded base64") {
				t.Errorf("%s: %v", e.File, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", e.File, err)
		}
		sum, err := certificate.SummarizeCertificate(b.content.Certificate())
		if err != nil {
			t.Fatal(err)
		}
		s.digest = "sha256:" + b.subjects[0]["sha256"]
		s.policy.Identities = []Identity{{SAN: sum.SubjectAlternativeName, Issuer: sum.Issuer}}
		res, err := s.verify(t)
		if err != nil {
			t.Errorf("%s: %v", e.File, err)
			continue
		}
		n++
		predicates[res.PredicateType()]++
		spoilPEP740(t, s)
	}
	t.Logf("%d attestation objects: %v", n, predicates)
	if n < 6 {
		t.Errorf("only %d attestation objects were verified", n)
	}
}

// TestNotPEP740: a bundle may have a member of that name, for it may be written by the names of its fields in protobuf.
func TestNotPEP740(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	s := sampleOf(d, d.SignMessage(2, "artifact"))
	for _, name := range []string{"verificationMaterial verification_material", "mediaType media_type", "messageSignature message_signature"} {
		was, is, _ := strings.Cut(name, " ")
		s.bundle = bytes.Replace(s.bundle, []byte(`"`+was+`"`), []byte(`"`+is+`"`), 1)
	}
	if _, err := s.verify(t); err != nil || !bytes.Contains(s.bundle, []byte("message_signature")) {
		t.Error(err)
	}
	s.bundle = []byte(`["verification_material"]`)
	if _, err := s.verify(t); ExitCode(err) != 26 {
		t.Error(err)
	}
}

func spoilPEP740(t *testing.T, s sample) {
	t.Helper()
	var whole map[string]any
	if err := json.Unmarshal(s.bundle, &whole); err != nil {
		t.Fatal(err)
	}
	material, envelope := whole["verification_material"].(map[string]any), whole["envelope"].(map[string]any)
	refused := func(what string, code int, bundle []byte) {
		t.Helper()
		if bytes.Equal(bundle, s.bundle) {
			t.Fatalf("%s, %s: nothing changed", s.name, what)
		}
		bad := s
		bad.bundle = bundle
		if _, err := bad.verify(t); ExitCode(err) != code {
			t.Errorf("%s, %s: exit %d instead of %d: %v", s.name, what, ExitCode(err), code, err)
		}
	}
	with := func(in map[string]any, member string, value any) []byte {
		t.Helper()
		was, there := in[member]
		in[member] = value
		b, err := json.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		if in[member] = was; !there {
			delete(in, member)
		}
		return b
	}
	sig := envelope["signature"].(string)
	other := "A"
	if sig[20:21] == other {
		other = "B"
	}
	refused("another signature", 12, with(envelope, "signature", sig[:20]+other+sig[21:]))
	for member, in := range map[string]map[string]any{"certificate": material, "statement": envelope} {
		text := in[member].(string)
		refused("broken lines in its "+member, 26, with(in, member, text[:76]+"\n"+text[76:]))
	}
	refused("a version to come", 26, with(whole, "version", 2))
	refused("a member more", 26, with(envelope, "payload", sig))
	refused("no entry", 26, with(material, "transparency_entries", []any{}))
	refused("bundle and object at once", 26, with(whole, "mediaType", mediaTypes[3]))
	refused("a name twice", 26, bytes.Replace(s.bundle, []byte(`"version"`), []byte(`"version":1,"version"`), 1))
	bad := s
	bad.digest = "sha256:" + strings.Repeat("0", 64)
	if _, err := bad.verify(t); ExitCode(err) != 12 {
		t.Errorf("%s, another distribution: %v", s.name, err)
	}
}
