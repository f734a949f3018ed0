package verifying

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verify/verifytest"
)

// apiEntry is an entry of a bundle as Rekor's API v1 gives it, changed by edit.
func apiEntry(t *testing.T, entry map[string]any, edit func(e, verification map[string]any)) []byte {
	t.Helper()
	in := jsonOf(t, entry)
	hexOf := func(v any) string {
		raw, err := base64.StdEncoding.DecodeString(v.(string))
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(raw)
	}
	proof := in["inclusionProof"].(map[string]any)
	hashes := []string{}
	for _, h := range proof["hashes"].([]any) {
		hashes = append(hashes, hexOf(h))
	}
	number := func(v any) json.Number { return json.Number(v.(string)) }
	verification := map[string]any{
		"signedEntryTimestamp": in["inclusionPromise"].(map[string]any)["signedEntryTimestamp"],
		"inclusionProof": map[string]any{"checkpoint": proof["checkpoint"].(map[string]any)["envelope"], "hashes": hashes, "logIndex": number(proof["logIndex"]),
			"rootHash": hexOf(proof["rootHash"]), "treeSize": number(proof["treeSize"])},
	}
	out := map[string]any{"body": in["canonicalizedBody"], "integratedTime": number(in["integratedTime"]), "logID": hexOf(in["logId"].(map[string]any)["keyId"]),
		"logIndex": number(in["logIndex"]), "verification": verification}
	edit(out, verification)
	return verifytest.Encode(t, map[string]any{"24296fb24b8ad77a" + strings.Repeat("0", 64): out})
}

func jsonOf(t *testing.T, v any) (out map[string]any) {
	t.Helper()
	if err := json.Unmarshal(verifytest.Encode(t, v), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestSignatureWithLogEntry: signature and certificate lie apart, and the log entry in a third file, in each form that a log's answer is kept in. It is
// judged as in a bundle: of another signature, or with a part left out or changed, it is refused.
func TestSignatureWithLogEntry(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	one, other := d.SignMessage(1, "a release"), d.SignMessage(1, "a release")
	entry, foreign := one.Entries[0].(map[string]any), other.Entries[0].(map[string]any)
	none := func(map[string]any, map[string]any) {}
	changed := func(edit func(e map[string]any)) []byte {
		e := jsonOf(t, entry)
		edit(e)
		return verifytest.Encode(t, e)
	}
	set := func(v map[string]any) string { return v["signedEntryTimestamp"].(string) }
	for name, c := range map[string]struct {
		entry []byte
		want  error
	}{
		"as the API gives it":  {apiEntry(t, entry, none), nil},
		"in protobuf's JSON":   {changed(func(map[string]any) {}), nil},
		"the API, no proof":    {apiEntry(t, entry, func(_, v map[string]any) { delete(v, "inclusionProof") }), nil},
		"the API, old proof":   {apiEntry(t, entry, func(_, v map[string]any) { v["inclusionProof"].(map[string]any)["checkpoint"] = "" }), nil},
		"with an attestation":  {apiEntry(t, entry, func(e, _ map[string]any) { e["attestation"] = map[string]any{"data": "e30="} }), nil},
		"of another signature": {apiEntry(t, foreign, none), verify.ErrLogProof},
		"of another, protobuf": {verifytest.Encode(t, foreign), verify.ErrLogProof},
		"without a promise":    {apiEntry(t, entry, func(_, v map[string]any) { delete(v, "signedEntryTimestamp") }), verify.ErrTime},
		"without any proof":    {apiEntry(t, entry, func(_, v map[string]any) { clear(v) }), verify.ErrMalformed},
		"nothing verified":     {apiEntry(t, entry, func(e, _ map[string]any) { delete(e, "verification") }), verify.ErrMalformed},
		"without its body":     {apiEntry(t, entry, func(e, _ map[string]any) { delete(e, "body") }), verify.ErrMalformed},
		"protobuf, no body":    {changed(func(e map[string]any) { delete(e, "canonicalizedBody") }), verify.ErrMalformed},
		"protobuf, no proof":   {changed(func(e map[string]any) { delete(e, "inclusionProof"); delete(e, "inclusionPromise") }), verify.ErrMalformed},
		"another time": {apiEntry(t, entry, func(e, _ map[string]any) {
			at, err := e["integratedTime"].(json.Number).Int64()
			if err != nil {
				t.Fatal(err)
			}
			e["integratedTime"] = at + 1
		}), verify.ErrLogProof},
		"another promise": {apiEntry(t, entry, func(_, v map[string]any) {
			v["signedEntryTimestamp"] = set(apiVerification(t, foreign))
		}), verify.ErrLogProof},
		"another root": {apiEntry(t, entry, func(_, v map[string]any) {
			v["inclusionProof"].(map[string]any)["rootHash"] = strings.Repeat("00", 32)
		}), verify.ErrLogProof},
		"an unknown member":       {apiEntry(t, entry, func(e, _ map[string]any) { e["more"] = 1 }), verify.ErrMalformed},
		"as rekor-cli's json has": {[]byte(`{"Attestation":"","AttestationType":"","Body":{},"LogIndex":1,"IntegratedTime":1,"UUID":"00","LogID":"00"}`), verify.ErrMalformed},
		"two entries":             {[]byte(`{"a":{},"b":{}}`), verify.ErrMalformed},
		"none":                    {[]byte(`{}`), verify.ErrMalformed},
		"no JSON":                 {[]byte(`entry`), verify.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range map[string][]byte{"file": []byte("a release"), "sig": one.Signature, "cert": []byte(one.Signer.PEM()), "entry": c.entry, "root.json": d.Root()} {
				if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			g, err := gatherBlob(filepath.Join(dir, "file"), blobParts{Signature: filepath.Join(dir, "sig"), Certificate: filepath.Join(dir, "cert"), Entry: filepath.Join(dir, "entry")})
			if err == nil {
				_, err = Verify(t.Context(), Request{Found: &g, Roots: []string{filepath.Join(dir, "root.json")}, Identity: verify.Identity{SAN: d.Identity, Issuer: d.Issuer}})
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if c.want != nil && name == "as rekor-cli's json has" && !strings.Contains(err.Error(), "--format tle") {
				t.Errorf("nothing says what to do: %v", err)
			}
		})
	}
}

func apiVerification(t *testing.T, entry map[string]any) (verification map[string]any) {
	t.Helper()
	apiEntry(t, entry, func(_, v map[string]any) { verification = v })
	return verification
}
