package rekor_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
)

// publicData is the folder of real public log data, or a skip.
func publicData(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("REDOUBT_PUBLIC_LOG_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "public-log-data")
	}
	if _, err := os.Stat(filepath.Join(dir, "entries")); err != nil {
		t.Skip("public log data absent: set REDOUBT_PUBLIC_LOG_DATA")
	}
	return dir
}

// realEntry is a canonical body that a public log holds, with what its file tells about the submission.
type realEntry struct {
	file     string
	body     []byte
	envelope object // of the bundle, nil without one
}

// realEntries finds every canonical body in the shared bundles and entries, each once.
func realEntries(t *testing.T) []realEntry {
	t.Helper()
	root := publicData(t)
	seen := make(map[string]bool)
	var out []realEntry
	for _, dir := range []string{"bundles", "entries"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".json") {
				return err
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var tree any
			if err := json.Unmarshal(raw, &tree); err != nil {
				return err
			}
			top, _ := tree.(object)
			env, _ := top["dsseEnvelope"].(object)
			if env == nil { // PEP 740 keeps statement and signature apart
				if e, ok := top["envelope"].(object); ok && e["statement"] != nil {
					env = object{"payload": e["statement"], "payloadType": inTotoType, "signatures": []any{object{"sig": e["signature"]}}}
				}
			}
			for _, b := range bodies(tree) {
				if !seen[string(b)] {
					seen[string(b)] = true
					out = append(out, realEntry{path, b, env})
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// bodies collects the values of members called canonicalizedBody, canonicalized_body or body that are base64 of an entry.
func bodies(v any) (out [][]byte) {
	switch v := v.(type) {
	case object:
		for k, inner := range v {
			if s, ok := inner.(string); ok && (k == "canonicalizedBody" || k == "canonicalized_body" || k == "body") {
				if b, err := base64.StdEncoding.DecodeString(s); err == nil && bytes.Contains(b, []byte(`"apiVersion"`)) {
					out = append(out, b)
				}
			}
			out = append(out, bodies(inner)...)
		}
	case []any:
		for _, inner := range v {
			out = append(out, bodies(inner)...)
		}
	}
	return out
}

// proposalOf rebuilds what a client posted for a stored body: the v1 entry, or the v2 request. Nothing when the file lacks the content.
func proposalOf(t *testing.T, e realEntry) (path string, proposal []byte) {
	t.Helper()
	var stored struct {
		Kind, APIVersion string
		Spec             object
	}
	if err := json.Unmarshal(e.body, &stored); err != nil {
		t.Fatalf("%s: %v", e.file, err)
	}
	switch stored.Kind + " " + stored.APIVersion {
	case "hashedrekord 0.0.1":
		return "/api/v1/log/entries", e.body
	case "hashedrekord 0.0.2":
		spec := stored.Spec["hashedRekordV002"].(object)
		return "/api/v2/log/entries", encode(object{"hashedRekordRequestV002": object{
			"digest": spec["data"].(object)["digest"], "signature": spec["signature"],
		}})
	case "dsse 0.0.1":
		want := stored.Spec["envelopeHash"].(object)["value"].(string)
		var verifiers []any
		for _, s := range stored.Spec["signatures"].([]any) {
			verifiers = append(verifiers, s.(object)["verifier"])
		}
		for _, text := range spellings(e.envelope) {
			if sum := sha256.Sum256([]byte(text)); hex.EncodeToString(sum[:]) == want {
				return "/api/v1/log/entries", encode(object{"kind": "dsse", "apiVersion": "0.0.1", "spec": object{
					"proposedContent": object{"envelope": text, "verifiers": verifiers},
				}})
			}
		}
	case "intoto 0.0.2":
		if e.envelope == nil {
			return "", nil
		}
		content := stored.Spec["content"].(object)
		delete(content, "payloadHash")
		content["envelope"].(object)["payload"] = b64([]byte(e.envelope["payload"].(string)))
		return "/api/v1/log/entries", encode(object{"kind": stored.Kind, "apiVersion": stored.APIVersion, "spec": stored.Spec})
	}
	return "", nil
}

// spellings is the ways clients have written an envelope as JSON text; the log stores the hash of the text.
func spellings(env object) (out []string) {
	if env == nil {
		return nil
	}
	q := func(v any) string {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.Encode(v)
		return strings.TrimSuffix(b.String(), "\n")
	}
	for _, c := range []string{":", ": "} {
		for _, s := range []string{",", ", "} {
			for _, keyid := range []string{"", "front", "back"} {
				var sigs []string
				for _, v := range env["signatures"].([]any) {
					sig := v.(object)
					id, _ := sig["keyid"].(string)
					one := `"sig"` + c + q(sig["sig"])
					switch keyid {
					case "front":
						one = `"keyid"` + c + q(id) + s + one
					case "back":
						one += s + `"keyid"` + c + q(id)
					}
					sigs = append(sigs, "{"+one+"}")
				}
				payload := `"payload"` + c + q(env["payload"])
				kind := `"payloadType"` + c + q(env["payloadType"])
				list := `"signatures"` + c + "[" + strings.Join(sigs, s) + "]"
				for _, order := range [][]string{{payload, kind, list}, {kind, payload, list}, {payload, list, kind}} {
					out = append(out, "{"+strings.Join(order, s)+"}")
				}
			}
		}
	}
	return out
}

// TestRealEntries posts what clients once posted to the public logs and compares the canonical body with the one those logs hold.
func TestRealEntries(t *testing.T) {
	r := newRig(t)
	count := make(map[string]int)
	for _, e := range realEntries(t) {
		var stored struct{ Kind, APIVersion string }
		if err := json.Unmarshal(e.body, &stored); err != nil {
			t.Fatal(err)
		}
		name := stored.Kind + " " + stored.APIVersion
		path, proposal := proposalOf(t, e)
		if proposal == nil {
			count[name+" not rebuilt"]++
			continue
		}
		a := r.post(path, proposal)
		if a.code != 201 {
			t.Errorf("%s (%s): %d %s", e.file, name, a.code, a.body)
			continue
		}
		count[name]++
		var got []byte
		if strings.HasPrefix(path, "/api/v2") {
			got = r.tle(a).CanonicalizedBody
		} else {
			_, entry := r.one(a)
			got = must(base64.StdEncoding.DecodeString(entry.Body.(string)))
		}
		if want := canonicalOf(t, name, e.body); !bytes.Equal(got, want) {
			t.Errorf("%s (%s):\nours  %s\ntheirs %s", e.file, name, got, e.body)
		}
	}
	for name, want := range map[string]int{"hashedrekord 0.0.1": 44, "hashedrekord 0.0.2": 11, "dsse 0.0.1": 14, "intoto 0.0.2": 10} {
		if count[name] < want {
			t.Errorf("%d entries of %s compared, %d were there when this test was written (%v)", count[name], name, want, count)
		}
	}
	if n := uint64(count["dsse 0.0.1"] + count["intoto 0.0.2"] + count["hashedrekord 0.0.1"] + count["hashedrekord 0.0.2"]); r.merkle.Head().Size != n {
		t.Errorf("%d entries logged, %d accepted", r.merkle.Head().Size, n)
	}
}

// canonicalOf is body, but for five intoto entries of sigstore-conformance: they stand in that project's own test log, which left the payload in.
func canonicalOf(t *testing.T, name string, body []byte) []byte {
	t.Helper()
	if name != "intoto 0.0.2" {
		return body
	}
	var tree object
	if err := json.Unmarshal(body, &tree); err != nil {
		t.Fatal(err)
	}
	env := tree["spec"].(object)["content"].(object)["envelope"].(object)
	if _, ok := env["payload"]; !ok {
		return body
	}
	delete(env, "payload")
	return must(jsoncanonicalizer.Transform(encode(tree)))
}
